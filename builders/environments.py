# SPDX-License-Identifier: Apache-2.0
"""Environments of families that cannot share the main one: made once, cached, checked, removed.

An environment is a virtual environment that holds the pinned packages of its card and nothing else;
behind them on its path lies the main environment, so that torch and all that fits is not installed
again. The main environment is only read: pip refuses to touch what lies outside the one it runs in.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from ..registry.environment_cards import environments
from ..registry.packages import cache_dir
from ..schemas.environments import EnvironmentCard
from ..schemas.errors import SourceError, missing_extra

State = Literal["ready", "failed", "absent"]

_RECORD = "environment.json"
#: What a model's own process has no use for: unpickled code would find it there.
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY", re.IGNORECASE)
_FOREIGN = {"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV"}


@dataclass(frozen=True)
class Environment:
    """State of one environment on this machine.

    Attributes
    ----------
    id, folder, state:
        ``ready`` to run, ``failed`` when last tried (``reason``, ``log``), or ``absent``.
    packages:
        The environment's own, with versions; the pinned ones while it is not ready.
    megabytes, seconds:
        Disk it takes and time it took to prepare.
    """

    id: str
    folder: Path
    state: State
    packages: dict[str, str]
    megabytes: float = 0.0
    seconds: float = 0.0
    reason: str = ""
    log: Path | None = None

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return _python(self.folder)


def environment_state(card: EnvironmentCard) -> Environment:
    """What there is of an environment on this machine; nothing is made."""
    folder = _folder(card)
    if (record := _read(folder / _RECORD)) is not None:
        return Environment(card.id, folder, "ready", **record)
    if (failure := _read(_beside(folder, "failed.json"))) is not None:
        log = _beside(folder, "log")
        return Environment(card.id, folder, "failed", card.pins, log=log, **failure)
    return Environment(card.id, folder, "absent", card.pins)


def list_environments() -> list[Environment]:
    """State of every environment the registry knows."""
    return [environment_state(card) for card in environments().values()]


def prepare(card: EnvironmentCard, *, retry: bool = False) -> Environment:
    """The environment of a card, made first if it is not there.

    It is made in a staging folder, checked by importing what the card says must import, and moved
    into place whole. Whoever comes meanwhile waits and gets the same one.

    Parameters
    ----------
    retry:
        Try again what failed before; by default the failure is remembered and said again.

    Raises
    ------
    SourceError
        The environment cannot be made here; one line says why and where the log is.
    """
    known = environment_state(card)
    if known.state == "ready":
        return known
    folder = _folder(card)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(_beside(folder, "lock")):
        known = environment_state(card)
        if known.state == "ready":
            return known
        if known.state == "failed" and not retry:
            raise _refusal(card, known.reason, known.log)
        _make(card, folder)
    return environment_state(card)


def clean(ids: Sequence[str] | None = None, *, everything: bool = False) -> list[Path]:
    """Remove environments and what is remembered of failures; the folders that went.

    Parameters
    ----------
    ids:
        Those of these cards, of whatever version. By default those that no card describes any more.
    everything:
        All of them.
    """
    root = cache_dir() / "environments"
    current = {_folder(card).name for card in environments().values()}
    gone = []
    for folder in sorted(root.glob("*-????????????")):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        mine = folder.name[:-13] in (ids or ())
        if everything or mine or (ids is None and folder.name not in current):
            with FileLock(_beside(folder, "lock")):
                shutil.rmtree(folder)
            gone.append(folder)
    for note in sorted(root.glob("*-????????????.*")):
        name = note.name[: note.name.index(".", note.name.rindex("-"))]
        mine = name[:-13] in (ids or ())
        if everything or mine or (ids is None and name not in current):
            note.unlink(missing_ok=True)
    return gone


def child_environment() -> dict[str, str]:
    """Environment variables of a model's own process: one thread, no hub, no secrets."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _FOREIGN and not _SECRET.search(name)
    }
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        kept.setdefault(name, "1")
    return kept | {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONNOUSERSITE": "1",
        # A child makes one matrix product at a time; threads of XLA would only wait for each other.
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    }


# --- making one ----------------------------------------------------------------------------------


