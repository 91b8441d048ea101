# SPDX-License-Identifier: Apache-2.0
"""Models in environments of their own whose weights have to be fetched: the same promises, held on
small random weights of the same class, fetched as the card says from servers on loopback.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import probes
import pytest
from invariance import (
    check_batches,
    check_invariances,
    check_lone_atoms,
    check_shapes,
    deviation,
    rotated,
)
from servers.files import FileServer
from test_contract import unsuitable
from tiny_weights import hub_of_its_own

from matteratlas.builders.adapters.base import Embedded, Missing, load_adapter
from matteratlas.builders.adapters.remote import Remote
from matteratlas.builders.environments import child_environment, prepare
from matteratlas.registry import catalog
from matteratlas.registry.environment_cards import environment
from matteratlas.registry.models_url import model_url
from matteratlas.schemas.archive import REASONS
from matteratlas.schemas.cards import ModelCard, elements_of
from matteratlas.schemas.errors import SourceError
from matteratlas.schemas.structures import ATOMIC_NUMBERS, Structure

SMALL = Path(__file__).with_name("small.py")
MADE_BY = ("mace", "pet-mad", "geom2vec", "esmc", "esm3", "esm-if1", "orb", "uma", "esen",
           "equiformer-v2")  # fmt: skip
CARDS = {
    i: card
    for i, card in catalog.models().items()
    if card.isolation is not None and not catalog.at_hand(card) and card.family in MADE_BY
}


class Small(NamedTuple):
    """A small model, the probes it can take, what it says of them, and where its weights are."""

    adapter: Remote
    structures: list[Structure]
    results: list[Embedded]
    folder: Path


def script_of(card: ModelCard) -> Path:
    """``small_<adapter's module>.py`` where there is one, else ``small.py``."""
    own = SMALL.with_name(f"small_{card.adapter.partition(':')[0]}.py")
    return own if own.is_file() else SMALL


def run_small(card: ModelCard, what: str, folder: Path, **more: Any) -> Any:
    home = environment(str(card.isolation))
    numbers = sorted(ATOMIC_NUMBERS[e] for e in elements_of(card.supports.elements) or ())
    content = {"card": {**card.model_dump(mode="json"), "numbers": numbers},
               "stand_ins": sorted(home.stand_ins), **more}  # fmt: skip
    done = subprocess.run(
        [prepare(home).python, "-P", script_of(card), what, card.family, folder],
        input=json.dumps(content),
        capture_output=True,
        text=True,
        check=False,
        env=child_environment(),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def published(card: ModelCard, folder: Path, stack: ExitStack) -> ModelCard:
    """Put the small weights where they can be fetched; the card that names them."""
    found = run_small(card, "make", folder)
    assert set(found) >= {layer.name for layer in card.layers}
    source = card.checkpoint
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    name = str(source.path)
    if source.obtained == "url":
        name = name.rpartition("/")[2]
        server = stack.enter_context(FileServer(folder))
        path = f"{server.url}/{name}"
        changed: dict[str, Any] = {"path": path}
    else:
        hub = stack.enter_context(hub_of_its_own())
        contents = {path: p.read_bytes() for path, p in files.items()}
        hub.create(str(source.package), contents, kind="model")
        changed = {"revision": hub.head(str(source.package), kind="model")}
    (weights,) = [p for path, p in files.items() if fnmatch(path, name)]
    changed["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    layers = [layer.model_copy(update=found[layer.name]) for layer in card.layers]
    return card.model_copy(
        update={"checkpoint": source.model_copy(update=changed), "layers": layers}
    )


@pytest.fixture(
    scope="module", params=[pytest.param(c, marks=pytest.mark.xdist_group(c)) for c in CARDS]
)
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
          ) -> Iterator[Small]:  # fmt: skip
    folder = tmp_path_factory.mktemp("weights")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "0")
        patch.setenv("MATTERATLAS_DOWNLOADS", "1")
        card = published(CARDS[request.param], folder, stack)
        if card.checkpoint.obtained == "url":
            stack.callback(forget, card)
        adapter = load_adapter(card)
        assert isinstance(adapter, Remote)
        stack.callback(adapter.close)
        everything = probes.everything()
        pairs = list(zip(everything, adapter.embed(everything), strict=True))
        for structure, result in pairs:
            if isinstance(result, Missing):
                assert adapter.missing_reason(structure) == result.reason, result
                assert result.reason.partition(":")[0] in REASONS
        kept = [(s, r) for s, r in pairs if isinstance(r, Embedded)]
        assert len(kept) >= 2, f"{card.id} takes too few probes: {[r for _, r in pairs]}"
        yield Small(adapter, [s for s, _ in kept], [r for _, r in kept], folder)


