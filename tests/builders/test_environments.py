# SPDX-License-Identifier: Apache-2.0
"""Environments and models in processes of their own, with a family made for the purpose.

The family is a wheel built here: an adapter that crashes, hangs, prints or answers nonsense when a
structure's name says so. It is installed into a real environment, and talked to as any other.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import textwrap
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ase.build import molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError
from typer.testing import CliRunner

from matteratlas.builders import embed as embedding
from matteratlas.builders import environments as machinery
from matteratlas.builders.adapters import frames, remote
from matteratlas.builders.adapters.base import Embedded, Missing, load_adapter
from matteratlas.builders.adapters.stand_ins import STAND_INS, install_stand_ins
from matteratlas.builders.build import open_root
from matteratlas.builders.embed import Storage, embed_model, model_fingerprint
from matteratlas.builders.environments import clean, environment_state, main_paths, prepare
from matteratlas.registry import catalog, environment_cards
from matteratlas.registry.files import Files
from matteratlas.registry.unit import open_unit
from matteratlas.schemas.cards import ModelCard, read_card
from matteratlas.schemas.environments import EnvironmentCard
from matteratlas.schemas.errors import AtlasError, CardError, SourceError
from matteratlas.schemas.structures import Structure, structure_from_row

#: As it is before a test puts others in its place.
REGISTRY = environment_cards.environments

ADAPTER = """
import os, sys, time
import numpy as np
from matteratlas.builders.adapters.base import Adapter, Embedded

print("a package that greets everyone")

class Probe(Adapter):
    batch_size = 4

    def load(self):
        print("loading, with a bar |####|", flush=True)
        os.system("echo a child process prints too")
        if (self.card.options or {}).get("broken"):
            raise RuntimeError("no weights\\nhere")
        self.calls = 0

    def forward(self, structures):
        self.calls += 1
        print("noise", "x" * 100_000, flush=True)
        os.write(1, b"raw noise on the descriptor itself")
        for s in structures:
            if s.name == "kill":
                os.kill(os.getpid(), 9)
            if s.name == "segfault":
                os.kill(os.getpid(), 11)
            if s.name == "exit":
                os._exit(3)
            if s.name == "hang":
                time.sleep(3600)
            if s.name == "slow":
                time.sleep(1.0)
            if s.name == "noise":
                for descriptor in range(3, 1024):
                    try:
                        os.write(descriptor, b"not a frame" * 9)
                    except OSError:
                        pass
            if s.name == "raise":
                raise ValueError("two\\nlines")
            if s.name == "bare":
                yield Embedded(nodes={"last": np.full((len(s), 2), np.nan)})
                continue
            radius = np.linalg.norm(s.positions - s.positions.mean(axis=0), axis=1)
            nodes = np.stack([radius, np.asarray(s.numbers, float)], axis=1)
            yield Embedded(nodes={"last": nodes}, energy=float(radius.sum()))
"""

#: Makes the wheel's adapter a module of ``matteratlas.builders.adapters``, in this process only.
FINDER = """
import importlib.machinery, importlib.util, pathlib

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "matteratlas.builders.adapters.probe_adapter":
            here = pathlib.Path(__file__).with_name("probe_adapter.py")
            return importlib.util.spec_from_file_location(name, here)
