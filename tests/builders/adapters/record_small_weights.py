# SPDX-License-Identifier: Apache-2.0
"""Write ``registry/small_weights.csv``: run the contract on small weights, note what passed.

``make test-small-weights`` runs it. Models from a hub whose weights are not at hand get their
status from the table: ``loads`` where every contract test of theirs passes, else ``blocked``.
"""

from __future__ import annotations

import csv
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COLUMNS = ("model", "outcome", "why", "packages", "date")


class Outcomes:
    """Collects tests run and failed, by what stands in a test's brackets."""

    def __init__(self) -> None:
        self.run: dict[str, int] = {}
        self.failed: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test, _, model = report.nodeid.rstrip("]").partition("[")
        if report.when == "call" and report.passed:
            self.run[model] = self.run.get(model, 0) + 1
        if report.failed:
            line = " ".join(str(getattr(report, "longreprtext", "")).split())[-200:]
            self.failed.setdefault(model, f"{test.rpartition('::')[2]}: {line}")


def main(path: Path) -> int:
    sys.path[:0] = [str(HERE), str(HERE.parents[1])]
    from tiny_weights import TINY

    outcomes = Outcomes()
    chosen = " or ".join(TINY)
    code = pytest.main([str(HERE / "test_contract.py"), "-k", chosen], plugins=[outcomes])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return int(code)  # nothing was tested: the table stays as it is
    rows = []
    for model, card in sorted(TINY.items()):
        why = outcomes.failed.get(model, "")
        if not why and not outcomes.run.get(model):
            why = "no test ran"
        found = {p: metadata.version(p).partition("+")[0] for p in card.environment or {}}
        packages = " ".join(f"{name}=={version}" for name, version in found.items())
        date = time.strftime("%Y-%m-%d", time.gmtime())
        rows.append([model, "blocked" if why else "loads", why, packages, date])
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerows([COLUMNS, *rows])
    return int(bool(outcomes.failed))


if __name__ == "__main__":
    sys.exit(main(HERE.parents[2] / "registry" / "small_weights.csv"))
