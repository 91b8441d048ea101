# SPDX-License-Identifier: Apache-2.0
"""JSON and YAML as plain data: one meaning for all readers, no more cost than they weigh."""

from __future__ import annotations

import json
import math
from typing import Any

import yaml

#: Levels of nesting a document of an atlas may have; they have about ten.
MAX_DEPTH = 64
#: Digits of an integer; what it may be is its schema's business.
MAX_DIGITS = 100


def parse_json(data: bytes | str) -> Any:
    """A JSON document.

    Raises
    ------
    ValueError
        Not JSON, or JSON that readers disagree on or that is made to hurt: a key given twice, NaN
        or Infinity, endless integers, half of a surrogate pair, deep nesting.
    """
    try:
        found = json.loads(
            data,
            object_pairs_hook=_once,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_whole,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [found] if isinstance(found, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            break
    else:
        raise ValueError("nested too deeply")
    if b"\\u" in (data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")):
        json.dumps(found, ensure_ascii=False).encode()  # half a pair has no bytes
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key '{twice[:40]}' is given twice")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"number {text[:20]} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"number {text[:20]}... is too large")
    return int(text)


def parse_yaml(data: bytes) -> Any:
    """A YAML document as plain data.

    Raises
    ------
    yaml.YAMLError, ValueError, RecursionError
        Not UTF-8, not YAML, a tag, an anchor, a key given twice or that is no text, deep nesting.
    """
    return yaml.load(data.decode(), Loader=_PlainLoader)


class _PlainLoader(yaml.SafeLoader):
    """YAML as plain data: no tags, no anchors, and no key given twice."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.events.AliasEvent) or getattr(event, "anchor", None):
            # A few nested aliases unfold to gigabytes when the card is written out.
            raise yaml.composer.ComposerError(
                None, None, "anchors and aliases are not allowed; write it out", event.start_mark
            )
        if getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(
                None, None, f"tag {event.tag!r} is not allowed; remove it", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        seen: set[str] = set()
        for key in keys:
            if repr(key) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {str(key)[:40]!r} is given twice", node.start_mark
                )
            seen.add(repr(key))
        odd = [key for key in keys if not isinstance(key, str)]
        if odd:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {str(odd[0])[:40]!r} is no text; quote it", node.start_mark
            )
        return super().construct_mapping(node, deep=deep)
