# SPDX-License-Identifier: Apache-2.0
"""Structures from a user's files: a folder of CIF, XYZ, POSCAR, PDB, SDF ..., or a list of SMILES.

Files are data of unknown hands. Each is read once, whole, up to :data:`MAX_BYTES`; parsers are
given its text and never its path, links are not followed, and what cannot be read is left out by
name with the reason. Formats are told by the files' endings:

==============================  ====================================================
``.cif``, ``.mmcif``            crystals (ordered, symmetry expanded); protein chains
``.xyz``, ``.extxyz``           every frame; a crystal where there is a repeating cell
``.vasp``, ``.poscar``,         crystals
``POSCAR*``, ``CONTCAR*``
``.pdb``, ``.ent``              protein chains, else a molecule
``.sdf``, ``.mol``              molecules, with their charge
``.smi``, ``.smiles``           a SMILES a line, then its name
``.csv``, ``.tsv``              a column of SMILES
==============================  ====================================================
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from ...schemas.errors import AtlasError, SourceError
from ...schemas.structures import Structure
from . import formats, smiles_lists
from .sets import LeftOut

#: Bytes of one file, files of one folder, and atoms of one structure, at most.
MAX_BYTES = 64 * 2**20
MAX_FILES = 100_000
MAX_ATOMS = 20_000
#: Characters of a reason that are kept: parsers quote what they trip over.
REASON = 200

#: From a file's text its structures, in order, or why there is none.
Read = Callable[..., Iterator["Structure | LeftOut"]]

_BY_ENDING: dict[str, Read] = {
    ".cif": formats.read_cif,
    ".mmcif": formats.read_cif,
    ".xyz": formats.read_xyz,
    ".extxyz": formats.read_xyz,
    ".vasp": formats.read_poscar,
    ".poscar": formats.read_poscar,
    ".pdb": formats.read_pdb,
    ".ent": formats.read_pdb,
    ".sdf": formats.read_sdf,
    ".mol": formats.read_sdf,
    ".smi": smiles_lists.read_lines,
    ".smiles": smiles_lists.read_lines,
    ".csv": smiles_lists.read_table,
    ".tsv": partial(smiles_lists.read_table, delimiter="\t"),
}


@dataclass
class Found:
    """What a folder or file holds.

    Attributes
    ----------
    files : dict of str to str
        SHA-256 of every file read, by its path in the folder.
    passed_over : list of str
        Files of other formats, which nothing was read from.
    """

    root: Path
    files: dict[str, str] = field(default_factory=dict)
    passed_over: list[str] = field(default_factory=list)
    column: str | None = None

    def __iter__(self) -> Iterator[tuple[str, Structure | LeftOut]]:
        """(path in the folder, structure or what was left out) folder by folder, by name.

        A structure's ``source_id`` is its file's path, with ``#n`` where the file may hold
        several: its number in the file, or its line in a list. Its ``stratum`` is empty.

        Raises
        ------
        SourceError
            The folder or file is not there, or holds nothing that is read.
        """
        read_any = False
        for name, path in self._paths():
            reader = _reader(path, self.column)
            if reader is None:
                self.passed_over.append(name)
                continue
            read_any = True
            for item in self._read(name, path, reader):
                yield name, item
        if not read_any:
            raise SourceError(
                f"{self.root}: holds no file that is read; endings are {', '.join(_BY_ENDING)}, "
                "and names POSCAR and CONTCAR"
            )

    def contents(self) -> Iterator[tuple[str, str]]:
        """(path in the folder, SHA-256) of the files that would be read; nothing is parsed."""
        for name, path in self._paths():
            if _reader(path, self.column) is None:
                self.passed_over.append(name)
            elif not path.is_symlink() or path == self.root:
                with suppress(OSError):  # told when it is read
                    with path.open("rb") as handle:
                        data = handle.read(MAX_BYTES + 1)
                    yield name, hashlib.sha256(data).hexdigest()

    def _paths(self) -> Iterator[tuple[str, Path]]:
        if not self.root.exists():
            raise SourceError(f"{self.root}: no such file or folder; check the path")
        if self.root.is_file():
            yield readable(self.root.name), self.root
            return
        count = 0
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            for name in sorted(n for n in names if not n.startswith(".")):
                path = Path(folder) / name
                count += 1
                if count > MAX_FILES:
                    raise SourceError(
                        f"{self.root}: more than {MAX_FILES:,} files; bring them folder by folder"
                    )
                yield readable(path.relative_to(self.root).as_posix()), path

    def _read(self, name: str, path: Path, reader: Read) -> Iterator[Structure | LeftOut]:
        if self.root != path and path.is_symlink():
            yield LeftOut(name, f"{name}: a link; put the file itself there")
            return
        try:
            with path.open("rb") as handle:
                data = handle.read(MAX_BYTES + 1)
        except OSError as error:
            yield LeftOut(name, f"{name}: cannot be read ({error.strerror})")
            return
        if len(data) > MAX_BYTES:
            yield LeftOut(name, f"{name}: larger than {MAX_BYTES >> 20} MB; cut it into parts")
            return
        self.files[name] = hashlib.sha256(data).hexdigest()
        yield from _named(name, reader, data.decode("utf-8", "replace"))


def read_files(path: Path, *, column: str | None = None) -> Found:
    """Structures of a folder (with its folders) or of one file.

    Parameters
    ----------
    path:
        Folder of structure files, one such file, or a list of SMILES.
    column:
        Column of SMILES in ``.csv`` and ``.tsv``; by default the one called ``smiles``.

    Returns
    -------
    Found
        To be iterated over; nothing is read before.
    """
    return Found(Path(path), column=column)


def readable(text: str) -> str:
    """The text with every character escaped that is not printable."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def _reader(path: Path, column: str | None) -> Read | None:
    reader = _BY_ENDING.get(path.suffix.lower())
    if reader is None and path.name.upper().startswith(("POSCAR", "CONTCAR")):
        return formats.read_poscar
    if reader is not None and column is not None and path.suffix.lower() in {".csv", ".tsv"}:
        return partial(reader, column=column)
    return reader


def _named(name: str, reader: Read, text: str) -> Iterator[Structure | LeftOut]:
    """What a reader gives, under the file's name; a file that ends it is left out from there on."""
    found = reader(text)
    held: Structure | LeftOut | None = None
    number = 0
    while True:
        try:
            item = next(found, None)
        except AtlasError as error:
            item = LeftOut("", str(error))
        except Exception as error:  # parsers of four libraries: each has errors of its own
            item = LeftOut("", f"not readable ({type(error).__name__}: {error})")
        if held is not None:
            # A file's only structure needs no number.
            alone = number == 1 and item is None and not held.source_id
            yield _place(name, held, "" if alone else f"#{held.source_id or number}")
        if item is None:
            if number == 0:
                yield LeftOut(name, f"{name}: holds no structure")
            return
        held, number = item, number + 1


def _place(name: str, item: Structure | LeftOut, mark: str) -> Structure | LeftOut:
    where = f"{name}{mark}"
    if isinstance(item, LeftOut):
        reason = readable(" ".join(item.reason.split()))[:REASON]
        return LeftOut(where, f"{where}: {reason}")
    if len(item) > MAX_ATOMS:
        return LeftOut(where, f"{where}: {len(item):,} atoms; at most {MAX_ATOMS:,} are read")
    return replace(item, source_id=where, name=readable(item.name)[:120] if item.name else None)
