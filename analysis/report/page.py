# SPDX-License-Identifier: Apache-2.0
"""Assemble the page: tables and charts in, one HTML file that needs no network out.

Cards are untrusted text: Jinja escapes everything it prints, inlined JSON has no ``<``, and the
page's own content security policy names the scripts that may run by their hash and allows no
connection at all.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from ...registry.archive import Atlas
from ...registry.replies import redacted
from ...schemas.errors import ArchiveError, missing_extra, of_sound_data
from . import (
    cards,
    contrasts,
    coverage,
    data,
    evidence,
    figures,
    figures_evidence,
    maps,
    matrices,
    summary,
)
from .formats import FILTERS

_HERE = Path(__file__).parent

#: Scores of one model that count directions, in the order of the page's choice.
DIMENSIONS = ("intrinsic_dimension", "participation_ratio")

#: What the bundle of the charts' library leaves behind for the page's own scripts.
BUNDLE = "window.vegaEmbed = vegaEmbed;"

#: The page's scripts, in the order they run.
SCRIPTS = ("theme", "kit", "links", "viewer", "map", "matrix", "charts", "evidence", "page")

SECTIONS = (
    ("headline", "Headline"),
    ("convergence", "Convergence"),
    ("performance", "Performance"),
    ("distribution", "In / out of distribution"),
    ("dimension", "Dimension"),
    ("map", "Map"),
    ("coverage", "Coverage"),
    ("gaps", "Gaps"),
    ("models", "Models"),
    ("sets", "Structure sets"),
    ("provenance", "Provenance"),
)


def write_report(path: str | Path, *, out: str | Path | None = None) -> Path:
    """Write the atlas page: one HTML file, everything inlined.

    Parameters
    ----------
    path:
        An analysed atlas: a folder, or any URL :func:`matteratlas.open_atlas` takes.
    out:
        File to write; ``<path>/report.html`` by default, needed when ``path`` is a URL.

    Returns
    -------
    Path
        The file written; whole or not at all.

    Raises
    ------
    ArchiveError
        Not an atlas, not analysed yet (the message says what to run), or a URL without ``out``.
    MissingExtraError
        Altair, vl-convert or Jinja2 is not installed.
    """
    location = str(path)
    if out is None and "://" in location:
        raise ArchiveError(f"{location}: a remote atlas cannot hold its page; give --out FILE")
    target = Path(location) / "report.html" if out is None else Path(out)
    with of_sound_data(location, f"run: matteratlas validate {location}"):
        content = render(data.read_scores(location))
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        scratch.write_text(content, encoding="utf-8")
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
    return target


def render(scores: data.Scores) -> str:
    """The page as text; the same scores give the same bytes."""
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise missing_extra("jinja2", "cpu") from error
    models = data.roster(scores)
    contrasted = scores.selections.loc[scores.selections["role"] == "contrast", "selection"]
    shown = scores.pairs[~scores.pairs["selection"].isin(contrasted)]
    blocks = matrices.blocks(shown, models)
    points = contrasts.points(scores, models)
    scripts = {name: (_HERE / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS}
    scripts["vega"] = vega_bundle()
    mapped = maps.maps(scores, models)
    performed = evidence.performance(scores, models)
    trees = evidence.trees(blocks, models, list(data.MAIN))
    if mapped:
        scripts["3Dmol"] = viewer_bundle()
    context = {
        **_tables(scores, models),
        **_headline(scores, models, points),
        "sections": SECTIONS,
        "compared": bool(blocks),
        "contrasts": bool(points),
        "has_dimension": bool(scores.models["metric"].isin(DIMENSIONS).any()),
        "css": (_HERE / "page.css").read_text(encoding="utf-8"),
        "scripts": scripts,
        "policy": content_policy(scripts.values()),
        "data": inline_json(_page_data(scores, models)),
        "performed": performed is not None,
        "treed": bool(trees),
        "pairs": packed_json(
            {"blocks": blocks, "points": points, "performance": performed, "trees": trees}
        ),
        "mapped": bool(mapped),
        "maps": packed_json(mapped),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    return environment.get_template("page.html").render(context)


def inline_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in, whatever text it carries."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def packed_json(value: Any) -> str:
    """JSON, gzipped and in base64: the pair scores, a tenth of their size as text."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def content_policy(scripts: Any) -> str:
    """The page's content security policy: these scripts by hash, and nothing from anywhere."""
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{h}'" for h in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


@cache
def vega_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from vl-convert: no network."""
    try:
        import altair
        import vl_convert
    except ModuleNotFoundError as error:
        raise missing_extra(str(error.name), "cpu") from error
    version = ".".join(altair.SCHEMA_VERSION.split(".")[:2])
    bundle = str(vl_convert.javascript_bundle(BUNDLE, vl_version=version))
    if "</script" in bundle.lower() or "<!--" in bundle:
        raise ArchiveError(
            "vl-convert's bundle cannot be inlined; run: pip install --upgrade vl-convert-python"
        )
    return bundle


@cache
def viewer_bundle() -> str:
    """3Dmol.js, as ``vendor/package-lock.json`` pins it."""
    return (_HERE / "vendor" / "3Dmol-min.js").read_text(encoding="utf-8")


def atlas_name(atlas: Atlas) -> str:
    """The last part of the atlas's location: a name, never where it lies on this machine."""
    name = redacted(atlas.location).rstrip("/").rsplit("/", 1)[-1]
    return Path(name).resolve().name if name in ("", ".", "..") else name


