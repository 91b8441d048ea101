# SPDX-License-Identifier: Apache-2.0
"""The Hub's published rules for a card's YAML header.

Sources: the licence table of docs/hub/repositories-licenses (identifiers as the Hub's own message
listed them in May 2026), the dataset card specification (datasetcard.md), and the names that
`datasets` accepts for configurations and splits.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

LICENSES = (
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 "
    "bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause "
    "bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 "
    "cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 "
    "cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 "
    "eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research "
    "intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 "
    "openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license "
    "fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 "
    "grok2-community gemma unknown other"
).split()
SIZES = (
    "n<1K 1K<n<10K 10K<n<100K 100K<n<1M 1M<n<10M 10M<n<100M 100M<n<1B 1B<n<10B 10B<n<100B "
    "100B<n<1T n>1T"
).split()
#: Task categories of datasets that have to do with matter or tables, and the common ones.
TASKS = (
    "text-classification token-classification table-question-answering question-answering "
    "zero-shot-classification translation summarization feature-extraction text-generation "
    "fill-mask sentence-similarity text-to-speech text-to-audio automatic-speech-recognition "
    "audio-to-audio audio-classification voice-activity-detection depth-estimation "
    "image-classification object-detection image-segmentation text-to-image image-to-text "
    "image-to-image image-to-video unconditional-image-generation video-classification "
    "reinforcement-learning robotics tabular-classification tabular-regression tabular-to-text "
    "table-to-text multiple-choice text-ranking text-retrieval time-series-forecasting "
    "text-to-video visual-question-answering document-question-answering "
    "zero-shot-image-classification graph-ml mask-generation zero-shot-object-detection "
    "text-to-3d image-to-3d image-feature-extraction video-text-to-text any-to-any other"
).split()

_BLOCK = re.compile(r"^(\s*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(\r\n|\n|$))")
_SPLIT = re.compile(r"\w+(\.\w+)*")
_CONFIG = re.compile(r"[^<>:/\\|?*]+")  # datasets.naming
_LANGUAGE = re.compile(r"[a-z]{2,3}|code|multilingual")
_LICENSE_NAME = re.compile(r"[a-z0-9\-.]+")


def check(content: str, kind: str) -> tuple[list[str], list[str]]:
    """Errors and warnings about a README's YAML header; `kind` is ``dataset``, ``model``..."""
    block = _BLOCK.match(content)
    try:
        card = yaml.safe_load(block[2]) if block else None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        at = f" (line {where.line + 2})" if where else ""
        return [f"YAML parsing error: {getattr(error, 'problem', error)}{at}"], []
    if card is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(card, dict):
        return ['"value" must be of type object'], []
    errors = [*_licence(card), *_lists(card)]
    warnings = []
    if kind == "dataset":
        errors += [*_sizes(card), *_configs(card), *_infos(card)]
        warnings = [
            f'The task_categories "{one}" is not in the official list: {", ".join(TASKS)}'
            for one in _strings(card.get("task_categories"))
            if one not in TASKS
        ]
    return errors, warnings


