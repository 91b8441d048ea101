# SPDX-License-Identifier: Apache-2.0
"""What runs in a model's own process: load its adapter, embed what comes in, until told no more.

Started by :mod:`.remote` as ``python -m matteratlas.builders.adapters.worker IN OUT``, with two
pipes of its own: whatever the model's packages print goes elsewhere.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import resource
import sys
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from ...schemas.cards import ModelCard
from .base import Adapter, load_here
from .frames import (
    PREFIX_BYTES,
    Arrays,
    pack,
    results_to_frame,
    sizes,
    structures_from_frame,
    unpack,
)
from .stand_ins import install_stand_ins

#: Seconds beyond the caller's patience after which a process that nobody waits for ends itself.
_GRACE = 30.0


class Worker:
    """One adapter and the requests it answers."""

    def __init__(self) -> None:
        self._adapter: Adapter | None = None

    def answer(self, header: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
        """The reply to one request; an error is a reply too."""
        try:
            if header["do"] == "load":
                return self._load(header), {}
            if self._adapter is None:
                raise RuntimeError("no model is loaded")
            structures = structures_from_frame(header, arrays)
            if header["do"] == "reasons":
                return {"reasons": [self._adapter.missing_reason(s) for s in structures]}, {}
            reply, values = results_to_frame(self._adapter.embed(structures))
            return {**reply, "peak_mb": peak_mb()}, values
        except Exception as error:
            text = " ".join(str(error).split())
            return {"error": type(error).__name__, "message": text[:2000]}, {}

    def _load(self, header: dict[str, Any]) -> dict[str, Any]:
        install_stand_ins(header["stand_ins"])
        card = ModelCard.model_validate(header["card"])
        self._adapter = load_here(card, device=header["device"])
        _one_thread()
        return {
            "batch_size": self._adapter.batch_size,
            "versions": self._adapter.versions(),
            "peak_mb": peak_mb(),
        }


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer requests until the other end closes."""
    worker = Worker()
    while len(prefix := source.read(PREFIX_BYTES)) == PREFIX_BYTES:
        head, body, crc = sizes(prefix)
        header, arrays = unpack(source.read(head), source.read(body), crc)
        # Ends a call that hangs even when the one who would stop it is gone.
        faulthandler.dump_traceback_later(header["timeout"] + _GRACE, exit=True)
        reply = pack(*worker.answer(header, arrays))
        faulthandler.cancel_dump_traceback_later()
        sink.write(reply)
        sink.flush()


def peak_mb() -> float:
    """Most memory this process held, in MB; on Linux without what its parent held before."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _one_thread() -> None:
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def _end_with(parent: int) -> None:
    """End when the process that started this one is gone."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def check(content: dict[str, Any]) -> dict[str, str]:
    """Import the modules of an environment card; versions of its packages."""
    install_stand_ins(content["stand_ins"])
    for name in content["imports"]:
        importlib.import_module(name)
    return {name: metadata.version(name) for name in content["packages"]}


def main(arguments: list[str]) -> None:
    """``IN OUT`` serves on two file descriptors; ``--check JSON`` only imports."""
    if arguments[0] == "--check":
        print(json.dumps(check(json.loads(arguments[1]))))
        return
    inward, outward = map(int, arguments)
    for descriptor in (inward, outward):
        os.set_inheritable(descriptor, False)
    faulthandler.enable()
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    with os.fdopen(inward, "rb") as source, os.fdopen(outward, "wb") as sink:
        serve(source, sink)


if __name__ == "__main__":
    main(sys.argv[1:])