"""


def wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """A wheel of pure Python files."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: numpy\n"
    tags = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    content = {**files, f"{info}/METADATA": metadata, f"{info}/WHEEL": tags}
    record = "".join(f"{n},,\n" for n in [*content, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as bundle:
        for filename, text in {**content, f"{info}/RECORD": record}.items():
            bundle.writestr(filename, text)
    return path


def package(name: str, version: str, *, no_deps: bool = True) -> dict[str, Any]:
    return {"name": name, "version": version, "no_deps": no_deps, "why": None}


def environment_card(**changes: Any) -> EnvironmentCard:
    content: dict[str, Any] = {
        "id": "probe",
        "python": ">=3.11",
        "packages": [package("probefamily", "1.0", no_deps=False)],
        "imports": ["probe_adapter"],
        "stand_ins": {"wandb": "to see it stand in"},
        "timeout": 60.0,
        "apart": "to test the machinery",
        "notes": None,
    }
    return EnvironmentCard.model_validate(content | changes)


def model_card(**changes: Any) -> ModelCard:
    base = catalog.model("soap").model_dump()
    layer = base["layers"][0] | {"name": "last", "dim": 2, "where": "distance and number"}
    energy = {"quantity": "total_energy", "unit": "eV", "reference": "none"}
    base |= {
        "id": "probe", "adapter": "probe_adapter:Probe", "options": None, "layers": [layer],
        "default_layer": "last", "isolation": "probe", "energy": energy, "tolerance": 1e-5,
        "environment": {"probefamily": "1.0", "numpy": "2"},
    }  # fmt: skip
    return ModelCard.model_validate(base | changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, built_atlas: Path) -> Iterator[EnvironmentCard]:
    """The tiny environment, prepared in a cache of its own, from wheels on disk alone.

    The small atlas comes first: it is built from the ordinary cache.
    """
    folder = tmp_path_factory.mktemp("environments")
    (folder / "wheels").mkdir()
    hook = "import sys, probe_finder; sys.meta_path.append(probe_finder.Finder)\n"
    wheel(
        folder / "wheels", "probefamily", "1.0",
        {"probe_adapter.py": ADAPTER, "probe_finder.py": FINDER, "probe_finder.pth": hook},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MATTERATLAS_CACHE", str(folder / "cache"))
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(folder / "wheels"))
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        patch.setenv("HF_TOKEN", "hf_secret")
        card = environment_card()
        patch.setattr(environment_cards, "environments", lambda folder=None: {"probe": card})
        patch.setattr(machinery, "environments", lambda folder=None: {"probe": card})
        before = {p: sorted(Path(p).iterdir()) for p in main_paths()}
        prepare(card)
        assert {p: sorted(Path(p).iterdir()) for p in main_paths()} == before
        yield card


@pytest.fixture(scope="module")
def adapter(made: EnvironmentCard) -> Iterator[remote.Remote]:
    loaded = load_adapter(model_card())
    assert isinstance(loaded, remote.Remote)
    yield loaded
    loaded.close()


def structures(*names: str) -> list[Structure]:
    """Real molecules; a name tells the probe what to do."""
    kinds = ["H2O", "CH4", "C6H6", "CH3CH2OH", "NH3", "CO2", "C2H4", "HCN", "PH3", "SiH4"]
    out = []
    for i, name in enumerate(names):
        atoms = molecule(kinds[i % len(kinds)])
        out.append(
            Structure(
                source_id=f"{name}-{i}",
                kind="molecule",
                stratum="probes",
                name=name,
                numbers=atoms.numbers.astype(np.int64),
                positions=atoms.positions.copy(),
            )
        )
    return out


def expected(structure: Structure) -> np.ndarray:
    positions = structure.positions
    radius = np.linalg.norm(positions - positions.mean(axis=0), axis=1)
    return np.array([radius.mean(), structure.numbers.mean()])


def check(results: list[Embedded | Missing], given: list[Structure]) -> None:
    for result, structure in zip(results, given, strict=True):
        assert isinstance(result, Embedded), result
        np.testing.assert_allclose(result.pooled["last"], expected(structure), rtol=1e-6)
        assert result.nodes["last"].shape == (len(structure), 2)
        assert result.nodes["last"].dtype == np.float32


# --- environments --------------------------------------------------------------------------------


def test_an_environment_holds_its_own_packages_only(made: EnvironmentCard) -> None:
    state = environment_state(made)
    assert state.state == "ready" and state.packages == {"probefamily": "1.0"}
    assert 0 <= state.megabytes < 5 and state.python.is_file()
    assert prepare(made).folder == state.folder
    assert made.fingerprint == environment_card(timeout=5.0, apart="prose").fingerprint
    changed = environment_card(imports=["probe_adapter", "json"])
    assert environment_state(changed).folder != state.folder
    assert environment_state(changed).state == "absent"


def test_a_failure_is_remembered_and_tried_again(
    made: EnvironmentCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = environment_card(
        id="late", packages=[package("probelate", "2.0")], imports=["probelate"]
    )
    with pytest.raises(SourceError, match=r"'late' cannot be made .*probelate==2\.0"):
        prepare(late)
    state = environment_state(late)
    assert state.state == "failed" and "probelate" in state.reason
    assert state.log is not None and "pip install" in state.log.read_text()
    assert not state.folder.exists()
    wheel(tmp_path, "probelate", "2.0", {"probelate.py": "import wandb\n"})
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    clock = time.monotonic()
    with pytest.raises(SourceError, match="env prepare late --retry"):
        prepare(late)
    assert time.monotonic() - clock < 5, "a remembered failure installs nothing"
    assert prepare(late, retry=True).state == "ready"
    assert clean(["late"]) == [state.folder]
    assert environment_state(late).state == "absent"


def test_what_does_not_import_is_no_environment(made: EnvironmentCard) -> None:
    for imports, reason in ((["probe_adapter", "nowhere"], "nowhere"), (["antigravity_"], "anti")):
        broken = environment_card(id="broken", imports=imports)
        with pytest.raises(SourceError, match=f"ModuleNotFoundError.*{reason}"):
            prepare(broken)
    clean(["broken"])
    old = environment_card(id="old", python="<3.0")
    with pytest.raises(SourceError, match=r"Python 3\.\d+\.\d+ is not in <3\.0"):
        prepare(old)
    root = environment_state(made).folder.parent
    clean(["old"])
    left = {p.name.rpartition("-")[0] for p in root.iterdir() if p.suffix != ".lock"}
    assert left == {"probe"}, "a failed installation leaves nothing"


def test_clean_keeps_what_cards_describe(made: EnvironmentCard) -> None:
    folder = environment_state(made).folder
    stale = folder.with_name("probe-0123456789ab")
    (stale / "lib").mkdir(parents=True)
    stale.with_name(stale.name + ".failed.json").write_text("{}")
    assert clean() == [stale]
    assert folder.is_dir() and not list(folder.parent.glob("probe-0123456789ab*"))


def test_nothing_of_the_caller_leaks(made: EnvironmentCard, monkeypatch: Any) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    child = machinery.child_environment()
    assert not {"HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH"} & set(child)
    assert child["OMP_NUM_THREADS"] == "1" and child["HF_HUB_OFFLINE"] == "1"


def test_command_line(made: EnvironmentCard) -> None:
    from matteratlas.cli import app

    run = CliRunner()
    done = run.invoke(app, ["env", "list"])
    assert done.exit_code == 0 and "ready" in done.stdout and "probefamily==1.0" in done.stdout
    assert run.invoke(app, ["env", "prepare", "probe", "--json"]).exit_code == 0
    assert run.invoke(app, ["env", "clean"]).stdout.strip() == "nothing to remove"
    wrong = run.invoke(app, ["env", "prepare", "prob"])
    assert isinstance(wrong.exception, CardError) and "'probe'" in str(wrong.exception)


# --- a model in its own process ------------------------------------------------------------------


def test_embeds_through_any_noise(adapter: remote.Remote) -> None:
    given = structures(*["plain"] * 10)
    check(adapter.embed(given), given)
    assert adapter.batch_size == 1 and adapter._batch == 4
    assert adapter.versions()["probefamily"] == "1.0"
    assert adapter.peak_mb() > 10
    assert adapter.embed([]) == []


def test_rows_fail_alone(adapter: remote.Remote) -> None:
    given = structures("plain", "raise", "plain", "bare", "plain")
    good = [s for s in given if s.name == "plain"]
    results = adapter.embed(given)
    check([r for r in results if isinstance(r, Embedded)], good)
    assert results[1] == Missing("failed: two lines")
    assert results[3] == Missing("failed: layer 'last' is not finite")


def test_what_the_card_excludes_stays_here(adapter: remote.Remote) -> None:
    water = structures("plain")[0]
    huge = dataclasses.replace(
        water, numbers=np.ones(100_000, int), positions=np.zeros((100_000, 3))
    )
    odd = dataclasses.replace(water, positions=np.zeros((2, 3)))
    words = dataclasses.replace(water, numbers=np.array(["H", "H", "O"]))
    results = adapter.embed([huge, odd, words, water])
    reasons = [r.reason.partition(":")[0] for r in results if isinstance(r, Missing)]
    assert reasons == ["too_large", "invalid", "invalid"]
    assert adapter.missing_reason(water) is None
    assert str(adapter.missing_reason(huge)).startswith("too_large")


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("kill", "its process ended (SIGKILL)"),
        ("segfault", "its process ended (SIGSEGV)"),
        ("exit", "its process ended (exit status 3)"),
        ("noise", "what came is no frame"),
    ],
)
def test_a_lost_process_costs_the_row_that_lost_it(
    adapter: remote.Remote, what: str, reason: str
) -> None:
    given = structures("plain", "plain", what, "plain", "plain", "plain")
    before = adapter.pid
    results = adapter.embed(given)
    assert results[2] == Missing(f"failed: {reason}")
    check(results[:2] + results[3:], given[:2] + given[3:])
    assert adapter.pid != before
    assert not _zombies()


def test_the_next_batch_is_sent_before_the_last_is_answered(
    adapter: remote.Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    for name in ("post", "answer"):
        real = getattr(remote.Process, name)

        def seen(self: Any, *a: Any, _name: str = name, _real: Any = real, **k: Any) -> Any:
            order.append(_name)
            return _real(self, *a, **k)

        monkeypatch.setattr(remote.Process, name, seen)
    given = structures(*["plain"] * 14)
    adapter.embed(given[:1])
    order.clear()
    check(adapter.embed(given), given)
    assert order == ["post", "post", "answer", "post", "answer", "post", "answer", "answer"]


@pytest.mark.parametrize("victims", [(0, 4), (3, 7), (4, 5), (1, 9)])
def test_batches_behind_a_lost_process_lose_nothing(
    adapter: remote.Remote, victims: tuple[int, int]
) -> None:
    names = ["plain"] * 11
    for victim in victims:
        names[victim] = "kill"
    given = structures(*names)
    results = adapter.embed(given)
    for i, (result, structure) in enumerate(zip(results, given, strict=True)):
        if i in victims:
            assert result == Missing("failed: its process ended (SIGKILL)")
        else:
            check([result], [structure])


def test_frames_larger_than_the_pipes_do_not_block(adapter: remote.Remote) -> None:
    """Questions and answers cross each other, each more than a pipe holds (64 KiB on Linux)."""
    atoms = 3_000
    grid = np.stack(np.meshgrid(*[np.arange(15.0)] * 3), axis=-1).reshape(-1, 3)[:atoms] * 2.0
    water = structures("plain")[0]
    given = [
        dataclasses.replace(
            water, source_id=f"large-{i}", numbers=np.full(atoms, 6), positions=grid + i
        )
        for i in range(12)
    ]
    free = adapter.card.supports.model_copy(update={"max_atoms": None})
    adapter.card = adapter.card.model_copy(update={"supports": free})
    adapter.close()  # the process reads the card when it starts
    check(adapter.embed(given), given)


def test_each_batch_has_its_own_time(adapter: remote.Remote, monkeypatch: Any) -> None:
    given = structures("plain", *["slow"] * 2, "plain", *["slow"] * 2)
    adapter.embed(given[:1])
    monkeypatch.setattr(adapter, "_environment", environment_card(timeout=3.5))
    check(adapter.embed(given), given)


def test_a_hanging_process_is_stopped(adapter: remote.Remote, monkeypatch: Any) -> None:
    given = structures("plain", "hang")
    adapter.embed(given[:1])
    monkeypatch.setattr(adapter, "_environment", environment_card(timeout=1.5))
    before = adapter.pid
    results = adapter.embed(given)
    assert results[1] == Missing("failed: no answer within 1.5 s")
    check(results[:1], given[:1])
    assert before is not None and not psutil.pid_exists(before) and not _zombies()


def test_killed_between_calls(adapter: remote.Remote) -> None:
    given = structures("plain", "plain")
    adapter.embed(given)
    assert adapter.pid is not None
    os.kill(adapter.pid, signal.SIGKILL)
    check(adapter.embed(given), given)


def test_a_model_that_always_dies_is_given_up(
    adapter: remote.Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "CRASHES_ONCE_SOUND", 2)
    with pytest.raises(SourceError, match=r"2 structures in a row ended its process.*SIGKILL"):
        adapter.embed(structures("kill", "kill", "kill"))
    adapter._crashes = 0
    given = structures("plain")
    check(adapter.embed(given), given)


def test_errors_keep_their_class_and_fit_a_line(made: EnvironmentCard) -> None:
    with pytest.raises(RuntimeError, match=r"model 'probe' .*RuntimeError: no weights here$"):
        load_adapter(model_card(options={"broken": True}))
    with pytest.raises(CardError, match="adapter module 'nothing_here' does not exist"):
        load_adapter(model_card(adapter="nothing_here:Probe"))
    with pytest.raises(CardError, match="no environment 'prob' in the registry"):
        load_adapter(model_card(isolation="prob"))
    assert not _zombies()


def test_the_process_goes_with_its_adapter(made: EnvironmentCard) -> None:
    loaded = load_adapter(model_card())
    assert isinstance(loaded, remote.Remote)
    pid = loaded.pid
    assert pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    del loaded
    assert not psutil.pid_exists(pid)


def test_the_process_goes_with_its_parent(made: EnvironmentCard, tmp_path: Path) -> None:
    """Even when the parent is killed and cannot clean up."""
    import subprocess

    python = environment_state(made).python
    script = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        from matteratlas.builders.adapters.remote import Process
        process = Process(Path({str(python)!r}))
        print(process.pid, flush=True)
        time.sleep(600)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    child = psutil.Process(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert child.wait(timeout=30) is not None or not child.is_running()


# --- in a build ----------------------------------------------------------------------------------


def _jobs(built_atlas: Path, tmp_path: Path) -> list[Any]:
    set_card = catalog.structure_set("g2")
    table = pq.read_table(built_atlas / "structures" / "g2.parquet").slice(0, 12)
    source = tmp_path / "g2.parquet"
    pq.write_table(table, source)
    open_root(tmp_path / "atlas")
    return [(set_card, source)]


def test_units_are_built_carried_and_kept(
    made: EnvironmentCard, built_atlas: Path, tmp_path: Path
) -> None:
    jobs = _jobs(built_atlas, tmp_path)
    card = model_card()
    (built,) = embed_model(tmp_path / "atlas", card, jobs, build_version="0")
    assert built.outcome == "built" and built.embedded == 12, built
    assert built.peak_rss_mb > 10
    (kept,) = embed_model(tmp_path / "atlas", card, jobs, build_version="0")
    assert kept.outcome == "kept"
    runs = json.loads((tmp_path / "atlas" / "runs" / "probe.json").read_text())
    assert runs["sets"]["g2"]["versions"]["probefamily"] == "1.0"
    storage = Storage()
    plain = card.model_copy(update={"isolation": None})
    assert model_fingerprint(card, storage) == model_fingerprint(plain, storage)


@pytest.mark.parametrize("name", ["plain", "kill"])
def test_windows_are_embedded_ahead_and_stay_in_order(
    made: EnvironmentCard, built_atlas: Path, tmp_path: Path, monkeypatch: Any, name: str
) -> None:
    """Where a process is lost, too: a window is written while the next one is embedded."""
    monkeypatch.setattr(embedding, "WINDOW", 3)
    (set_card, source), *_ = _jobs(built_atlas, tmp_path)
    table = pq.read_table(source)
    place = table.column_names.index("name")
    names = pa.array([name if i == 7 else "plain" for i in range(12)])
    pq.write_table(table.set_column(place, "name", names), source)
    root = tmp_path / "atlas"
    (built,) = embed_model(root, model_card(), [(set_card, source)], build_version="0")
    assert built.outcome == "built" and built.embedded == 12 - (name == "kill"), built
    unit = open_unit(Files(str(root)), "probe", "g2")
    vectors = unit.vectors("last").read(0, 12)
    for i, row in enumerate(table.to_pylist()):
        if name == "plain" or i != 7:
            np.testing.assert_allclose(vectors[i], expected(structure_from_row(row)), rtol=1e-6)


def test_a_missing_environment_fails_its_units_by_name(
    made: EnvironmentCard, built_atlas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = environment_card(id="gone", packages=[package("not-to-be-had", "1")])
    known = {"probe": made, "gone": broken}
    monkeypatch.setattr(environment_cards, "environments", lambda folder=None: known)
    jobs = _jobs(built_atlas, tmp_path)
    (failed,) = embed_model(
        tmp_path / "atlas", model_card(id="lost", isolation="gone"), jobs, build_version="0"
    )
    assert failed.outcome == "failed"
    assert "environment 'gone' cannot be made" in str(failed.error)
    (built,) = embed_model(tmp_path / "atlas", model_card(), jobs, build_version="0")
    assert built.outcome == "built"
    clean(["gone"])


# --- frames --------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    st.lists(hnp.arrays("<f4", hnp.array_shapes(min_dims=1, max_dims=2, max_side=5)), max_size=4),
    st.none() | st.floats(allow_nan=False),
)
def test_results_survive_frames(values: list[np.ndarray], energy: float | None) -> None:
    results = [
        Embedded(nodes={"n": v, "m": v[:0]}, pooled={"p": v.ravel()}, energy=energy) for v in values
    ] + [Missing("invalid: ünsound")]
    head, body, crc = _parts(frames.pack(*frames.results_to_frame(results)))
    found = frames.results_from_frame(*frames.unpack(head, body, crc))
    assert found[-1] == results[-1]
    for a, b in zip(found[:-1], results[:-1], strict=True):
        assert a.energy == b.energy  # type: ignore[union-attr]
        np.testing.assert_array_equal(a.nodes["n"], b.nodes["n"])  # type: ignore[union-attr]
        np.testing.assert_array_equal(a.pooled["p"], b.pooled["p"])  # type: ignore[union-attr]


def test_structures_survive_frames() -> None:
    water = structures("plain")[0]
    given = [
        water,
        dataclasses.replace(
            water, smiles="O", sequence="MK", backbone=np.full((2, 4, 3), np.nan),
            cell=np.eye(3) * 7.1, pbc=(True, False, True), charge=-1, multiplicity=2, id="ma1-x",
            labels={"secret": 1.0},
        ),
    ]  # fmt: skip
    head, body, crc = _parts(frames.pack(*frames.structures_to_frame(given)))
    found = frames.structures_from_frame(*frames.unpack(head, body, crc))
    for a, b in zip(found, given, strict=True):
        for field in dataclasses.fields(Structure):
            left, right = getattr(a, field.name), getattr(b, field.name)
            if field.name == "labels":
                assert left == {}, "a model never sees labels"
            elif isinstance(right, np.ndarray):
                np.testing.assert_array_equal(left, right)
            else:
                assert left == right


def test_frames_that_are_none_are_refused() -> None:
    whole = frames.pack({"a": 1}, {"x": np.arange(3.0)})
    head, body, crc = _parts(whole)
    with pytest.raises(frames.FrameError, match="no frame"):
        frames.sizes(b"\0" + whole[1 : frames.PREFIX_BYTES])
    with pytest.raises(frames.FrameError, match="damaged"):
        frames.unpack(head, body[:-1] + b"\1", crc)
    with pytest.raises(frames.FrameError, match="dtype"):
        frames.pack({}, {"x": np.array([object()])})
    for text in (b"[]", b"{}", b'{"header": {}, "arrays": [["x", "|O", [1]]]}', b"\xff"):
        with pytest.raises(frames.FrameError):
            frames.unpack(text, b"", _crc(text))


# --- cards ---------------------------------------------------------------------------------------


def test_the_registry_s_environments() -> None:
    known = REGISTRY()
    users = [m for m in catalog.models().values() if m.isolation is not None]
    assert {m.isolation for m in users} <= set(known)
    for card in known.values():
        assert set(card.stand_ins) <= set(STAND_INS)
        assert all(p.why for p in card.packages if p.no_deps and p.name == card.id)
    for model in users:
        pins = known[str(model.isolation)].pins
        for name, version in (model.environment or {}).items():
            assert pins.get(name, version) == version, f"{model.id}: {name}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"python": "three"}, "no version range"),
        ({"packages": [package("torch", "1.0")]}, "main environment's"),
        ({"packages": [package("a", "1"), package("a", "2")]}, "distinct"),
        ({"packages": [package("a", ">1")]}, "pattern"),
        ({"packages": [package("-e .", "1")]}, "pattern"),
    ],
)
def test_cards_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    import yaml

    path = tmp_path / "probe.yaml"
    path.write_text(yaml.safe_dump(environment_card().model_dump() | changes))
    with pytest.raises(CardError, match=message):
        read_card(path, EnvironmentCard)


def test_stand_ins_leave_the_real_module_alone() -> None:
    real = sys.modules["json"]
    with pytest.raises(CardError, match="no stand-in for module 'json'"):
        install_stand_ins(["json"])
    assert sys.modules["json"] is real
    assert issubclass(CardError, AtlasError)


def test_the_result_table(tmp_path: Path) -> None:
    path = tmp_path / "families.csv"
    assert environment_cards.read_families(path) == {}
    row = dict.fromkeys(environment_cards.FAMILY_COLUMNS, "x, y")
    environment_cards.write_families({"m": row | {"model": "m"}}, path)
    assert environment_cards.read_families(path) == {"m": row | {"model": "m"}}
    assert environment_cards.status(catalog.model("soap")) == "in main environment"


def _parts(frame: bytes) -> tuple[bytes, bytes, int]:
    start = frames.PREFIX_BYTES
    head, body, crc = frames.sizes(frame[:start])
    assert len(frame) == start + head + body
    return frame[start : start + head], frame[start + head :], crc


def _crc(head: bytes) -> int:
    import zlib

    return zlib.crc32(head)


def _zombies() -> list[int]:
    children = psutil.Process().children()
    return [c.pid for c in children if c.status() == psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 0.0, -1.0])
def test_a_batch_has_a_time_that_ends(seconds: float) -> None:
    with pytest.raises(ValidationError, match="timeout"):
        environment_card(timeout=seconds)
