# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest

from matteratlas.registry import catalog
from matteratlas.schemas.cards import ModelCard, StructureSetCard, Training
from matteratlas.schemas.errors import CardError

FAMILIES = catalog.model_card_paths()[0].parents[1]


def trained(**changes: object) -> ModelCard:
    """A real card with a training of its own."""
    training = {
        "sets": ["x"], "domains": ["inorganic_crystal", "element_bulk"], "elements": "H-Kr",
        "max_atoms": 100, "level_of_theory": None,
    }  # fmt: skip
    return catalog.model("soap").model_copy(
        update={"training": Training.model_validate(training | changes)}
    )


# --- the real registry ---------------------------------------------------------------------------


def test_every_card_validates_and_sits_where_its_id_says() -> None:
    cards = catalog.models()
    assert len(cards) == len(catalog.model_card_paths()) >= 18
    for path in catalog.model_card_paths():
        card = cards[path.stem]
        assert card.family == path.parent.name


def test_descriptors_never_trained_and_learned_models_say_on_what() -> None:
    learned = [c for c in catalog.models().values() if c.learned]
    baselines = [c for c in catalog.models().values() if not c.learned]
    assert len(learned) >= 11 and len(baselines) >= 7
    for card in baselines:
        assert card.training == Training(
            sets=None, domains=None, elements=None, max_atoms=None, level_of_theory=None
        ), card.id
        assert card.licence.weights is None and card.checkpoint.obtained == "none", card.id
    for card in learned:
        assert card.training.domains, card.id
        assert card.checkpoint.obtained != "none", card.id


def test_every_card_names_an_adapter_that_exists() -> None:
    import ast

    adapters = FAMILIES.parents[1] / "builders" / "adapters"
    for card in catalog.models().values():
        module, _, name = card.adapter.partition(":")
        tree = ast.parse((adapters / f"{module}.py").read_text(encoding="utf-8"))
        classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
        assert name in classes, card.id


def test_structure_sets_come_in_the_order_of_their_claims() -> None:
    sets = list(catalog.structure_sets())
    assert "g2" in sets
    known = [s for s in catalog.SET_ORDER if s in sets]
    assert sets[: len(known)] == known
    assert sets[len(known) :] == sorted(sets[len(known) :])


# --- looking up ----------------------------------------------------------------------------------


def test_unknown_ids_name_the_nearest() -> None:
    with pytest.raises(CardError, match=r"^no model 'random128' .*did you mean 'random-128'\?$"):
        catalog.model("random128")
    with pytest.raises(CardError, match=r"see: matteratlas models list$"):
        catalog.model("%%%%%%%%")
    with pytest.raises(CardError, match=r"^no set 'g22' .*did you mean 'g2'\?$"):
        catalog.structure_set("g22")


def test_selection_by_id_family_and_all() -> None:
    everything = list(catalog.models())
    at_hand = [i for i, c in catalog.models().items() if catalog.at_hand(c)]
    assert len(at_hand) >= 45 and "chgnet-0.3.0" in at_hand and "esm2-8m" not in at_hand
    assert [c.id for c in catalog.select_models(None)] == at_hand
    assert [c.id for c in catalog.select_models(["all"])] == at_hand
    # What has to be fetched is taken where it is named, by id or by family.
    assert [c.id for c in catalog.select_models(["esm2"])] == ["esm2-150m", "esm2-650m", "esm2-8m"]
    assert [c.id for c in catalog.select_models(["esm2-8m"])] == ["esm2-8m"]
    assert all(catalog.at_hand(c) for c in catalog.select_models(["starter"]))
    tables = [c.id for c in catalog.select_models(["element-tables", "mat2vec"])]
    assert "mat2vec" in tables and len(tables) == len(set(tables)) >= 11
    assert all(catalog.model(i).family == "element-tables" for i in tables)
    # registry order, whatever the order asked for
    pair = [c.id for c in catalog.select_models(["soap", "acsf"])]
    assert pair == [i for i in everything if i in {"soap", "acsf"}]
    with pytest.raises(CardError, match="no model 'nothing-like-it'"):
        catalog.select_models(["soap", "nothing-like-it"])
    assert [c.id for c in catalog.select_sets(["g2", "g2"])] == ["g2"]
    assert [c.id for c in catalog.select_sets(None)] == list(catalog.structure_sets())


def test_status_says_how_far_a_model_has_been_run(tmp_path: Path) -> None:
    found = {i: catalog.status(c) for i, c in catalog.models().items()}
    release = f"matteratlas=={version('matteratlas')}"
    assert found["mat2vec"][:2] == found["soap"][:2] == ("ran", "")
    assert found["soap"].tested.startswith(f"{release} dscribe==")
    assert found["esm2-8m"][:2] == ("loads", "") and str(found["esm2-8m"]) == "loads"
    assert found["esm2-8m"].tested.split()[1].startswith("transformers==")
    assert found["molformer-xl-10pct"].state == "loads"
    for model, status in found.items():
        card = catalog.model(model)
        assert status.state != "blocked" or status.why, model
        assert status.state == "blocked" or "==" in status.tested, model
        assert card.isolation or status.state == "ran" or not catalog.at_hand(card)
    stranger = catalog.model("esm2-8m").model_copy(update={"id": "esm2-3b"})
    assert catalog.status(stranger) == (
        "blocked", "not tested yet; run: make test-small-weights", ""
    )  # fmt: skip


