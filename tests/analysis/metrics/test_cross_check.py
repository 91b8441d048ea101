# SPDX-License-Identifier: Apache-2.0
"""Every metric against an independent implementation on real embeddings, and the page's table."""

from __future__ import annotations

import re
from pathlib import Path

import cross_check
import pytest

from matteratlas.analysis import metrics

PAIRS = cross_check.pairs()
CHECKS = list(cross_check.checks())
CASES = [
    pytest.param(check, pair, id=f"{check.metric}-{check.setting}-{check.peer}-{letter}")
    for check in CHECKS
    for letter, pair in zip("ABC", PAIRS, strict=True)
    if check.fits(pair)
]
PAGE = Path(__file__).parents[3] / "docs/reference/metrics.md"


@pytest.mark.parametrize(("check", "pair"), CASES)
def test_equals_the_peer(check, pair):
    assert check.difference(pair) <= 1e-6


def test_every_metric_has_a_peer():
    assert {check.metric for check in CHECKS} == set(metrics.ALL_METRICS)
    assert len(CASES) > 100


def test_a_difference_would_be_seen():
    pair = PAIRS[0]
    wrong = cross_check.Check("x", "y", "z", lambda x, y: [1.0, 2.0], lambda pair: [1.0, 2.1])
    assert wrong.difference(pair) == pytest.approx(0.1 / 2.1)
    broken = cross_check.Check("x", "y", "z", lambda x, y: float("nan"), lambda pair: 1.0)
    with pytest.raises(ValueError, match="not finite"):
        broken.difference(pair)


def test_the_page_lists_what_is_checked():
    text = PAGE.read_text().split("<!-- cross-check -->")[1].split("<!-- end of cross-check -->")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \| (.*) \| (.*) \|$", text, re.M)
    known = cross_check.versions()
    expected = set()
    for check in CHECKS:
        peer = check.peer
        for package in sorted(known, key=len, reverse=True):
            peer = re.sub(rf"(?<![\w-]){package}(?![\w-])", f"{package} {known[package]}", peer)
        expected.add((check.metric, peer))
    assert {(name, peer) for name, _, peer, _, _ in rows} == expected
    assert all(float(largest) <= 1e-6 for *_, largest in rows)
