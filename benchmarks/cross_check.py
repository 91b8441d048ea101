# SPDX-License-Identifier: Apache-2.0
"""Every metric against an independent implementation on real embeddings: the table of the docs.

    python benchmarks/cross_check.py                                   # prints the table
    python benchmarks/cross_check.py --write docs/reference/metrics.md # and puts it on the page

Peers that live beside this project (numpy in full matrices, scipy, scikit-learn) are run; those
that cannot are asked once by ``benchmarks/golden/make_real_golden.py``, and their answers are kept
in ``tests/analysis/golden``. The tests hold every line to 1e-6.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from scipy import linalg, spatial, stats
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import KernelCenterer

from matteratlas.analysis import metrics

GOLDEN = Path(__file__).parent.parent / "tests/analysis/golden"

Array = np.ndarray


@dataclass(frozen=True)
class Pair:
    """Two real embeddings of the same structures, and what packages elsewhere said of them.

    ``ties`` tells whether rows repeat, ``golden`` is empty where nobody was asked.
    """

    name: str
    x: Array
    y: Array
    ties: bool
    golden: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One metric in one setting, by us and by a peer."""

    metric: str
    setting: str
    peer: str
    ours: Callable[[Array, Array], Any]
    theirs: Callable[[Pair], Any]
    ties: bool = True
    golden: bool = False

    def fits(self, pair: Pair) -> bool:
        """Whether the peer has an answer for the pair."""
        return (self.ties or not pair.ties) and (bool(pair.golden) or not self.golden)

    def difference(self, pair: Pair) -> float:
        """Largest difference of any number, the larger of absolute and relative to 1."""
        ours = np.asarray(self.ours(pair.x, pair.y), float)
        theirs = np.asarray(self.theirs(pair), float)
        if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
            raise ValueError(f"{self.metric} {self.setting}: not finite on {pair.name}")
        return float((np.abs(ours - theirs) / np.maximum(1.0, np.abs(theirs))).max())


def pairs() -> list[Pair]:
    """Two potentials; a potential and an element table; more features than rows."""
    rows = np.load(GOLDEN / "real.npz")
    record = json.loads((GOLDEN / "real_values.json").read_text())["values"]
    chgnet, sevennet, mat2vec = (
        rows[name].astype(np.float64) for name in ("chgnet", "sevennet", "mat2vec")
    )
    return [
        Pair("CHGNet, SevenNet-0", chgnet, sevennet, False, record["chgnet~sevennet"]),
        Pair("CHGNet, mat2vec", chgnet, mat2vec, True, record["chgnet~mat2vec"]),
        Pair("CHGNet, SevenNet-0, few rows", chgnet[::4], sevennet[::4], False),
    ]


# --- Peers: written from the definitions, in full matrices, sharing nothing with the package. ---


def unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def neighbours(x: Array, k: int) -> Array:
    """Lists by scikit-learn, the row itself left out; distances must all differ."""
    model = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x)
    return model.kneighbors(return_distance=False)


def overlap(pair: Pair, k: int) -> list[float]:
    lists = [neighbours(unit(z), k) for z in (pair.x, pair.y)]
    return [len(set(a) & set(b)) / k for a, b in zip(*lists, strict=True)]


def cycle(pair: Pair, k: int) -> float:
    back, out = (neighbours(unit(z), k) for z in (pair.x, pair.y))
    return float(np.mean([any(i in back[j] for j in row) for i, row in enumerate(out)]))


def hsic(a: Array, b: Array) -> float:
    """Song et al. 2012, Eq. 5."""
    n = len(a)
    a, b = a - np.diag(np.diag(a)), b - np.diag(np.diag(b))
    one = np.ones(n)
    value = np.trace(a @ b) + (one @ a @ one) * (one @ b @ one) / ((n - 1) * (n - 2))
    return float(value - 2.0 / (n - 2) * (one @ a @ b @ one)) / (n * (n - 3))


def align(k: Array, l: Array, *, unbiased: bool) -> float:  # noqa: E741
    if unbiased:
        return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))
    k, l = (KernelCenterer().fit_transform(z) for z in (k, l))  # noqa: E741
    return float((k * l).sum() / (np.linalg.norm(k) * np.linalg.norm(l)))


