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
from matteratlas.builders.build import open_root
from matteratlas.builders.writer import UnitWriter
from matteratlas.registry import catalog
from matteratlas.registry.files import Files
from matteratlas.registry.hub import sha256_of
from matteratlas.registry.index import read_index, write_index
from matteratlas.registry.unit import open_unit
from matteratlas.schemas.archive import ATLAS_FILE, STAGING, STORE, Precision, UnitRecord
from matteratlas.schemas.errors import ArchiveError

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


def write(
    root: Path,
    model: str,
    *,
    rows: list[Embedded | Missing] | None = None,
    precision: str = "float32",
) -> UnitRecord:
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
        precision=Precision.parse(precision),
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
    assert record.reasons == ["", "unsupported_element: Og"]
    assert np.asarray(unit["reason"][:]).tolist() == [0, 0, 1, 0, 0, 0, 0]
    stored = np.asarray(unit[layer.name][:])
    assert np.isnan(stored[2]).all()
    for i, row in enumerate(rows):
        if isinstance(row, Embedded):
            np.testing.assert_array_equal(stored[i], row.pooled[layer.name])
    if nodes:
        sizes = np.asarray(unit["row_size"][:])
        assert sizes.tolist() == [1, 2, 0, 4, 5, 6, 7]
        flat = np.asarray(unit[f"{layer.name}.nodes"][:])
        kept = [r.nodes[layer.name] for r in rows if isinstance(r, Embedded)]
        np.testing.assert_array_equal(flat, np.concatenate(kept))
        assert unit["energy"][3] == 3.0 and np.isnan(unit["energy"][2])
    else:  # what says nothing is not stored
        assert set(unit.array_keys()) == {"structure_id", "reason", layer.name}

    twin = pq.read_table(tmp_path / "parquet" / model / "elements.parquet")
    assert twin["structure_id"].to_pylist() == IDS
    assert twin["missing_reason"].to_pylist() == [None] * 2 + [record.reasons[1]] + [None] * 4
    vectors = twin["embedding"].combine_chunks()
    assert vectors.null_count == 1 and not vectors[2].is_valid
    np.testing.assert_array_equal(
        np.array([v.as_py() for i, v in enumerate(vectors) if i != 2], dtype=np.float32),
        np.delete(stored, 2, axis=0),
    )


def test_the_record_lists_every_other_file_with_its_hash(tmp_path: Path) -> None:
    record = write(tmp_path, "chgnet-0.3.0")
    group = tmp_path / STORE / "chgnet-0.3.0" / "elements"
    held = {p.relative_to(tmp_path).as_posix() for p in group.rglob("*") if p.is_file()}
    held -= {f"{STORE}/chgnet-0.3.0/elements/zarr.json"}
    assert {f.path for f in record.files} == held | {"parquet/chgnet-0.3.0/elements.parquet"}
    for file in record.files:
        assert (tmp_path / file.path).stat().st_size == file.bytes
        assert sha256_of(tmp_path / file.path) == file.sha256
    assert open_unit(Files(str(tmp_path)), "chgnet-0.3.0", "elements").record == record


def test_layer_attributes_say_how_to_read_the_numbers(tmp_path: Path) -> None:
    write(tmp_path, "chgnet-0.3.0", precision="bitround-9")
    card = catalog.model("chgnet-0.3.0")
    group = zarr.open_group(tmp_path / STORE / card.id / "elements", mode="r")
    matemb = dict(group[card.default_layer].attrs["matemb"])
    assert matemb["checkpoint_sha256"] == card.checkpoint.sha256
    assert matemb["level"] == "atom" and matemb["pooling"] == "mean" and matemb["dim"] == 64
    assert matemb["format_version"] == "2.0" and matemb["structure_set"] == "elements"
    assert (matemb["data_type"], matemb["quantization"]) == ("float32", "bitround")
    assert matemb["quantization_nsb"] == 9
    assert group[f"{card.default_layer}.nodes"].attrs["matemb"] == matemb
    data = xr.open_zarr(tmp_path / STORE / card.id / "elements", consolidated=False)
    assert data[card.default_layer].dims == ("structure", f"{card.default_layer}_feature")
    assert data[f"{card.default_layer}.nodes"].dims == ("node", f"{card.default_layer}_feature")
    assert data["row_size"].attrs["sample_dimension"] == "node"


