# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matteratlas.analysis.engine import edge_kernels, kernels, pair_kernels, rank_kernels

seeds = st.integers(0, 2**32 - 1)


def some_lists(random: np.random.Generator, n: int, reach: int) -> np.ndarray:
    """Neighbour lists of random order."""
    rows = [random.permutation(np.delete(np.arange(n), i))[:reach] for i in range(n)]
    return np.array(rows, np.int32)


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(2, 40), st.integers(1, 4), st.booleans())
def test_ranks_are_those_of_comparing_all(seed: int, n: int, models: int, tied: bool) -> None:
    random = np.random.default_rng(seed)
    rows, width, blocks = min(n, 5), min(n - 1, 6), 3
    block = np.sort(random.integers(0, blocks, n))
    points = random.normal(size=(n, 3)).astype(np.float32)
    if tied:
        points = np.round(points)
    listed = np.stack([some_lists(random, n, width)[:rows] for _ in range(models)])
    member = random.integers(0, 1 << (blocks + 1), listed.shape).astype(np.uint16)
    edges, room = rank_kernels.room(member)
    starts, targets = np.empty(rows + 1, np.int64), np.empty(room, np.int32)
    mark, of, to = np.zeros(n, np.int32), np.empty(edges, np.int32), np.empty(edges, np.int32)
    found = rank_kernels.list_targets(listed, member, mark, starts, targets, of, to)
    assert found == edges and not mark.any()
    targets = targets[: starts[-1]]
    low, high = np.empty((2, targets.size), np.float32)
    place = np.empty(targets.size, np.int32)
    rank_kernels.thresholds(points, 0, starts, targets, 1e-6, low, high, place)
    gaps = ((points[:rows, None].astype(float) - points) ** 2).sum(axis=2)
    gaps[np.arange(rows), np.arange(rows)] = np.inf
    counts = np.zeros((blocks, targets.size), np.int32)
    for g in range(blocks):
        part = gaps[:, block == g].astype(np.float32)
        work = np.empty(part.shape[1] + 1, np.float32)
        rank_kernels.count_closer(part, starts, low, high, counts[g], work)
    full, without = np.zeros(models, np.int64), np.zeros((blocks, models), np.int64)
    by_row = member.transpose(1, 0, 2)
    rank_kernels.sum_ranks(counts, place, of, to, by_row[by_row != 0], full, without)
    expected, left = np.zeros(models), np.zeros((blocks, models))
    for a, i, t in zip(*np.nonzero(member), strict=True):
        gap = gaps[i, listed[a, i, t]]
        closer, close = gaps[i] < gap - 1e-5, np.abs(gaps[i] - gap) <= 1e-5
        twice = 2.0 * closer + close
        bits = int(member[a, i, t])
        expected[a] += (bits & 1) * (1 + twice.sum())
        for g in range(blocks):
            left[g, a] += ((bits >> (g + 1)) & 1) * (1 + twice[block != g].sum())
    np.testing.assert_array_equal(full, expected)
    np.testing.assert_array_equal(without, left)


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("diagonal", [False, True])
def test_a_finished_tile(copies: bool, diagonal: bool) -> None:
    random = np.random.default_rng(3)
    x = random.normal(size=(6, 4)).astype(np.float32)
    y = x if diagonal else random.normal(size=(9, 4)).astype(np.float32)
    labels = [np.arange(len(z), dtype=np.int32) + 100 * i for i, z in enumerate((x, y))]
    if copies:
        labels[0][2], labels[1][5] = 7, 7
        if diagonal:
            labels[0] = labels[1] = np.array([0, 1, 2, 3, 1, 5], np.int32)
    else:
        labels = [np.empty(0, np.int32)] * 2
    shape = (len(x), len(y))
    squared, distance, unused = (np.empty(shape, np.float32) for _ in range(3))
    sums, again = np.full(6, 0.5), np.full(6, 0.25)
    products = x @ y.T
    for out, total in ((distance, sums), (np.empty((0, 0), np.float32), again)):
        made = products.copy()
        kernels.finish_tile(
            made, (x**2).sum(1), (y**2).sum(1), *labels, diagonal, 1.5, squared, out, total
        )
    kernels.finish_tile(
        made, (x**2).sum(1), (y**2).sum(1), *labels, diagonal, 1.5, unused,
        np.empty((0, 0), np.float32), np.empty(0),
    )  # fmt: skip
    expected = ((x[:, None] - y[None]) ** 2).sum(axis=2)
    if copies:
        expected[labels[0][:, None] == labels[1]] = 0.0
    away = np.sqrt(expected) - 1.5
    if diagonal:
        for matrix in (away, products):
            np.fill_diagonal(matrix, 0.0)
        np.fill_diagonal(expected, np.inf)
    np.testing.assert_allclose(squared, expected, rtol=1e-6, atol=2e-6)
    np.testing.assert_allclose(distance, away, atol=2e-3)  # the root of a rounded 0
    np.testing.assert_array_equal(made, products)
    np.testing.assert_allclose(sums, 0.5 + distance.sum(axis=1), atol=1e-5)
    if not diagonal:
        np.testing.assert_allclose(again, 0.25 + distance.sum(axis=1), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(2, 4), st.integers(1, 5))
