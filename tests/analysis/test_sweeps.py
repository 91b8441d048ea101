# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_pair
from typer.testing import CliRunner

from matteratlas import open_atlas
from matteratlas.analysis import metrics, pairwise, sweeps
from matteratlas.analysis.sweeps import COLUMNS, sweep
from matteratlas.cli import app
from matteratlas.schemas.errors import ArchiveError, AtlasError, MetricError

N = 60


def spaces() -> dict[str, np.ndarray]:
    (a, b), (c, _) = made_up_pair("plain", n=N), made_up_pair("wide", n=N)
    return {"a": a, "b": b, "c": c}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return sweep(spaces(), sizes=(40, 12, N), ks=(20, 5), permutations=19, repeats=2, seed=3)


def test_every_k_at_every_size_it_fits_and_the_rest_once(table: pd.DataFrame) -> None:
    assert dict(table.dtypes.astype(str)) == COLUMNS
    grid = {(12, 5), (40, 5), (40, 20), (N, 5), (N, 20)}
    for name in metrics.METRICS:
        rows = table[table["metric"] == name]
        near = name in ("mutual_knn", "cknna")
        pairs = 6 if name == "information_imbalance" else 3
        assert len(rows) == 2 * pairs * (len(grid) if near else 3), name
        assert not rows.duplicated(["model_a", "model_b", "n", "k", "repeat"]).any()
        if near:
            assert set(zip(rows["n"], rows["k"], strict=True)) == grid
        else:
            assert rows["k"].isna().all() and set(rows["n"]) == {12, 40, N}
        single = name == "intrinsic_dimension"
        assert (rows["model_b"].isna() == single).all() and rows["value"].notna().all()
        assert (rows["p_value"].isna() == single).all()
    assert list(dict.fromkeys(table["metric"])) == list(metrics.METRICS)


def test_rows_are_those_of_pairwise_on_nested_samples(
    table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, seen = spaces(), []

    def spy(given: dict[str, np.ndarray], **options: Any) -> Any:
        taken = {
            name: [int(np.flatnonzero((data[name] == row).all(axis=1))[0]) for row in values]
            for name, values in given.items()
        }
        assert taken["a"] == taken["b"] == taken["c"] == sorted(set(taken["a"]))
        seen.append((set(taken["a"]), options["metrics"]))
        return pairwise(given, **options)

    monkeypatch.setattr(sweeps, "pairwise", spy)
    again = sweep(data, sizes=(12, 40), ks=[5], permutations=19, repeats=2, seed=3)
    # What is asked for besides changes no number.
    kept = table[table["n"].isin([12, 40]) & (table["k"].isna() | (table["k"] == 5))]
    pd.testing.assert_frame_equal(again, kept.reset_index(drop=True))
    assert len(seen) == 2 * 2 * 2
    first, second = seen[:4], seen[4:]
    for part in (first, second):
        small, large = part[0][0], part[2][0]
        assert small < large and (len(small), len(large)) == (12, 40)
    assert first[0][0] != second[0][0]
    whole = pairwise(data, k=5, permutations=19, seed=3)
    rows = table[(table["n"] == N) & (table["repeat"] == 0) & table["model_b"].notna()]
    for row in rows[rows["k"].isna() | (rows["k"] == 5)].itertuples():
        pair = {"model_a": row.model_a, "model_b": row.model_b}
        assert row.value == pytest.approx(whole[row.metric].sel(pair).item(), abs=1e-12)
        for column in ("null_mean", "null_quantile", "p_value", "calibrated"):
            found = whole[column].sel(metric=row.metric, **pair).item()
            assert getattr(row, column) == pytest.approx(found, abs=1e-6), (row, column)


def test_chance_is_k_of_the_other_rows(table: pd.DataFrame) -> None:
    near = table[table["metric"] == "mutual_knn"]
    assert len(near) == 30
    for row in near.itertuples():
        assert row.null_mean == pytest.approx(row.k / (row.n - 1), rel=0.25)


def test_groups_go_with_their_rows() -> None:
    labels = np.arange(N) % 3
    options: dict[str, Any] = {"metrics": ["mutual_knn"], "permutations": 9, "seed": 1}
    found = sweep(spaces(), sizes=[N], ks=[5], groups=labels, **options)
    whole = pairwise(spaces(), k=5, groups=labels, **options)
    expected = whole.null_mean.sel(metric="mutual_knn", model_a="a", model_b="b").item()
    assert found["null_mean"][0] == pytest.approx(expected)
    assert len(sweep(spaces(), sizes=[20], ks=[5], groups=labels, **options)) == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sizes": [20, 61]}, "61 rows asked for, 60 there"),
        ({"sizes": []}, "sizes: none given"),
        ({"sizes": [2.5]}, "not a whole number"),
        ({"ks": [0]}, "ks=0 is not"),
        ({"sizes": [8], "ks": [9], "metrics": ["cknna"]}, "ks: 9 is the fewest"),
        ({"metrics": ["cka"]}, "'cka' is not one of"),
        ({"metrics": []}, "no metrics"),
        ({"repeats": 0}, "repeats=0"),
        ({"groups": [1, 2]}, "groups has shape"),
        ({"normalise": {"nn": "l2"}}, "names 'nn'"),
    ],
)
def test_errors_are_one_line(options: dict[str, Any], says: str) -> None:
    with pytest.raises(MetricError, match=says):
        sweep(spaces(), **{"sizes": [20], "ks": [5], **options})
    with pytest.raises(MetricError, match="has 60 rows"):
        sweep({"short": np.ones((50, 2)), **spaces()}, sizes=[20])


