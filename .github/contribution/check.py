# SPDX-License-Identifier: Apache-2.0
"""Check the cards of a pull request where there are no secrets; with --fetch, only fetch weights.

Weights that lie on a hub are not fetched for a pull request: of such a model the card alone is
checked here, and a maintainer runs the check with the weights.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from matteratlas.registry.hub import package_file
from matteratlas.schemas.cards import ModelCard, read_card
from matteratlas.schemas.errors import AtlasError


def main() -> int:
    """Exit code: 0 if every check passed, 1 if one failed."""
    fetch = "--fetch" in sys.argv
    names, *out = [a for a in sys.argv[1:] if a != "--fetch"]
    failed = False
    for path in map(Path, Path(names).read_text(encoding="utf-8").split()):
        try:
            card = read_card(path, ModelCard)
        except AtlasError:
            source, isolated = "none", True  # the check below says what is wrong
        else:
            source, isolated = card.checkpoint.obtained, card.isolation is not None
            if fetch and source == "package":
                package_file(str(card.checkpoint.package), str(card.checkpoint.path))
        if fetch:
            continue
        work = Path(out[0]) / path.stem
        limits = ["--card-only"] if isolated or source not in ("package", "none") else []
        command = ["matteratlas", "contribute", "check", str(path), "--work", str(work), *limits]
        failed |= subprocess.run(command, check=False).returncode != 0
        report = work / "report.json"
        if report.is_file():
            report.replace(Path(out[0]) / f"{path.stem}.json")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