def linear(x: Array) -> Array:
    return x @ x.T


def gaussian(x: Array, fraction: float) -> Array:
    width = fraction * np.median(spatial.distance.pdist(x))
    return rbf_kernel(x, gamma=0.5 / width**2)


def kernel_mask(x: Array, k: int) -> Array:
    gram = linear(x)
    np.fill_diagonal(gram, -np.inf)
    mask = np.zeros_like(gram)
    np.put_along_axis(mask, np.argsort(-gram, axis=1)[:, :k], 1.0, axis=1)
    return mask


def cknna(pair: Pair, k: int, variant: str) -> float:
    x, y = unit(pair.x), unit(pair.y)
    masks = kernel_mask(x, k), kernel_mask(y, k)
    grams = [linear(x), linear(y)]
    centre = np.eye(len(x)) - 1.0 / len(x)
    if variant == "centred_masked":
        grams = [gram @ centre for gram in grams]

    def term(i: int, j: int) -> float:
        a, b = (masks[i] * masks[j] * grams[side] for side in (i, j))
        if variant == "masked_unbiased":
            return 0.5 * (hsic(a, b) + hsic(b, a))
        if variant == "masked_centred":
            a, b = centre @ a @ centre, centre @ b @ centre
        return float((a * b).sum())

    return term(0, 1) / np.sqrt(term(0, 0) * term(1, 1))


def imbalance(pair: Pair, k: int) -> list[float]:
    """Ranks by scipy over distances by scipy; of rows equally far in x those of lowest index."""
    spans = [spatial.distance.squareform(spatial.distance.pdist(z)) for z in (pair.x, pair.y)]
    n = len(pair.x)
    for span in spans:
        np.fill_diagonal(span, np.inf)
    out = []
    for a, b in (spans, spans[::-1]):
        near = np.argsort(a, axis=1, kind="stable")[:, :k]
        ranks = stats.rankdata(b, axis=1)
        out.append(2.0 / n * np.take_along_axis(ranks, near, axis=1).mean())
    return out


def subspace_cosines(pair: Pair, keep: float) -> float:
    """scikit-learn's principal components and scipy's angles between what they span."""
    spans = []
    for z in (pair.x, pair.y):
        scores = PCA(svd_solver="full").fit(z)
        count = 1 + int(np.searchsorted(np.cumsum(scores.explained_variance_ratio_), keep))
        spans.append(scores.transform(z)[:, :count])
    return float(np.cos(linalg.subspace_angles(*spans)).mean())


def rotation(pair: Pair) -> list[float]:
    """Similarity and distance from scipy's best rotation of one onto the other."""
    width = max(pair.x.shape[1], pair.y.shape[1])
    shapes = []
    for z in (pair.x, pair.y):
        z = np.pad(z - z.mean(axis=0), ((0, 0), (0, width - z.shape[1])))
        shapes.append(z / np.linalg.norm(z))
    turn, _ = linalg.orthogonal_procrustes(*shapes)
    distance = np.linalg.norm(shapes[0] @ turn - shapes[1])
    return [1.0 - 0.5 * distance**2, distance]


def disparity(pair: Pair) -> float:
    width = max(pair.x.shape[1], pair.y.shape[1])
    padded = (np.pad(z, ((0, 0), (0, width - z.shape[1]))) for z in (pair.x, pair.y))
    return float(np.sqrt(1.0 - spatial.procrustes(*padded)[2]))


def dissimilarity(pair: Pair, distance: str, compare: str) -> float:
    a, b = (spatial.distance.pdist(z, distance) for z in (pair.x, pair.y))
    if compare == "spearman":  # distances of repeated rows tie, and rounding must not order them
        a, b = a.round(12), b.round(12)
    if compare == "cosine":
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))
    return float({"pearson": stats.pearsonr, "spearman": stats.spearmanr}[compare](a, b)[0])


def joint_dimension(pair: Pair, package: str) -> list[float]:
    own, other, both = (
        pair.golden[f"dimension_unit_{side}"][package] for side in ("x", "y", "both")
    )
    return [(own + other - both) / max(own, other), own, other, both]