def test_the_command_writes_the_table_it_prints(built_atlas: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep.parquet"
    names = ["chgnet-0.3.0", "morgan", "random-128"]
    arguments = ["sweep", str(built_atlas), "--models", ",".join(names), "--sizes", "20,40"]
    arguments += ["--ks", "3,5", "--metrics", "mutual_knn,linear_cka", "--permutations", "9"]
    arguments += ["--sets", "g2", "--where", "kind == 'molecule'", "--out", str(out)]
    printed = CliRunner().invoke(app, [*arguments, "--json"])
    assert printed.exit_code == 0, printed.output
    shown = json.loads(printed.stdout)
    assert [p.name for p in tmp_path.iterdir()] == ["sweep.parquet"]
    written = pd.read_parquet(out)
    assert len(shown) == len(written) == 3 * (4 + 2)
    common = open_atlas(str(built_atlas)).aligned(names, sets=["g2"], where="kind == 'molecule'")
    expected = sweep(
        {name: common[name].values for name in names},
        sizes=(20, 40),
        ks=(3, 5),
        metrics=["mutual_knn", "linear_cka"],
        permutations=9,
    )
    pd.testing.assert_frame_equal(written, expected, check_dtype=False)
    assert [row["k"] for row in shown] == [None if pd.isna(k) else k for k in expected["k"]]
    lines = CliRunner().invoke(app, arguments).stdout.splitlines()
    assert lines[0].split("\t") == list(COLUMNS) and len(lines) == 19


@pytest.mark.parametrize(
    ("more", "kind", "says"),
    [
        (["--sizes", "20,x"], AtlasError, "whole numbers are needed"),
        (["--sizes", "9000"], MetricError, "9000 rows asked for"),
        (["--where", "kind == 'protein'"], ArchiveError, "no structure in common"),
        (["--models", "mat2vek"], AtlasError, "mat2vek"),
    ],
)
def test_the_command_says_what_to_mend(
    built_atlas: Path, more: list[str], kind: type[Exception], says: str
) -> None:
    result = CliRunner().invoke(app, ["sweep", str(built_atlas), "--models", "morgan", *more])
    assert isinstance(result.exception, kind) and says in str(result.exception)
    assert "\n" not in str(result.exception)
