# SPDX-License-Identifier: Apache-2.0
"""Which version step the differences between two releases call for, and how to say them.

As Croissant 1.1 versions data: MAJOR when existing data changed or went away, MINOR when data were
only added, PATCH when the same data were packed or described anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from .compare import RowChanges

if TYPE_CHECKING:
    from .diff import ReleaseDiff

Step = Literal["major", "minor", "patch", "none"]


def judge(found: ReleaseDiff) -> tuple[Step, list[str]]:
    """The step that the changes call for, and why, the weightiest reasons first."""
    major, minor, patch = _major(found), _minor(found), _patch(found)
    if major:
        return "major", [*major, *minor, *patch]
    if minor:
        return "minor", [*minor, *patch]
    if patch:
        return "patch", patch
    return "none", ["the same files"]


def _major(found: ReleaseDiff) -> list[str]:
    old, new = (v.split(".")[0] for v in found.format_versions)
    lines = []
    if old != new:
        lines.append(f"format {found.format_versions[0]} became {found.format_versions[1]}")
    lines += [f"set {s} went away" for s in found.sets_removed]
    lines += [f"model {m} went away" for m in found.models_removed]
    lines += [f"unit {u} went away" for u in found.units_removed]
    for model, (before, after) in found.default_layers.items():
        lines.append(f"model {model}: default layer {before} became {after}")
    for name, change in (*_named("set", found.sets), *_named("unit", found.units)):
        if change.destructive:
            lines.append(f"{name}: {losses(change)}")
    lines += [f"{path} went away" for path in found.scores_removed]
    for path, scores in found.scores.items():
        if scores.overruled:
            lines.append(f"{path}: {scores.overruled} values moved over the same rows")
        if scores.withdrawn:
            lines.append(f"{path}: {scores.withdrawn} rows of unchanged selections went away")
    return lines


def _minor(found: ReleaseDiff) -> list[str]:
    lines = [f"set {s} added ({n:,} structures)" for s, n in found.sets_added.items()]
    lines += [f"model {m} added ({n:,} rows embedded)" for m, n in found.models_added.items()]
    lines += [f"unit {u} added ({n:,} rows embedded)" for u, n in found.units_added.items()]
    for name, change in (*_named("set", found.sets), *_named("unit", found.units)):
        if change.additive:
            lines.append(f"{name}: {gains(change)}")
    lines += [f"{path} added" for path in found.scores_added]
    for path, s in found.scores.items():
        renewed = s.removed - s.withdrawn + s.changed - s.overruled
        if s.added or renewed:
            lines.append(f"{path}: {s.added} rows added, {renewed} renewed or superseded")
    return lines


def _patch(found: ReleaseDiff) -> list[str]:
    lines = [f"{name}: card changed in {', '.join(f)}" for name, f in found.cards.items()]
    for set_id, (before, after) in found.set_versions.items():
        lines.append(f"set {set_id}: version {before} became {after}")
    files = found.files
    if files["added"] or files["replaced"] or files["removed"]:
        lines.append(
            f"files: {files['added']} added, {files['replaced']} replaced, "
            f"{files['removed']} removed"
        )
    if found.format_versions[0] != found.format_versions[1]:
        lines.append("format version {} became {}".format(*found.format_versions))
    return lines


def _named(what: str, changes: Mapping[str, RowChanges]) -> list[tuple[str, RowChanges]]:
    return [(f"{what} {name}", change) for name, change in changes.items()]


def losses(change: RowChanges) -> str:
    """What changed or went away, in words."""
    parts = []
    if change.removed:
        parts.append(f"{change.removed:,} rows removed")
    if change.now_missing:
        parts.append(f"{change.now_missing:,} rows now missing")
    if change.changed:
        columns = ", ".join(f"{c}: {n:,}" for c, n in change.columns.items())
        gap = f", by {change.largest:.3g} at most" if change.largest else ""
        parts.append(f"{change.changed:,} rows changed ({columns}{gap})")
    if change.columns_removed:
        parts.append(f"columns removed: {', '.join(change.columns_removed)}")
    if change.columns_retyped:
        parts.append(f"columns of another type: {', '.join(change.columns_retyped)}")
    if change.examples:
        parts.append(f"first {', '.join(change.examples[:2])}")
    return "; ".join(parts)


def gains(change: RowChanges) -> str:
    """What was added, in words."""
    parts = []
    if change.added:
        parts.append(f"{change.added:,} rows added")
    if change.now_embedded:
        parts.append(f"{change.now_embedded:,} rows now embedded")
    if change.columns_added:
        parts.append(f"columns added: {', '.join(change.columns_added)}")
    return "; ".join(parts)


def describe(found: ReleaseDiff) -> str:
    """The whole diff, one line a fact."""
    lines = [
        f"{found.old} ({found.old_version}) -> {found.new} ({found.new_version}): {found.step}",
        *(f"  {line}" for line in found.why),
    ]
    for path, scores in found.scores.items():
        lines += [
            f"  {path}: {_score_name(row)}: {_number(row['old'])} -> {_number(row['new'])}"
            + ("" if row["same_inputs"] else " (over other rows)")
            for row in scores.largest
        ]
    lines += [
        f"  {lag['model']} lags behind on {lag['set']}: {lag['rows']:,} of "
        f"{lag['structures']:,} structures"
        for lag in found.lagging
    ]
    sizes = found.files["added_bytes"], found.files["replaced_bytes"]
    if any(sizes):
        lines.append("  bytes: {:,} in new files, {:,} in replaced ones".format(*sizes))
    return "\n".join(lines)


def _score_name(row: Mapping[str, object]) -> str:
    told = ("old", "new", "same_inputs")
    return " ".join(f"{k}={v}" for k, v in row.items() if k not in told and v is not None)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
