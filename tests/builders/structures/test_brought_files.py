# SPDX-License-Identifier: Apache-2.0
"""A user's own files: every format, what is refused and why, and the set that comes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.io import write
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from matteratlas.builders.structures import files
from matteratlas.builders.structures.brought import Brought, bring
from matteratlas.builders.structures.domains import domain_of
from matteratlas.builders.structures.files import read_files
from matteratlas.builders.structures.sets import LeftOut, load_set
from matteratlas.builders.structures.smiles_lists import structure_from_smiles
from matteratlas.registry import catalog
from matteratlas.schemas.errors import AtlasError, CardError, SourceError, StructureError
from matteratlas.schemas.structures import SYMBOLS, Structure

#: Rutile by its asymmetric unit: the reader must expand it to six atoms.
RUTILE = """data_rutile
_cell_length_a 4.6
_cell_length_b 4.6
_cell_length_c 2.95
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 42/m n m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Ti1 Ti 0 0 0 {titanium}
O1 O 0.3 0.3 0 1.0
"""


def backbone(residues: str) -> str:
    """A PDB text of a straight chain with the four backbone atoms of each residue."""
    lines = []
    for i, residue in enumerate(residues.split(), start=1):
        for j, (name, x, y) in enumerate(
            [("N", 0, 0), ("CA", 1.4, 0), ("C", 2.4, 1), ("O", 2.4, 2.2)]
        ):
            lines.append(
                f"ATOM  {4 * i + j:5d}  {name:<3} {residue} A{i:4d}    "
                f"{3.6 * i + x:8.3f}{y:8.3f}{0:8.3f}  1.00  0.00           {name[0]}"
            )
    return "\n".join([*lines, "TER", "END", ""])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One file of every format, in two folders and on top, and one fault of each kind."""
    root = tmp_path / "own"
    for name in ("oxides", "Molecules 2", ".hidden"):
        (root / name).mkdir(parents=True)
    write(root / "oxides" / "MgO.cif", bulk("MgO", "rocksalt", a=4.21, cubic=True))
    (root / "oxides" / "TiO2.cif").write_text(RUTILE.format(titanium=1.0))
    (root / "oxides" / "half.cif").write_text(RUTILE.format(titanium=0.5))
    (root / "oxides" / "noise.cif").write_bytes(bytes(range(256)) * 20)
    write(root / "oxides" / "POSCAR", bulk("Si", cubic=True), format="vasp")
    write(root / "oxides" / "slab.extxyz", bulk("Cu", cubic=True) * (1, 1, 2))
    (root / "oxides" / "link.cif").symlink_to("/etc/hostname")
    write(root / "Molecules 2" / "set.xyz", [molecule("H2O"), molecule("C6H6")])
    (root / "Molecules 2" / "cut.xyz").write_text("5\ncomment\nO 0 0 0\n")
    (root / "Molecules 2" / "chain.pdb").write_text(backbone("GLY ALA SER"))
    (root / "Molecules 2" / "odd.pdb").write_text(backbone("GLY MSE ALA"))
    salt = Chem.AddHs(Chem.MolFromSmiles("CC(=O)[O-]"))
    rdDistGeom.EmbedMolecule(salt, randomSeed=1)
    with Chem.SDWriter(str(root / "Molecules 2" / "a.sdf")) as writer:
        writer.write(salt)
        writer.write(Chem.MolFromSmiles("CCO"))
    (root / "list.smi").write_text("smiles name\nOCC ethanol\nC1CC open ring\n[Na+].[Cl-] salt\n")
    (root / "list.csv").write_text("id,SMILES\nrow 1,CCN\nrow 2,\n")
    (root / "README.md").write_text("not a structure")
    (root / ".hidden" / "x.smi").write_text("C\n")
    return root


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of brought sets, and a cache of its own."""
    monkeypatch.setenv("MATTERATLAS_SETS", str(tmp_path / "sets"))
    monkeypatch.setenv("MATTERATLAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "sets"


def read(root: Path) -> tuple[dict[str, Structure], dict[str, str]]:
    good: dict[str, Structure] = {}
    bad: dict[str, str] = {}
    for _, item in read_files(root):
        if isinstance(item, LeftOut):
            bad[item.source_id] = item.reason
        else:
            good[item.source_id] = item
    return good, bad


def test_every_format_gives_its_structures(folder: Path) -> None:
    good, _ = read(folder)
    assert {name: (s.kind, s.formula, s.charge) for name, s in good.items()} == {
        "list.csv#2": ("molecule", "C2H7N", 0),
        "list.smi#2": ("molecule", "C2H6O", 0),
        "list.smi#4": ("molecule", "ClNa", 0),
        "Molecules 2/a.sdf#1": ("molecule", "C2H3O2", -1),
        "Molecules 2/a.sdf#2": ("molecule", "C2H6O", 0),
        "Molecules 2/chain.pdb": ("protein", "C6N3O3", 0),
        "Molecules 2/set.xyz#1": ("molecule", "H2O", 0),
        "Molecules 2/set.xyz#2": ("molecule", "C6H6", 0),
        "oxides/MgO.cif": ("crystal", "Mg4O4", 0),
        "oxides/POSCAR": ("crystal", "Si8", 0),
        "oxides/TiO2.cif": ("crystal", "O4Ti2", 0),
        "oxides/slab.extxyz": ("crystal", "Cu8", 0),
    }
    assert good["Molecules 2/chain.pdb"].sequence == "GAS"
    assert good["Molecules 2/chain.pdb"].backbone is not None
    assert good["list.smi#2"].name == "ethanol" and good["list.csv#2"].name == "row 1"
    assert good["Molecules 2/set.xyz#2"].smiles == "c1ccccc1"
    distance = np.linalg.norm(np.diff(good["list.smi#4"].positions, axis=0))
    assert 1.5 < distance < 6.0  # ions beside one another, not in one place


def test_every_fault_is_told_in_a_line_that_names_the_file(folder: Path) -> None:
    _, bad = read(folder)
    says = {
        "oxides/half.cif": "occupied to 0.50",
        "oxides/noise.cif": "not readable",
        "oxides/link.cif": "a link",
        "Molecules 2/cut.xyz": "not readable",
        "Molecules 2/odd.pdb": "not one of the twenty amino acids",
        "list.smi#3": "not a SMILES",
        "list.csv#3": "a SMILES has",
    }
    assert set(bad) == set(says)
    for name, reason in bad.items():
        assert reason.startswith(f"{name}: ") and says[name] in reason
        assert "\n" not in reason and len(reason) < 300 and reason.isprintable()


def test_limits_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 300)
    monkeypatch.setattr(files, "MAX_ATOMS", 7)
    _, bad = read(folder)
    assert "larger than" in bad["oxides/TiO2.cif"]
    assert "at most 7" in bad["list.smi#2"]
    monkeypatch.setattr(files, "MAX_FILES", 3)
    with pytest.raises(SourceError, match="more than 3 files"):
        read(folder)


@pytest.mark.parametrize("name", ["none", "empty", "other"])
def test_a_folder_with_nothing_to_read_is_told(tmp_path: Path, name: str) -> None:
    if name != "none":
        (tmp_path / name).mkdir()
    if name == "other":
        (tmp_path / name / "notes.txt").write_text("x")
    with pytest.raises(SourceError, match=str(tmp_path / name)):
        read(tmp_path / name)


def test_a_conformer_is_the_same_for_every_spelling() -> None:
    first, again = structure_from_smiles("OCC"), structure_from_smiles("C(C)O")
    assert np.array_equal(first.positions, again.positions)
    assert first.smiles == again.smiles == "CCO"
    assert structure_from_smiles("[CH3]").multiplicity == 2
    for text in ("", "C" * 1001, "*C", "C" * 200, "not smiles", "C\u202eO"):
        with pytest.raises(StructureError):
            structure_from_smiles(text)


def test_a_set_loads_like_any_other(folder: Path, sets: Path) -> None:
    made = bring(folder, name="own", licence="CC0-1.0")
    assert made.outcome == "new" and made.passed_over == ["README.md"]
    assert made.duplicates == {"Molecules 2/a.sdf#2": "list.smi#2"}
    card = catalog.structure_set("own")
    assert card == made.card and card.version == "1.0.0"
    assert catalog.select_sets(["own"]) == [card] and card not in catalog.select_sets(None)
    loaded = load_set(card)
    assert len(loaded) == card.count == 11
    assert set(loaded.rejected["source_id"]) == set(made.rejected)
    assert set(loaded.duplicates["source_id"]) == set(made.duplicates)
    assert set(loaded.table["source"]) == {"own==1.0.0:own-1.0.0.parquet"}
    domains = {name: s.domains for name, s in card.strata.items()}
    assert domains["oxides_inorganic_crystal"] == ["inorganic_crystal"]
    assert domains["oxides_element_bulk"] == ["element_bulk"]
    assert domains["molecules_2_protein"] == ["protein"]
    assert all(len(d) == 1 for d in domains.values())


def test_strata_domains_and_licence_may_be_given(folder: Path, sets: Path) -> None:
    card = bring(folder / "oxides", name="own", stratum="mine", domains=["framework"]).card
    assert {n: (s.domains, s.count) for n, s in card.strata.items()} == {"mine": (["framework"], 4)}
    assert card.licence is None and not card.redistribute_coordinates
    with pytest.raises(CardError, match="domain 'nonsense'"):
        bring(folder, name="own", domains=["nonsense"])


def test_versions_follow_the_rows(folder: Path, sets: Path) -> None:
    def again(**changes: str) -> Brought:
        return bring(folder, name="own", **changes)

    first = again(licence="CC0-1.0")
    bytes_before = {p.name: p.read_bytes() for p in (sets / "own").iterdir()}
    assert again(licence="CC0-1.0").outcome == "unchanged"
    assert {p.name: p.read_bytes() for p in (sets / "own").iterdir()} == bytes_before
    write(folder / "aaa.cif", bulk("CaO", "rocksalt", a=4.8, cubic=True))
    grown = again(licence="CC0-1.0")
    assert (grown.outcome, grown.card.version) == ("grown", "1.1.0")
    ids = load_set(first.card).table["id"].tolist()
    assert load_set(grown.card).table["id"].tolist()[: len(ids)] == ids
    assert (again().outcome, again(licence="MIT").card.version) == ("described anew", "1.1.2")
    (folder / "aaa.cif").unlink()
    gone = again()
    assert (gone.outcome, gone.card.version) == ("changed", "2.0.0")


@pytest.mark.parametrize("name", ["g2", "Not a name", "../up", "con"])
def test_a_name_must_be_free_and_a_name(folder: Path, sets: Path, name: str) -> None:
    with pytest.raises(CardError, match=r"name|id"):
        bring(folder, name=name)
    assert not list(sets.rglob("*.parquet")) and not (sets.parent / "up").exists()


def test_a_table_that_is_not_the_cards_is_refused(folder: Path, sets: Path) -> None:
    card = bring(folder, name="own").card
    table = sets / "own" / card.sources[0].path
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    with pytest.raises(SourceError, match="not the table its card names"):
        load_set(card)
    path = sets / "own" / "own.yaml"
    path.write_text(path.read_text().replace("path: own-1.0.0.parquet", "path: ../../x.parquet"))
    with pytest.raises(AtlasError, match="no table beside the card"):
        load_set(catalog.structure_set("own"))


def test_a_card_that_runs_other_code_is_refused(folder: Path, sets: Path) -> None:
    bring(folder, name="own")
    path = sets / "own" / "own.yaml"
    path.write_text(path.read_text().replace("brought:load", "elements:load"))
    with pytest.raises(CardError, match="key 'loader'"):
        catalog.structure_sets()


@pytest.mark.parametrize(
    ("kind", "symbols", "changes", "domain"),
    [
        ("crystal", "Na Cl", {}, "inorganic_crystal"),
        ("crystal", "Fe Fe", {}, "element_bulk"),
        ("crystal", "C H O", {}, "molecular_crystal"),
        ("crystal", "C H Zn", {}, "framework"),
        ("crystal", "Na Cl", {"pbc": (True, True, False)}, "off_equilibrium"),
        ("molecule", "C H H H H", {}, "organic_molecule"),
        ("molecule", "C H H H", {"multiplicity": 2}, "radical"),
        ("molecule", "C H O", {"charge": -1}, "ion_pair"),
        ("molecule", "C H Fe", {}, "metal_complex"),
        ("molecule", "U F F", {}, "f_block"),
        ("molecule", "H H O", {}, "small_inorganic_molecule"),
        ("molecule", "S " * 16, {}, "main_group_molecule"),
        ("protein", "C N O", {}, "protein"),
    ],
)  # fmt: skip
def test_domains_are_inferred_with_care(
    kind: str, symbols: str, changes: dict[str, object], domain: str
) -> None:
    numbers = np.array([SYMBOLS.index(s) for s in symbols.split()])
    pbc = (kind == "crystal",) * 3
    options = {"pbc": pbc, **changes}
    structure = Structure("x", kind, "", numbers, np.zeros((len(numbers), 3)), **options)  # type: ignore[arg-type]
    assert domain_of(structure) == domain
