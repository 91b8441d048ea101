# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from matteratlas.registry import cache as module
from matteratlas.registry.cache import Cache

HEADER = 48


def files_of(folder: Path) -> list[Path]:
    """Entries on disk, found without the cache's help."""
    return sorted(p for p in folder.glob("??/*") if p.is_file())


def size_of(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.parent != folder and p.is_file())


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", max_bytes=10_000)


def test_what_is_put_comes_back(cache: Cache) -> None:
    assert cache.get("a") is None and cache.bytes == 0
    for key, data in {"a": b"one", "b": b"", "": b"two", "é/../x\n": b"\0" * 5000}.items():
        cache.put(key, data)
        assert cache.get(key) == data
    assert cache.bytes == 4 * HEADER + 5006 == size_of(cache.folder)
    assert all(len(p.parent.name) == 2 and len(p.name) == 62 for p in files_of(cache.folder))
    cache.put("a", b"another")
    assert cache.get("a") == b"another"
    assert Cache(cache.folder).get("") == b"two"


def test_loader_is_asked_once(cache: Cache) -> None:
    asked: list[int] = []

    def load() -> bytes:
        asked.append(1)
        return b"bytes"

    assert [cache.fetch("k", load) for _ in range(3)] == [b"bytes"] * 3
    assert len(asked) == 1


def test_a_failing_loader_leaves_nothing(cache: Cache) -> None:
    def fail() -> bytes:
        raise OSError("cut")

    with pytest.raises(OSError, match="cut"):
        cache.fetch("k", fail)
    assert cache.get("k") is None