def checks() -> Iterator[Check]:
    """Every comparison of the table."""
    for k in (10, 25):
        yield Check("mutual_knn", f"k={k}", "scikit-learn",
                    lambda x, y, k=k: metrics.mutual_knn(x, y, k=k),
                    lambda pair, k=k: np.mean(overlap(pair, k)), ties=False)  # fmt: skip
        yield Check("local_knn_agreement", f"k={k}", "scikit-learn",
                    lambda x, y, k=k: metrics.local_knn_agreement(x, y, k=k),
                    lambda pair, k=k: overlap(pair, k), ties=False)  # fmt: skip
        yield Check("cycle_knn", f"k={k}", "scikit-learn",
                    lambda x, y, k=k: metrics.cycle_knn(x, y, k=k),
                    lambda pair, k=k: cycle(pair, k), ties=False)  # fmt: skip
    for variant in ("masked_unbiased", "masked_centred", "centred_masked"):
        yield Check("cknna", variant, "numpy",
                    lambda x, y, v=variant: metrics.cknna(x, y, k=25, variant=v),
                    lambda pair, v=variant: cknna(pair, 25, v), ties=False)  # fmt: skip
    for unbiased in (True, False):
        name = "unbiased" if unbiased else "biased"
        yield Check("linear_cka", name, "numpy" if unbiased else "scikit-learn",
                    lambda x, y, u=unbiased: metrics.linear_cka(x, y, unbiased=u),
                    lambda pair, u=unbiased: align(
                        *(linear(z - z.mean(axis=0)) for z in (pair.x, pair.y)), unbiased=u
                    ))  # fmt: skip
        for fraction in (1.0, 0.4):
            yield Check("rbf_cka", f"{name}, fraction={fraction}", "scikit-learn",
                        lambda x, y, u=unbiased, f=fraction: metrics.rbf_cka(
                            x, y, unbiased=u, fraction=f
                        ),
                        lambda pair, u=unbiased, f=fraction: align(
                            *(gaussian(z, f) for z in (pair.x, pair.y)), unbiased=u
                        ))  # fmt: skip
    for distance in ("euclidean", "sqeuclidean", "cosine", "correlation"):
        for compare in ("pearson", "spearman", "cosine"):
            yield Check("rsa", f"{distance}, {compare}", "scipy",
                        lambda x, y, d=distance, c=compare: metrics.rsa(
                            x, y, distance=d, compare=c
                        ),
                        lambda pair, d=distance, c=compare: dissimilarity(pair, d, c))  # fmt: skip
    for distance, theirs in (("sqeuclidean", "euclidean"), ("correlation", "correlation")):
        for compare, name in (("pearson", "corr"), ("spearman", "spearman"), ("cosine", "cosine")):
            yield Check("rsa", f"{distance}, {compare}", "rsatoolbox",
                        lambda x, y, d=distance, c=compare: metrics.rsa(
                            x, y, distance=d, compare=c
                        ),
                        lambda pair, key=f"rsatoolbox_{theirs}_{name}": pair.golden[key],
                        golden=True)  # fmt: skip
    for setting, options, key in (
        ("U", {}, "dcor_u_distance_correlation_sqr"),
        ("V", {"estimator": "v"}, "dcor_distance_correlation_sqr"),
        ("V, root", {"estimator": "v", "squared": False}, "dcor_distance_correlation"),
    ):
        yield Check("distance_correlation", setting, "dcor",
                    lambda x, y, o=options: metrics.distance_correlation(x, y, **o),
                    lambda pair, key=key: pair.golden[key], golden=True)  # fmt: skip
    for k in (1, 5, 25):
        yield Check("information_imbalance", f"k={k}", "scipy",
                    lambda x, y, k=k: metrics.information_imbalance(x, y, k=k),
                    lambda pair, k=k: imbalance(pair, k))  # fmt: skip
        yield Check("information_imbalance", f"k={k}", "dadapy",
                    lambda x, y, k=k: metrics.information_imbalance(x, y, k=k),
                    lambda pair, k=k: pair.golden[f"dadapy_information_imbalance_k{k}"],
                    ties=False, golden=True)  # fmt: skip
    for setting, options, package, key in (
        ("TwoNN", {}, "dadapy", "dadapy_2nn"),
        ("TwoNN", {}, "scikit-dimension", "skdim_twonn"),
        ("MLE, k=50", {"method": "mle"}, "scikit-dimension", "skdim_mle_k50"),
    ):
        yield Check("intrinsic_dimension", setting, package,
                    lambda x, y, o=options: [metrics.intrinsic_dimension(z, **o) for z in (x, y)],
                    lambda pair, key=key: [
                        pair.golden[f"dimension_{side}"][key] for side in "xy"
                    ],
                    ties=False, golden=True)  # fmt: skip
        yield Check("idcor", setting, package,
                    lambda x, y, o=options: [metrics.idcor(x, y, **o)[i] for i in (0, 2, 3, 4)],
                    lambda pair, key=key: joint_dimension(pair, key),
                    ties=False, golden=True)  # fmt: skip
    for keep in (0.99, 0.8):
        yield Check("svcca", f"keep={keep}", "scikit-learn, scipy",
                    lambda x, y, keep=keep: metrics.svcca(x, y, keep=keep),
                    lambda pair, keep=keep: subspace_cosines(pair, keep))  # fmt: skip
    yield Check("procrustes", "similarity, distance", "scipy",
                lambda x, y: [metrics.procrustes(x, y, form=f) for f in ("similarity", "distance")],
                rotation)  # fmt: skip
    yield Check("procrustes", "similarity", "scipy (disparity)", metrics.procrustes,
                disparity)  # fmt: skip


