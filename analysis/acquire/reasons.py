# SPDX-License-Identifier: Apache-2.0
"""Which gaps of an atlas a candidate would help to close, and the sentence that says so.

A gap is closed by adding structures only where structures are what is lacking: gaps of vectors that
models refuse (``refused_share``) are left out, and so are contrasts over whole kinds of matter
(``distribution``), into which too much falls to choose by, and what one set lacks beside the
others of its own atlas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.errors import AtlasError
from ...schemas.structures import KINDS as KINDS_OF_MATTER
from ...schemas.structures import Structure
from ..evidence.chemistry import find_regions
from ..gaps import KINDS

#: Statistics and kinds that more structures do not mend, or that say nothing about which.
NOT_MENDED = ("refused_share",)
TOO_WIDE = ("distribution",)

#: Scope of tests of the atlas as a whole, as ``selection`` names them.
WHOLE = "atlas~"

#: Regions told by what a structure is, beside sizes.
CHEMICAL = (
    "element",
    "pair",
    "stoichiometry",
    "prototype",
    "scaffold",
    "rings",
    "charge",
    "periodicity",
)


def open_gaps(
    gaps: pd.DataFrame, model: str, *, kind: str | None = None, region: str | None = None
) -> pd.DataFrame:
    """Gaps with a severity, of the atlas or of this model, that structures can mend.

    Parameters
    ----------
    gaps : DataFrame
        ``scores/gaps.parquet``.
    kind, region : str, optional
        Only gaps of this kind, only of this region.

    Raises
    ------
    AtlasError
        The kind is unknown, or no such gap has this region.
    """
    if kind is not None and kind not in KINDS:
        raise AtlasError(f"gap kind '{kind}' is not known; use {', '.join(KINDS)}")
    own = gaps["model"].isna() | (gaps["model"] == model)
    own &= (gaps["severity"] > 0) & ~gaps["statistic"].isin(NOT_MENDED)
    own &= ~gaps["kind"].isin(TOO_WIDE)
    scope = gaps["selection"].fillna("").astype(str)
    own &= ~scope.str.contains("~", regex=False) | scope.str.startswith(WHOLE)
    if kind is not None:
        own &= gaps["kind"] == kind
    if region is not None:
        if region not in set(gaps.loc[own, "region"]):
            some = ", ".join(dict.fromkeys(gaps.loc[own, "region"].head(5))) or "none"
            raise AtlasError(f"no open gap has the region '{region}'; the first are {some}")
        own &= gaps["region"] == region
    return gaps[own].reset_index(drop=True)


def matches(
    gaps: pd.DataFrame,
    candidates: pd.DataFrame,
    places: pd.Series,
    geometries: Mapping[str, Structure],
) -> NDArray[np.int64]:
    """The gap each candidate would help most to close: row of ``gaps``, -1 where none.

    The most severe that holds it; of equals the one few candidates fall into, then the first.
    Regions of chemistry hold what a structure is. A stratum, ``set:stratum``, holds what is of it,
    and what lies nearest to a known structure of it.

    Parameters
    ----------
    gaps : DataFrame
        Of :func:`open_gaps`.
    candidates : DataFrame
        Columns of structures tables.
    places : Series of str
        ``set:stratum`` of the nearest known structure, in the order of candidates; empty where it
        is of another kind of matter.
    """
    count = len(candidates)
    best = np.full(count, -1, dtype=np.int64)
    if gaps.empty or count == 0:
        return best
    names = gaps["region"].astype(str)
    held = _members(list(dict.fromkeys(names)), candidates, places, geometries)
    sizes = names.map({r: int(inside.sum()) for r, inside in held.items()})
    order = np.lexsort((np.arange(len(gaps)), sizes, -gaps["severity"].to_numpy()))
    for place in order:
        inside = held[names.iloc[place]] & (best < 0)
        best[inside] = place
    return best


def _members(
    regions: Sequence[str],
    candidates: pd.DataFrame,
    places: pd.Series,
    geometries: Mapping[str, Structure],
) -> dict[str, NDArray[np.bool_]]:
    """Which candidates lie in each region."""
    wanted = [t for t in CHEMICAL if any(r.startswith(f"{t}:") for r in regions)]
    found = find_regions(candidates, geometries, types=wanted)
    columns = {r: i for i, r in enumerate(found.table["region"])}
    member = found.member.tocsc()
    kinds = candidates["kind"].to_numpy(dtype=object)
    atoms = candidates["n_atoms"].to_numpy(dtype=int)
    strata = (candidates["set"] + ":" + candidates["stratum"]).to_numpy(dtype=object)
    near = places.to_numpy(dtype=object)
    out = {}
    for region in regions:
        what, _, value = region.partition(":")
        if what in CHEMICAL:
            # of all kinds of matter, where the region names none
            named = [region] if "|" in region else [f"{region}|{kind}" for kind in KINDS_OF_MATTER]
            own = [columns[r] for r in named if r in columns]
            inside = np.asarray(member[:, own].sum(axis=1)).ravel() > 0
        elif what == "size":
            kind, _, span = value.partition(":")
            low, _, high = span.partition("-")
            inside = (kinds == kind) & (atoms >= int(low)) & (atoms <= int(high or low))
        else:
            inside = (strata == region) | (near == region)
        out[region] = inside
    return out


def shared_weights(best: NDArray[np.int64], severity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weight of each candidate: its gap's severity, shared among the candidates of that gap.

    Each gap then has a say by its severity, however many candidates fall into it. Candidates
    without a gap (-1) weigh nothing.
    """
    inside = best >= 0
    weights = np.zeros(len(best))
    if inside.any():
        sizes = np.bincount(best[inside], minlength=len(severity))
        weights[inside] = severity[best[inside]] / sizes[best[inside]]
    return weights


def sentence(
    candidate: Mapping[str, object],
    gap: Mapping[str, object] | None,
    *,
    in_gap: int,
    chosen_by: str,
) -> str:
    """Why this one: the gap with its evidence, and how far it lies from what is known.

    ``candidate`` needs ``formula``, ``nearest_name``, ``nearest_region``, ``distance_ratio``;
    ``in_gap`` is the number of candidates that the same gap would gain from.
    """
    ratio = candidate["distance_ratio"]
    near = f"{candidate['nearest_name']} ({candidate['nearest_region']})"
    far = (
        f"its nearest known structure is {near}, {ratio:.1f} times as far as known ones lie apart"
        if isinstance(ratio, float) and np.isfinite(ratio)
        else f"its nearest known structure is {near}"
    )
    if gap is None:
        how = {
            "facility": "brings the rest of the pool nearer to what is known",
            "k_centre": "lies farthest from what is known and picked",
            "random": "drawn by chance",
        }.get(chosen_by, "no open gap holds it")
        return f"{candidate['formula']}: in no open gap; {how}; {far}"
    model = f" of {gap['model']}" if isinstance(gap["model"], str) else ""
    others = "the only candidate that does" if in_gap == 1 else f"one of {in_gap} that do"
    return (
        f"{candidate['formula']}: helps to close {gap['kind']} gap {gap['rank']}{model}, "
        f"{gap['region']} ({gap['evidence']}); {others}; {far}"
    )
