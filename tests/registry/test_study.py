# SPDX-License-Identifier: Apache-2.0
"""Every row of the study's Table 1 has a card, complete, and no card claims another's row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from matteratlas.registry import catalog
from matteratlas.registry.study import StudyModel, study_models
from matteratlas.schemas.cards import ModelCard

ROWS = study_models()
MODALITIES = {
    "3D": {"atoms3d"},
    "SMILES": {"smiles"},
    "SELFIES": {"selfies"},
    "String": {"text"},
    "protein sequence": {"protein_sequence"},
    "protein structure": {"protein_structure"},
    "String / SMILES": {"atoms3d"},  # Geom2Vec reads coordinates; its notes say so
}
#: Words of a card's training sets for each set as printed.
SETS = {
    "MPTrj": "MPtrj", "sAlex": "Alex", "OMat": "OMat24", "OMol": "OMol25", "OMC": "OMC25",
    "ODAC": "ODAC25", "OC20": "OC20", "SPICE": "SPICE", "MAD": "MAD", "MC3D": "MC3D",
    "MC2D": "MC2D", "SHIFTML": "SHIFTML", "Denali": "Denali", "PubChem": "PubChem", "Zinc": "ZINC",
    "UniRef50": "UniRef", "PDB": "PDB",
}  # fmt: skip
LEVELS = {"PBE_MP": "Materials Project", "PBE_OMat24": "PBE", "PBE_Sol": "PBEsol",
          "hybrid functional": "ωB97M"}  # fmt: skip

each_row = pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r.row}-{r.card}")


def notes_of(card: ModelCard) -> str:
    return " ".join((card.notes or "").split())


def test_fifty_nine_rows_each_with_a_card_of_its_own() -> None:
    assert [row.row for row in ROWS] == list(range(1, 60))
    assert len({row.card for row in ROWS}) == len({row.name for row in ROWS}) == 59
    assert {row.card for row in ROWS} <= set(catalog.models())
    families = [catalog.model(row.card).family for row in ROWS]
    counts = {f: families.count(f) for f in dict.fromkeys(families)}
    assert counts == {
        "orb": 10, "uma": 2, "esen": 3, "equiformer-v2": 10, "mace": 8, "pet-mad": 1,
        "geom2vec": 1, "molformer": 1, "chemberta": 1, "chemgpt": 1, "deepseek": 3, "qwen3": 3,
        "gpt-oss": 3, "esm2": 3, "prostt5": 2, "esmc": 2, "esm3": 2, "esm-if1": 1,
        "proteinmpnn": 1, "random": 1,
    }  # fmt: skip


def test_cards_that_claim_a_row_are_those_of_the_table() -> None:
    claimed = {}
    for card in catalog.models().values():
        if found := re.match(r"Row (\d+) of Table 1 of arXiv 2512\.03750", notes_of(card)):
            assert int(found[1]) not in claimed, card.id
            claimed[int(found[1])] = card.id
    assert len(claimed) >= 57
    assert claimed == {row.row: row.card for row in ROWS if row.row in claimed}


@each_row
def test_the_card_is_what_is_printed(row: StudyModel) -> None:
    card = catalog.model(row.card)
    if card.id == "random-128":
        assert (card.learned, card.modality, row.parameters) == (False, "descriptor", None)
        return
    assert card.modality in MODALITIES[row.modality]
    # Printed as vanilla; it reads distances alone.
    if card.family != "proteinmpnn":
        assert card.architecture == row.embedding.lower()
    printed = f"{row.parameters:,}"
    close = card.parameters is not None and round(card.parameters, -4) == row.parameters
    assert (
        card.parameters == row.parameters
        or close
        or (printed in notes_of(card) or f"{row.parameters / 1e6:g} million" in notes_of(card))
    ), (card.parameters, printed)


@each_row
def test_the_card_says_where_its_model_comes_from(row: StudyModel) -> None:
    card = catalog.model(row.card)
    assert card.licence.code, "code without a licence"
    if not card.learned:
        return
    assert card.paper is not None and card.paper.title
    assert card.paper.arxiv or card.paper.doi or card.family == "esmc"  # a page of its makers
    assert card.authors and card.environment and card.training.domains
    said = f"{card.training.sets} {notes_of(card)}"
    for name in row.training_data.split(", "):
        assert SETS.get(name, "") in said, name
    assert LEVELS.get(row.level_of_theory, "") in (card.training.level_of_theory or "")
    assert bool(card.training.level_of_theory) == bool(row.level_of_theory)
    # No licence of the weights means that none is stated, which is said.
    assert card.licence.weights or "licence" in notes_of(card)
    if card.energy is not None:
        assert card.energy.unit and card.energy.reference


@each_row
def test_the_card_has_a_status(row: StudyModel) -> None:
    card = catalog.model(row.card)
    status = catalog.status(card)
    assert status.state in {"ran", "loads", "blocked"}
    assert (status.state == "ran") <= catalog.at_hand(card)
    assert status.why or status.state != "blocked"


def test_the_page_of_charts_says_the_same() -> None:
    """``docs/reference/charts.md`` is written by ``benchmarks/charts.py``; here is what may age."""
    page = Path(__file__).parents[2] / "docs" / "reference" / "charts.md"
    lines = page.read_text(encoding="utf-8").splitlines()
    found = {
        int(cells[1]): (cells[2].strip(), cells[3].strip(" `"), cells[5].strip())
        for cells in (line.split("|") for line in lines)
        if len(cells) == 9 and cells[1].strip().isdigit()
    }
    assert found == {
        r.row: (r.name, r.card, str(catalog.status(catalog.model(r.card)))) for r in ROWS
    }
