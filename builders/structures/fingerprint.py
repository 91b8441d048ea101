# SPDX-License-Identifier: Apache-2.0
"""Fingerprint of all that decides a set's rows, so that a stale cached table is never read."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from importlib import metadata
from pathlib import Path

from ...registry.hub import sha256_of
from ...schemas.cards import StructureSetCard

#: Packages whose version changes what loaders and descriptions give.
_PACKAGES = ("numpy", "rdkit", "spglib", "ase", "pymatgen-core", "biotite", "gemmi")
_ROOT = __name__.partition(".")[0]


def set_fingerprint(card: StructureSetCard) -> str:
    """Sixteen hex digits over the card, the code that makes its rows, and the packages it uses.

    The code is the loader's module, the shared core, and every module of this package that they
    import, however indirectly.
    """
    module = card.loader.partition(":")[0]
    names = module_closure([f"{__package__}.{module}", f"{__package__}.sets"])
    digest = hashlib.sha256(card.model_dump_json().encode())
    for name, path in sorted(names.items()):
        digest.update(f"\n{name} {sha256_of(path)}".encode())
    for package in _PACKAGES:
        digest.update(f"\n{package} {_version(package)}".encode())
    return digest.hexdigest()[:16]


def module_closure(names: list[str]) -> dict[str, Path]:
    """Module -> file for the modules named and what they import from this package.

    Relative imports are read off the source, nothing is executed; a name that is no module of the
    package is passed over.
    """
    found: dict[str, Path] = {}
    todo = list(names)
    while todo:
        name = todo.pop()
        path = _file(name)
        if name in found or path is None:
            continue
        found[name] = path
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                todo.append(base)
                todo += [f"{base}.{alias.name}" for alias in node.names]
    return found


def _file(name: str) -> Path | None:
    if name.partition(".")[0] != _ROOT:
        return None
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "-"
