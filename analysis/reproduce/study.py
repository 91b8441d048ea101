# SPDX-License-Identifier: Apache-2.0
"""What the study's figures are drawn from here: an atlas's scores, its models, and stand-in sets.

The study's five sets are not at hand everywhere; each figure names the selection it uses instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from ...registry.archive import Atlas
from ..report.data import Model, Scores, read_scores, roster
from ..report.evidence import optional

#: The study's set -> selection that stands for it, and what differs.
STAND_INS: dict[str, tuple[str, str]] = {
    "QM9": ("molecules", "small and drug-like molecules instead of QM9"),
    "OMat24": ("crystals", "elements, minerals, prototypes, strained cells and frameworks instead "
               "of OMat24"),
    "RCSB": ("proteins", "short protein chains instead of the RCSB sample"),
}  # fmt: skip

#: Metrics that score a pair, local first, as they are named on axes.
LABELS: dict[str, str] = {
    "cknna": "CKNNA",
    "mutual_knn": "mutual k-NN",
    "distance_correlation": "distance correlation",
    "linear_cka": "linear CKA",
    "information_imbalance": "information imbalance",
}


@dataclass
class Study:
    """The scores of an atlas, as the study's figures ask for them.

    Attributes
    ----------
    scores : Scores
        Every score table of the atlas.
    """

    scores: Scores

    @classmethod
    def of(cls, path: str) -> Study:
        """Open an analysed atlas.

        Raises
        ------
        ArchiveError
            Not an atlas, or not analysed yet.
        """
        return cls(read_scores(path))

    @property
    def atlas(self) -> Atlas:
        """The opened atlas."""
        return self.scores.atlas

    @cached_property
    def models(self) -> dict[str, Model]:
        """Models by id, default layers only, in page order."""
        return {m.key: m for m in roster(self.scores) if m.default}

    @cached_property
    def families(self) -> dict[str, str]:
        """Model -> family."""
        return {key: str(m.card["family"]) for key, m in self.models.items()}

    def embedding_type(self, model: str) -> str:
        """``invariant``, ``equivariant`` or ``vanilla`` of 3D models; else what the model reads."""
        found = self.models[model]
        if not found.learned:
            return "random" if self.families[model] == "random" else "not learned"
        if not found.contextual:
            return "element table"
        architecture = found.card["architecture"]
        if found.modality == "atoms3d" and isinstance(architecture, str):
            return architecture
        return found.modality.replace("_", " ")

    def table(self, path: str) -> pd.DataFrame | None:
        """A score table, or None where the analysis wrote none or an empty one."""
        return optional(self.atlas, path)

    def pairs(self, selection: str, metric: str) -> pd.DataFrame:
        """Scores of pairs of models on a selection, or on its part that both embedded.

        A pair scored on the whole selection is taken from there; one of a model that lacks some
        rows from the rows it has (``n`` differs: such values are comparable to themselves only).
        """
        scores = self.scores
        names = scores.selections.set_index("selection")["parent"]
        wanted = {selection, *names.index[names == selection]}
        rows = scores.pairs[
            scores.pairs["selection"].isin(list(wanted)) & (scores.pairs["metric"] == metric)
        ]
        rows = rows[rows["a"].isin(list(self.models)) & rows["b"].isin(list(self.models))]
        return (
            rows.sort_values("n", ascending=False, kind="stable")
            .drop_duplicates(["a", "b"])
            .sort_index()
        )

    def matrix(self, selection: str, metric: str, column: str = "value") -> pd.DataFrame:
        """Square table of models; NaN where a pair has no score, 1 on the diagonal."""
        rows = self.pairs(selection, metric)
        present = [key for key in self.models if key in set(rows["a"]) | set(rows["b"])]
        table = rows.pivot(index="a", columns="b", values=column).reindex(
            index=present, columns=present
        )
        values = table.to_numpy(dtype=np.float64, copy=True)
        values = np.where(np.isnan(values), values.T, values)
        np.fill_diagonal(values, 0.0 if metric == "information_imbalance" else 1.0)
        return pd.DataFrame(values, index=present, columns=present)

    def learned(self, models: Iterable[str]) -> list[str]:
        """Those that learned and see more than elements."""
        return [m for m in models if self.models[m].learned and self.models[m].contextual]

    def spatial(self, models: Iterable[str]) -> list[str]:
        """Those that learned from atoms in space."""
        return [m for m in models if self.models[m].three_d]


def complete(matrix: pd.DataFrame) -> pd.DataFrame:
    """The part of a square table without NaN: models with the most holes go first."""
    while matrix.isna().to_numpy().any():
        worst = matrix.isna().sum(axis=1).idxmax()
        matrix = matrix.drop(index=worst, columns=worst)
    return matrix


def condensed(matrix: pd.DataFrame, groups: dict[str, str]) -> pd.DataFrame:
    """Means over the models of two groups; NaN pairs left out (the study's Figs 1A and 1C).

    The diagonal holds the mean over all pairs of a group, each model with itself (1) included, as
    the study prints it; below 1 for groups of more than one.
    """
    labels = [groups[m] for m in matrix.index]
    order = list(dict.fromkeys(labels))
    long = matrix.set_axis(labels, axis=0).set_axis(labels, axis=1)
    out = pd.DataFrame(np.nan, index=order, columns=order)
    for a in order:
        for b in order:
            block = np.atleast_2d(long.loc[[a], [b]].to_numpy(dtype=float))
            out.loc[a, b] = np.nanmean(block) if np.isfinite(block).any() else np.nan
    return out


def correlation(
    x: pd.Series, y: pd.Series, *, draws: int = 2000, seed: int = 0
) -> dict[str, float | int]:
    """Spearman and Pearson correlation with a 95 % percentile bootstrap interval over points."""
    from scipy.stats import pearsonr, spearmanr

    both = pd.DataFrame({"x": x.to_numpy(float), "y": y.to_numpy(float)}).dropna()
    count = len(both)
    if count < 4 or both["x"].nunique() < 2 or both["y"].nunique() < 2:
        return {"n": count}
    rng = np.random.default_rng(seed)
    values = both.to_numpy()
    drawn = []
    for _ in range(draws):
        part = values[rng.integers(0, count, count)]
        if len(np.unique(part[:, 0])) > 1 and len(np.unique(part[:, 1])) > 1:
            drawn.append(spearmanr(part[:, 0], part[:, 1]).statistic)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {
        "n": count,
        "spearman": float(spearmanr(both["x"], both["y"]).statistic),
        "low": float(low),
        "high": float(high),
        "pearson": float(pearsonr(both["x"], both["y"]).statistic),
    }


def told(found: dict[str, float | int]) -> str:
    """A correlation in words."""
    if "spearman" not in found:
        return f"{found['n']} points, too few for a correlation"
    return (
        f"Spearman {found['spearman']:.2f} (95 % {found['low']:.2f} to {found['high']:.2f}), "
        f"Pearson {found['pearson']:.2f}, n = {found['n']}"
    )