def files_of(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    first = write(tmp_path / "a", "chgnet-0.3.0")
    second = write(tmp_path / "b", "chgnet-0.3.0")
    assert first.model_dump() == second.model_dump()
    one, two = files_of(tmp_path / "a"), files_of(tmp_path / "b")
    assert one == two and len(one) > 8


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

    monkeypatch.setattr("matteratlas.builders.encode.pq.ParquetWriter", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, "mat2vec")
    assert open_unit(Files(str(tmp_path)), "mat2vec", "elements").record == before
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
    write_index(tmp_path)
    group = zarr.open_group(tmp_path / STORE / "chgnet-0.3.0", mode="r")
    assert group.metadata.consolidated_metadata is not None
    assert "elements" in group
    layer = catalog.model("chgnet-0.3.0").default_layer
    assert group[f"elements/{layer}"].shape == (7, 64)


def test_a_commit_indexes_the_unit_and_another_replaces_it(tmp_path: Path) -> None:
    open_root(tmp_path)
    dim, layer = catalog.model("mat2vec").layer().dim, catalog.model("mat2vec").default_layer
    contents = []
    for seed in (0, 1):
        rows = results(dim, nodes=False, layers=[layer], seed=seed)
        record = write(tmp_path, "mat2vec", rows=rows)
        index = read_index(Files(str(tmp_path)))
        entry = index["models"]["mat2vec"]
        contents.append(entry["units"]["elements"]["content_sha256"])
        assert contents[-1] == record.content_sha256
        assert entry["metadata_sha256"] == sha256_of(tmp_path / STORE / "mat2vec" / "zarr.json")
    assert contents[0] != contents[1]
    assert not list((tmp_path / STAGING).iterdir())


class Killed(BaseException):
    """Stands for the process's end: nothing after it runs but clean-up."""


@pytest.mark.parametrize("moves", range(6))
def test_cut_off_between_any_two_moves_of_a_commit_no_reader_is_misled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    """A unit that replaces another: the index never names a unit that is not whole."""
    open_root(tmp_path)
    write(tmp_path, "mat2vec")
    write_index(tmp_path)
    done = 0
    real = Path.replace

    def counted(self: Path, target: Path) -> Path:
        nonlocal done
        if done == moves:
            raise Killed
        done += 1
        return real(self, target)

    dim, layer = catalog.model("mat2vec").layer().dim, catalog.model("mat2vec").default_layer
    monkeypatch.setattr(Path, "replace", counted)
    with pytest.raises(Killed):
        rows = results(dim, nodes=False, layers=[layer], seed=1)
        write(tmp_path, "mat2vec", rows=rows)
    monkeypatch.undo()
    index = read_index(Files(str(tmp_path)))
    if "mat2vec" in index["models"]:
        unit = open_unit(Files(str(tmp_path)), "mat2vec", "elements")
        listed = index["models"]["mat2vec"]["units"]["elements"]
        assert listed["content_sha256"] == unit.record.content_sha256
        assert [sha256_of(tmp_path / f.path) for f in unit.record.files] == [
            f.sha256 for f in unit.record.files
        ]
    else:
        assert moves > 0
    write(tmp_path, "mat2vec")
    assert "mat2vec" in read_index(Files(str(tmp_path)))["models"]


@pytest.mark.parametrize("name", ["energy", "reasons"])
def test_a_layer_may_not_take_the_name_of_a_column(tmp_path: Path, name: str) -> None:
    card = catalog.model("random-128")
    layer = card.layers[0].model_copy(update={"name": name})
    card = card.model_copy(update={"layers": [layer], "default_layer": name})
    with pytest.raises(ArchiveError, match=f"a layer may not be called '{name}'"):
        UnitWriter(
            tmp_path,
            card,
            catalog.structure_set("elements"),
            fingerprint="f",
            model_fingerprint="m",
            build_version="0",
        )
    assert not (tmp_path / STAGING).exists()


def test_a_value_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    dim, layer = catalog.model("mat2vec").layer().dim, catalog.model("mat2vec").default_layer
    rows = results(dim, nodes=False, layers=[layer])
    assert isinstance(rows[4], Embedded)
    rows[4].pooled[layer][7] = 1e6  # type: ignore[index]
    with pytest.raises(ArchiveError, match=rf"mat2vec/elements/{layer}, row 4: 1e\+06 does not"):
        write(tmp_path, "mat2vec", rows=rows, precision="float16")
    assert not (tmp_path / STORE).exists() and not list((tmp_path / STAGING).iterdir())
    assert not (tmp_path / ATLAS_FILE).exists()
    assert write(tmp_path, "mat2vec", rows=rows, precision="float32").embedded == 6