def forget(card: ModelCard) -> None:
    shutil.rmtree(model_url(str(card.checkpoint.path)).parent)


def test_shapes(small: Small) -> None:
    check_shapes(small.adapter, small.structures, reference=small.results)
    default = small.adapter.card.default_layer
    first, second = (r.pooled[default] for r in small.results[:2])
    assert deviation(first, second) > 1e-3, "two different structures, one vector"


def test_versions_are_the_card_s(small: Small) -> None:
    found = {name: v.partition("+")[0] for name, v in small.adapter.versions().items()}
    assert found == small.adapter.card.environment


def test_invariances(small: Small) -> None:
    check_invariances(small.adapter, small.structures, reference=small.results)


def test_equivariance(small: Small) -> None:
    """Layers whose irreps are not all scalars turn with the structure."""
    from e3nn import o3
    from scipy.spatial.transform import Rotation

    card = small.adapter.card
    turning = [la for la in card.layers if la.irreps and o3.Irreps(la.irreps).lmax > 0]
    if all(la.irreps for la in card.layers):  # the others turn in no known way
        assert ("rotation" not in card.invariances) == bool(turning)
    if not turning:
        return
    turn = Rotation.random(random_state=np.random.default_rng(0)).as_matrix()
    rows = [rotated(s, np.random.default_rng(0)) for s in small.structures]
    import torch

    for before, after in zip(small.results, small.adapter.embed(rows), strict=True):
        assert isinstance(after, Embedded)
        for layer in turning:
            matrix = o3.Irreps(layer.irreps).D_from_matrix(torch.tensor(turn)).numpy()
            expected = before.nodes[layer.name] @ matrix.T
            assert deviation(after.nodes[layer.name], expected) < 1e-4
        assert after.energy == pytest.approx(before.energy, rel=1e-5, abs=1e-4)
    # It is not trivially so.
    moved = deviation(after.pooled[card.default_layer], before.pooled[card.default_layer])
    assert moved > 1e-3


def test_batches_and_repetition(small: Small) -> None:
    check_batches(small.adapter, small.structures, reference=small.results)


def test_atoms_without_neighbours(small: Small) -> None:
    if small.adapter.card.modality == "atoms3d":
        check_lone_atoms(small.adapter, small.structures)


def test_equals_the_package(small: Small) -> None:
    """Vectors and energies are those of the package's own path, in its own interpreter."""
    rows = [
        {
            "numbers": s.numbers.tolist(),
            "positions": s.positions.tolist(),
            "cell": s.cell.tolist(),
            "pbc": list(s.pbc),
            "sequence": s.sequence,
            "backbone": None if s.backbone is None else s.backbone.tolist(),
        }
        for s in small.structures
    ]
    said = run_small(small.adapter.card, "say", small.folder, rows=rows)
    assert len(said) == len(small.results)
    for ours, theirs in zip(small.results, said, strict=True):
        assert small.adapter.card.default_layer in theirs["pooled"]
        for layer, vector in theirs["pooled"].items():
            assert deviation(ours.pooled[layer], np.array(vector)) < 1e-4, layer
        assert (theirs["energy"] is None) == (ours.energy is None)
        if ours.energy is not None:
            assert ours.energy == pytest.approx(theirs["energy"], rel=1e-5, abs=1e-4)


def test_unsuitable_structures_do_not_harm_the_rest(small: Small) -> None:
    adapter, good = small.adapter, small.structures
    bad = list(unsuitable(adapter.card, good[0]))
    results = adapter.embed([s for s, _ in bad] + list(good))
    for (structure, prefix), result in zip(bad, results, strict=False):
        assert isinstance(result, Missing), f"{structure.source_id}: embedded"
        assert result.reason.partition(":")[0] == prefix, (structure.source_id, result.reason)
    limit = min(adapter.card.tolerance, 1e-4)
    for result, expected in zip(results[len(bad) :], small.results, strict=True):
        assert isinstance(result, Embedded)
        for layer in expected.pooled:
            assert deviation(result.pooled[layer], expected.pooled[layer]) <= limit


def test_wrong_weights_are_refused(small: Small) -> None:
    card = small.adapter.card
    other = card.checkpoint.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(SourceError, match="sha256") as caught:
        load_adapter(card.model_copy(update={"checkpoint": other}))
    assert card.id in str(caught.value)


def test_without_leave_nothing_is_fetched(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    card = CARDS[small.adapter.card.id]
    monkeypatch.delenv("MATTERATLAS_DOWNLOADS")
    with pytest.raises(SourceError, match="not in the cache"):
        load_adapter(card)
