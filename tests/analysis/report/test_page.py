# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import hashlib
import json
import re
from itertools import pairwise as neighbours
from pathlib import Path

import numpy as np
import pytest
from page_reader import Page
from synthetic_atlas import METRICS, Made, make_atlas

from matteratlas.analysis.report import write_report
from matteratlas.analysis.report.matrices import blocks
from matteratlas.analysis.report.page import inline_json, packed_json, vega_bundle, viewer_bundle
from matteratlas.registry.index import seal, write_json
from matteratlas.registry.validate import validate
from matteratlas.schemas.archive import UNRELEASED
from matteratlas.schemas.errors import ArchiveError
from matteratlas.schemas.scores import ANALYSIS

LIMIT = 5_000_000


def test_the_invented_atlas_is_a_valid_one(tmp_path: Path) -> None:
    result = validate(make_atlas(tmp_path / "a", models=4, version=UNRELEASED).root, deep=True)
    assert result.faults == [] and result.notes == []
    assert result.units == 12 and result.tables == 3 + 2 + 7


def test_page_lies_in_the_atlas_by_default(made: Made, page_path: Path) -> None:
    assert page_path == made.root / "report.html"
    assert not list(made.root.glob(".report*"))


def test_page_goes_where_it_is_told(made: Made, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "page.html"
    assert write_report(str(made.root), out=target) == target
    assert target.read_bytes() == (made.root / "report.html").read_bytes()  # and is reproducible


def test_page_says_nothing_of_this_machine(made: Made, page: Page) -> None:
    assert made.root.name in page.source
    assert str(made.root.parent) not in page.source


def test_sections_and_headings(page: Page) -> None:
    assert [e.text for e in page.all("h1")] == ["Do these models see the same matter?"]
    levels = [int(e.tag[1]) for e in page.elements if re.fullmatch(r"h[1-6]", e.tag)]
    assert all(b <= a + 1 for a, b in neighbours(levels))
    links = [e.attributes["href"] for e in page.all("a") if e.inside("nav")]
    sections = ["#" + str(e.attributes["id"]) for e in page.all("section")]
    assert links == sections
    assert len(sections) == 11


def test_page_can_be_used_without_eyes_or_mouse(page: Page) -> None:
    (html,) = page.all("html")
    assert html.attributes["lang"] == "en"
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    for element in page.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            for target in (element.attributes.get(name) or "").split():
                assert target in ids
        href = element.attributes.get("href") or ""
        if href.startswith("#"):
            assert href[1:] in ids
        if element.tag in ("select", "input"):
            assert element.inside("label")
        if element.attributes.get("role") == "region":
            assert element.attributes["aria-label"]
            assert element.attributes["tabindex"] == "0"
        if element.attributes.get("role") == "img":
            assert element.attributes["aria-labelledby"]
    tables = page.all("table")
    assert len(tables) > 10
    assert all(any(c.tag == "caption" for c in t.children) for t in tables)
    assert all(e.attributes.get("scope") in ("row", "col") for e in page.all("th"))
    skip = next(e for e in page.all("a") if e.attributes.get("class") == "skip")
    assert page.by_id(str(skip.attributes["href"])[1:]).tag == "main"


def test_nothing_is_fetched(page: Page) -> None:
    fetching = {"src", "srcset", "data", "poster", "background", "action", "formaction", "ping"}
    for element in page.elements:
        assert not fetching & set(element.attributes)
        assert element.tag not in ("iframe", "object", "embed", "base", "img", "audio", "video")
        if element.tag == "link":
            assert element.attributes == {"rel": "icon", "href": "data:,"}
        href = element.attributes.get("href") or ""
        if element.tag == "a" and not href.startswith("#"):
            assert href.startswith(("https://doi.org/", "https://arxiv.org/abs/"))
    (style,) = page.all("style")
    css = "".join(style.pieces)
    assert "url(" not in css
    assert "@import" not in css
    assert '"url"' not in json.dumps(page.data["specs"])
    for name in ("fetch(", "XMLHttpRequest", "WebSocket", "import("):
        for script in _code(page)[:-2]:  # both libraries have loaders the policy leaves idle
            assert name not in script


def _code(page: Page) -> list[str]:
    """The page's own scripts in their order, then the libraries of charts and structures."""
    scripts = ["".join(e.pieces) for e in page.all("script") if "type" not in e.attributes]
    return sorted(scripts, key=lambda s: s in (vega_bundle(), viewer_bundle()))


def test_policy_names_every_script_and_no_place(page: Page) -> None:
    policy = next(
        str(e.attributes["content"])
        for e in page.all("meta")
        if e.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    rules = {r.split()[0]: set(r.split()[1:]) for r in policy.split(";")}
    assert rules["default-src"] == {"'none'"}
    digests = {
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'"
        for s in _code(page)
    }
    assert rules["script-src"] == digests
    assert len(digests) == 11  # theme, two libraries, and the eight of the page itself
    assert "http" not in policy
    assert "unsafe-eval" not in policy


HOSTILE = (
    '</script><script>alert("x")</script>',
    "\"><img src=x onerror=alert(1)> & <b onclick='x'>",
    "{{ 7 * 191 }}{% raw %}",
    "<!-- ]]> -->  </style></td></table>",
)


def test_text_of_cards_stays_text(tmp_path: Path) -> None:
    script, image, template, comment = HOSTILE
    changes = {
        0: {
            "name": script,
            "notes": image,
            "version": template,
            "authors": [comment, script],
            "paper": {"title": image, "doi": "javascript:alert(1)", "arxiv": '"onclick="'},
            "environment": {image: script},
        },
        1: {"name": image, "licence": {"code": script, "weights": image}},
        2: {"name": template, "training": _training(script)},
        3: {"name": comment},
    }
    made = make_atlas(tmp_path / "hostile", models=12, card_changes=changes)
    page = Page(write_report(made.root))
    plain = Page(write_report(make_atlas(tmp_path / "plain", models=12).root))
    assert [e.tag for e in page.all("script")] == [e.tag for e in plain.all("script")]
    assert not page.all("img")
    assert not page.all("b") or all("onclick" not in e.attributes for e in page.all("b"))
    assert not [e for e in page.elements if any(a.startswith("on") for a in e.attributes)]
    assert "1337" not in page.by_id("models").text
    assert all("javascript" not in (e.attributes.get("href") or "") for e in page.elements)
    # It is all there, as text.
    shown = page.by_id("models").text
    for value in HOSTILE[:3]:
        assert " ".join(value.split()) in shown
    names = {m["name"] for m in page.data["models"]}
    assert set(HOSTILE) <= names


def _training(name: str) -> dict[str, object]:
    return {
        "sets": [name],
        "domains": ["organic_molecule"],
        "elements": None,
        "max_atoms": None,
        "level_of_theory": name,
    }


def test_inlined_json_cannot_end_its_element() -> None:
    value = {"a": [*HOSTILE, "\u2028"]}
    text = inline_json(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="JSON"):
        inline_json({"a": float("nan")})


@pytest.mark.parametrize("models", [1, 2, 3])
def test_page_of_few_models(tmp_path: Path, models: int) -> None:
    made = make_atlas(tmp_path / "few", models=models)
    page = Page(write_report(made.root))
    held = [e for e in page.by_id("models-table").children if e.tag == "tbody"]
    assert len(held) == models
    compared = {(r["a"], r["b"]) for r in _rows(page)}
    assert len(compared) == models * (models - 1) // 2
    if models == 1:
        assert "No two models" in page.by_id("convergence").text


def _rows(page: Page) -> list[dict[str, int]]:
    """Unordered pairs of the symmetric matrices over crystals."""
    return [
        {"a": a, "b": b}
        for block in page.pairs["blocks"]
        if block["selection"] == "crystals" and block["metric"] == "mutual_knn"
        for i, a in enumerate(block["models"])
        for b in block["models"][i + 1 :]
    ]


def test_page_without_a_null_speaks_of_raw_values(tmp_path: Path) -> None:
    made = make_atlas(tmp_path / "raw", models=12, permutations=0)
    page = Page(write_report(made.root))
    headline = page.by_id("headline").text
    assert "in raw mutual k-NN" in headline
    assert "made without permutations" in headline
    assert "in calibrated" not in headline


def test_forty_models_fit(tmp_path: Path) -> None:
    made = make_atlas(tmp_path / "many", models=40)
    size = write_report(made.root).stat().st_size
    assert len(vega_bundle()) < size < LIMIT / 2


def test_forty_models_on_thirty_selections_fit(made: Made) -> None:
    import pandas as pd
    from synthetic_atlas import model_card

    from matteratlas.analysis.report.data import Model
    from matteratlas.registry.catalog import models_table

    count, selections = 40, 30
    cards = models_table([model_card(i) for i in range(count)]).to_dict("records")
    models = [Model(i, str(c["id"]), c) for i, c in enumerate(cards)]
    a, b = np.triu_indices(count, 1)
    random = np.random.default_rng(0)
    numbers = ("value", "standard_error", "null_mean", "null_quantile", "calibrated", "q_value")
    table = pd.DataFrame(
        {
            "selection": "crystals",
            "selection_sha256": "0" * 64,
            "metric": "mutual_knn",
            "normalise": "l2",
            "n": 900,
            "k": pd.array([10] * len(a), dtype="Int64"),
            "a": [models[i].key for i in a],
            "b": [models[i].key for i in b],
            "permutations": 200,
            "p_value": 1 / 201,
            **{name: random.random(len(a)) for name in numbers},
        }
    )
    packed = len(packed_json(blocks(table, models)))
    assert packed > 10_000
    assert packed * len(METRICS) * selections + len(vega_bundle()) < LIMIT


def test_atlas_that_was_not_analysed(tmp_path: Path) -> None:
    made = make_atlas(tmp_path / "bare", models=3, scored=False)
    with pytest.raises(ArchiveError, match=rf"run: matteratlas analyze {made.root}$"):
        write_report(made.root)
    assert not (made.root / "report.html").exists()


def test_folder_that_is_no_atlas(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"no atlas\.json"):
        write_report(tmp_path)


def test_remote_atlas_needs_a_place_for_the_page() -> None:
    with pytest.raises(ArchiveError, match="give --out FILE"):
        write_report("https://example.org/atlas")


@pytest.mark.parametrize(
    ("content", "says"),
    [("not json", "not JSON"), ("[]", "altered"), ('{"tables": {}, "sha256": "0"}', "altered")],
)
def test_record_that_is_damaged(tmp_path: Path, content: str, says: str) -> None:
    made = make_atlas(tmp_path / "damaged", models=2)
    (made.root / ANALYSIS).write_text(content, encoding="utf-8")
    with pytest.raises(ArchiveError, match=rf"analysis\.json: {says}.*run: matteratlas analyze"):
        write_report(made.root)


def test_table_that_the_record_does_not_know(tmp_path: Path) -> None:
    made = make_atlas(tmp_path / "changed", models=2)
    tables = {"scores/gaps.parquet": {"rows": 52, "bytes": 1, "sha256": "0" * 64}}
    write_json(seal({"tables": tables}), made.root / ANALYSIS)
    with pytest.raises(ArchiveError, match=r"gaps\.parquet: not the table"):
        write_report(made.root)


def test_table_of_other_columns(tmp_path: Path) -> None:
    made = make_atlas(tmp_path / "columns", models=2)
    path = made.root / "scores" / "gaps.parquet"
    made.tables["scores/gaps.parquet"].drop(columns="severity").to_parquet(path)
    with pytest.raises(ArchiveError, match=r"gaps\.parquet: not the table expected"):
        write_report(made.root)
