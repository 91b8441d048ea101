# SPDX-License-Identifier: Apache-2.0
"""Cue retention: what linear readouts find in frozen embeddings, in and out of distribution.

Three baselines keep a readout honest: what the formula alone gives (``composition``), what the
same architecture gives with random weights (``control``), and what a readout trained outside finds
there (``bound``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ...schemas.retention import CUES
from ..charts import Chart
from ..gaps import LEVEL, Gap, false_discovery
from ..selections import ids_sha256
from .context import Evidence, Findings
from .cues import Cue, composition_features, cues_of
from .readout import SHARED_TRAINING, Array, error_of
from .regions import ROWS, Region, Scored, make_regions, read_region

PATH = "scores/cues.parquet"

#: Fewest rows of a side.
LEAST = 40
#: A bound below this leaves nothing that could be lost.
BOUND = 0.1
#: Share of the bound that may be lost without being a gap: equal cues are never read equally well.
MARGIN = 0.05
#: Rows a control must share with a model.
SHARED_ROWS = 0.8


def retention_stage(evidence: Evidence) -> Findings:
    """Read every cue of every model; gaps where readouts trained inside fail outside.

    See ``docs/explanation/cues.md``. Writes ``scores/cues.parquet``.
    """
    notes: list[str] = []
    rows: list[dict[str, Any]] = []
    gaps: list[Gap] = []
    try:
        baseline = composition_features(evidence.structures)
    except ModuleNotFoundError as error:
        notes.append(
            f"cue retention is left out: {error.name} is not installed; "
            "run: pip install 'matteratlas[sources]'"
        )
        return Findings({PATH: _typed(_table(rows)[list(CUES.columns)])}, [], notes)
    cues, notes = cues_of(evidence.structures, evidence.geometries)
    reader = _Reader(evidence, cues, baseline)
    for key, chart in evidence.charts.items():
        found = [*_whole(reader, key, chart)]
        if key in evidence.relations:
            found += _outside(reader, key, chart)
        if not found:
            notes.append(f"cues of {key}: fewer than {reader.least} rows on a side of any region")
        rows += found
    table = _table(rows)
    table = _judged(table, reader)
    gaps = _gaps(table)
    if not reader.controls:
        notes.append(
            "cues: no model with random weights in this atlas; nothing shows what training adds"
        )
    return Findings({PATH: table}, gaps, notes)


class _Reader:
    """Scores by region and embedding, each taken once."""

    def __init__(self, evidence: Evidence, cues: list[Cue], baseline: Array) -> None:
        self.evidence, self.cues, self.baseline = evidence, cues, baseline
        self.structures = evidence.structures
        self.place = pd.Series(np.arange(len(self.structures)), index=self.structures.index)
        self.formulas = pd.factorize(self.structures["formula"], sort=True)[0].astype(np.intp)
        self.region = self.structures["set"] + ":" + self.structures["stratum"]
        self.least = max(evidence.min_rows, LEAST)
        self.most = min(evidence.max_rows, ROWS)
        self.controls = control_families(evidence.charts)
        self._held: dict[tuple[str, tuple[str, str, str]], dict[str, dict[str, Scored]]] = {}

    def regions(
        self, name: str, inside: pd.Index, outside: pd.Index | None, *, presence: bool
    ) -> Iterator[Region]:
        """Regions of all cues, or of those that are no presence of an element."""
        yield from make_regions(
            name,
            inside,
            outside,
            cues=[c for c in self.cues if presence or not c.name.startswith("element:")],
            place=self.place,
            formulas=self.formulas,
            least=self.least,
            most=self.most,
            seed=self.evidence.seed,
        )

    def read(self, key: str, region: Region) -> dict[str, dict[str, Scored]]:
        """Scores of a chart, or with ``""`` of the formula, in a region."""
        held = self._held.get((key, region.key))
        if held is None:
            near = self._rows(key, region, "inside")
            far = self._rows(key, region, "outside") if region.outside else None
            held = read_region(region, near, far)
            if not key or key in {c for keys in self.controls.values() for c in keys}:
                self._held[key, region.key] = held
        return held

    def _rows(self, key: str, region: Region, side: str) -> Array:
        if not key:
            return self.baseline[region.rows(side)]
        return self.evidence.reader.rows(key, getattr(region, side)).astype(np.float64)


def control_families(charts: dict[str, Chart]) -> dict[str, list[str]]:
    """Models of atoms in space with random weights, by family."""
    found: dict[str, list[str]] = {}
    for key, chart in charts.items():
        card = chart.card
        # Descriptors have no architecture: they were designed, not drawn at random.
        if card.modality == "atoms3d" and not card.learned and card.architecture is not None:
            found.setdefault(card.family, []).append(key)
    return found


def _controls_of(reader: _Reader, chart: Chart) -> dict[str, list[str]]:
    """Controls a model is held against: its own architecture's, else all there are.

    A control is held against other draws of itself, never against itself or other architectures.
    """
    card = chart.card
    if card.modality != "atoms3d" or card.context_free:
        return {}
    family = reader.controls.get(card.family, [])
    own = [c for c in family if c != chart.key]
    if own or chart.key in family:
        return {card.family: own} if own else {}
    return reader.controls


def _whole(reader: _Reader, key: str, chart: Chart) -> Iterator[dict[str, Any]]:
    """Readouts over all rows of a kind, against the formula and against controls."""
    presence = reader.evidence.reader.presence
    controls = _controls_of(reader, chart)
    for kind in ("crystal", "molecule", "protein"):
        rows = (presence[key] & (reader.structures["kind"] == kind)).to_numpy()
        held: dict[str, list[str]] = {}
        for family, keys in controls.items():
            both = rows & presence[keys].all(axis=1).to_numpy()
            if both.sum() >= max(reader.least, SHARED_ROWS * rows.sum()):
                rows, held[family] = both, keys
        for region in reader.regions(f"all:{kind}", presence.index[rows], None, presence=True):
            own, formula = reader.read(key, region)["all"], reader.read("", region)["all"]
            drawn = {
                family: [reader.read(c, region)["all"] for c in keys]
                for family, keys in held.items()
            }
            for cue in region.cues:
                row = _row(reader, chart, region, cue, "all", own, formula)
                _against(row, own[cue.name], {
                    family: [d[cue.name] for d in draws] for family, draws in drawn.items()
                }, held)  # fmt: skip
                yield row


def _outside(reader: _Reader, key: str, chart: Chart) -> Iterator[dict[str, Any]]:
    """Readouts trained inside a model's training domains and read outside, at equal n."""
    relation = reader.evidence.relations[key].to_numpy()
    own = reader.evidence.reader.presence[key]
    inside = own.index[own.to_numpy() & (relation == "in")]
    outside = own.index[own.to_numpy() & (relation == "out")]
    if len(inside) < reader.least:
        return
    kinds = reader.structures["kind"].loc[outside]
    parts = [(f"out:{k}", outside[(kinds == k).to_numpy()], True) for k in sorted(set(kinds))]
    strata = reader.region.loc[outside]
    parts += [(str(s), part.index, False) for s, part in strata.groupby(strata, sort=True)]
    for name, ids, presence in parts:
        for region in reader.regions(name, inside, ids, presence=presence):
            said, formula = reader.read(key, region), reader.read("", region)
            for cue in region.cues:
                for side in ("inside", "outside", "bound"):
                    row = _row(reader, chart, region, cue, side, said[side], formula[side])
                    if side == "outside":
                        row |= retained(said["outside"][cue.name], said["bound"][cue.name])
                    yield row


