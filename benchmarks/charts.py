# SPDX-License-Identifier: Apache-2.0
"""The charts an archive holds, what each cost to build, and where the study's models stand.

    python benchmarks/charts.py out/charts
    python benchmarks/charts.py out/charts --markdown --machine "..." > docs/reference/charts.md

Rows come from the units' own records, times and memory from the runs beside them: milliseconds of
wall clock inside the adapter over the structures it embedded, and the most memory the building
process (for a model in an environment of its own, its process) held. ``--markdown`` writes the page
of the documentation, with the 59 models of arXiv:2512.03750 and how far each has been run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from matteratlas.registry import catalog
from matteratlas.registry.files import Files
from matteratlas.registry.index import read_runs, unit_records
from matteratlas.registry.study import study_models
from matteratlas.schemas.archive import UnitRecord
from matteratlas.schemas.cards import ModelCard

PAGE = """# Charts

Written by `python benchmarks/charts.py {atlas} --markdown --machine "..."`, from the units of one
archive and the runs that built it. Machine: {machine}. Units finished {dates} by matteratlas
{versions}.

## What one archive holds

`matteratlas build --models all --sets starter` builds what comes with packages, without a download
or an account: {structures} rows of {sets} structure sets, {units} units.

{totals}

Columns named after sets count structures embedded; the other rows of a set are missing, each with a
reason. `dim` is that of the default layer, `layers` how many there are. `ms` is wall clock inside
the adapter a structure embedded, `MB` the most memory its process held, Python and torch included.
{load}`energy` is the unit of what the model predicts of a structure. Models marked *apart* run in
an environment of their own.

### Learned charts

{learned}

### Context-free charts

One vector an element, whatever surrounds it; a structure's is the mean.

{context_free}

### Baselines

Nothing was trained.

{baselines}

## The models of the study

All {n_study} rows of Table 1 of arXiv 2512.03750, with what `matteratlas models list` says of each
card: {states}. [Cards](cards.md) says what the states mean. `rows` are those in the archive
above.

{study}
"""


def charts_table(root: Path) -> pd.DataFrame:
    """One row a model: what it is, rows embedded of each set, cost, status."""
    files = Files(str(root))
    records: dict[str, dict[str, UnitRecord]] = {}
    for record in unit_records(root):
        records.setdefault(record.model, {})[record.structure_set] = record
    return pd.DataFrame(
        [
            chart(catalog.model(model), units, read_runs(files, model))
            for model, units in records.items()
        ]
    ).sort_values(["family", "id"], ignore_index=True)


def chart(card: ModelCard, units: dict[str, UnitRecord], runs: dict[str, Any]) -> dict[str, Any]:
    """One row of :func:`charts_table`.

    Runs that embedded nothing, and models without runs, have no cost.
    """
    embedded = sum(r.embedded for r in units.values())
    # Rows carried over from an earlier build were not embedded by the run.
    fresh = sum(r["embedded"] - r["carried"] for r in runs.values())
    seconds = sum(r["model_seconds"] for r in runs.values())
    first = next(iter(units.values()))
    return {
        "id": card.id,
        "family": card.family,
        "modality": card.modality,
        "learned": card.learned,
        "context_free": card.context_free,
        "apart": card.isolation is not None,
        "dim": first.layers[first.default_layer],
        "layers": len(first.layers),
        "energy": "" if card.energy is None else card.energy.unit,
        **{s: units[s].embedded for s in catalog.structure_sets() if s in units},
        "embedded": embedded,
        "ms": 1e3 * seconds / fresh if fresh else None,
        "MB": max((r["peak_rss_mb"] for r in runs.values()), default=None),
        "status": catalog.status(card).state,
        "versions": sorted({str(r["versions"].get("matteratlas", "")) for r in runs.values()}),
        "finished": sorted(str(r["finished"])[:10] for r in runs.values()),
        "rows": sum(r.rows for r in units.values()),
        "units": len(units),
    }


def totals(charts: pd.DataFrame) -> dict[str, int]:
    """How many charts there are, by kind."""
    learned = charts[charts["learned"]]
    inside = learned[~learned["context_free"]]
    return {
        "charts": len(charts),
        "learned charts": len(inside),
        "families of learned charts": inside["family"].nunique(),
        "learned charts with several layers": int((inside["layers"] > 1).sum()),
        "families with several layers": inside[inside["layers"] > 1]["family"].nunique(),
        "learned charts with energies": int((inside["energy"] != "").sum()),
        "learned charts in an environment of their own": int(inside["apart"].sum()),
        "context-free charts": int(learned["context_free"].sum()),
        "baselines": int((~charts["learned"]).sum()),
        "vectors of structures": int((charts["embedded"] * charts["layers"]).sum()),
    }


def study_table(charts: pd.DataFrame) -> pd.DataFrame:
    """One row of the study's Table 1 a row: card, weights, status, rows in the archive."""
    rows = dict(zip(charts["id"], charts["embedded"], strict=True))
    return pd.DataFrame(
        [
            {
                "row": r.row,
                "model": r.name,
                "card": f"`{r.card}`",
                "weights": (card := catalog.model(r.card)).checkpoint.obtained,
                "status": str(status := catalog.status(card)),
                "rows": rows.get(r.card, 0),
                "tested with": status.tested,
            }
            for r in study_models()
        ]
    )


