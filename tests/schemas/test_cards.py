# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from matteratlas.registry import catalog
from matteratlas.schemas import cards
from matteratlas.schemas.cards import ModelCard, StructureSetCard, elements_of, read_card
from matteratlas.schemas.errors import CardError
from matteratlas.schemas.structures import ATOMIC_NUMBERS, DOMAINS, SYMBOLS

MODEL_FILE = next(p for p in catalog.model_card_paths() if p.stem == "soap")
SET_FILE = MODEL_FILE.parents[2] / "structure_sets" / "g2.yaml"


def model_data() -> dict[str, Any]:
    return yaml.safe_load(MODEL_FILE.read_text(encoding="utf-8"))


def set_data() -> dict[str, Any]:
    return yaml.safe_load(SET_FILE.read_text(encoding="utf-8"))


def write(folder: Path, data: dict[str, Any] | str, name: str = "soap") -> Path:
    path = folder / f"{name}.yaml"
    text = data if isinstance(data, str) else yaml.safe_dump(data, sort_keys=False)
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, model: type = ModelCard) -> str:
    """The error's message, which is one line and opens with the file."""
    with pytest.raises(CardError) as caught:
        read_card(path, model)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_a_card_survives_writing_and_reading(tmp_path: Path) -> None:
    card = read_card(MODEL_FILE, ModelCard)
    assert card.id == "soap" and card.layer().dim == 756
    again = read_card(write(tmp_path, card.model_dump(mode="json")), ModelCard)
    assert again == card
    sets = read_card(SET_FILE, StructureSetCard)
    copied = read_card(write(tmp_path, sets.model_dump(mode="json"), "g2"), StructureSetCard)
    assert copied == sets


def test_cards_cannot_be_changed() -> None:
    card = read_card(MODEL_FILE, ModelCard)
    with pytest.raises(ValueError, match="frozen"):
        card.name = "other"


# --- misspelt, missing and doubled keys ----------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "wrong", "right"),
    [
        ((), "famly", "family"),
        ((), "modalty", "modality"),
        (("training",), "domain", "domains"),
        (("checkpoint",), "sha_256", "sha256"),
        (("licence",), "weight", "weights"),
        (("supports",), "max_atom", "max_atoms"),
        (("layers", 0), "dims", "dim"),
    ],
)
def test_misspelt_key_names_the_nearest(
    tmp_path: Path, path: tuple[Any, ...], wrong: str, right: str
) -> None:
    data = model_data()
    owner: Any = data
    for part in path:
        owner = owner[part]
    owner[wrong] = owner.pop(right)
    where = ".".join([*map(str, path), wrong])
    assert refusal(write(tmp_path, data)) == f"unknown key '{where}'; did you mean '{right}'?"


def test_key_like_no_other_is_to_be_removed(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, model_data() | {"zzzzzz": 1}))
    assert message == "unknown key 'zzzzzz'; remove it"


def test_misspelt_key_in_a_stratum_named_like_a_key(tmp_path: Path) -> None:
    data = set_data()
    stratum = next(iter(data["strata"].values()))
    data["strata"] = {"count": {**stratum, "domans": list(stratum["domains"])}}
    message = refusal(write(tmp_path, data, "g2"), StructureSetCard)
    assert message == "unknown key 'strata.count.domans'; did you mean 'domains'?"


@pytest.mark.parametrize("key", sorted(ModelCard.model_fields))
def test_every_key_of_a_model_is_required(tmp_path: Path, key: str) -> None:
    data = model_data()
    del data[key]
    assert refusal(write(tmp_path, data)) == f"key '{key}' is missing; add it (null if not known)"


@pytest.mark.parametrize("key", sorted(StructureSetCard.model_fields))
def test_every_key_of_a_set_is_required(tmp_path: Path, key: str) -> None:
    data = set_data()
    del data[key]
    message = refusal(write(tmp_path, data, "g2"), StructureSetCard)
    assert message == f"key '{key}' is missing; add it (null if not known)"


def test_key_given_twice(tmp_path: Path) -> None:
    text = MODEL_FILE.read_text(encoding="utf-8")
    assert "key 'name' is given twice" in refusal(write(tmp_path, text + "\nname: other\n"))
    nested = text.replace("  max_atoms: 10000\n", "  max_atoms: 10000\n  max_atoms: 5\n")
    assert nested != text
    assert "key 'max_atoms' is given twice" in refusal(write(tmp_path, nested))