def test_members_are_the_nearest_that_are_left(seed: int, groups: int, k: int) -> None:
    random = np.random.default_rng(seed)
    n = 24
    blocks = random.permutation(np.arange(n) % groups).astype(np.int32)
    full = some_lists(random, n, n - 1)
    reach = int(random.integers(k, n))
    member = np.empty((n, reach), np.uint16)
    lacking = edge_kernels.membership(full[:, :reach].copy(), blocks, k, groups, member)
    short = 0
    for i in range(n):
        for g in range(-1, groups):
            bit = (member[i] >> (g + 1)) & 1
            if g == blocks[i]:
                assert not bit.any()
                continue
            kept = full[i] if g < 0 else full[i][blocks[full[i]] != g]
            expected = np.isin(full[i, :reach], kept[:k])
            np.testing.assert_array_equal(bit.astype(bool), expected)
            if g >= 0:
                short = max(short, k - (blocks[full[i, :reach]] != g).sum())
    assert max(lacking, 0) == short
    returned = np.empty_like(member)
    edge_kernels.returning(full[:, :reach].copy(), member, returned)
    i, p = int(random.integers(n)), int(random.integers(reach))
    back = np.flatnonzero(full[full[i, p], :reach] == i)
    expected = member[i, p] & member[full[i, p], back[0]] if back.size else 0
    assert returned[i, p] == expected


@settings(max_examples=20, deadline=None)
@given(seeds, st.booleans(), st.integers(1, 4))
def test_shared_kernels_bit_by_bit(seed: int, offsets: bool, bits: int) -> None:
    """Bits that are not asked for are left out, as when all rows alone are relabeled."""
    random = np.random.default_rng(seed)
    n, reach, k, groups = 20, 9, 4, 3
    blocks = random.permutation(np.arange(n) % groups).astype(np.int32)
    sides = []
    for width in (reach, reach - 2):
        indices = some_lists(random, n, width)
        member = np.empty((n, width), np.uint16)
        edge_kernels.membership(indices, blocks, k, groups, member)
        returned = np.empty_like(member)
        edge_kernels.returning(indices, member, returned)
        off = random.normal(size=(n, bits if offsets else 0))
        sides.append((indices, member, returned, random.normal(size=(n, width)), off))
    place, sums = np.zeros(n, np.int32), np.empty((9, bits))
    edge_kernels.shared_kernels(*sides[0], *sides[1], place, np.empty((n, bits, 4)), sums)
    counts = np.zeros(bits, np.int64)
    edge_kernels.shared_edges(*sides[0][:2], *sides[1][:2], place, counts)
    assert not place.any()
    np.testing.assert_array_equal(counts, sums[0])
    if not offsets:
        lists = [pair_kernels.edge_lists(*side[:4]) for side in sides]
        listed, marks = np.zeros((2, 9 * pair_kernels.LANES)), np.zeros(n, np.uint16)
        pairs = np.array([[0, 1], [1, 1]])
        pair_kernels.shared_kernel_sums(pairs, *pair_kernels.join_lists(lists), marks, listed)
        assert not marks.any()
        np.testing.assert_allclose(listed[0].reshape(9, -1)[:, :bits], sums, atol=1e-10)
        own = np.empty((9, bits))
        edge_kernels.shared_kernels(*sides[1], *sides[1], place, np.empty((n, bits, 4)), own)
        np.testing.assert_allclose(listed[1].reshape(9, -1)[:, :bits], own, atol=1e-10)
    for g in range(bits):
        on, back, value = [], [], []
        for indices, member, returned, values, off in sides:
            matrices = np.zeros((3, n, n))
            at = (np.arange(n)[:, None], indices)
            matrices[0][at] = (member >> g) & 1
            matrices[1][at] = (returned >> g) & 1
            matrices[2][at] = values - (off[:, [g]] if offsets else 0.0)
            for held, matrix in zip((on, back, value), matrices, strict=True):
                held.append(matrix)
        both = on[0] * on[1]
        p, q = both * value[0], both * value[1]
        expected = [
            both.sum(), (p * q).sum(), (p * q * back[0] * back[1]).sum(), p.sum(), q.sum(),
            p.sum(1) @ q.sum(1), p.sum(0) @ q.sum(0), p.sum(1) @ q.sum(0), p.sum(0) @ q.sum(1),
        ]  # fmt: skip
        np.testing.assert_allclose(sums[:, g], expected, atol=1e-10)