def test_what_ran_ran_with_what_is_installed() -> None:
    """A status names versions: those of the packages here, or of an archive known by its hash."""
    ran = [c for c in catalog.models().values() if c.isolation is None and catalog.at_hand(c)]
    assert len(ran) >= 45
    for card in ran:
        for name, known in (card.environment or {}).items():
            if card.checkpoint.package != f"{name}=={known}" or not card.checkpoint.sha256:
                assert version(name).partition("+")[0] == known, (card.id, name)


# --- registries that are wrong -------------------------------------------------------------------


def registry(tmp_path: Path, **files: str) -> Path:
    """Copies of real cards: destination ``family__id`` -> source id."""
    for place, source in files.items():
        family, _, name = place.replace("_dash_", "-").partition("__")
        (tmp_path / family).mkdir(exist_ok=True)
        origin = next(p for p in catalog.model_card_paths() if p.stem == source)
        shutil.copy(origin, tmp_path / family / f"{name}.yaml")
    return tmp_path


def test_card_in_the_wrong_family(tmp_path: Path) -> None:
    folder = registry(tmp_path, elsewhere__soap="soap")
    with pytest.raises(CardError, match="key 'family' is 'descriptors' but the folder is 'else"):
        catalog.models(folder)


def test_id_taken_twice(tmp_path: Path) -> None:
    folder = registry(tmp_path, descriptors__soap="soap", other__soap="soap")
    card = folder / "other" / "soap.yaml"
    card.write_text(card.read_text().replace("family: descriptors", "family: other"))
    with pytest.raises(CardError, match=r"other/soap\.yaml: key 'id' 'soap' is already taken"):
        catalog.models(folder)


def test_id_other_than_the_file(tmp_path: Path) -> None:
    folder = registry(tmp_path, descriptors__soup="soap")
    with pytest.raises(CardError, match=r"key 'id' is 'soap' but the file is 'soup\.yaml'"):
        catalog.models(folder)


# --- in and out of distribution ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "where", "expected"),
    [
        ({}, {"domains": ["inorganic_crystal"], "elements": ["Na", "Cl"], "n_atoms": 8}, "in"),
        ({}, {"domains": ["f_block", "element_bulk"], "elements": ["Fe"], "n_atoms": 1}, "in"),
        ({}, {"domains": ["inorganic_crystal"]}, "in"),
        ({}, {"domains": ["organic_molecule"], "elements": ["C"], "n_atoms": 5}, "out"),
        ({}, {"domains": ["inorganic_crystal"], "elements": ["Na", "U"], "n_atoms": 8}, "out"),
        ({}, {"domains": ["inorganic_crystal"], "elements": ["Na"], "n_atoms": 101}, "out"),
        ({}, {"domains": ["inorganic_crystal"], "elements": ["Na"], "n_atoms": 100}, "in"),
        ({}, {"domains": []}, "out"),
        ({"domains": None}, {"domains": ["inorganic_crystal"], "elements": ["U"]}, "unknown"),
        ({"elements": None}, {"domains": ["element_bulk"], "elements": ["U"]}, "in"),
        ({"max_atoms": None}, {"domains": ["element_bulk"], "n_atoms": 10**6}, "in"),
    ],
)
def test_relation(changes: dict, where: dict, expected: str) -> None:
    assert catalog.relation(trained(**changes), **where) == expected


def test_relations_follow_the_strata_of_the_sets() -> None:
    name, card = "g2", catalog.structure_set("g2")
    stratum, tags = next((k, v.domains) for k, v in card.strata.items())
    table = pd.DataFrame(
        {
            "set": [name, name, name, "not_here"],
            "stratum": [stratum, stratum, stratum, stratum],
            "elements": [["C", "H"], ["U"], ["C"], ["C"]],
            "n_atoms": [5, 5, 101, 5],
        },
        index=[10, 11, 12, 13],
    )
    found = catalog.relations(trained(domains=tags), table)
    assert found.to_dict() == {10: "in", 11: "out", 12: "out", 13: "unknown"}
    assert set(catalog.relations(catalog.model("random-128"), table)) == {"unknown"}


# --- tables --------------------------------------------------------------------------------------


def test_models_table_has_a_row_a_model() -> None:
    table = catalog.models_table()
    assert list(table["id"]) == list(catalog.models())
    soap = table.set_index("id").loc["soap"]
    assert soap["supports.max_atoms"] == 10000
    assert soap["supports.elements"] == ["H-Lr"]
    assert json.loads(soap["layers"])[0]["dim"] == 756
    assert json.loads(soap["options"])["n_max"] == 8
    assert soap["training.domains"] is None
    assert list(catalog.models_table([catalog.model("soap")])["id"]) == ["soap"]
    assert catalog.models_table([]).empty


def test_sets_table_has_a_row_a_stratum() -> None:
    table = catalog.sets_table()
    cards = catalog.structure_sets().values()
    assert len(table) == sum(len(c.strata) for c in cards)
    g2 = table[table["id"] == "g2"]
    card: StructureSetCard = catalog.structure_set("g2")
    assert g2["stratum.count"].sum() == card.count
    assert catalog.sets_table([]).empty


def test_tables_can_be_written_as_parquet(tmp_path: Path) -> None:
    for name, table in (("models", catalog.models_table()), ("sets", catalog.sets_table())):
        table.to_parquet(tmp_path / f"{name}.parquet")
        assert len(pd.read_parquet(tmp_path / f"{name}.parquet")) == len(table)
