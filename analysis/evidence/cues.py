# SPDX-License-Identifier: Apache-2.0
"""Chemical cues: what a structure is like, as targets for readouts of frozen embeddings.

Every cue comes from the structures themselves (formula, coordinates, SMILES, labels), never from a
model. Cues that the formula alone decides are marked: nothing beyond composition can be read there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.structures import ATOMIC_NUMBERS, KINDS, SYMBOLS, Structure

Task = Literal["regression", "classification"]

#: Structures that must hold an element for its presence to be a cue, and most such elements.
ELEMENT_ROWS, ELEMENTS = 20, 16
#: Two atoms are neighbours up to this multiple of the sum of their covalent radii.
BOND_FACTOR = 1.25
#: Structures with more atoms have no coordination number: it would be that of their kind.
MAX_ATOMS = 500

#: Of each element in the baseline of the formula; 0 where nobody measured it.
PROPERTIES = (
    "atomic number", "period", "group", "mass", "covalent radius", "its cube", "electronegativity",
    "Mendeleev number", "atomic radius", "molar volume", "melting point", "van der Waals radius",
)  # fmt: skip

#: Energy labels: column -> cue.
ENERGIES = {
    "label_energy": "energy",
    "label_atomization_energy": "atomization_energy",
    "label_gfn2_energy": "gfn2_energy",
}


@dataclass(frozen=True)
class Cue:
    """One target, or several of one sort, over all structures of an atlas.

    Attributes
    ----------
    name : str
        ``composition``, ``element:O``, ``atom_count``, ``mass_density`` ...
    task : {"regression", "classification"}
    kinds : tuple of str
        Kinds of structure it is defined for.
    determined : bool
        Whether the formula alone decides it.
    values : float64 array, shape (n, t)
        NaN in rows where it is not defined; 0 or 1 for classification.
    """

    name: str
    task: Task
    kinds: tuple[str, ...]
    determined: bool
    values: NDArray[np.float64]

    @property
    def defined(self) -> NDArray[np.bool_]:
        """Rows that have it, shape (n,)."""
        return np.asarray(np.isfinite(self.values).all(axis=1))


def cues_of(
    structures: pd.DataFrame, geometries: Mapping[str, Structure]
) -> tuple[list[Cue], list[str]]:
    """All cues of these structures, and a line for each that could not be had.

    Parameters
    ----------
    structures : DataFrame
        Rows of structures tables, indexed by id.
    geometries : mapping of id to Structure
        Those whose coordinates the atlas holds.

    Returns
    -------
    cues : list of Cue
        Rows in the order of ``structures``. Cues without any row are left out.
    notes : list of str
    """
    counts = element_counts(structures)
    shares = counts / counts.sum(axis=1, keepdims=True)
    held = (counts > 0).sum(axis=0)
    frequent = np.flatnonzero(held >= 2)
    cues = [Cue("atom_count", "regression", KINDS, True, _log(structures["n_atoms"]))]
    if len(frequent):
        cues.insert(0, Cue("composition", "regression", KINDS, True, shares[:, frequent]))
    balanced = np.minimum(held, len(structures) - held)
    enough = [z for z in np.argsort(-balanced, kind="stable") if balanced[z] >= ELEMENT_ROWS]
    for z in sorted(enough[:ELEMENTS]):
        here = (counts[:, z] > 0).astype(np.float64)[:, None]
        cues.append(Cue(f"element:{SYMBOLS[z]}", "classification", KINDS, True, here))
    molecules = (structures["kind"] == "molecule").to_numpy()
    charged = np.where(molecules, (structures["charge"] != 0).to_numpy(np.float64), np.nan)
    cues.append(Cue("charged", "classification", ("molecule",), False, charged[:, None]))
    notes: list[str] = []
    for make in (_geometric, _bonded):
        try:
            cues += make(structures, geometries)
        except ModuleNotFoundError as error:
            notes.append(
                f"cues from {'coordinates' if make is _geometric else 'SMILES'} are left out: "
                f"{error.name} is not installed; run: pip install 'matteratlas[sources]'"
            )
    cues += _energies(structures, counts)
    return [c for c in cues if c.defined.any()], notes


def element_counts(structures: pd.DataFrame) -> NDArray[np.float64]:
    """Atoms of each element by the formula, shape (n, 119); column z is atomic number z."""
    import re

    counts = np.zeros((len(structures), len(SYMBOLS)))
    for row, formula in enumerate(structures["formula"]):
        for symbol, number in re.findall(r"([A-Z][a-z]?)(\d*)", formula):
            counts[row, ATOMIC_NUMBERS[symbol]] += int(number or 1)
    return counts


def composition_features(structures: pd.DataFrame) -> NDArray[np.float64]:
    """What the formula says, as a generous baseline for linear readouts; shape (n, d).

    Share and presence of every element here, and its share among atoms other than hydrogen; mean,
    standard deviation, least and largest over the atoms of :data:`PROPERTIES`; logarithm and
    inverse of the number of atoms. Columns are centred and have unit variance; constant ones are
    left out.

    Raises
    ------
    ModuleNotFoundError
        pymatgen or ase is not installed.
    """
    counts = element_counts(structures)
    shares = counts / counts.sum(axis=1, keepdims=True)
    present = np.flatnonzero(counts.any(axis=0))
    heavy = counts.copy()
    heavy[:, ATOMIC_NUMBERS["H"]] = 0.0
    heavy /= np.maximum(heavy.sum(axis=1, keepdims=True), 1.0)
    table = np.zeros((len(SYMBOLS), len(PROPERTIES)))
    table[present] = [_properties(int(z)) for z in present]
    mean = shares @ table
    spread = np.sqrt(np.maximum(shares @ table**2 - mean**2, 0.0))
    low = np.array([table[row > 0].min(axis=0) for row in counts])
    high = np.array([table[row > 0].max(axis=0) for row in counts])
    atoms = structures["n_atoms"].to_numpy(np.float64)[:, None]
    columns = [shares[:, present], shares[:, present] > 0, heavy[:, present], mean, spread]
    features = np.hstack([*columns, low, high, np.log(atoms), 1.0 / atoms])
    features = features - features.mean(axis=0)
    scale = features.std(axis=0)
    varied = scale > 1e-12
    return np.ascontiguousarray(features[:, varied] / scale[varied])


def _properties(z: int) -> list[float]:
    from ase.data import covalent_radii
    from pymatgen.core import Element

    element = Element.from_Z(z)
    radius = float(covalent_radii[z])

    def known(name: str, default: float = 0.0) -> float:
        value = element.data.get(name)
        if isinstance(value, (int, float)) and np.isfinite(value):
            return float(value)
        return default

    return [
        float(z), float(element.row), float(element.group), float(element.atomic_mass),
        radius, radius**3, known("X"), known("Mendeleev no", float(z)), known("Atomic radius"),
        known("Molar volume"), known("Melting point"), known("Van der waals radius"),
    ]  # fmt: skip


def _log(values: pd.Series) -> NDArray[np.float64]:
    return np.log(values.to_numpy(np.float64))[:, None]


# --- coordinates ---------------------------------------------------------------------------------


def _geometric(structures: pd.DataFrame, geometries: Mapping[str, Structure]) -> list[Cue]:
    """Density and volume of crystals, and mean coordination numbers."""
    from ase.data import atomic_masses

    grams = 1.66053906892  # g/cm3 in one u/Å3
    density, volume, coordination = np.full((3, len(structures)), np.nan)
    for row, structure_id in enumerate(structures.index):
        structure = geometries.get(str(structure_id))
        if structure is None:
            continue
        if structure.periodicity == 3:
            space = abs(float(np.linalg.det(structure.cell)))
            density[row] = np.log(grams * atomic_masses[structure.numbers].sum() / space)
            volume[row] = np.log(space / len(structure))
        if 1 < len(structure) <= MAX_ATOMS or (structure.periodicity and len(structure) == 1):
            coordination[row] = mean_coordination(structure)
    crystals, arranged = ("crystal",), ("molecule", "crystal")
    return [
        Cue("mass_density", "regression", crystals, False, density[:, None]),
        Cue("volume_per_atom", "regression", crystals, False, volume[:, None]),
        Cue("coordination", "regression", arranged, False, coordination[:, None]),
    ]


def mean_coordination(structure: Structure) -> float:
    """Neighbours an atom within :data:`BOND_FACTOR` times the sum of covalent radii (ASE's)."""
    from ase.data import covalent_radii
    from pymatgen.optimization.neighbors import find_points_in_spheres

    reach = covalent_radii[np.asarray(structure.numbers)] * BOND_FACTOR
    # The finder wants a cell with volume also along directions that do not repeat.
    cell = np.array(structure.cell, dtype=np.float64)
    if not structure.periodicity:
        cell = np.eye(3)
    positions = np.ascontiguousarray(structure.positions, dtype=np.float64)
    first, second, _, distances = find_points_in_spheres(
        positions,
        positions,
        r=float(2 * reach.max()),
        pbc=np.array(structure.pbc, dtype=np.int64),
        lattice=np.ascontiguousarray(cell),
        tol=1e-8,
    )
    bonded = (distances > 1e-4) & (distances <= reach[first] + reach[second])
    return float(bonded.sum()) / len(structure)


# --- bonds ---------------------------------------------------------------------------------------


def _bonded(structures: pd.DataFrame, _geometries: Mapping[str, Structure]) -> list[Cue]:
    """Bonds, rings, ring sizes, heteroatoms and rotatable bonds a heavy atom, by the SMILES."""
    from rdkit import Chem, RDLogger
    from rdkit.Chem import rdMolDescriptors

    def in_rings(mol: Any, size: int) -> int:
        return sum(atom.IsInRingSize(size) for atom in mol.GetAtoms())

    counted: dict[str, Callable[[Any], float]] = {
        "bonds": lambda m: m.GetNumBonds(),
        "rings": rdMolDescriptors.CalcNumRings,
        "rings_of_5": lambda m: in_rings(m, 5),
        "rings_of_6": lambda m: in_rings(m, 6),
        "aromatic": lambda m: sum(a.GetIsAromatic() for a in m.GetAtoms()),
        "rotatable_bonds": rdMolDescriptors.CalcNumRotatableBonds,
        "heteroatoms": rdMolDescriptors.CalcNumHeteroatoms,
    }
    values = np.full((len(counted), len(structures)), np.nan)
    with _quiet(RDLogger):
        for row, (kind, smiles) in enumerate(
            zip(structures["kind"], structures["smiles"], strict=True)
        ):
            if kind != "molecule" or not isinstance(smiles, str):
                continue
            mol = Chem.MolFromSmiles(smiles)
            if mol is None or mol.GetNumHeavyAtoms() < 2:
                continue
            heavy = mol.GetNumHeavyAtoms()
            values[:, row] = [count(mol) / heavy for count in counted.values()]
    return [
        Cue(name, "regression", ("molecule",), name == "heteroatoms", values[i][:, None])
        for i, name in enumerate(counted)
    ]


class _quiet:
    """RDKit's complaints about SMILES it cannot read, which become rows without the cue."""

    def __init__(self, log: Any) -> None:
        self._log = log

    def __enter__(self) -> None:
        self._log.DisableLog("rdApp.*")

    def __exit__(self, *_: object) -> None:
        self._log.EnableLog("rdApp.*")


# --- energies ------------------------------------------------------------------------------------


def _energies(structures: pd.DataFrame, counts: NDArray[np.float64]) -> Iterable[Cue]:
    """Labelled energies an atom, less what one number an element explains (least squares)."""
    for column, name in ENERGIES.items():
        if column not in structures:
            continue
        label = pd.to_numeric(structures[column], errors="coerce").to_numpy(np.float64)
        rows = np.isfinite(label)
        if not rows.any():
            continue
        share = counts[rows] / counts[rows].sum(axis=1, keepdims=True)
        each = label[rows] / counts[rows].sum(axis=1)
        values = np.full((len(structures), 1), np.nan)
        values[rows, 0] = each - share @ np.linalg.lstsq(share, each, rcond=None)[0]
        kinds = tuple(k for k in KINDS if (structures["kind"][rows] == k).any())
        yield Cue(name, "regression", kinds, False, values)