@given(data=st.binary(max_size=200), other=st.binary(max_size=300), cut=st.integers(0, 247))
@settings(deadline=None, max_examples=60)
def test_damage_is_never_given_out(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, other: bytes, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("c")
    cache = Cache(folder)
    cache.put("k", data)
    (path,) = files_of(folder)
    whole = path.read_bytes()
    flip = cut % len(whole)
    flipped = whole[:flip] + bytes([whole[flip] ^ 0x10]) + whole[flip + 1 :]
    for damaged in (whole[:flip], flipped, whole + b"\0", other, other + whole):
        if damaged == whole:
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(damaged)
        assert cache.get("k") is None
        assert not path.exists()
        assert cache.fetch("k", lambda: data) == data == cache.get("k")


def test_an_entry_under_another_key_is_foreign(cache: Cache) -> None:
    cache.put("a", b"1")
    (a,) = files_of(cache.folder)
    cache.put("b", b"2")
    (b,) = set(files_of(cache.folder)) - {a}
    shutil.copy(a, b)
    assert cache.get("b") is None
    assert cache.get("a") == b"1"


def test_least_recently_used_goes_first(tmp_path: Path) -> None:
    size = 1000 - HEADER
    cache = Cache(tmp_path, max_bytes=4000)
    for key in "abcd":
        cache.put(key, bytes(size))
    assert cache.get("a") is not None
    cache.put("e", bytes(size))
    kept = {key for key in "abcde" if (tmp_path / cache._path(key)).exists()}
    # Down to 7/8 of the bound, the new one included: two go, and "a" was just read.
    assert kept == {"a", "d", "e"}


def test_too_large_and_nothing_at_all(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "small", max_bytes=100)
    cache.put("fits", bytes(100 - HEADER))
    cache.put("not", bytes(101 - HEADER))
    assert cache.get("fits") is not None and cache.get("not") is None
    none = Cache(tmp_path / "none", max_bytes=0)
    assert none.fetch("k", lambda: b"") == b"" and none.get("k") is None
    assert not none.folder.exists()
    with pytest.raises(ValueError, match="give 0 or more"):
        Cache(tmp_path, max_bytes=-1)


class Bound(RuleBasedStateMachine):
    """Whatever is done, the folder stays within its bound and gives out only what was put."""

    @initialize(bound=st.integers(0, 3000))
    def start(self, bound: int) -> None:
        self.folder = Path(os.environ["CACHE_LAW_FOLDER"]) / f"{time.monotonic_ns()}"
        self.bound = bound
        self.caches = [Cache(self.folder, max_bytes=bound) for _ in range(2)]
        self.put_last: dict[str, bytes] = {}

    keys = st.sampled_from("abcdefgh")
    one = st.integers(0, 1)

    @rule(which=one, key=keys, size=st.integers(0, 1500))
    def put(self, which: int, key: str, size: int) -> None:
        data = random.Random(size).randbytes(size)
        before = self.put_last.get(key)
        self.caches[which].put(key, data)
        found = self.caches[1 - which].get(key)
        if size + HEADER <= self.bound:
            assert found == data
            self.put_last[key] = data
        else:
            assert found in (before, None)

    @rule(which=one, key=keys)
    def get(self, which: int, key: str) -> None:
        assert self.caches[which].get(key) in (None, self.put_last.get(key))

    @rule(which=one)
    def restart(self, which: int) -> None:
        self.caches[which] = Cache(self.folder, max_bytes=self.bound)

    @rule(text=st.sampled_from(["", "x", "99999999", "-5"]))
    def crash_leaves_rubbish(self, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / ".total").write_text(text)
        self.caches = [Cache(self.folder, max_bytes=self.bound) for _ in range(2)]

    @rule(which=one)
    def clear(self, which: int) -> None:
        self.caches[which].clear()
        assert self.caches[which].bytes == 0

    @invariant()
    def bounded(self) -> None:
        if hasattr(self, "folder"):
            assert self.caches[0].bytes == size_of(self.folder) <= self.bound


def test_bound_holds_whatever_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    monkeypatch.setenv("CACHE_LAW_FOLDER", str(tmp_path))
    run_state_machine_as_test(
        Bound, settings=settings(deadline=None, max_examples=40, stateful_step_count=30)
    )


def hammer(job: tuple[str, int, int]) -> tuple[int, int]:
    """Read and write at random; returns hits and the largest size seen."""
    folder, bound, seed = job
    chance, cache, hits, most = random.Random(seed), Cache(Path(folder), max_bytes=bound), 0, 0
    for step in range(150):
        key = str(chance.randrange(30))
        want = random.Random(int(key)).randbytes(500 + 100 * int(key))
        found = cache.get(key)
        assert found in (None, want)
        hits += found is not None
        if found is None:
            cache.put(key, want)
        if step % 10 == 0:
            most = max(most, cache.bytes)
    return hits, most


def test_several_processes_share_a_folder(tmp_path: Path) -> None:
    bound = 20_000
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        seen = list(pool.map(hammer, [(str(tmp_path), bound, seed) for seed in range(4)]))
    assert all(hits > 0 for hits, _ in seen)
    assert 0 < max(most for _, most in seen) <= bound
    assert size_of(tmp_path) <= bound


def test_several_threads_share_a_cache(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(hammer, [(str(tmp_path), 20_000, seed) for seed in range(4)]))
    assert max(most for _, most in seen) <= 20_000


def test_entries_that_vanish_meanwhile(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in "abc":
        cache.put(key, bytes(3000))
    unlink = Path.unlink

    def raced(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=True)  # another process was first
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", raced)
    cache.put("d", bytes(3000))
    assert cache.get("d") == bytes(3000) and cache.bytes <= cache.max_bytes


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    old = Cache(tmp_path, max_bytes=10_000)
    old.put("a", b"1")
    (entry,) = files_of(tmp_path)
    stray = entry.with_name(f".put-{'0' * 32}")
    stray.write_bytes(bytes(9000))
    Cache(tmp_path, max_bytes=10_000).put("b", b"2")
    assert not stray.exists()
    assert old.get("a") == b"1"


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    cache = Cache(tmp_path, max_bytes=200)
    (tmp_path / "ab").mkdir()
    others = [tmp_path / "notes.txt", tmp_path / "ab" / "notes.txt", tmp_path / "abc"]
    for path in others:
        path.write_bytes(bytes(5000))
    for key in "abcdef":
        cache.put(key, b"x" * 100)
    cache.clear()
    assert cache.bytes == 0 and all(path.stat().st_size == 5000 for path in others)


@pytest.mark.parametrize("where", ["write", "folder"])
def test_a_full_disk_means_no_caching_said_once(
    where: str,
    cache: Cache,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache.put("before", b"kept")

    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "write":
        monkeypatch.setattr(Path, "replace", full)
    else:
        monkeypatch.setattr(Path, "mkdir", full)
    for key in "abc":
        assert cache.fetch(key, key.encode) == key.encode()
    monkeypatch.undo()
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "No space left" in caplog.text and str(cache.folder) in caplog.text
    assert cache.get("before") == b"kept" and cache.get("a") is None
    assert size_of(cache.folder) == HEADER + 4  # nothing half-written stays


def put_with_no_room(folder: str) -> tuple[bytes, int]:
    """In a process whose files may not grow past 1,000 bytes: a write that truly fails midway."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    cache = Cache(Path(folder))
    cache.put("small", b"fits")
    return cache.fetch("large", lambda: bytes(5000)), cache.bytes


def test_a_write_that_the_system_cuts_short(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        data, kept = pool.submit(put_with_no_room, str(tmp_path)).result()
    assert data == bytes(5000)
    assert kept == HEADER + 4 == size_of(tmp_path)
    assert Cache(tmp_path).get("small") == b"fits"


def test_a_folder_that_cannot_be_made(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "file" / "below")
    (tmp_path / "file").write_bytes(b"")
    assert cache.fetch("k", lambda: b"data") == b"data"
    assert cache.fetch("k", lambda: b"data") == b"data"
    assert len(caplog.records) == 1 and cache.bytes == 0


def test_a_read_only_folder_still_serves(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache.put("a", b"1")
    entry = files_of(cache.folder)[0]

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    assert cache.get("a") == b"1"
    entry.write_bytes(b"damaged")
    assert cache.fetch("a", lambda: b"1") == b"1"
    assert cache.fetch("a", lambda: b"1") == b"1"
    assert len(caplog.records) == 1


def test_a_stuck_neighbour_costs_only_the_caching(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    cache.put("a", b"1")
    with module.FileLock(cache.folder / ".lock"):
        cache.put("b", b"2")
        assert cache.get("a") == b"1"
    assert cache.get("b") is None and not caplog.records
    cache.put("b", b"2")
    assert cache.get("b") == b"2"


def test_it_travels_to_other_processes(cache: Cache) -> None:
    cache.put("a", b"1")
    there = pickle.loads(pickle.dumps(cache))
    assert there.get("a") == b"1" and there.max_bytes == cache.max_bytes


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MATTERATLAS_CACHE", str(tmp_path))
    assert Cache().folder == tmp_path / "ranges"
    assert Cache().max_bytes == 5 * 2**30
