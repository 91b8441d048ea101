# SPDX-License-Identifier: Apache-2.0
"""Hostile cards, made from real ones: by their text, or by their keys."""

from __future__ import annotations

import random
from pathlib import Path

import yaml
from hostile_values import bytes_changed, mutate, text


def keys_changed(data: bytes, rng: random.Random, arena: Path) -> tuple[bytes, str]:
    """A card of which one thing is another; and which."""
    doc, marks = yaml.safe_load(data), dict[str, str]()
    what = mutate(doc, rng, arena, marks)
    found = yaml.safe_dump(doc, sort_keys=False, allow_unicode=True, width=10_000)
    for mark, raw in marks.items():
        found = found.replace(f"'{mark}'", raw)
    return found.encode("utf-8", "surrogatepass"), what


def text_changed(data: bytes, rng: random.Random, arena: Path) -> bytes:
    """A card with one of its lines, or all of it, made hostile."""
    lines = data.decode("utf-8", "replace").split("\n")
    at = rng.randrange(len(lines))
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    kind = rng.randrange(7)
    if kind == 0:
        return bytes_changed(data, rng)
    if kind == 1:
        key = lines[at].partition(":")[0]
        new = (
            rng.choice(
                [
                    "!!python/object/apply:os.system ['touch {arena}/victim.txt']",
                    "!!python/name:os.system",
                    "!!python/object/new:type [x, [], {{}}]",
                    "!!binary aGVsbG8=",
                    "!!set {{a, b}}",
                    "&x [*x]",
                    "*nowhere",
                    "!<tag:yaml.org,2002:python/module:os> x",
                    "2001-01-01",
                    "1:2:3:4",
                    ".inf",
                    ".nan",
                    "0o777",
                    "0x" + "f" * 5000,
                    "9" * 5000,
                    "[" * 5000,
                    "{{" * 3000,
                    "? [a]",
                    "<<: {{a: b}}",
                    "yes",
                    "~",
                    "'\\u202e'",
                    '"\\x00"',
                    '"\\ud800"',
                    "|\n  " + "x" * 100_000,
                    "- " * 5000 + "a",
                    "=",
                    "<<",
                ]
            )
            .replace("{arena}", str(arena))
            .replace("{{", "{")
            .replace("}}", "}")
        )
        lines[at] = f"{key}: {new}"
    elif kind == 2:
        lines.insert(at, lines[rng.randrange(len(lines))])
    elif kind == 3:
        lines[at] = lines[at] + text(rng, arena)
    elif kind == 4:
        lines = [*bomb.split("\n"), *lines] if rng.random() < 0.5 else [*lines, "---", *lines]
    elif kind == 5:
        lines += [f"k{i}: {i}" for i in range(rng.choice([100, 5000, 50_000]))]
    else:
        lines[at] = "  " * rng.choice([1, 9, 2000]) + lines[at]
    return "\n".join(lines).encode("utf-8", "surrogatepass")