def markdown(table: pd.DataFrame) -> str:
    """A table of the documentation; numbers to the right."""
    rules = ["---:" if pd.api.types.is_numeric_dtype(table[c]) else "---" for c in table]
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + "|".join(rules) + "|"]
    for row in table.itertuples(index=False):
        lines.append("| " + " | ".join(shown(value) for value in row) + " |")
    return "\n".join(lines)


def shown(value: object) -> str:
    if value is None or value != value:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return str(value)


def part(charts: pd.DataFrame, sets: Sequence[str]) -> str:
    """The rows of one kind as a table of the documentation."""
    named = charts.assign(
        id=[f"`{i}`" + (" *apart*" if a else "") for i, a in zip(charts["id"], charts["apart"],
                                                                 strict=True)]
    )  # fmt: skip
    return markdown(
        named[["id", "family", "modality", "dim", "layers", *sets, "ms", "MB", "energy", "status"]]
    )


def page(charts: pd.DataFrame, *, atlas: str, machine: str, load: str) -> str:
    """The page ``docs/reference/charts.md``."""
    sets = [s for s in catalog.structure_sets() if s in charts]
    study = study_table(charts)
    states = study["status"].str.partition(":")[0].value_counts()
    learned, apart = charts["learned"], charts["context_free"]
    dates = sorted({d for row in charts["finished"] for d in row})
    return PAGE.format(
        atlas=atlas,
        machine=machine,
        load=f"{load.rstrip('.')}. " if load else "",
        dates=" to ".join(dict.fromkeys((dates[0], dates[-1]))),
        versions=" and ".join(sorted({v for row in charts["versions"] for v in row})),
        structures=f"{charts['rows'].max():,}",
        sets=len(sets),
        units=f"{charts['units'].sum():,}",
        totals="\n".join(f"- {what}: **{n:,}**" for what, n in totals(charts).items()),
        learned=part(charts[learned & ~apart], sets),
        context_free=part(charts[learned & apart], sets),
        baselines=part(charts[~learned], sets),
        n_study=len(study),
        states=", ".join(f"{n} `{s}`" for s, n in states.items()),
        study=markdown(study),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("atlas", type=Path)
    parser.add_argument("--markdown", action="store_true", help="the page of the documentation")
    parser.add_argument("--machine", default="not said", help="what the build ran on")
    parser.add_argument("--load", default="", help="a sentence on what else ran there")
    arguments = parser.parse_args()
    charts = charts_table(arguments.atlas)
    if arguments.markdown:
        name = f"out/{arguments.atlas.name}"
        print(page(charts, atlas=name, machine=arguments.machine, load=arguments.load), end="")
        return
    hidden = ["versions", "finished", "rows", "units"]
    print(charts.drop(columns=hidden).to_string(index=False, float_format="%.4g", na_rep="-"))
    for what, n in totals(charts).items():
        print(f"{what}: {n:,}")


if __name__ == "__main__":
    main()