def _make(card: EnvironmentCard, folder: Path) -> None:
    """Stage, fill, check and move; a failure is written down and raised."""
    clock = time.perf_counter()
    log = _beside(folder, "log")
    log.write_bytes(b"")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".staging-") as scratch:
        staging = Path(scratch) / folder.name
        try:
            _check_python(card)
            _empty(staging)
            _install(card, staging, Path(scratch) / "constraints.txt", log)
            own = _own_packages(staging)
            if "torch" in own:
                raise _Failure("its packages bring a torch of their own; pin them otherwise")
            _verify(card, staging, log)
        except (_Failure, OSError, subprocess.SubprocessError) as error:
            reason = " ".join(str(error).split())[:300]
            date = time.strftime("%Y-%m-%d")
            text = json.dumps({"reason": f"{date}: {reason}"})
            _beside(folder, "failed.json").write_text(text, encoding="utf-8")
            raise _refusal(card, f"{date}: {reason}", log) from None
        record = {
            "packages": own,
            "megabytes": round(_megabytes(staging), 1),
            "seconds": round(time.perf_counter() - clock, 1),
        }
        (staging / _RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
        if folder.exists():  # half removed by a clean that was stopped
            shutil.rmtree(folder)
        staging.replace(folder)
    _beside(folder, "failed.json").unlink(missing_ok=True)


class _Failure(Exception):
    """Why an environment cannot be made."""


def _check_python(card: EnvironmentCard) -> None:
    from packaging.specifiers import SpecifierSet

    if find_spec("torch") is None:
        raise missing_extra("torch", "models")
    here = ".".join(map(str, sys.version_info[:3]))
    if here not in SpecifierSet(card.python):
        raise _Failure(f"Python {here} is not in {card.python}")


def _empty(staging: Path) -> None:
    """A virtual environment without pip, the main environment's packages last on its path."""
    venv.EnvBuilder(symlinks=True, with_pip=False).create(staging)
    lines = [f"import site; site.addsitedir({path!r})" for path in main_paths()]
    (_site(staging) / "zz-main-environment.pth").write_text("\n".join(lines) + "\n", "utf-8")


def main_paths() -> list[str]:
    """Folders with the main environment's packages."""
    scheme = sysconfig.get_paths()
    found = [scheme["purelib"], scheme["platlib"], *site.getsitepackages()]
    return [p for p in dict.fromkeys(found) if Path(p).is_dir()]


def _install(card: EnvironmentCard, staging: Path, constraints: Path, log: Path) -> None:
    """Install the pinned packages; what they need beyond is held at the main one's versions."""
    held = {_name(d): d.version.partition("+")[0] for d in metadata.distributions()}
    for name in {*card.pins, "matteratlas"}:
        held.pop(name, None)
    text = "\n".join(f"{name}=={version}" for name, version in sorted(held.items()))
    constraints.write_text(text + "\n", encoding="utf-8")
    for no_deps in (True, False):
        wanted = [f"{p.name}=={p.version}" for p in card.packages if p.no_deps is no_deps]
        if not wanted:
            continue
        how = ["--no-deps"] if no_deps else ["--constraint", str(constraints)]
        command = [
            str(_python(staging)), "-m", "pip", "install", "--no-input", "--no-compile",
            "--disable-pip-version-check", "--progress-bar", "off", *how, *wanted,
        ]  # fmt: skip
        _run(command, log, environment={k: v for k, v in os.environ.items() if k not in _FOREIGN})


def _verify(card: EnvironmentCard, staging: Path, log: Path) -> None:
    """Every pin is there, and every module of the card imports."""
    content = {
        "stand_ins": sorted(card.stand_ins), "imports": card.imports, "packages": sorted(card.pins),
    }  # fmt: skip
    module = "matteratlas.builders.adapters.worker"
    command = [str(_python(staging)), "-P", "-m", module, "--check", json.dumps(content)]
    said = _run(command, log, environment=child_environment())
    found: dict[str, str] = json.loads(said.strip().splitlines()[-1])
    for name, version in card.pins.items():
        if found[name].partition("+")[0] != version.partition("+")[0]:
            raise _Failure(f"{name} came as {found[name]} and not as {version}")


def _run(command: list[str], log: Path, *, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=3600,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    with log.open("a", encoding="utf-8") as handle:
        handle.write(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}\n")
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR:")]
        # pip says the cause first and sums up after; Python says it last.
        raise _Failure((errors[:1] or lines[-1:] or [f"exit status {done.returncode}"])[0])
    return done.stdout


# --- where things are ----------------------------------------------------------------------------


def _folder(card: EnvironmentCard) -> Path:
    """``<id>-<hash>`` of what is installed, of the Python version and of the main environment."""
    import hashlib

    parts = [card.fingerprint, *map(str, sys.version_info[:2]), *main_paths()]
    return cache_dir() / "environments" / (
        f"{card.id}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]}"
    )  # fmt: skip


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f"{folder.name}.{suffix}")


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _site(folder: Path) -> Path:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return folder / "lib" / version / "site-packages"


def _own_packages(folder: Path) -> dict[str, str]:
    found = metadata.distributions(path=[str(_site(folder))])
    return dict(sorted((_name(d), d.version) for d in found))


def _name(distribution: metadata.Distribution) -> str:
    return re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()


def _megabytes(folder: Path) -> float:
    return sum(p.lstat().st_size for p in folder.rglob("*")) / 1e6


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _refusal(card: EnvironmentCard, reason: str, log: Path | None) -> SourceError:
    return SourceError(
        f"environment '{card.id}' cannot be made ({reason}); log: {log}; "
        f"try again with: matteratlas env prepare {card.id} --retry"
    )