# --- what a card may hold ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("id",), "Soap", "key 'id': String should match pattern"),
        (("id",), "../soap", "key 'id': String should match pattern"),
        (("id",), "other", "key 'id' is 'other' but the file is 'soap.yaml'"),
        (("modality",), "3d", "key 'modality': Input should be 'atoms3d', 'smiles'"),
        (("lifecycle",), "new", "key 'lifecycle': Input should be 'active'"),
        (("adapter",), "os.system", "key 'adapter': String should match pattern"),
        (("adapter",), "../x:Y", "key 'adapter': String should match pattern"),
        (("tolerance",), 0.0, "key 'tolerance': Input should be greater than 0"),
        (("learned",), None, "key 'learned': Input should be a valid boolean"),
        (("layers",), [], "key 'layers': List should have at least 1 item"),
        (("layers", 0, "dim"), 0, "key 'layers.0.dim': Input should be greater than or equal"),
        (("layers", 0, "level"), "bond", "key 'layers.0.level': Input should be 'atom'"),
        (("default_layer",), "last", "key 'default_layer': 'last' is not among"),
        (("supports", "kinds"), ["surface"], "key 'supports.kinds': unknown kind 'surface'; one"),
        (("supports", "kinds"), [], "key 'supports.kinds': List should have at least 1 item"),
        (("supports", "elements"), "H-Xx", "key 'supports.elements': unknown element symbol 'Xx'"),
        (("supports", "elements"), "H-", "key 'supports.elements': unknown element symbol ''"),
        (("supports", "elements"), "-H", "key 'supports.elements': unknown element symbol ''"),
        (("supports", "elements"), "Lr-H", "'Lr-H' must ascend; write H-Lr"),
        (("supports", "elements"), ["H", "C-B"], "'C-B' must ascend; write B-C"),
        (("supports", "elements"), [], "key 'supports.elements': no element is named"),
        (("supports", "elements"), 6, "key 'supports.elements': Input should be a valid list"),
        (("supports", "min_atoms"), 0, "key 'supports.min_atoms': Input should be greater"),
        (("supports", "periodicity"), [4], "key 'supports.periodicity.0': Input should be less"),
        (("training", "domains"), ["organic"], "unknown domain 'organic'; did you mean '"),
        (("training", "domains"), ["qqq"], "unknown domain 'qqq'; one of inorganic_crystal,"),
        (("checkpoint", "sha256"), "abc", "key 'checkpoint.sha256': String should match pattern"),
        (("checkpoint", "obtained"), "package", "key 'checkpoint': package, path and sha256 are"),
        (("environment",), {"ase": 3.29}, "key 'environment.ase': Input should be a valid string"),
        (("paper",), {"title": "x", "doi": None}, "key 'paper.arxiv' is missing"),
        (("version",), 2.1, "key 'version': Input should be a valid string"),
    ],
)
def test_bad_values_name_the_key(
    tmp_path: Path, path: tuple[Any, ...], value: Any, complaint: str
) -> None:
    data = model_data()
    owner: Any = data
    for part in path[:-1]:
        owner = owner[part]
    owner[path[-1]] = value
    assert complaint in refusal(write(tmp_path, data))


def test_layer_names_are_distinct(tmp_path: Path) -> None:
    data = model_data()
    data["layers"].append(dict(data["layers"][0]))
    assert refusal(write(tmp_path, data)) == "key 'layers': names must be distinct"


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("version",), "1.0", "key 'version': String should match pattern"),
        (("id",), "G2", "key 'id': String should match pattern"),
        (("kinds",), ["gas"], "key 'kinds': unknown kind 'gas'"),
        (("elements",), "H-Zz", "key 'elements': unknown element symbol 'Zz'"),
        (("loader",), "g2", "key 'loader': String should match pattern"),
        (("strata",), {"Big": {}}, "key 'strata.Big': String should match pattern"),
    ],
)
def test_bad_values_of_a_set(
    tmp_path: Path, path: tuple[str, ...], value: Any, complaint: str
) -> None:
    data = set_data()
    data[path[0]] = value
    assert complaint in refusal(write(tmp_path, data, "g2"), StructureSetCard)


def test_a_starter_takes_at_most_all_rows(tmp_path: Path) -> None:
    data = set_data()
    name, stratum = next(iter(data["strata"].items()))
    stratum["starter"] = stratum["count"] + 1
    message = refusal(write(tmp_path, data, "g2"), StructureSetCard)
    assert message.startswith(f"key 'strata.{name}.starter': {stratum['starter']} rows of ")