def _row(
    reader: _Reader,
    chart: Chart,
    region: Region,
    cue: Cue,
    side: str,
    own: dict[str, Scored],
    formula: dict[str, Scored],
) -> dict[str, Any]:
    here = "outside" if side in ("outside", "bound") else "inside"
    score, base = own[cue.name], formula[cue.name]
    gain = score.draws - base.draws
    return {
        "release": reader.evidence.release,
        "model": chart.card.id,
        "version": chart.card.version,
        "layer": chart.layer.name,
        "region": region.name,
        "side": side,
        "cue": cue.name,
        "task": cue.task,
        "determined": cue.determined,
        "n": len(region.inside),
        "formulas": len(np.unique(region.groups(here))),
        "rows_sha256": ids_sha256(getattr(region, here)),
        "score": score.value,
        "standard_error": error_of(score.draws),
        "r2": score.r2,
        "composition": base.value,
        "gain": float(gain[0]),
        "gain_error": error_of(gain),
        "gain_p_value": _above(float(gain[0]), error_of(gain)),
        "seed": reader.evidence.seed,
    }


def _against(
    row: dict[str, Any],
    own: Scored,
    families: dict[str, list[Scored]],
    keys: dict[str, list[str]],
) -> None:
    """Note the best family of controls and what the model has more; errors of rows alone."""
    if not families:
        return
    means = {f: np.mean([d.draws for d in draws], axis=0) for f, draws in families.items()}
    best = max(means, key=lambda f: float(means[f][0]))
    added = own.draws - means[best]
    spread = np.var([d.value for d in families[best]], ddof=1) if len(keys[best]) > 1 else np.nan
    row |= {
        "control": ",".join(keys[best]),
        "control_score": float(means[best][0]),
        "added": float(added[0]),
        "added_error": error_of(added),
        "_spread": float(spread),
        "_control_draws": len(keys[best]),
    }


def retained(outside: Scored, bound: Scored) -> dict[str, float]:
    """Share of what can be read outside that a readout trained inside reads, and its test.

    The p-value is one-sided and normal: the score outside is below the bound by more than
    :data:`MARGIN` of it. Draws of both sides are of the same rows; the interval is the bootstrap's,
    widened for shared training rows.
    """
    lost = (1.0 - MARGIN) * bound.draws - outside.draws
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = outside.draws / bound.draws
    kept = ratio[1:][np.isfinite(ratio[1:])]
    out = {"p_value": _above(float(lost[0]), error_of(lost))}
    if bound.value < BOUND or not len(kept):
        return out
    low, high = np.quantile(kept, [0.025, 0.975])
    wider = np.sqrt(SHARED_TRAINING)
    value = float(ratio[0])
    return out | {
        "retention": value,
        "retention_low": max(0.0, value - wider * max(0.0, value - float(low))),
        "retention_high": value + wider * max(0.0, float(high) - value),
    }


