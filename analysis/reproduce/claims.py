# SPDX-License-Identifier: Apache-2.0
"""What the study says, claim by claim, and what this atlas finds on its own models and sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from .figure import Figure
from .study import Study, correlation

Finding = Literal["agrees", "disagrees", "mixed", "cannot be tested here"]

#: Most that a p-value may be for a pair to count as aligned.
LEVEL = 0.05
#: A correlation the word "high" is granted to.
HIGH = 0.8


@dataclass(frozen=True)
class Made:
    """What claims are judged by: the scores, and the figures by their number."""

    study: Study
    figures: Mapping[str, Figure]

    def table(self, number: str) -> pd.DataFrame | None:
        """The table behind a figure; None where it could not be made."""
        return self.figures[number].table if number in self.figures else None


@dataclass(frozen=True)
class Claim:
    """A statement of the study.

    Attributes
    ----------
    where : str
        Figure or section it stands in.
    test : callable or None
        From what was made to a finding and its evidence; None
        where only weights that are not in the archive could tell (``needs`` says which).
    """

    key: str
    statement: str
    where: str
    test: Callable[[Made], tuple[Finding, str]] | None
    needs: str = ""


@dataclass(frozen=True)
class Verdict:
    """A claim and what was found."""

    claim: Claim
    finding: Finding
    evidence: str


def judge(study: Study, figures: Mapping[str, Figure]) -> list[Verdict]:
    """Every claim against the atlas, in the study's order."""
    made, verdicts = Made(study, figures), []
    for claim in CLAIMS:
        if claim.test is None:
            verdicts.append(Verdict(claim, "cannot be tested here", claim.needs))
        else:
            verdicts.append(Verdict(claim, *claim.test(made)))
    return verdicts


def _untested(why: str) -> tuple[Finding, str]:
    return "cannot be tested here", why


def _of(
    study: Study, selection: str, metric: str, first: list[str], second: list[str]
) -> pd.DataFrame:
    """Pairs with one model in each list, of different families."""
    rows = study.pairs(selection, metric)
    one = rows["a"].isin(first) & rows["b"].isin(second)
    other = rows["b"].isin(first) & rows["a"].isin(second)
    rows = rows[one | other]
    families = study.families
    apart = [families[a] != families[b] for a, b in zip(rows["a"], rows["b"], strict=True)]
    return rows[np.array(apart, dtype=bool)]


def _reading(study: Study, *modalities: str) -> list[str]:
    return [m for m in study.learned(study.models) if study.models[m].modality in modalities]


def _summary(rows: pd.DataFrame) -> str:
    passed = int((rows["p_value"] <= LEVEL).sum())
    return (
        f"{len(rows)} pairs, mean CKNNA {rows['value'].mean():.2f}, calibrated "
        f"{rows['calibrated'].mean():.2f} (least {rows['calibrated'].min():.2f}); p <= {LEVEL:g} "
        f"in {passed}"
    )


def _converge(made: Made) -> tuple[Finding, str]:
    study = made.study
    spatial = study.spatial(study.models)
    rows = _of(study, "crystals", "cknna", spatial, spatial).dropna(subset=["p_value"])
    if len(rows) < 3:
        return _untested("fewer than three pairs of 3D models of different families on crystals")
    share = float((rows["q_value"] <= LEVEL).mean())
    finding: Finding = "agrees" if share >= 0.95 else "mixed" if share >= 0.5 else "disagrees"
    return finding, f"3D models of different families on crystals: {_summary(rows)}"


def _strings(made: Made) -> tuple[Finding, str]:
    study = made.study
    strings = _reading(study, "smiles", "selfies", "graph2d")
    rows = _of(study, "molecules", "cknna", strings, study.spatial(study.models))
    rows = rows.dropna(subset=["p_value"])
    if len(rows) < 3:
        return _untested("fewer than three pairs of a string model and a 3D model on molecules")
    share = float((rows["q_value"] <= LEVEL).mean())
    finding: Finding = "agrees" if share >= 0.95 else "mixed" if share >= 0.5 else "disagrees"
    return finding, f"string or graph models with 3D models on molecules: {_summary(rows)}"