def _page_data(scores: data.Scores, models: Sequence[data.Model]) -> dict[str, Any]:
    """What the page's script draws, except the pair scores."""
    index = {m.key: m.index for m in models}
    kept = scores.models[
        scores.models["metric"].isin(DIMENSIONS) & scores.models["chart"].isin(list(index))
    ]
    return {
        "atlas": {"name": atlas_name(scores.atlas), "version": scores.atlas.version},
        "files": {
            "pairs": data.PAIRS,
            "models": data.MODELS,
            "coverage": data.COVERAGE,
            "performance": evidence.ALIGNMENT,
        },
        "models": [
            {
                "key": m.key,
                "name": m.card["name"],
                "family": m.card["family"],
                "modality": m.modality,
                "learned": m.learned,
                "contextual": m.contextual,
                "width": cards.width(m),
                "training": sorted(m.training_sets),
            }
            for m in models
        ],
        "modalities": [
            {"id": name, "label": label, "colour": colour, "shape": shape}
            for (name, label), colour, shape in zip(
                data.MODALITIES.items(), figures.CATEGORIES, figures.SHAPES, strict=True
            )
        ],
        "metrics": {
            name: {
                "label": m.label,
                "meaning": m.meaning,
                "larger": m.larger,
                "symmetric": m.symmetric,
            }
            for name in dict.fromkeys(scores.pairs["metric"])
            for m in [data.metric_of(name)]
        },
        "selections": {
            row["selection"]: {
                "role": row["role"],
                "label": contrasts.label(row["selection"]),
                "parent": data.text(row["parent"]),
                "n": int(row["n"]),
                "available": int(row["available"]),
            }
            for row in data.records(scores.selections)
            if row["role"] != "contrast"
        },
        "contrasts": {
            c: contrasts.contrast_label(c)
            for c in scores.selections["contrast"].dropna().drop_duplicates()
        },
        "dimensions": [
            {
                "i": index[row["chart"]],
                "metric": row["metric"],
                "selection": row["selection"],
                "n": int(row["n"]),
                "v": data.number(row["value"], 5),
                "s": data.number(row["standard_error"], 4),
            }
            for row in data.records(kept)
        ],
        "scales": {
            m: {"label": data.metric_of(m).label, "meaning": data.metric_of(m).meaning}
            for m in DIMENSIONS
        },
        "elements": coverage.elements(scores, models),
        "specs": {**figures.specifications(), **figures_evidence.specifications()},
        "level": summary.LEVEL,
    }


def _headline(
    scores: data.Scores, models: Sequence[data.Model], points: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    tables = summary.modality_tables(scores, models)
    contrasted = contrasts.contrast_summaries(points, models)
    across = [t for t in tables if t["across"]]
    structures = scores.atlas.structures
    own = [m for m in models if m.default]
    crystals = summary.crystal_agreement(scores, models)
    led = summary.lead_contrasts(contrasted)
    return {
        "totals": {
            "models": len(own),
            "learned": sum(m.learned for m in own),
            "modalities": len({m.modality for m in own if m.learned}),
            "structures": int(structures["id"].nunique()),
            "sets": len(scores.atlas.set_ids),
        },
        "scale": "calibrated" if summary.scale(scores) == "calibrated" else "raw",
        "crystals": crystals,
        "lead_contrasts": led,
        "lead_sources": summary.lead_sources(crystals, led, across),
        "modality_tables": tables,
        "across": across,
        "contrast_summaries": contrasted,
        "largest_gaps": summary.largest_gaps(scores),
        "null_check": summary.null_check(scores, models),
    }


def _tables(scores: data.Scores, models: Sequence[data.Model]) -> dict[str, Any]:
    name = atlas_name(scores.atlas)
    rows = {
        data.SELECTIONS: len(scores.selections),
        data.PAIRS: len(scores.pairs),
        data.MODELS: len(scores.models),
        data.COVERAGE: len(scores.coverage),
        data.GAPS: len(scores.gaps),
    }
    return {
        "atlas_name": name,
        "version": scores.atlas.version,
        "tool_version": metadata.version("matteratlas"),
        "files": {
            "pairs": data.PAIRS,
            "models": data.MODELS,
            "coverage": data.COVERAGE,
            "gaps": data.GAPS,
        },
        "coverage": coverage.sets_by_models(scores, models),
        "reasons": coverage.reasons(scores),
        "gaps": coverage.gaps(scores),
        "models": cards.models(scores, models, atlas_name=name),
        "sets": cards.sets(scores.atlas),
        "facts": summary.facts(scores),
        "constants": summary.constants(scores),
        "skipped": summary.left_out(scores),
        "metrics": summary.metrics(scores),
        "selections": [
            {
                "name": row["selection"],
                "role": row["role"],
                "n": int(row["n"]),
                "available": int(row["available"]),
                "models": len(row["models"]),
                "sha256": row["selection_sha256"],
            }
            for row in data.records(scores.selections)
        ],
        "score_files": [
            {"path": path, "rows": rows.get(path), "sha256": digest}
            for path, digest in scores.digests.items()
        ],
    }