def _above(value: float, error: float) -> float:
    """One-sided normal p-value of a value above 0; 1 where it has no error and is not above."""
    from scipy.stats import norm

    if not np.isfinite(error) or error <= 0:
        return float(np.nan) if value > 0 else 1.0
    return float(norm.sf(value / error))


# --- the table -----------------------------------------------------------------------------------


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    extra = ["_spread", "_control_draws"]
    return pd.DataFrame(rows, columns=[*CUES.columns, *extra])


def _judged(table: pd.DataFrame, reader: _Reader) -> pd.DataFrame:
    """p-values of what training adds, q-values, verdicts; columns and types of the schema.

    Two draws of random weights differ by more than rows explain. How much is pooled over cues from
    the draws of each architecture, and a model must differ from its controls by more.
    """
    sampling, draws = table["added_error"].astype("float64"), table["_control_draws"]
    unlearned = {c for keys in reader.controls.values() for c in keys}
    table["_all"] = table["side"] == "all"
    spread = control_spread(table, reader.controls)
    between = table["region"].map(spread).fillna(0.0) * (1.0 + 1.0 / draws.astype("float64"))
    error = np.sqrt(sampling**2 + between)
    table["added_error"] = error
    table["added_p_value"] = [
        _above(float(a), float(e)) if np.isfinite(a) else np.nan
        for a, e in zip(table["added"].astype("float64"), error, strict=True)
    ]
    for name in ("gain", "added"):
        q = false_discovery(
            table.rename(columns={f"{name}_p_value": "p_value", "p_value": "_"}),
            ["side", "cue"],
        )
        table[f"{name}_q_value"] = q
    beyond = table["gain_q_value"] < LEVEL
    trained = table["added_q_value"].lt(LEVEL) | table["control"].isna()
    # A control of which there is one draw only is its own null: it cannot add to itself.
    alone = table["model"].isin(unlearned) & table["control"].isna()
    verdict = (beyond & trained & ~alone & ~table["determined"].astype(bool)).astype("boolean")
    table["informative"] = verdict.mask(~table["_all"].astype(bool))
    return _typed(table[list(CUES.columns)])


def control_spread(table: pd.DataFrame, controls: dict[str, list[str]]) -> dict[str, float]:
    """Variance of a cue's score between draws of random weights, by region, pooled over cues.

    Cues that the formula decides are left out: readouts of them are near their ceiling.
    """
    known = {c for keys in controls.values() for c in keys}
    rows = table[table["_all"] & table["model"].isin(known) & ~table["determined"].astype(bool)]
    if rows.empty:
        return {}
    found = {}
    families = {c: f for f, keys in controls.items() for c in keys}
    rows = rows.assign(family=rows["model"].map(families))
    keys = ["region", "family", "cue", "rows_sha256"]
    several = rows.groupby(keys)["score"].agg(["var", "count"])
    several = several[several["count"] > 1].reset_index()
    for region, part in several.groupby("region"):
        found[str(region)] = float(np.average(part["var"], weights=part["count"] - 1))
    return found


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    table = table.copy()
    for name, column in CUES.columns.items():
        kind = str(column.dtype)
        if kind in ("float64", "int64", "bool", "boolean"):
            table[name] = table[name].astype(kind)
        else:
            table[name] = table[name].astype(object).where(table[name].notna(), None)
    return table.reset_index(drop=True)


def _gaps(table: pd.DataFrame) -> list[Gap]:
    """A gap for every cue that can be read outside."""
    keys = ["model", "region", "cue"]
    sides = {s: part.set_index(keys) for s, part in table.groupby("side")}
    gaps: list[Gap] = []
    if "outside" not in sides:
        return gaps
    outside = table[(table["side"] == "outside") & table["retention"].notna()]
    for row in outside.to_dict("records"):
        where = tuple(row[k] for k in keys)
        limit, near = sides["bound"].loc[where], sides["inside"].loc[where]
        # A bound that is not above chance is no bound.
        if not limit["score"] > 1.645 * limit["standard_error"]:
            continue
        gaps.append(
            Gap(
                kind="retention",
                region=row["region"],
                model=row["model"],
                statistic=row["cue"],
                n=row["n"],
                reference_n=row["n"],
                value=row["score"],
                reference=float(limit["score"]),
                standard_error=row["standard_error"],
                p_value=row["p_value"],
                lost=1.0 - row["retention"],
                evidence=(
                    f"{row['cue']}, read linearly from {row['model']} on {row['n']} structures "
                    f"outside its training domains: {row['score']:.2f} by a readout trained "
                    f"inside, {limit['score']:.2f} by one trained there (inside "
                    f"{near['score']:.2f}; from composition alone {row['composition']:.2f} and "
                    f"{limit['composition']:.2f})"
                ),
            )
        )
    return gaps
