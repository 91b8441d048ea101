# SPDX-License-Identifier: Apache-2.0
"""Regions of chemistry: what each structure belongs to, from elements to prototypes and scaffolds.

A region is written ``type:value|kind``, for example ``element:Po|crystal``, ``pair:Li-O|crystal``,
``stoichiometry:AB2|crystal``, ``prototype:AB2:225|crystal`` (stoichiometry and space group),
``scaffold:c1ccccc1|molecule`` (Bemis and Murcko, J. Med. Chem. 39, 2887 (1996)); sizes are
``size:crystal:33-64``. A structure of whom a type is not known (no coordinates, no SMILES, no
library) counts neither in a region of this type nor in what the region is a share of.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from math import ceil, gcd, log2
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.structures import ATOMIC_NUMBERS, Structure

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

#: From general to special: where two regions hold the same structures, the first names them.
TYPES = (
    "element",
    "size",
    "periodicity",
    "charge",
    "stratum",
    "rings",
    "stoichiometry",
    "pair",
    "prototype",
    "scaffold",
)

#: Tolerance of the space group in ångström, as structure matching takes it.
SYMPREC = 0.1

#: Atoms above which a crystal is not searched for symmetry and has no prototype.
SYMMETRY_ATOMS = 512


@dataclass(frozen=True)
class Regions:
    """Which structures lie in which regions.

    Attributes
    ----------
    table : DataFrame
        One row a region: ``region``, ``type``, ``kind``.
    member : csr_matrix of int32, shape (structures, regions)
        1 where the structure lies in the region.
    known : DataFrame of bool
        Structures x types: is the type known of the structure.
    kinds : object array, shape (structures,)
    """

    table: pd.DataFrame
    member: csr_matrix
    known: pd.DataFrame
    kinds: NDArray[np.object_]

    def counts(self, rows: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Structures of each region among ``rows`` (bool, one a structure)."""
        return np.asarray(rows.astype(np.int64) @ self.member, dtype=np.int64).ravel()

    def totals(self, rows: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Structures among ``rows`` of the region's kind and of known type, for each region."""
        known = self.known.to_numpy()
        place = {t: i for i, t in enumerate(self.known.columns)}
        held = {
            str(kind): known[rows & (self.kinds == kind)].sum(axis=0)
            for kind in self.table["kind"].unique()
        }
        keys = zip(self.table["kind"], self.table["type"], strict=True)
        return np.array([held[k][place[t]] for k, t in keys], dtype=np.int64)

    def kept(self, columns: NDArray[np.bool_]) -> Regions:
        """Only some of the regions."""
        table = self.table[columns].reset_index(drop=True)
        return Regions(table, self.member[:, np.flatnonzero(columns)], self.known, self.kinds)


def find_regions(
    structures: pd.DataFrame,
    geometries: Mapping[str, Structure],
    *,
    types: Sequence[str] = TYPES,
    notes: list[str] | None = None,
) -> Regions:
    """All regions that hold a structure.

    Parameters
    ----------
    structures : DataFrame
        Rows of structures tables: ``id``, ``set``, ``stratum``, ``kind``, ``elements``,
        ``formula``, ``n_atoms``, ``periodicity``, ``charge``, ``smiles``.
    geometries : mapping of id to Structure
        For prototypes; structures may be absent.
    types : sequence of str
        Of :data:`TYPES`.
    notes : list of str, optional
        Gains a line for every type of region that is left out, and why.
    """
    from scipy.sparse import csr_matrix

    said = notes if notes is not None else []
    wanted = set(types)
    prototypes = _prototypes(structures, geometries, said) if "prototype" in wanted else {}
    scaffolds = _scaffolds(structures, said) if wanted & {"scaffold", "rings"} else {}
    names: dict[tuple[str, str, str], int] = {}
    rows, columns = [], []
    known = np.zeros((len(structures), len(TYPES)), dtype=bool)
    place = {t: i for i, t in enumerate(TYPES)}
    for row, record in enumerate(structures.to_dict("records")):
        kind = str(record["kind"])
        for kind_of, values in _values(record, prototypes, scaffolds):
            if kind_of not in wanted:
                continue
            known[row, place[kind_of]] = True
            for value in values:
                columns.append(names.setdefault((kind_of, value, kind), len(names)))
                rows.append(row)
    table = pd.DataFrame(
        [{"region": region_name(t, v, k), "type": t, "kind": k} for t, v, k in names],
        columns=["region", "type", "kind"],
    )
    member = csr_matrix(
        (np.ones(len(rows), dtype=np.int32), (rows, columns)), shape=(len(structures), len(names))
    )
    return Regions(
        table,
        member,
        pd.DataFrame(known, columns=list(TYPES)),
        structures["kind"].to_numpy(dtype=object),
    )


def region_name(kind_of: str, value: str, kind: str) -> str:
    """``element:Po|crystal``; a size is ``size:crystal:33-64``, a stratum as the atlas names it."""
    if kind_of == "size":
        return f"size:{kind}:{value}"
    return f"{kind_of}:{value}|{kind}"


def stoichiometry(numbers: Iterable[int]) -> str:
    """Anonymous formula: letters by rising share, as in ``AB2`` of CaF2 as of TiO2."""
    counts = sorted(numbers)
    divisor = reduce(gcd, counts)
    letters = (chr(65 + i) if i < 26 else f"[{i}]" for i in range(len(counts)))
    shares = (c // divisor for c in counts)
    return "".join(a + (str(c) if c > 1 else "") for a, c in zip(letters, shares, strict=True))


def _values(
    record: Mapping[Any, Any], prototypes: Mapping[str, str], scaffolds: Mapping[str, str]
) -> Iterable[tuple[str, list[str]]]:
    """Types known of a structure, and the regions of each it lies in."""
    elements = sorted(record["elements"], key=ATOMIC_NUMBERS.__getitem__)
    yield "element", elements
    yield "pair", [f"{a}-{b}" for a, b in combinations(elements, 2)]
    power = ceil(log2(record["n_atoms"]))
    low, high = 2 ** (power - 1) + 1 if power else 1, 2**power
    yield "size", [f"{low}-{high}" if low < high else f"{low}"]
    yield "charge", [_charge(int(record["charge"]))]
    yield "stratum", [f"{record['set']}:{record['stratum']}"]
    if record["kind"] == "crystal":
        yield "periodicity", [str(int(record["periodicity"]))]
        counts = re.findall(r"[A-Z][a-z]?(\d*)", str(record["formula"]))
        anonymous = stoichiometry(int(n or 1) for n in counts)
        yield "stoichiometry", [anonymous]
        if record["id"] in prototypes:
            yield "prototype", [f"{anonymous}:{prototypes[record['id']]}"]
    smiles = record["smiles"]
    if isinstance(smiles, str) and smiles in scaffolds:
        scaffold = scaffolds[smiles]
        yield "rings", ["some" if scaffold else "none"]
        yield "scaffold", [scaffold] if scaffold else []


def _charge(charge: int) -> str:
    if abs(charge) < 2:
        return f"{charge:+d}" if charge else "0"
    return "+2up" if charge > 0 else "-2down"


def _prototypes(
    structures: pd.DataFrame, geometries: Mapping[str, Structure], notes: list[str]
) -> dict[str, str]:
    """Space group numbers of the crystals periodic in three directions whose atoms are known."""
    crystals = structures.loc[structures["periodicity"] == 3, "id"]
    if crystals.empty:
        return {}
    try:
        import spglib
    except ImportError:
        notes.append("regions: spglib is absent, so no prototypes; install matteratlas[sources]")
        return {}
    found = {}
    for name in dict.fromkeys(crystals):
        structure = geometries.get(name)
        if structure is None or len(structure) > SYMMETRY_ATOMS:
            continue
        scaled = np.linalg.solve(structure.cell.T, structure.positions.T).T
        crystal = (structure.cell.tolist(), scaled.tolist(), structure.numbers.tolist())
        with warnings.catch_warnings():
            # spglib warns that it will raise where it now returns None; both are read here.
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                dataset = spglib.get_symmetry_dataset(crystal, symprec=SYMPREC)
            except spglib.SpglibError:
                dataset = None
        if dataset is not None:
            found[name] = str(dataset.number)
    if missing := crystals.nunique() - len(found):
        notes.append(
            f"regions: {missing} of {crystals.nunique()} crystals have no prototype (coordinates "
            f"kept back, more than {SYMMETRY_ATOMS} atoms, or no symmetry found)"
        )
    return found


def _scaffolds(structures: pd.DataFrame, notes: list[str]) -> dict[str, str]:
    """Murcko scaffolds without stereo marks by SMILES; "" of molecules without a ring."""
    written = [s for s in structures["smiles"].unique() if isinstance(s, str)]
    if not written:
        return {}
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem.Scaffolds import MurckoScaffold
    except ImportError:
        notes.append("regions: rdkit is absent, so no scaffolds; install matteratlas[sources]")
        return {}
    found = {}
    with rdBase.BlockLogs():
        for smiles in written:
            molecule = Chem.MolFromSmiles(smiles)
            if molecule is None:
                continue
            core = MurckoScaffold.GetScaffoldForMol(molecule)
            some = core.GetNumAtoms() > 0
            found[smiles] = Chem.MolToSmiles(core, isomericSmiles=False) if some else ""
    if missing := len(written) - len(found):
        notes.append(f"regions: {missing} of {len(written)} SMILES cannot be read; no scaffolds")
    return found
