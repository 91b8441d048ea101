# SPDX-License-Identifier: Apache-2.0
"""Cards are data: what would run, unfold or deceive is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matteratlas.registry import catalog
from matteratlas.schemas.cards import MAX_BYTES, ModelCard, StructureSetCard, read_card
from matteratlas.schemas.documents import parse_json
from matteratlas.schemas.errors import ArchiveError, CardError, of_sound_data
from matteratlas.schemas.names import is_portable, is_portable_path, odd_character

SOUND = next(p for p in catalog.model_card_paths() if p.stem == "random-128").read_text("utf-8")
BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def refusal(folder: Path, text: str | bytes) -> str:
    path = folder / "random-128.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    with pytest.raises(CardError) as error:
        read_card(path, ModelCard)
    said = str(error.value)
    assert "\n" not in said and said.isprintable() and str(path) in said
    return said


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("name: ", "name: !!python/object/apply:os.system ['touch {}/ran'] #", "tag"),
        ("name: ", "name: !!python/name:os.system #", "tag"),
        ("name: ", "name: !<tag:yaml.org,2002:python/module:os> x #", "tag"),
        ("name: ", "name: &x [*x] #", "anchors"),
        ("id: ", BOMB + "id: ", "anchors"),
        ("name: ", "name: " + "[" * 5000 + " #", "nested too deeply"),
        ("name: ", "name: " + "9" * 5000 + " #", "YAML"),
        ("name: ", f"name: {'x' * MAX_BYTES} #", "longer than"),
        ("tolerance: ", "tolerance: .inf #", "tolerance"),
        ("tolerance: ", "tolerance: .nan #", "tolerance"),
        ("name: ", 'name: "\\e[31mred" #', "U+001B"),
        ("name: ", 'name: "\\u202Egnp.exe" #', "U+202E"),
        ("name: ", 'name: "zero\\u200Bwidth" #', "U+200B"),
        ("id: random-128", "id: ../../random-128", "id"),
        ("id: random-128", "id: /etc/passwd", "id"),
        ("id: random-128", "id: con", "on every system"),
        ("id: random-128", "id: nul.random", "on every system"),
        ("id: random-128", "id: random.", "on every system"),
        ("adapter: ", "adapter: os:System #", None),
        ("adapter: ", "adapter: ../evil:Model #", "adapter"),
        ("adapter: ", "adapter: a.b:Model #", "adapter"),
        ("name: ", "? [a]\n: 1\nname: ", "no text"),
    ],
)
def test_what_is_no_plain_card_is_refused(
    tmp_path: Path, old: str, new: str, says: str | None
) -> None:
    text = SOUND.replace(old, new.replace("{}", str(tmp_path)), 1)
    assert text != SOUND
    if says is None:  # only a name: adapters are looked up among the package's own modules
        path = tmp_path / "random-128.yaml"
        path.write_text(text)
        assert read_card(path, ModelCard).adapter == "os:System"
    else:
        assert says in refusal(tmp_path, text)
    assert not (tmp_path / "ran").exists()


def test_a_stratum_without_end(tmp_path: Path) -> None:
    """Counts that no table of sets can show are none."""
    path = Path(catalog.__file__).parent / "structure_sets" / "g2.yaml"
    text = path.read_text("utf-8")
    assert "count: " in text
    copy = tmp_path / path.name
    copy.write_text(text.replace("count: ", "count: 1" + "0" * 400 + " #", 1))
    with pytest.raises(CardError, match="count"):
        read_card(copy, StructureSetCard)


def test_many_keys_cost_no_more_than_they_weigh(tmp_path: Path) -> None:
    keys = "".join(f"k{i}: 1\n" for i in range(3000))
    assert "unknown key" in refusal(tmp_path, SOUND + keys)


def test_the_sound_card_is_sound(tmp_path: Path) -> None:
    (tmp_path / "random-128.yaml").write_text(SOUND)
    assert read_card(tmp_path / "random-128.yaml", ModelCard).id == "random-128"


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.integers(0, len(SOUND)), gone=st.integers(0, 40), new=st.binary(max_size=12))
def test_changed_bytes_give_a_card_or_a_line(
    tmp_path: Path, place: int, gone: int, new: bytes
) -> None:
    data = SOUND.encode()
    path = tmp_path / "random-128.yaml"
    path.write_bytes(data[:place] + new + data[place + gone :])
    try:
        card = read_card(path, ModelCard)
    except CardError as error:
        assert "\n" not in str(error) and str(error).isprintable()
    else:
        assert ModelCard.model_validate_json(card.model_dump_json()) == card


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a":1,"a":2}', "twice"), ("NaN", "not JSON"), ("[Infinity]", "not JSON"),
        ("1e999", "too large"), ("9" * 5000, "too large"), ("[" * 70 + "]" * 70, "deeply"),
        ("[" * 100_000 + "]" * 100_000, "deeply"), ('{"a":' * 80 + "1" + "}" * 80, "deeply"),
        ('"\\ud800"', "surrogates"), ("{", "Expecting"), (b"\xff", "codec"),
    ],
)  # fmt: skip
def test_json_with_two_meanings_is_refused(text: str | bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_json(text)


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_honest_json_is_what_it_was(content: object) -> None:
    import json

    assert parse_json(json.dumps(content)) == content


@pytest.mark.parametrize(
    "path",
    ["..", "a/../b", "/a", "a//b", "a\\b", "C:a", "con", "a/NUL.txt", "a.", ".a", "a b", "a\n", "é",
     "a" * 200, "a/" * 600 + "a", "", "lpt1.parquet", "a\u202eb", "~a", "-a"],
)  # fmt: skip
def test_paths_that_are_not_everywhere_the_same(path: str) -> None:
    assert not is_portable_path(path)


def test_portable_names_and_plain_texts() -> None:
    assert is_portable("chgnet-0.3.0") and is_portable("conv_4.nodes") and is_portable("console")
    assert is_portable_path("embeddings.zarr/a/b/c/0/0")
    assert odd_character("Å³, naïve 🧪 \t\n") is None
    assert yaml.safe_load("a: 1") == {"a": 1}


def test_errors_show_foreign_text_and_obey_none_of_it() -> None:
    said = str(ArchiveError("a\x1b[31m\u202eb\nc"))
    assert said == "a\\u001b[31m\\u202eb c"
    with pytest.raises(ArchiveError, match="make no sense"), of_sound_data("x", "mend it"):
        raise KeyError("a\nb")
