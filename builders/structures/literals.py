# SPDX-License-Identifier: Apache-2.0
"""Read data tables that packages ship as Python source, without running any of it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...schemas.errors import SourceError


def read_assignment(
    path: Path, name: str, *, calls: Mapping[str, Callable[..., Any]] | None = None
) -> Any:
    """Value of a module-level ``name = <literal>`` in a Python source file.

    Parameters
    ----------
    path:
        The source file; it is parsed, never executed or imported.
    name:
        The variable.
    calls:
        Function name as written (``torch.tensor``) -> what to make of its positional arguments;
        keyword arguments are ignored. ``str.split()`` is understood.

    Raises
    ------
    SourceError
        The file has no such assignment, or its value is more than literals and ``calls``.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(t, ast.Name) and t.id == name for t in targets):
            try:
                return _value(node.value, calls or {})  # type: ignore[attr-defined]
            except ValueError as error:
                raise SourceError(f"{path.name}: '{name}' is not plain data: {error}") from error
    raise SourceError(f"{path.name}: no variable '{name}'; check the package's version")


def _value(node: ast.AST, calls: Mapping[str, Callable[..., Any]]) -> Any:
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {
            _value(key, calls): _value(value, calls)  # type: ignore[arg-type]
            for key, value in zip(node.keys, node.values, strict=True)
        }
    if isinstance(node, ast.Call):
        written = ast.unparse(node.func)
        if written in calls:
            return calls[written](*(_value(a, calls) for a in node.args))
        if isinstance(node.func, ast.Attribute) and node.func.attr == "split" and not node.args:
            return str(_value(node.func.value, calls)).split()
        raise ValueError(f"line {node.lineno} calls {written[:40]}")
    return ast.literal_eval(node)
