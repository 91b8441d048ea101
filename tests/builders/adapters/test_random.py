# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from matteratlas.builders.adapters.base import Embedded, Missing, load_adapter
from matteratlas.builders.adapters.random import gaussian
from matteratlas.registry import catalog
from matteratlas.schemas.structures import Structure

CARD = catalog.model("random-128")


def structure(key: str, *, shift: float = 0.0, kind: str = "molecule") -> Structure:
    return Structure(
        source_id="s", id=key, kind=kind, stratum="made",  # type: ignore[arg-type]
        numbers=np.array([1, 8, 1]), positions=np.eye(3) + shift,
    )  # fmt: skip


def vectors(keys: list[str]) -> np.ndarray:
    results = load_adapter(CARD).embed([structure(k) for k in keys])
    assert all(isinstance(r, Embedded) for r in results)
    return np.stack([r.pooled["gaussian"] for r in results if isinstance(r, Embedded)])


def test_another_process_draws_the_same_vectors() -> None:
    keys = ["ma1-abcdefgh", "ma1-zzz", "äöü"]
    code = (
        "import json, sys\n"
        "from matteratlas.builders.adapters.random import gaussian\n"
        f"print(json.dumps([gaussian({CARD.options!r}['seed'], k, 128).tolist() "
        "for k in json.loads(sys.argv[1])[::-1]][::-1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(keys)], capture_output=True, text=True, check=True
    )
    np.testing.assert_array_equal(vectors(keys), np.float32(json.loads(done.stdout)))


def test_known_values() -> None:
    # Drawn once; a change of generator, seed or key would silently change every archive.
    np.testing.assert_allclose(gaussian(0, "ma1-a", 3), KNOWN, rtol=1e-12)


KNOWN = [-0.1988401536302309, 0.5839979338318964, -0.2627593625265222]


def test_depends_on_the_id_alone() -> None:
    adapter = load_adapter(CARD)
    a, b, c = adapter.embed(
        [structure("k"), structure("k", shift=3.0, kind="crystal"), structure("other")]
    )
    assert isinstance(a, Embedded) and isinstance(b, Embedded) and isinstance(c, Embedded)
    assert a.pooled["gaussian"].tobytes() == b.pooled["gaussian"].tobytes()
    assert a.pooled["gaussian"].tobytes() != c.pooled["gaussian"].tobytes()


def test_independent_of_order_and_batch() -> None:
    keys = [f"ma1-{i}" for i in range(50)]
    together = vectors(keys)
    np.testing.assert_array_equal(vectors(keys[::-1])[::-1], together)
    np.testing.assert_array_equal(vectors(keys[7:8])[0], together[7])


def test_is_standard_normal_and_uncorrelated() -> None:
    x = vectors([f"ma1-{i}" for i in range(2000)]).astype(float)
    n = x.size
    assert abs(x.mean()) < 4 / np.sqrt(n)
    assert abs(x.var() - 1) < 4 * np.sqrt(2 / n)
    off = np.corrcoef(x.T)[~np.eye(128, dtype=bool)]
    assert np.abs(off).max() < 5.5 / np.sqrt(2000)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30), st.text(max_size=30), st.integers(0, 2**32))
def test_other_ids_and_seeds_give_other_vectors(a: str, b: str, seed: int) -> None:
    vector = gaussian(seed, a, 16)
    assert np.isfinite(vector).all()
    assert (vector == gaussian(seed, b, 16)).all() == (a == b)
    assert not (vector == gaussian(seed + 1, a, 16)).any()


def test_structure_without_id_is_recorded() -> None:
    assert load_adapter(CARD).embed([structure("")]) == [Missing("invalid: structure has no id")]
