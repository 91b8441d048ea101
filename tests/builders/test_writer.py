# SPDX-License-Identifier: Apache-2.0
"""Units: what goes in comes out, whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray as xr
import zarr

from matteratlas.builders.adapters.base import Embedded, Missing
from matteratlas.builders.writer import STAGING, UnitWriter, consolidate
from matteratlas.registry import catalog
from matteratlas.schemas.archive import STORE, UnitRecord, record_path

IDS = [f"ma1-{c * 26}" for c in "abcdefg"]


def results(dim: int, *, nodes: bool, layers: list[str], seed: int = 0) -> list[Embedded | Missing]:
    """Seven rows with different node counts; the third is missing."""
    rng = np.random.default_rng(seed)
    out: list[Embedded | Missing] = []
    for i in range(7):
        if i == 2:
            out.append(Missing("unsupported_element: Og"))
            continue
        matrices = {name: rng.normal(size=(i + 1, dim)).astype(np.float32) for name in layers}
        out.append(
            Embedded(
                nodes=matrices if nodes else {},
                pooled={k: v.mean(axis=0) for k, v in matrices.items()},
                energy=float(i) if nodes else None,
            )
        )
    return out


def write(root: Path, model: str, *, rows: list[Embedded | Missing] | None = None) -> UnitRecord:
    card, set_card = catalog.model(model), catalog.structure_set("elements")
    nodes = card.layer().level != "structure"
    rows = rows or results(
        card.layer().dim, nodes=nodes, layers=[layer.name for layer in card.layers]
    )
    with UnitWriter(
        root,
        card,
        set_card,
        fingerprint="f",
        model_fingerprint="m",
        build_version="0",
    ) as writer:
        for structure_id, row in zip(IDS, rows, strict=True):
            writer.append(structure_id, row)
        return writer.finish()


@pytest.mark.parametrize("model", ["mat2vec", "chgnet-0.3.0"])
def test_round_trip_in_zarr_and_parquet(tmp_path: Path, model: str) -> None:
    card = catalog.model(model)
    layer = card.layer()
    nodes = layer.level != "structure"
    rows = results(layer.dim, nodes=nodes, layers=[entry.name for entry in card.layers])
    record = write(tmp_path, model, rows=rows)
    assert (record.rows, record.embedded, record.missing) == (7, 6, {"unsupported_element": 1})

    unit = zarr.open_group(tmp_path / STORE / model / "elements", mode="r")
    assert list(np.asarray(unit["structure_id"][:])) == IDS
    assert unit["reason"][2] == "unsupported_element: Og"
    stored = np.asarray(unit[layer.name]["embedding"][:])
    assert np.isnan(stored[2]).all()
    for i, row in enumerate(rows):
        if isinstance(row, Embedded):
            np.testing.assert_array_equal(stored[i], row.pooled[layer.name])
    if nodes:
        sizes = np.asarray(unit["row_size"][:])
        assert sizes.tolist() == [1, 2, 0, 4, 5, 6, 7]
        flat = np.asarray(unit[layer.name]["node_embedding"][:])
        kept = [r.nodes[layer.name] for r in rows if isinstance(r, Embedded)]
        np.testing.assert_array_equal(flat, np.concatenate(kept))
        assert unit["energy"][3] == 3.0 and np.isnan(unit["energy"][2])

    twin = pq.read_table(tmp_path / "parquet" / model / "elements.parquet")
    assert twin["structure_id"].to_pylist() == IDS
    vectors = twin["embedding"].combine_chunks()
    assert vectors.null_count == 1 and not vectors[2].is_valid
    np.testing.assert_array_equal(
        np.array([v.as_py() for i, v in enumerate(vectors) if i != 2], dtype=np.float32),
        np.delete(stored, 2, axis=0),
    )


def test_layer_attributes_say_how_to_read_the_numbers(tmp_path: Path) -> None:
    write(tmp_path, "chgnet-0.3.0")
    card = catalog.model("chgnet-0.3.0")
    group = zarr.open_group(tmp_path / STORE / card.id / "elements" / card.default_layer)
    matemb = dict(group.attrs["matemb"])
    assert matemb["checkpoint_sha256"] == card.checkpoint.sha256
    assert matemb["level"] == "atom" and matemb["pooling"] == "mean" and matemb["dim"] == 64
    data = xr.open_zarr(group.store_path.store.root, consolidated=False)
    assert data["embedding"].dims == ("structure", "feature")


def test_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    first = write(tmp_path / "a", "chgnet-0.3.0")
    second = write(tmp_path / "b", "chgnet-0.3.0")
    assert first.model_dump() == second.model_dump()
    assert len(first.files) > 5


def test_content_hash_follows_the_values(tmp_path: Path) -> None:
    dim = catalog.model("mat2vec").layer().dim
    layer = catalog.model("mat2vec").default_layer
    a = write(tmp_path / "a", "mat2vec", rows=results(dim, nodes=False, layers=[layer], seed=0))
    b = write(tmp_path / "b", "mat2vec", rows=results(dim, nodes=False, layers=[layer], seed=1))
    assert a.content_sha256 != b.content_sha256


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    card, set_card = catalog.model("mat2vec"), catalog.structure_set("elements")
    with (
        pytest.raises(RuntimeError, match="planted"),
        UnitWriter(
            tmp_path, card, set_card, fingerprint="f", model_fingerprint="m", build_version="0"
        ) as writer,
    ):
        writer.append(IDS[0], Missing("failed: x"))
        raise RuntimeError("planted")
    assert not (tmp_path / STORE).exists()
    assert not list((tmp_path / STAGING).iterdir())


def test_a_full_disk_leaves_the_old_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write(tmp_path, "mat2vec")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matteratlas.builders.writer.pq.ParquetWriter", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, "mat2vec")
    marker = record_path(tmp_path, "mat2vec", "elements")
    assert UnitRecord.model_validate_json(marker.read_text()) == before
    assert not list((tmp_path / STAGING).iterdir())


def test_layers_that_disagree_on_nodes_are_refused(tmp_path: Path) -> None:
    card = catalog.model("sevennet-0")
    assert len(card.layers) > 1
    uneven = Embedded(
        nodes={
            layer.name: np.zeros((2 + i, layer.dim), np.float32)
            for i, layer in enumerate(card.layers)
        },
        pooled={layer.name: np.zeros(layer.dim, np.float32) for layer in card.layers},
    )
    with pytest.raises(Exception, match="disagree on the number of nodes"):
        write(tmp_path, "sevennet-0", rows=[uneven] * 7)


def test_a_killed_writer_leaves_no_unit(tmp_path: Path) -> None:
    """``kill -9`` while rows arrive: readers see nothing, the next write succeeds."""
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from matteratlas.builders.adapters.base import Missing
        from matteratlas.builders.writer import UnitWriter
        from matteratlas.registry import catalog
        card, sets = catalog.model("mat2vec"), catalog.structure_set("elements")
        w = UnitWriter(Path(sys.argv[1]), card, sets, fingerprint="f", model_fingerprint="m",
                       build_version="0")
        w.append("ma1-" + "a" * 26, Missing("failed: x"))
        print("ready", flush=True)
        time.sleep(60)
        """
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not (tmp_path / STORE).exists()
    assert len(list((tmp_path / STAGING).iterdir())) == 1
    assert write(tmp_path, "mat2vec").rows == 7


def test_consolidated_metadata_opens_the_model_with_one_file(tmp_path: Path) -> None:
    write(tmp_path, "chgnet-0.3.0")
    consolidate(tmp_path, "chgnet-0.3.0")
    group = zarr.open_group(tmp_path / STORE / "chgnet-0.3.0", mode="r")
    assert group.metadata.consolidated_metadata is not None
    assert "elements" in group