def _proteins(made: Made) -> tuple[Finding, str]:
    study = made.study
    across = _of(
        study,
        "proteins",
        "cknna",
        _reading(study, "protein_sequence"),
        _reading(study, "protein_structure"),
    )
    strings = _reading(study, "smiles", "selfies", "graph2d")
    small = _of(study, "molecules", "cknna", strings, study.spatial(study.models))
    if across.empty or small.empty:
        return _untested("no pair of a sequence and a structure model, or of string and 3D models")
    best, other = float(across["calibrated"].max()), float(small["calibrated"].max())
    finding: Finding = "agrees" if best >= 1.5 * other else "disagrees"
    return finding, (
        f"strongest calibrated CKNNA of sequence with structure models {best:.2f} "
        f"({len(across)} pairs, n = {int(across['n'].max())}), of string with 3D models on "
        f"molecules {other:.2f} ({len(small)} pairs, n = {int(small['n'].max())}); few protein "
        "models and short sets here"
    )


def _text_models(made: Made) -> tuple[Finding, str]:
    study = made.study
    words = _reading(study, "text")
    rows = _of(study, "molecules", "cknna", words, study.spatial(study.models))
    strings = _of(study, "molecules", "cknna", words, _reading(study, "smiles", "selfies"))
    if rows.empty or strings.empty:
        return _untested("no text model scored with both 3D and string models on molecules")
    near, far = float(strings["calibrated"].mean()), float(rows["calibrated"].mean())
    finding: Finding = "agrees" if near > 2 * far else "mixed" if near > far else "disagrees"
    return finding, (
        f"text with string models {near:.2f}, with 3D models {far:.2f} (mean calibrated CKNNA; "
        f"{len(strings)} and {len(rows)} pairs). The text model here is a sentence encoder that "
        "reads a description, not one of the study's language models"
    )


def _correlated(made: Made) -> tuple[Finding, str]:
    table = made.table("1D")
    if table is None:
        return _untested("too few pairs on molecules")
    found = correlation(table["value_cknna"], table["value_dcor"])
    if "spearman" not in found:
        return _untested("too few pairs on molecules")
    finding: Finding = (
        "agrees" if found["low"] >= 0.5 and found["spearman"] >= HIGH else
        "mixed" if found["low"] > 0 else "disagrees"
    )  # fmt: skip
    return finding, (
        f"Spearman {found['spearman']:.2f} (95 % {found['low']:.2f} to {found['high']:.2f}) over "
        f"{found['n']} pairs of learned models on molecules"
    )


def _performance(made: Made) -> tuple[Finding, str]:
    parts, signs = [], []
    for number in ("1B", "3"):
        table = made.table(number)
        if table is None:
            continue
        found = correlation(table["mae"], table["alignment"])
        if "spearman" not in found:
            continue
        parts.append(
            f"figure {number}: Spearman of error and alignment {found['spearman']:.2f} "
            f"(95 % {found['low']:.2f} to {found['high']:.2f}), {found['n']} models"
        )
        signs.append(-1 if found["high"] < 0 else 1 if found["low"] > 0 else 0)
    if not parts:
        return _untested("fewer than four models with an error and an alignment")
    finding: Finding = (
        "agrees" if all(s < 0 for s in signs) else
        "disagrees" if all(s > 0 for s in signs) else "mixed"
    )  # fmt: skip
    return finding, "; ".join(parts)


