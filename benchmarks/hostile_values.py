# SPDX-License-Identifier: Apache-2.0
"""Texts, numbers and bytes that no honest writer gives, and documents changed by one of them."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

#: What is put where a text belongs; ``{arena}`` is the folder around the target.
TEXTS: tuple[str, ...] = (
    "",
    ".",
    "..",
    "../../victim.txt",
    "{arena}/victim.txt",
    "/etc/passwd",
    "a/../../b",
    "..\\..\\victim.txt",
    "C:\\victim.txt",
    "file://{arena}/victim.txt",
    "con",
    "NUL.parquet",
    "aux",
    "a\x00b",
    "a\nb",
    "a\r\nx: y",
    "\x1b[31mred\x1b[0m",
    "\u202egnp.exe",
    "\u200bzero",
    "\ud800",
    "e\u0301",
    "ﬁ",
    "A" * 5000,
    "🧪" * 300,
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "[x](javascript:alert(1))",
    "![x](http://127.0.0.1:9/t.png)",
    "{{ 7*7 }}",
    "${model}",
    "$model",
    "{0.__class__}",
    "%s%n",
    "-rf",
    "--version",
    "a|b`c`",
    "| a |\n|---|\n",
    "---\nlicense: mit\n---",
    "!!python/object/apply:os.system ['true']",
    "__import__('os').system('true')",
    "os:system",
    "nan",
    "null",
    "2.0",
    "3.0",
    "1e999",
    "unreleased",
    "1.0.0-" + "9" * 400,
    "float128",
    "object",
    "|O",
    "V1000000000",
    "M8[ns]",
    "pickle",
    "numcodecs.pickle",
    "structure_id",
    "reasons",
    "linked",
    "id",
    "set",
    "structures",
    "scores-pairs",
    "index",
    "level_0",
)
#: Raw JSON that a writer of Python objects would not give.
RAW: tuple[str, ...] = (
    "NaN", "Infinity", "-Infinity", "1e999", "-0", "9" * 400, "9" * 5000, "1" + "0" * 18, "-1",
    "[" * 100_000 + "]" * 100_000, '{"a":' * 20_000 + "1" + "}" * 20_000, '{"a":1,"a":2}',
    "[" + "0," * 50_000 + "0]", '"\\ud800"', '"' + "x" * 300_000 + '"', "true", "null", "{}", "[]",
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (
    -1, 0, 1, 2, 7, 2**15, 2**31 - 1, 2**31, 2**32, 2**40, 2**53, 10**15, 2**62, 2**63 - 1, 2**63,
    2**64, 10**30, -(2**63), 0.5, 1e308, True, False,
)  # fmt: skip


def text(rng: random.Random, arena: Path) -> str:
    """Some text that no honest writer puts there."""
    return rng.choice(TEXTS).replace("{arena}", str(arena))


def value(rng: random.Random, arena: Path, marks: dict[str, str]) -> Any:
    """Some value; ``marks`` gathers the raw JSON that is put in after writing."""
    kind = rng.randrange(10)
    if kind < 3:
        return text(rng, arena)
    if kind < 6:
        return rng.choice(NUMBERS)
    if kind == 6:
        return rng.choice([None, [], {}, [[]], [None], {"": None}, [1, "a"], {"a": {"b": []}}])
    mark = f"@@{len(marks)}@@"
    marks[mark] = rng.choice(RAW)
    return mark


def nodes(doc: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything inside a document."""
    found = [path] if path else []
    if isinstance(doc, dict):
        for key in doc:
            found += nodes(doc[key], (*path, key))
    elif isinstance(doc, list):
        for i in range(min(len(doc), 12)):
            found += nodes(doc[i], (*path, i))
    return found


def mutate(doc: Any, rng: random.Random, arena: Path, marks: dict[str, str]) -> str:
    """Change one thing of a document in place; says what."""
    places = nodes(doc)
    # Near the top as often as deep down, where most of the places are.
    depth = rng.choice(sorted({len(p) for p in places}))
    path = rng.choice([p for p in places if len(p) == depth])
    *way, key = path
    parent = doc
    for step in way:
        parent = parent[step]
    where = "/".join(str(k)[:30] for k in path)
    kind = rng.randrange(8)
    if kind == 0:
        del parent[key]
        return f"without {where}"
    if kind == 1 and isinstance(parent, dict):
        name = text(rng, arena)
        parent[name] = parent.pop(key)
        return f"{where} renamed {name[:20]!r}"
    if kind == 2 and isinstance(parent, dict):
        name = text(rng, arena)
        parent[name] = copy.deepcopy(parent[key])
        return f"{where} again as {name[:20]!r}"
    if kind == 3 and isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
        parent[key] = parent[key] * rng.choice([-1, 2, 3, 1000, 10**9]) + rng.choice([-1, 0, 1])
        return f"{where} is {parent[key]}"
    if kind == 4 and isinstance(parent[key], str):
        held, at = parent[key], rng.randrange(len(parent[key]) + 1)
        parent[key] = held[:at] + text(rng, arena) + held[at:]
        return f"{where} is {parent[key][:30]!r}"
    parent[key] = value(rng, arena, marks)
    return f"{where} is {marks.get(str(parent[key]), str(parent[key]))[:30]!r}"


def written(doc: Any, marks: dict[str, str]) -> bytes:
    """A document as JSON with the raw parts put in."""
    found = json.dumps(doc, sort_keys=True, separators=(",", ":"))
    for mark, raw in marks.items():
        found = found.replace(f'"{mark}"', raw)
    return found.encode() + b"\n"


def bytes_changed(data: bytes, rng: random.Random) -> bytes:
    """A file with some of its bytes changed, cut, repeated or put in."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        if not out:
            return bytes(rng.randrange(256) for _ in range(16))
        at = rng.randrange(len(out))
        kind = rng.randrange(6)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.choice([0, 1, 127, 128, 255])
        elif kind == 2:
            del out[at : at + rng.choice([1, 4, 64, len(out)])]
        elif kind == 3:
            out[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice([1, 4, 64])))
        elif kind == 4:
            out[at : at + 4] = rng.choice([0, 1, 2**31 - 1, 2**32 - 1]).to_bytes(4, "little")
        else:
            out[at:at] = out[at : at + rng.choice([8, 256])]
    return bytes(out)
