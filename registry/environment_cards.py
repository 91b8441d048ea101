# SPDX-License-Identifier: Apache-2.0
"""The environments the registry knows, and what the last test of each family in its own found."""

from __future__ import annotations

import csv
import difflib
from functools import cache
from pathlib import Path

from ..schemas.cards import ModelCard, read_card
from ..schemas.environments import EnvironmentCard
from ..schemas.errors import CardError

_HERE = Path(__file__).parent

#: Columns of ``registry/families.csv``, one row a model that runs in an environment of its own.
FAMILY_COLUMNS = (
    "model", "family", "environment", "outcome", "why", "packages", "ms_per_structure",
    "peak_mb", "fingerprint", "date",
)  # fmt: skip


@cache
def environments(folder: Path | None = None) -> dict[str, EnvironmentCard]:
    """Every environment card by id.

    Raises
    ------
    CardError
        Naming the first card that does not validate.
    """
    paths = sorted((folder or _HERE / "environments").glob("*.yaml"))
    return {p.stem: read_card(p, EnvironmentCard) for p in paths}


def environment(environment_id: str) -> EnvironmentCard:
    """The card of one environment; the error names the nearest id."""
    known = environments()
    if environment_id in known:
        return known[environment_id]
    near = difflib.get_close_matches(environment_id, known, n=1, cutoff=0.4)
    raise CardError(
        f"no environment '{environment_id}' in the registry"
        + (f"; did you mean '{near[0]}'?" if near else "; see: matteratlas env list")
    )


def read_families(path: Path | None = None) -> dict[str, dict[str, str]]:
    """The result table of ``make test-families`` by model id; empty before the first run.

    ``outcome`` is ``ran`` (the contract's tests pass on the published weights), ``loads`` (the
    weights load, some test fails) or ``blocked`` (no environment, or no weights), with ``why``.
    """
    path = path or _HERE / "families.csv"
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as handle:
        return {row["model"]: row for row in csv.DictReader(handle)}


def write_families(rows: dict[str, dict[str, str]], path: Path | None = None) -> Path:
    """Write the result table, sorted by family and model."""
    path = path or _HERE / "families.csv"
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, FAMILY_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows.values(), key=lambda r: (r["family"], r["model"])))
    return path


def status(card: ModelCard) -> str:
    """What is known of a model in its own environment: ``ran``, ``loads: why`` or ``blocked: why``.

    ``in main environment`` for the others, which every run of the tests covers.
    """
    if card.isolation is None:
        return "in main environment"
    row = read_families().get(card.id)
    if row is None:
        return "blocked: not tested yet; run: make test-families"
    return row["outcome"] + (f": {row['why']}" if row["why"] else "")