def _dimension(made: Made) -> tuple[Finding, str]:
    study = made.study
    table = made.table("1E")
    if table is None:
        return _untested("no intrinsic dimensions")
    random = table[table["type"] == "random"]["value"]
    learned = table[table["model"].isin(study.learned(study.models))]
    if random.empty or len(learned) < 3:
        return _untested("no random baseline beside three learned models")
    bands = (
        learned.groupby("selection", sort=False)["value"].quantile(np.array([0.1, 0.9])).unstack()
    )
    text = "; ".join(
        f"{name}: {row[0.1]:.1f} to {row[0.9]:.1f} (10-90 %)" for name, row in bands.iterrows()
    )
    finding: Finding = "agrees" if random.min() > learned["value"].quantile(0.9) else "mixed"
    return finding, f"{text}; the random baseline {random.min():.1f} to {random.max():.1f}"


def _symmetry(made: Made) -> tuple[Finding, str]:
    table = made.table("1E")
    if table is None:
        return _untested("no intrinsic dimensions")
    kinds = ["invariant", "equivariant", "vanilla"]
    table = table[table["selection"] == "crystals"]
    medians = table.groupby("type")["value"].median()
    held = [k for k in kinds if k in medians]
    if len(held) < 2:
        return _untested(f"3D models of {len(held)} of the three kinds on crystals; two needed")
    values = [float(medians[k]) for k in held]
    finding: Finding = "agrees" if values == sorted(values) else "disagrees"
    counts = table["type"].value_counts()
    return finding, "medians on crystals: " + ", ".join(
        f"{k} {medians[k]:.1f} ({counts[k]} models)" for k in held
    )


def _inside_out(made: Made) -> tuple[Finding, str]:
    study = made.study
    table = made.table("2C")
    if table is None:
        return _untested("no pair with enough rows in and out of both training domains")
    parts, right = [], []
    spatial = study.spatial(study.models)
    table = table[table["a"].isin(spatial) & table["b"].isin(spatial)]
    families = study.families
    apart = [families[a] != families[b] for a, b in zip(table["a"], table["b"], strict=True)]
    table = table[np.array(apart, dtype=bool)]
    for contrast, rows in table.groupby("contrast", sort=False):
        for metric, sign in (("cknna", 1), ("distance_correlation", -1)):
            own = rows[rows["metric"] == metric]
            if len(own) < 2:
                continue
            change = own["inside"] - own["outside"]
            right.append(float(np.sign(change.mean())) == sign)
            parts.append(
                f"{str(contrast).replace('~', ', ')}: {metric} {own['inside'].mean():.2f} inside, "
                f"{own['outside'].mean():.2f} outside ({len(own)} pairs)"
            )
    if not parts:
        return _untested("fewer than two pairs of 3D models of different families in a contrast")
    finding: Finding = "agrees" if all(right) else "mixed" if any(right) else "disagrees"
    return finding, "; ".join(parts)


def _family(made: Made) -> tuple[Finding, str]:
    study = made.study
    spatial = study.spatial(study.models)
    rows = study.pairs("crystals", "cknna")
    rows = rows[rows["a"].isin(spatial) & rows["b"].isin(spatial)]
    sets, families = {m: study.models[m].training_sets for m in spatial}, study.families
    pairs = list(zip(rows["a"], rows["b"], strict=True))
    same = np.array([families[a] == families[b] for a, b in pairs], dtype=bool)
    shared = np.array([bool(sets[a] & sets[b]) for a, b in pairs], dtype=bool)
    value = rows["value"]
    kin, data, neither = value[same], value[~same & shared], value[~same & ~shared]
    if kin.empty or data.empty or neither.empty:
        return _untested("no pairs of one family, of shared data only, and of neither, on crystals")
    finding: Finding = (
        "agrees" if data.mean() > neither.mean() and kin.mean() > neither.mean() else "disagrees"
    )
    return finding, (
        f"mean CKNNA on crystals: one family {kin.mean():.2f} ({len(kin)}), other family with "
        f"shared training sets {data.mean():.2f} ({len(data)}), neither {neither.mean():.2f} "
        f"({len(neither)}); family weighs {'more' if kin.mean() > data.mean() else 'less'} than "
        "data here"
    )