def test_counts_of_a_set_are_sums_over_strata() -> None:
    card = read_card(SET_FILE, StructureSetCard)
    assert card.count == sum(s["count"] for s in set_data()["strata"].values()) > 0
    assert card.starter == sum(s["starter"] for s in set_data()["strata"].values()) > 0


def test_layer_by_name_or_default() -> None:
    card = read_card(MODEL_FILE, ModelCard)
    assert card.layer() is card.layer("power_spectrum")
    with pytest.raises(CardError, match="'soap' has no layer 'last'; choose from power_spectrum"):
        card.layer("last")


# --- cards are data ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("id: !!python/object/apply:os.system ['exit 1']", "tag"),
        ("id: !!str soap", "tag"),
        ("id: !custom soap", "tag"),
        ("a: &x [1, 1]\nb: *x", "anchors and aliases are not allowed"),
        ("id: [1", "not readable as YAML"),
        ("? [a]\n: 1", "not readable as YAML"),
        ("? [a]\n: 1\n? [a]\n: 2", "is given twice"),
        ("id: 2024-13-45", "not readable as YAML"),
        ("id: \x00", "not readable as YAML"),
        ("- a\n- b", "a card is a mapping of keys; found list"),
        ("", "a card is a mapping of keys; found NoneType"),
        ("just text", "a card is a mapping of keys; found str"),
    ],
)
def test_anything_but_plain_data_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    assert complaint in refusal(write(tmp_path, text))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "soap.yaml"
    path.write_bytes(b"id: \xff\xfe")
    assert "not readable as YAML" in refusal(path)


def test_absent_file(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refusal(tmp_path / "none.yaml")


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    refusal(path)


# --- element ranges ------------------------------------------------------------------------------


def test_element_ranges_by_hand() -> None:
    assert elements_of(None) is None
    assert elements_of("Fe") == {"Fe"}
    assert elements_of("H-B") == {"H", "He", "Li", "Be", "B"}
    assert elements_of(["C-O", "Fe"]) == {"C", "N", "O", "Fe"}
    assert elements_of("H-Og") == set(ATOMIC_NUMBERS)


@given(st.integers(1, 118), st.integers(1, 118))
def test_a_range_runs_over_atomic_numbers(a: int, b: int) -> None:
    low, high = sorted((a, b))
    found = elements_of(f"{SYMBOLS[low]}-{SYMBOLS[high]}")
    assert found == set(SYMBOLS[low : high + 1])


# --- the reference page --------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cards.md"


def sections() -> dict[str, str]:
    """Heading -> its text, the two example headings told apart by what stands before them."""
    found: dict[str, str] = {}
    heading = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
            heading = f"{heading} of {next(reversed(found))}" if heading == "Example" else heading
        found[heading] = found.get(heading, "") + line + "\n"
    return found


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("Model card", ModelCard),
        ("training", cards.Training),
        ("supports", cards.Supports),
        ("checkpoint", cards.Checkpoint),
        ("licence", cards.Licence),
        ("layers", cards.Layer),
        ("energy", cards.Energy),
        ("paper", cards.Paper),
        ("performance", cards.Performance),
        ("Structure-set card", StructureSetCard),
        ("sources", cards.Source),
        ("strata", cards.Stratum),
        ("labels", cards.Label),
    ],
)
def test_the_page_lists_every_key_and_which_may_be_null(heading: str, model: Any) -> None:
    rows = {
        cells[0].strip("` "): cells[1]
        for line in sections()[heading].splitlines()
        if line.startswith("| `") and (cells := line.strip("|").split("|"))
    }
    assert list(rows) == list(model.model_fields)
    for key, field in model.model_fields.items():
        nullable = type(None) in get_args(field.annotation)
        assert ("or null" in rows[key]) == nullable, key


def test_the_page_lists_every_domain_and_modality() -> None:
    for domain in DOMAINS:
        assert f"\n| `{domain}` |" in sections()["Domains"]
    for modality in get_args(cards.Modality):
        assert f"`{modality}`" in sections()["Modalities"]


@pytest.mark.parametrize(
    ("heading", "model", "name"),
    [("performance", ModelCard, "morgan"), ("labels", StructureSetCard, "example")],
)
def test_the_examples_are_cards(tmp_path: Path, heading: str, model: Any, name: str) -> None:
    text = sections()[f"Example of {heading}"].split("```yaml\n")[1].split("```")[0]
    assert read_card(write(tmp_path, text, name), model).id == name
