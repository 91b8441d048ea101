# SPDX-License-Identifier: Apache-2.0
"""An adapter whose model runs in another process, in an environment of its own.

The next batch is on its way while the process is at the last one, so that it never waits. A process
that dies, hangs or answers nonsense costs the structure that made it do so, and nothing else: the
batch is tried again one structure at a time, in a new process.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ...registry.environment_cards import environment
from ...schemas import errors
from ...schemas.cards import ModelCard
from ...schemas.environments import EnvironmentCard
from ...schemas.errors import CardError, SourceError
from ...schemas.structures import Structure
from ..environments import child_environment, prepare
from .base import Adapter, Embedded, Missing
from .frames import (
    PREFIX_BYTES,
    Arrays,
    FrameError,
    Part,
    join_parts,
    pack,
    results_from_frame,
    sizes,
    structure_part,
    structures_to_frame,
    unpack,
)
from .weights import obtain

#: Seconds for a process to import its packages and load the weights.
START_TIMEOUT = 600.0
#: Structures in a row that may each end the process before the model counts as broken: in one that
#: never answered, and in one that did.
CRASHES, CRASHES_ONCE_SOUND = 5, 20
#: Batches sent and not answered yet: the one at work and the one after it.
AHEAD = 2
_PIECE = 1 << 16


class ProcessLost(Exception):
    """The process ended, hung or answered nonsense; it is gone."""


class Process:
    """A worker process, its two pipes, and what it printed.

    Parameters
    ----------
    python:
        Interpreter of the environment.
    """

    def __init__(self, python: Path) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by end)
        read_there, self._write = os.pipe()
        self._read, write_there = os.pipe()
        try:
            self._popen = subprocess.Popen(
                [
                    str(python), "-P", "-m", "matteratlas.builders.adapters.worker",
                    str(read_there), str(write_there),
                ],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                pass_fds=(read_there, write_there),
                start_new_session=True,
                env=child_environment(),
            )  # fmt: skip
        except OSError as error:
            for descriptor in (self._write, self._read):
                os.close(descriptor)
            raise SourceError(f"{python} cannot be run: {error.strerror}") from error
        finally:
            os.close(read_there)
            os.close(write_there)
        os.set_blocking(self._write, False)
        os.set_blocking(self._read, False)
        self._unsent: deque[memoryview] = deque()
        self.pid = self._popen.pid
        self.end = weakref.finalize(self, _end, self._popen, (self._write, self._read), self._log)

    def ask(
        self, header: Mapping[str, Any], arrays: Arrays | None = None, *, timeout: float
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Send a request and wait for its answer, as :meth:`answer` does."""
        self.post(header, arrays, timeout=timeout)
        return self.answer(timeout=timeout)

    def post(
        self, header: Mapping[str, Any], arrays: Arrays | None = None, *, timeout: float
    ) -> None:
        """Send a request as soon as the process reads it; answers come in the order of requests."""
        self._unsent.append(memoryview(pack({**header, "timeout": timeout}, arrays)))

    def answer(self, *, timeout: float) -> tuple[dict[str, Any], dict[str, Any]]:
        """The answer to the oldest request without one.

        Raises
        ------
        ProcessLost
            No sound answer within ``timeout`` seconds from now; the process is gone.
        """
        deadline = time.monotonic() + timeout
        try:
            head, body, crc = sizes(self._receive(PREFIX_BYTES, deadline))
            return unpack(self._receive(head, deadline), self._receive(body, deadline), crc)
        except TimeoutError:
            self.end()
            raise ProcessLost(f"no answer within {timeout:g} s") from None
        except FrameError as error:
            self.end()
            raise ProcessLost(str(error)) from None
        except (BrokenPipeError, EOFError):
            said = self.last_words()
            self.end()
            raise ProcessLost(f"its process ended ({_ending(self._popen.returncode)})", said) from (
                None
            )

    def last_words(self) -> str:
        """The last line the process printed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            # Killed or dying: what it still prints is there once it has ended.
            self._popen.wait(timeout=5)
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 4000))
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return " ".join((lines or [""])[-1].split())[:300]

    def _send(self) -> None:
        """Write what the pipe takes now."""
        view = self._unsent[0]
        with contextlib.suppress(BlockingIOError):
            view = view[os.write(self._write, view[:_PIECE]) :]
        if view:
            self._unsent[0] = view
        else:
            self._unsent.popleft()

    def _receive(self, count: int, deadline: float) -> bytes:
        parts, left = [], count
        while left:
            self._wait(deadline)
            try:
                part = os.read(self._read, min(left, 1 << 20))
            except BlockingIOError:
                continue
            if not part:
                raise EOFError
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _wait(self, deadline: float) -> None:
        """Until there is something to read; meanwhile send, lest both ends wait for the other."""
        while True:
            poll = select.poll()
            poll.register(self._read, select.POLLIN)
            if self._unsent:
                poll.register(self._write, select.POLLOUT)
            ready = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1e3))
            if not ready:
                raise TimeoutError
            if self._write in ready:
                self._send()
            if self._read in ready:
                return


def _end(popen: subprocess.Popen[bytes], descriptors: Sequence[int], log: IO[bytes]) -> None:
    """Close the pipes, kill the process and what it started, and collect it."""
    for descriptor in descriptors:
        os.close(descriptor)
    if popen.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
    popen.wait()
    log.close()


def _ending(code: int | None) -> str:
    if code is None:
        return "unknown"
    if code < 0:
        known = {s.value: s.name for s in signal.Signals}
        return known.get(-code, f"signal {-code}")
    return f"exit status {code}"


class Remote(Adapter):
    """The adapter of a card with ``isolation``: same promises, another process.

    Raises
    ------
    SourceError
        The environment cannot be prepared, or its process cannot load the model.
    """

    def load(self) -> None:
        """Prepare the environment if need be, start its process and load the model there."""
        if self.card.isolation is None:
            raise CardError(f"model '{self.card.id}': key 'isolation' names no environment")
        self._environment: EnvironmentCard = environment(self.card.isolation)
        self._python = prepare(self._environment).python
        if self.card.checkpoint.obtained not in {"package", "none"}:
            obtain(self.card)  # its own process has no tokens
        self._process: Process | None = None
        self._crashes, self._sound = 0, False
        self._peak = 0.0
        self._started()

    def forward(self, structures: Sequence[Structure]) -> list[Embedded]:
        """Not used: the whole of :meth:`embed` happens over there."""
        raise CardError(
            f"model '{self.card.id}' runs in its own process; call embed ({len(structures)} rows)"
        )

    def missing_reason(self, structure: Structure) -> str | None:
        """Why the card or the family's own rules exclude this structure."""
        reason = super().missing_reason(structure)
        if reason is not None:
            return reason
        header, arrays = structures_to_frame([structure])
        reply, _ = self._ask({"do": "reasons", **header}, arrays)
        return reply["reasons"][0]  # type: ignore[no-any-return]

    def embed(self, structures: Sequence[Structure]) -> list[Embedded | Missing]:
        """As :meth:`Adapter.embed`; what the card excludes never leaves this process."""
        out: list[Embedded | Missing | None] = [None] * len(structures)
        parts: dict[int, Part] = {}
        for i, structure in enumerate(structures):
            try:
                reason = super().missing_reason(structure)
                if reason is None:
                    parts[i] = structure_part(structure)
            except Exception as error:
                reason = f"invalid: {_one_line(error)}"
            if reason is not None:
                out[i] = Missing(reason)
        todo = list(parts)
        batches = deque(todo[i : i + self._batch] for i in range(0, len(todo), self._batch))
        sent: deque[list[int]] = deque()
        while batches or sent:
            while batches and len(sent) < AHEAD:
                sent.append(batches.popleft())
                self._post([parts[i] for i in sent[-1]])
            rows = sent.popleft()
            try:
                results = self._results(len(rows), others=len(sent))
            except ProcessLost as error:
                # What came after was not begun: it is sent again.
                batches.extendleft(reversed(sent))
                sent.clear()
                results = self._again([parts[i] for i in rows], error)
            for i, result in zip(rows, results, strict=True):
                out[i] = result
        return [r if r is not None else Missing("failed: no result") for r in out]

    def versions(self) -> dict[str, str]:
        """Versions of the card's packages in the model's own environment."""
        return dict(self._versions)

    def peak_mb(self) -> float:
        """Most memory the model's process held, in MB."""
        return self._peak

    def close(self) -> None:
        """End the process; the next call starts it again."""
        if self._process is not None:
            self._process.end()
            self._process = None

    @property
    def pid(self) -> int | None:
        """Process id of the model's process, or None when it does not run."""
        return None if self._process is None else self._process.pid

    def _post(self, parts: Sequence[Part]) -> None:
        header, arrays = join_parts(parts)
        timeout = self._environment.timeout
        self._started().post({"do": "embed", **header}, arrays, timeout=timeout)

    def _results(self, rows: int, *, others: int = 0) -> list[Embedded | Missing]:
        """The results of the oldest batch sent, with ``others`` behind it."""
        if self._process is None:
            raise ProcessLost("its process was closed")
        reply, values = self._process.answer(timeout=self._environment.timeout)
        if "error" in reply:
            if others:
                self.close()  # or their answers would be read as those of what is asked next
            raise _error(reply, self.card)
        try:
            results = results_from_frame(reply, values)
            if len(results) != rows:
                raise FrameError(f"{len(results)} results for {rows} structures")
        except FrameError as error:
            self.close()
            raise ProcessLost(str(error)) from None
        self._crashes, self._sound = 0, True
        self._peak = max(self._peak, float(reply["peak_mb"]))
        return results

    def _again(self, parts: Sequence[Part], error: ProcessLost) -> list[Embedded | Missing]:
        """What a batch comes to that cost its process: one structure at a time."""
        self.close()
        if len(parts) == 1:
            self._crashes += 1
            if self._crashes >= (CRASHES_ONCE_SOUND if self._sound else CRASHES):
                raise SourceError(
                    f"model '{self.card.id}': {self._crashes} structures in a row ended its "
                    f"process, the last with: {error.args[0]}; see environment "
                    f"'{self._environment.id}'"
                ) from None
            return [Missing(f"failed: {error.args[0]}")]
        out: list[Embedded | Missing] = []
        for part in parts:
            self._post([part])
            try:
                out += self._results(1)
            except ProcessLost as lost:
                out += self._again([part], lost)
        return out

    def _ask(self, header: Mapping[str, Any], arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
        reply, values = self._started().ask(header, arrays, timeout=self._environment.timeout)
        if "error" in reply:
            raise _error(reply, self.card)
        return reply, values

    def _started(self) -> Process:
        if self._process is not None and self._process.end.alive:
            return self._process
        process = Process(self._python)
        request = {
            "do": "load",
            "card": self.card.model_dump(mode="json"),
            "device": self.device,
            "stand_ins": sorted(self._environment.stand_ins),
        }
        try:
            reply, _ = process.ask(request, timeout=START_TIMEOUT)
        except ProcessLost as error:
            said = f": {error.args[1]}" if len(error.args) > 1 and error.args[1] else ""
            raise SourceError(
                f"model '{self.card.id}' cannot be loaded in environment "
                f"'{self._environment.id}': {error.args[0]}{said}"
            ) from None
        if "error" in reply:
            process.end()
            raise _error(reply, self.card)
        self._batch = int(reply["batch_size"])
        self._versions: dict[str, str] = reply["versions"]
        self._peak = max(self._peak, float(reply["peak_mb"]))
        self._process = process
        return process


def _error(reply: Mapping[str, Any], card: ModelCard) -> Exception:
    """The error of the other process, as the same class where it is one of the project's."""
    name, message = str(reply["error"]), str(reply["message"])
    cls = getattr(errors, name, None)
    if isinstance(cls, type) and issubclass(cls, errors.AtlasError):
        return cls(message)
    return RuntimeError(f"model '{card.id}' in its own process: {name}: {message}"[:500])


def _one_line(error: BaseException) -> str:
    text = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