def _neighbours(made: Made) -> tuple[Finding, str]:
    table = made.table("A1")
    if table is None:
        return _untested("no sweep")
    table = table[table["metric"] == "cknna"]
    wide = table.pivot(index="pair", columns="k", values="value").dropna()
    if wide.shape[1] < 3 or len(wide) < 2:
        return _untested("too few neighbour counts or pairs")
    rising = float((np.diff(wide.to_numpy(), axis=1) > 0).mean())
    order = float(wide.corr(method="spearman").to_numpy()[0, -1])
    finding: Finding = (
        "agrees" if rising >= 0.9 and order >= 0.5 else "mixed" if rising >= 0.5 else "disagrees"
    )
    ks = [int(k) for k in wide.columns]
    return finding, (
        f"{rising:.0%} of the steps of {len(wide)} pairs over k = {ks[0]} to {ks[-1]} rise; rank "
        f"correlation of the pairs between the ends {order:.2f}"
    )


def _random(made: Made) -> tuple[Finding, str]:
    study = made.study
    random = [m for m in study.models if study.embedding_type(m) == "random"]
    others = study.learned(study.models)
    parts = [_of(study, s, "cknna", random, others) for s in ("crystals", "molecules", "proteins")]
    rows = pd.concat(parts).dropna(subset=["p_value"])
    if rows.empty:
        return _untested("no random baseline scored with a learned model")
    false = float((rows["q_value"] <= LEVEL).mean())
    finding: Finding = "agrees" if false == 0 else "mixed" if false <= LEVEL else "disagrees"
    return finding, (
        f"{len(rows)} pairs with learned models: largest calibrated CKNNA "
        f"{rows['calibrated'].max():.2f}; {false:.0%} pass a false discovery rate of {LEVEL:.0%}"
    )


CLAIMS: tuple[Claim, ...] = (
    Claim("convergence", "Models of different architectures align on the same matter.",
          "abstract, Fig 1C", _converge),
    Claim("strings", "String models align with interatomic potentials on small molecules.",
          "Fig 1A", _strings),
    Claim("proteins", "Protein sequence and structure models align nearly twice as strongly as the "
          "best cases for small molecules.", "Fig C13", _proteins),
    Claim("language", "Language models align with string models when they read the same string, "
          "and hardly with 3D models.", "Fig C6", _text_models),
    Claim("local-global", "Local (CKNNA) and global (distance correlation) alignment are highly "
          "correlated.", "Fig 1D", _correlated),
    Claim("performance", "Alignment to the best model rises as a model's energy error falls.",
          "Figs 1B, 3", _performance),
    Claim("dimension", "Intrinsic dimensions lie in a narrow band; random ones far above.",
          "Figs 1E, C7", _dimension),
    Claim("symmetry", "Invariant embeddings have a lower dimension than equivariant ones, those "
          "than vanilla ones.", "Fig 1E", _symmetry),
    Claim("distribution", "In distribution alignment is higher locally; out of distribution it is "
          "higher globally.", "Fig 2C", _inside_out),
    Claim("origin", "Both shared training data and shared architecture bring models together.",
          "Figs C10, C12", _family),
    Claim("neighbours", "CKNNA rises with k, and the order of pairs is mostly kept.",
          "Fig A1", _neighbours),
    Claim("random", "A random baseline aligns with nothing.", "Figs C6 to C13", _random),
    Claim("size", "Within Orb v3, UMA, eSEN and EquiformerV2, larger and better trained members "
          "align more with UMA Medium.", "Fig 1B", None,
          "needs the weights of these models, which no package ships"),
    Claim("optimum", "MACE-OFF has good energies and weak alignment on QM9: a local optimum.",
          "Fig 3", None, "needs the weights of MACE-OFF and Orb v3, which no package ships"),
    Claim("error-map", "Energy errors of Orb v3 gather in regions of its embedding space.",
          "Fig 2D", None, "needs the weights of Orb v3, which no package ships"),
)  # fmt: skip