def versions() -> dict[str, str]:
    """Of the peers: those kept are the versions that were asked."""
    kept = json.loads((GOLDEN / "real_values.json").read_text())["packages"]
    live = {name: metadata.version(name) for name in ("numpy", "scipy", "scikit-learn")}
    return kept | live


def joined(settings: list[str]) -> str:
    """Settings on one line, as a product where they are one: "a, b x c, d"."""
    split = [setting.split(", ") for setting in settings]
    if len(settings) > 3 and all(len(parts) == 2 for parts in split):
        sides = [", ".join(dict.fromkeys(side)) for side in zip(*split, strict=True)]
        return " x ".join(sides)
    return "; ".join(settings)


def table() -> list[str]:
    """Rows of the page, settings of one metric by one peer together."""
    known = versions()
    data = pairs()
    lines: dict[tuple[str, str], tuple[list[str], set[int], float]] = {}
    for check in checks():
        settings, used, largest = lines.get((check.metric, check.peer), ([], set(), 0.0))
        fitting = [index for index, pair in enumerate(data) if check.fits(pair)]
        largest = max([largest, *(check.difference(data[index]) for index in fitting)])
        lines[check.metric, check.peer] = [*settings, check.setting], used | set(fitting), largest
    order = [str(name) for name in metrics.ALL_METRICS]
    out = ["| metric | settings | peer | data | largest difference |", "|---|---|---|---|---|"]
    for (metric, peer), (settings, used, largest) in sorted(
        lines.items(), key=lambda item: (order.index(item[0][0]), item[0][1])
    ):
        named = peer
        for package in ("numpy", "scipy", "scikit-learn", "dcor", "dadapy", "rsatoolbox",
                        "scikit-dimension"):  # fmt: skip
            named = named.replace(package, f"{package} {known[package]}")
        data_used = ", ".join("ABC"[index] for index in sorted(used))
        out.append(f"| `{metric}` | {joined(settings)} | {named} | {data_used} | {largest:.0e} |")
    out += [""]
    for letter, pair in zip("ABC", data, strict=True):
        repeat = " (rows repeat)" if pair.ties else ""
        out.append(
            f"- **{letter}** {pair.name}: n = {len(pair.x)}, d = {pair.x.shape[1]} and "
            f"{pair.y.shape[1]}{repeat}"
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", type=Path, help="page with the markers of the table")
    options = parser.parse_args()
    lines = "\n".join(table())
    print(lines)
    if options.write:
        page = options.write.read_text()
        start, stop = "<!-- cross-check -->\n", "\n<!-- end of cross-check -->"
        head, rest = page.split(start)
        options.write.write_text(head + start + lines + stop + rest.split(stop)[1])


if __name__ == "__main__":
    main()
