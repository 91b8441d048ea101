# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from matteratlas.builders.structures.literals import read_assignment
from matteratlas.schemas.errors import SourceError

CALLS = {"torch.tensor": lambda value: value, "numbers_of": lambda names: len(names)}


@pytest.fixture
def source(tmp_path):
    def write(text: str):
        path = tmp_path / "data.py"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_literals_and_known_calls_are_read(source):
    path = source(
        "import torch\n"
        "other = torch.cuda.is_available()\n"
        "data: dict = {'a': {'x': torch.tensor([[+1.0, -2.5]], dtype=torch.double),\n"
        "                    'n': numbers_of('H He Li'.split())}}\n"
    )
    assert read_assignment(path, "data", calls=CALLS) == {"a": {"x": [[1.0, -2.5]], "n": 3}}


def test_plain_assignments_are_read(source):
    assert read_assignment(source("a = 1\nnames = ['x', 'y']\n"), "names") == ["x", "y"]


@pytest.mark.parametrize(
    "value",
    [
        "__import__('os').system('touch {mark}')",
        "open('{mark}', 'w')",
        "{{'a': torch.load('{mark}')}}",
        "{{**other}}",
        "[x for x in 'ab']",
    ],
)
def test_code_is_refused_and_never_run(source, tmp_path, value):
    mark = tmp_path / "ran"
    path = source("data = " + value.format(mark=mark) + "\n")
    with pytest.raises(SourceError, match=r"data\.py: 'data' is not plain data"):
        read_assignment(path, "data", calls=CALLS)
    assert not mark.exists()


def test_a_missing_variable_is_an_error_by_name(source):
    with pytest.raises(SourceError, match=r"data\.py: no variable 'data'"):
        read_assignment(source("a = 1\n"), "data")
