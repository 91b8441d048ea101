# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from matteratlas.builders.structures.proteins import OVERLAP, RESIDUES, STRATA


@pytest.fixture(scope="module")
def chains(loaded):
    return {s.source_id: s for s in loaded("proteins")}


def test_there_are_at_least_sixty_of_both_sources(chains):
    assert len(chains) == 78 >= 60
    packages = [name.partition("/")[0] for name in chains]
    assert packages.count("MDAnalysisTests") == 63 and packages.count("biopython") == 15


def test_rows_say_which_package_they_are_from(loaded):
    for row in loaded("proteins").table.itertuples():
        package, _, _ = row.source_id.partition("/")
        assert row.source.startswith(f"{package}==")


def test_every_residue_has_its_backbone(chains):
    for chain in chains.values():
        low, high = STRATA[chain.stratum]
        assert low <= len(chain.sequence) <= high
        assert set(chain.sequence) <= set(RESIDUES.values())
        assert chain.backbone.shape == (len(chain.sequence), 4, 3)
        n, ca, c, o = np.moveaxis(chain.backbone, 1, 0)
        for bond, low_length, high_length in (
            (n - ca, 1.2, 1.75),
            (ca - c, 1.2, 1.8),
            (c - o, 1.0, 1.5),
            (c[:-1] - n[1:], 1.0, 2.0),
        ):
            lengths = np.linalg.norm(bond, axis=1)
            assert lengths.min() > low_length and lengths.max() < high_length


def test_atoms_are_the_heavy_atoms_of_the_sequence(chains):
    # Heavy atoms of a residue without the terminal oxygen.
    counts = [4, 5, 6, 6, 7, 7, 7, 8, 8, 8, 8, 8, 9, 9, 9, 10, 11, 11, 12, 14]
    full = dict(zip("GASCTVPDNILMEQKHFRYW", counts, strict=True))
    for chain in chains.values():
        assert set(chain.elements) <= {"C", "N", "O", "S"}
        complete = sum(full[r] for r in chain.sequence)
        # Side chains may be cut in the source; two terminal oxygens at most.
        assert 0.9 * complete <= len(chain) <= complete + 1
        sulphurs = chain.composition.get("S", 0)
        assert sulphurs <= chain.sequence.count("C") + chain.sequence.count("M")


def test_backbone_atoms_are_among_the_atoms(chains):
    for chain in list(chains.values())[::10]:
        atoms = {tuple(p) for p in chain.positions}
        assert {tuple(p) for p in chain.backbone.reshape(-1, 3)} <= atoms


def test_no_two_chains_are_alike(chains):
    words = {
        name: {s.sequence[i : i + 5] for i in range(len(s.sequence) - 4)}
        for name, s in chains.items()
    }
    for first, second in combinations(words.values(), 2):
        assert len(first & second) <= OVERLAP * min(len(first), len(second))


def test_known_chains(chains):
    # Bovine pancreatic trypsin inhibitor.
    trypsin_inhibitor = chains["MDAnalysisTests/mmcif/5PTI.cif.gz:A"]
    assert (
        trypsin_inhibitor.sequence == "RPDFCLEPPYTGPCKARIIRYFYNAKAGLCQTFVYGGCRAKRNNFKSAEDCMRTCGGA"
    )
    assert trypsin_inhibitor.name == "PDB 5PTI, chain A"
    assert trypsin_inhibitor.labels == {}


def test_secondary_structure_fractions_come_from_the_shipped_strings(loaded):
    table = loaded("proteins").table.set_index("source_id")
    labelled = table[table["label_helix_fraction"].notna()]
    assert len(labelled) == 50
    assert (
        (labelled["label_helix_fraction"] + labelled["label_strand_fraction"]).between(0, 1).all()
    )
    row = labelled.loc["MDAnalysisTests/dssp/1mr1D.pdb.gz:D"]
    text = (
        "-EEEEE-----EEEEE-HHH--------EEE-----EE-HHHH---------------------HHH--EE"
        "---------HHHHHHHHHHHH----"
    )
    assert len(text) == len(row["sequence"]) == 96
    assert row["label_helix_fraction"] == text.count("H") / 96
    assert row["label_strand_fraction"] == text.count("E") / 96


def test_chains_do_not_break(chains):
    for chain in list(chains.values())[::7]:
        alpha = chain.backbone[:, 1]
        steps = [float(np.linalg.norm(b - a)) for a, b in pairwise(alpha)]
        assert min(steps) > 2.6 and max(steps) < 4.6