def _strings(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _licence(card: dict[str, Any]) -> list[str]:
    errors = []
    value = card.get("license")
    if "license" in card:
        for one in value if isinstance(value, list) else [value]:
            if one not in LICENSES:
                errors.append(f'"license" must be one of [{", ".join(LICENSES)}, array]')
    name = card.get("license_name")
    if name is not None and not (isinstance(name, str) and _LICENSE_NAME.fullmatch(name)):
        errors.append(f'"license_name" with value "{name}" fails to match /^[a-z0-9-.]+$/')
    link = card.get("license_link")
    if link is not None and not re.fullmatch(r"LICENSE(\.md)?|https?://\S+", str(link)):
        errors.append('"license_link" must be one of [LICENSE, LICENSE.md] or a valid uri')
    return errors


def _lists(card: dict[str, Any]) -> list[str]:
    errors = []
    for key in ("tags", "task_categories", "task_ids", "annotations_creators", "source_datasets"):
        value = card.get(key)
        if value is None:
            continue
        if not isinstance(value, list):
            errors.append(f'"{key}" must be an array')
            continue
        errors += [
            f'"{key}[{n}]" must be a string' for n, one in enumerate(value) if type(one) is not str
        ]
    if "pretty_name" in card and not isinstance(card["pretty_name"], str):
        errors.append('"pretty_name" must be a string')
    languages = card.get("language")
    for n, one in enumerate(languages if isinstance(languages, list) else [languages]):
        if languages is not None and not (isinstance(one, str) and _LANGUAGE.fullmatch(one)):
            errors.append(
                f'"language[{n}]" with value "{one}" is not valid. It must be an ISO 639-1, 639-2 '
                'or 639-3 code (two/three letters), or a special value like "code", "multilingual".'
            )
    return errors


def _sizes(card: dict[str, Any]) -> list[str]:
    value = card.get("size_categories")
    if value is None:
        return []
    return [
        f'"size_categories[{n}]" must be one of [{", ".join(SIZES)}]'
        for n, one in enumerate(value if isinstance(value, list) else [value])
        if one not in SIZES
    ]


def _configs(card: dict[str, Any]) -> list[str]:
    configs = card.get("configs")
    if configs is None:
        return []
    if not isinstance(configs, list):
        return ['"configs" must be an array']
    errors = []
    names = []
    for n, config in enumerate(configs):
        where = f"configs[{n}]"
        if not isinstance(config, dict):
            errors.append(f'"{where}" must be of type object')
            continue
        name = config.get("config_name", "default")
        names.append(name)
        if not isinstance(name, str) or not _CONFIG.fullmatch(name):
            errors.append(f'"{where}.config_name" with value "{name}" is not a valid name')
        if "data_files" in config:
            errors += _data_files(config["data_files"], f"{where}.data_files")
        if not isinstance(config.get("default", False), bool):
            errors.append(f'"{where}.default" must be a boolean')
    for name in sorted({str(one) for one in names if names.count(one) > 1}):
        errors.append(f'"configs" contains a duplicate config_name "{name}"')
    if sum(c.get("default") is True for c in configs if isinstance(c, dict)) > 1:
        errors.append('"configs" must not have more than one default')
    return errors


def _data_files(value: Any, where: str) -> list[str]:
    """``path``, a list of paths, or a list of ``{split, path: path or list of paths}``."""
    if isinstance(value, str):
        return []
    if not isinstance(value, list) or not value:
        return [f'"{where}" must be one of [string, array]']
    errors = []
    splits = []
    for n, item in enumerate(value):
        at = f"{where}[{n}]"
        if isinstance(item, str):
            continue
        if not isinstance(item, dict) or set(item) != {"split", "path"}:
            errors.append(f'"{at}" must be a string or an object with keys split and path')
            continue
        split, path = item["split"], item["path"]
        splits.append(split)
        if not isinstance(split, str) or not _SPLIT.fullmatch(split):
            errors.append(f'"{at}.split" with value "{split}" fails to match /^\\w+(\\.\\w+)*$/')
        if not isinstance(path, str) and not (_strings(path) and _strings(path) == path):
            errors.append(f'"{at}.path" must be one of [string, array]')
    if len(set(map(str, splits))) < len(splits):
        errors.append(f'"{where}" contains a duplicate split')
    return errors


def _infos(card: dict[str, Any]) -> list[str]:
    infos = card.get("dataset_info")
    if infos is None:
        return []
    errors = []
    many = isinstance(infos, list)
    for n, info in enumerate(infos if many else [infos]):
        where = f"dataset_info[{n}]" if many else "dataset_info"
        if not isinstance(info, dict):
            errors.append(f'"{where}" must be of type object')
            continue
        if many and not isinstance(info.get("config_name"), str):
            errors.append(f'"{where}.config_name" is required')
        for m, split in enumerate(info.get("splits") or []):
            if not isinstance(split, dict) or not _SPLIT.fullmatch(str(split.get("name"))):
                errors.append(f'"{where}.splits[{m}].name" fails to match /^\\w+(\\.\\w+)*$/')
    return errors
