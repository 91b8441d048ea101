# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
from atlas_factory import (
    MODELS,
    edit_index,
    made_up_registry,  # noqa: F401
    rewrite_unit,
    use_made_up_registry,
    write_atlas,
)
from dask.distributed import Client, LocalCluster

from matteratlas.analysis import charts, metrics, pairwise, running, scoring
from matteratlas.analysis.analyze import analyze
from matteratlas.analysis.effective_rank import participation_ratio
from matteratlas.analysis.record import ANALYSIS
from matteratlas.builders.adapters.base import Missing
from matteratlas.registry.archive import open_atlas
from matteratlas.registry.validate import validate
from matteratlas.schemas.errors import ArchiveError, MetricError, SourceError
from matteratlas.schemas.scores import SCORE_TABLES

OPTIONS = {"permutations": 99, "workers": 1}


@pytest.fixture
def workers_know() -> Iterator[None]:
    """Workers in processes of their own see the made-up registry too."""
    with dask.config.set(
        {"distributed.worker.preload": [str(Path(__file__).parent / "preload.py")]}
    ):
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing planted; analysed. Read-only."""
    with pytest.MonkeyPatch.context() as patch:
        use_made_up_registry(patch)
        root = write_atlas(tmp_path_factory.mktemp("plain") / "atlas", seed=1)
        analyze(root, **OPTIONS)
        yield root


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``bond-a`` mixes up the alloys."""

    def plant(model: str, structures: pd.DataFrame, latent: np.ndarray) -> np.ndarray:
        if model == "bond-a":
            rows = np.flatnonzero(structures["stratum"] == "alloys")
            latent[rows] = latent[np.random.default_rng(0).permutation(rows)]
        return latent

    with pytest.MonkeyPatch.context() as patch:
        use_made_up_registry(patch)
        root = write_atlas(tmp_path_factory.mktemp("planted") / "atlas", seed=1, plant=plant)
        analyze(root, **OPTIONS)
        yield root


@pytest.fixture
def copy(plain: Path, tmp_path: Path, made_up_registry: None) -> Path:  # noqa: F811
    """A private copy of the analysed atlas."""
    return Path(shutil.copytree(plain, tmp_path / "copy"))


def read(root: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(root / "scores" / f"{name}.parquet")


def hashes(root: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((root / "scores").iterdir())}


def test_tables_are_valid_and_every_number_has_one_row(plain: Path) -> None:
    for name, schema in SCORE_TABLES.items():
        table = pd.read_parquet(plain / name)
        # No structure of this atlas has an energy.
        assert len(table) or name.startswith("scores/performance"), name
        schema.validate(table)
    assert validate(plain).ok
    record = json.loads((plain / ANALYSIS).read_text())
    assert set(record["tables"]) == set(SCORE_TABLES)
    assert record["parameters"]["permutations"] == 99
    assert [s["name"] for s in record["selections"]] == list(read(plain, "selections")["selection"])


def test_a_matrix_has_one_n_and_all_its_pairs(plain: Path) -> None:
    pairs, selections = read(plain, "pairs"), read(plain, "selections").set_index("selection")
    for name, rows in pairs.groupby("selection"):
        assert set(rows["n"]) == {selections.loc[name, "n"]}
        assert set(rows["selection_sha256"]) == {selections.loc[name, "selection_sha256"]}
    crystals = pairs[(pairs["selection"] == "crystals") & (pairs["metric"] == "mutual_knn")]
    assert len(crystals) == 15  # six of seven models embed all crystals
    assert "organic-a" not in {*crystals["model_a"], *crystals["model_b"]}
    partial = pairs[(pairs["selection"] == "crystals|organic-a") & (pairs["metric"] == "cknna")]
    assert set(partial["n"]) == {60}
    assert len(partial) == 6
    assert all(
        "organic-a" in pair for pair in zip(partial["model_a"], partial["model_b"], strict=True)
    )
    both = pairs[(pairs["selection"] == "crystals") & (pairs["metric"] == "information_imbalance")]
    assert len(both) == 30  # it is not symmetric


def test_k_is_told_where_a_metric_has_one(plain: Path) -> None:
    pairs, models = read(plain, "pairs"), read(plain, "models")
    found = {m: set(rows["k"].dropna()) for m, rows in pairs.groupby("metric")}
    assert found == {
        "mutual_knn": {10},
        "cknna": {10},
        "information_imbalance": {1},
        "linear_cka": set(),
        "distance_correlation": set(),
    }
    assert set(models["metric"]) == {"intrinsic_dimension", "participation_ratio", "distinct_share"}


@pytest.mark.parametrize("selection", ["crystals", "crystals|organic-a", "organics:small"])
def test_a_score_can_be_traced_to_rows_and_recomputed(copy: Path, selection: str) -> None:
    pairs, rows = read(copy, "pairs"), read(copy, "selections").set_index("selection")
    own = pairs[(pairs["selection"] == selection) & (pairs["metric"] == "mutual_knn")].iloc[1]
    atlas = open_atlas(str(copy))
    x, y = (
        atlas.embeddings(own[f"model_{s}"], layer=own[f"layer_{s}"], missing="drop")
        .drop_duplicates("structure")
        .sel(structure=list(rows.loc[selection, "ids"]))
        .to_numpy()
        for s in "ab"
    )
    assert len(x) == own["n"]
    value = metrics.mutual_knn(x, y, k=int(own["k"]), normalise=own["normalise"])
    assert own["value"] == pytest.approx(value, abs=1e-12)
    room = 1 - own["null_quantile"]
    assert own["calibrated"] == pytest.approx(max(own["value"] - own["null_quantile"], 0) / room)


def test_models_agree_and_noise_does_not(plain: Path) -> None:
    pairs = read(plain, "pairs")
    rows = pairs[(pairs["selection"] == "crystals") & (pairs["metric"] == "mutual_knn")]
    noise = (rows["model_a"] == "noise") | (rows["model_b"] == "noise")
    assert noise.sum() == 5
    assert (rows.loc[~noise, "q_value"] < 0.05).all()
    assert rows.loc[~noise, "calibrated"].min() > 0.3
    assert rows.loc[noise, "calibrated"].max() < 0.05
    assert rows.loc[noise, "value"].mean() == pytest.approx(10 / 149, abs=0.02)


def test_nothing_planted_is_no_gap(plain: Path) -> None:
    table = read(plain, "gaps")
    tested = table[table["p_value"].notna()]
    assert {"agreement", "distribution", "density", "collapse"} <= set(tested["kind"])
    assert (tested["q_value"] >= 0.05).all()
    assert (tested["severity"] == 0).all()


def test_a_stratum_mixed_up_in_one_model_ranks_first(planted: Path) -> None:
    table = read(planted, "gaps")
    agreement = table[table["kind"] == "agreement"].sort_values("rank")
    assert agreement.iloc[0]["region"] == "ores:alloys"
    assert agreement.iloc[0]["q_value"] < 0.01
    assert agreement.iloc[0]["severity"] > 0.2
    assert (agreement["severity"][1:] == 0).all()


def test_lost_agreement_and_far_matter_outside_the_domains_are_found(
    tmp_path: Path,
    made_up_registry: None,  # noqa: F811
) -> None:
    def plant(model: str, structures: pd.DataFrame, latent: np.ndarray) -> np.ndarray:
        own = (structures["stratum"] == "actinides").to_numpy()
        mixed = np.random.default_rng([3, *model.encode()]).normal(size=(own.sum(), 6))
        latent[own] = 0.5 * latent[own] + mixed
        return latent

    root = write_atlas(tmp_path / "atlas", plant=plant, spread={"complexes": 9.0})
    report = analyze(root, **OPTIONS)
    table = read(root, "gaps")
    like = table[(table["kind"] == "distribution") & (table["region"] == "in:crystal~out:crystal")]
    local = like[like["statistic"] == "mutual_knn"].set_index("model")
    assert set(local.index) == {"lattice-a", "lattice-b", "bond-a", "field-a"}
    assert (local["value"] < local["reference"]).all()
    assert (local["severity"] > 0.3).all()
    assert (local["n"] == 45).all()
    assert any(line.startswith("distribution gap in:crystal~out:crystal") for line in report.top)
    density = table[table["kind"] == "density"].sort_values("rank")
    assert set(density["region"][:4]) == {"organics:complexes"}
    assert (density["severity"][:4] > 0.1).all()
    assert (density["value"][:4] > density["reference"][:4]).all()


def test_local_rows_are_the_structures_of_their_selection(planted: Path) -> None:
    local, selections = read(planted, "local"), read(planted, "selections").set_index("selection")
    assert set(local["selection"]) == {"crystals", "molecules"}
    for name, rows in local.groupby("selection"):
        assert list(rows["id"]) == list(selections.loc[name, "ids"])
    means = local.groupby("stratum")["agreement"].mean()
    assert means["alloys"] < means["oxides"]
    assert set(local["pairs"]) == {5}  # of four learned models; lattice-a and -b are one family


def test_a_second_run_computes_nothing(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in (copy / "scores").iterdir()}
    monkeypatch.setattr(scoring, "pairwise", lambda *_, **__: pytest.fail("computed again"))
    report = analyze(copy, **OPTIONS)
    assert report.kept
    assert "nothing computed" in report.text()
    assert {p.name: p.stat().st_mtime_ns for p in (copy / "scores").iterdir()} == before
    assert report.summary()["tables"] == {n: len(pd.read_parquet(copy / n)) for n in SCORE_TABLES}


@pytest.mark.parametrize("change", ["parameter", "table", "record", "unit"])
def test_what_changed_is_computed_again(copy: Path, change: str) -> None:
    options = dict(OPTIONS)
    before = hashes(copy)
    if change == "parameter":
        options["seed"] = 1
    elif change == "table":
        (copy / "scores" / "gaps.parquet").write_bytes(b"damaged")
    elif change == "record":
        (copy / ANALYSIS).write_text("{")
    else:
        edit_index(
            copy,
            lambda index: index["models"]["shape"]["units"]["ores"].update(content_sha256="0" * 64),
        )
    assert not analyze(copy, **options).kept
    after = hashes(copy)
    assert set(after) == set(before)
    if change in ("table", "record"):
        assert after == before  # the same inputs give the same bytes
    if change == "parameter":
        assert after["pairs.parquet"] != before["pairs.parquet"]
    assert analyze(copy, **options).kept


def test_bytes_do_not_depend_on_where_tasks_run(copy: Path, workers_know: None) -> None:
    """Here, on processes made for it, and on a scheduler that was there before."""
    before = hashes(copy)
    assert not analyze(copy, **{**OPTIONS, "workers": 2}, resume=False).kept
    assert hashes(copy) == before
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as there,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("DASK_SCHEDULER_ADDRESS", there.scheduler_address)
        assert not analyze(copy, **OPTIONS, resume=False).kept
    assert hashes(copy) == before
    assert not (copy / running.WORK).exists()


def test_no_scheduler_there_is_one_line(copy: Path) -> None:
    with pytest.raises(SourceError, match=r"tcp://127.0.0.1:9' does not answer"):
        analyze(copy, **OPTIONS, resume=False, scheduler="tcp://127.0.0.1:9")


def test_a_killed_run_goes_on_from_its_parts(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, ran = hashes(copy), []
    shutil.rmtree(copy / "scores")
    original = running.score_task

    def dying(task: scoring.Task, *rest: object) -> scoring.Scored:
        ran.append(task)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return original(task, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(running, "score_task", dying)
    with pytest.raises(KeyboardInterrupt):
        analyze(copy, **OPTIONS, resume=False)
    parts = sorted((copy / running.WORK).glob("*/part-*.json"))
    assert len(parts) == 2
    assert validate(copy).ok
    parts[0].write_text(parts[0].read_text()[:100])  # not whole: done again
    analyze(copy, **OPTIONS)
    assert hashes(copy) == before
    assert not (copy / running.WORK).exists()
    assert len(ran) - 2 == len(set(ran))


def test_a_killed_worker_loses_nothing(copy: Path, workers_know: None) -> None:
    before = hashes(copy)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as there,
        Client(there) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        run = pool.submit(analyze, copy, **OPTIONS, resume=False, scheduler=there.scheduler_address)
        while not list((copy / running.WORK).glob("*/part-*.json")) and not run.done():
            time.sleep(0.01)
        victim = next(iter(client.run(os.getpid).values()))
        os.kill(victim, signal.SIGKILL)
        assert not run.result().kept
    assert hashes(copy) == before


def test_large_selections_are_scored_by_the_engine(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same scores but for the rounding of single precision and the nulls' samples."""
    before = read(copy, "pairs")
    monkeypatch.setattr(running, "ENGINE_ROWS", 0)
    analyze(copy, **OPTIONS, resume=False)
    after = read(copy, "pairs")
    assert len(after) == len(before)
    for name in ("value", "standard_error"):
        # A rank that rounding leaves open moves an imbalance of so few rows by this much.
        np.testing.assert_allclose(after[name], before[name], atol=1e-4, equal_nan=True)
    near = after["metric"].isin(["mutual_knn", "cknna"])
    np.testing.assert_allclose(after["p_value"][near], before["p_value"][near], equal_nan=True)


@pytest.mark.parametrize("engine", [False, True])
def test_nulls_keep_to_a_column_where_asked(
    copy: Path, monkeypatch: pytest.MonkeyPatch, engine: bool
) -> None:
    free = read(copy, "pairs")
    assert free["null_within"].isna().all()
    if engine:
        monkeypatch.setattr(running, "ENGINE_ROWS", 0)
    analyze(copy, **{**OPTIONS, "metrics": ["mutual_knn"]}, within="formula")
    kept = read(copy, "pairs")
    assert set(kept["null_within"].dropna()) == {"formula"}
    rows = kept[kept["selection"] == "crystals"].iloc[0]
    atlas = open_atlas(str(copy))
    ids = list(read(copy, "selections").set_index("selection").loc["crystals", "ids"])
    x, y = (
        atlas.embeddings(rows[f"model_{s}"], missing="drop")
        .drop_duplicates("structure")
        .sel(structure=ids)
        .to_numpy()
        for s in "ab"
    )
    formulas = atlas.structures.drop_duplicates("id").set_index("id").loc[ids, "formula"]
    expected = pairwise(
        {"a": x, "b": y},
        metrics=["mutual_knn"],
        k=int(rows["k"]),
        permutations=int(rows["permutations"]),
        groups=formulas.to_numpy(),
    )
    assert rows["value"] == pytest.approx(float(expected["mutual_knn"][0, 1]), abs=1e-6)
    null = float(expected["null_mean"].sel(metric="mutual_knn")[0, 1])
    assert rows["null_mean"] == pytest.approx(null, abs=0.01)
    both = kept.merge(
        free, on=["selection", "model_a", "model_b", "metric"], suffixes=("", "_free")
    )
    assert (both["value"] - both["value_free"]).abs().max() < 1e-6


def test_nulls_are_free_where_hardly_a_row_has_a_partner() -> None:
    table = pd.DataFrame({"id": list("abcdef"), "formula": ["H2", "H2", "O2", "N2", "F2", "Cl2"]})
    assert scoring.exchangeable(table, list("abcdef"), "formula") is None
    assert scoring.exchangeable(table, list("abc"), None) is None
    labels = scoring.exchangeable(table, list("abc"), "formula")
    assert labels is not None and list(labels) == ["H2", "H2", "O2"]


def test_costly_tasks_are_cut_by_metric_without_changing_scores(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read(copy, "pairs")
    monkeypatch.setattr(scoring, "SPLIT_ABOVE", 0)
    analyze(copy, **OPTIONS, resume=False)
    pd.testing.assert_frame_equal(read(copy, "pairs"), before)


def test_all_layers_are_charts_of_their_own(copy: Path) -> None:
    analyze(copy, layers="all", metrics=["mutual_knn"], permutations=0, workers=1)
    pairs = read(copy, "pairs")
    crystals = pairs[pairs["selection"] == "crystals"]
    assert len(crystals) == 12 * 11 // 2
    assert set(crystals["layer_b"]) == {"last", "first"}
    assert crystals["p_value"].isna().all()
    assert crystals["q_value"].isna().all()
    names = read(copy, "selections").set_index("selection").loc["crystals", "models"]
    assert "bond-a/first" in names
    gaps = read(copy, "gaps")
    assert "mutual_knn[first]" in set(gaps["statistic"])
    assert list(gaps.columns) == list(SCORE_TABLES["scores/gaps.parquet"].columns)


def test_vectors_that_are_not_finite_are_left_out_and_told(copy: Path) -> None:
    def damage(layer: str, values: np.ndarray) -> np.ndarray:
        if layer == "last":
            values[7:9, 0] = np.nan
        return values

    rewrite_unit(copy, "bond-a", "ores", damage)
    report = analyze(copy, **OPTIONS, resume=False)
    note = "bond-a: 2 vectors are not finite and are left out"
    assert any(entry.startswith(note) for entry in report.notes)
    rows = read(copy, "selections").set_index("selection")
    assert rows.loc["crystals", "n"] == 148
    assert "bond-a" in rows.loc["crystals", "models"]


def test_a_chart_with_few_distinct_vectors_is_excluded_by_name(copy: Path) -> None:
    def flatten(layer: str, values: np.ndarray) -> np.ndarray:
        return np.arange(150)[:, None] % 5 + np.ones(values.shape[1])

    rewrite_unit(copy, "shape", "ores", flatten)
    analyze(copy, **OPTIONS, resume=False)
    record = json.loads((copy / ANALYSIS).read_text())
    crystals = next(s for s in record["selections"] if s["name"] == "crystals")
    assert crystals["excluded"] == {"shape": "5 distinct vectors on 150 rows, 12 needed"}
    pairs = read(copy, "pairs")
    own = pairs[pairs["selection"] == "crystals"]
    assert "shape" not in {*own["model_a"], *own["model_b"]}
    assert "shape" not in read(copy, "selections").set_index("selection").loc["crystals", "models"]
    assert own["value"].notna().all()


def test_a_model_that_embedded_nothing_is_no_trouble(copy: Path) -> None:
    for set_id in ("ores", "organics"):
        rewrite_unit(copy, "shape", set_id, Missing("failed: out of luck"))
    analyze(copy, **OPTIONS, resume=False)
    assert not any("shape" in models for models in read(copy, "selections")["models"])
    own = read(copy, "coverage").set_index("model").loc["shape"]
    assert own["embedded"].sum() == 0
    assert len(own) == 5


def test_vectors_read_as_they_are_needed_give_the_same_scores(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = hashes(copy)
    monkeypatch.setattr(charts, "CACHE_BYTES", 0)
    analyze(copy, **OPTIONS, resume=False)
    assert hashes(copy) == before


def test_models_that_embedded_nothing_of_a_kind_are_no_trouble(copy: Path) -> None:
    selections = read(copy, "selections")
    assert not any(
        "organic-a" in m for m in selections.loc[selections["selection"] == "ores:alloys", "models"]
    )
    names = set(selections["selection"])
    assert "ores:alloys|organic-a" not in names


def test_errors_are_one_line(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(ArchiveError, match=r"no atlas\.json"):
        analyze(tmp_path / "nowhere")
    for options, words in (
        ({"metrics": ["mutual_nn"]}, "mutual_nn; choose from"),
        ({"k": 1}, "k=1 is too small"),
        ({"max_rows": 20}, "max_rows=20 is too small; give at least 30"),
        ({"layers": "some"}, "layers='some'"),
        ({"within": "shape"}, "within='shape' is no column"),
    ):
        with pytest.raises(MetricError, match=words) as error:
            analyze(copy, **options)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)


def test_progress_is_told(copy: Path) -> None:
    heard: list[tuple[str, str, int]] = []

    class Ear:
        def stage(self, name: str, total: int) -> None:
            heard.append(("stage", name, total))

        def advance(self, what: str, steps: int) -> None:
            heard.append(("advance", what, steps))

        def note(self, text: str) -> None:
            heard.append(("note", text, 0))

    analyze(copy, permutations=0, metrics=["linear_cka"], workers=1, reporter=Ear())
    totals = {name: total for what, name, total in heard if what == "stage"}
    assert list(totals) == ["reading charts", "scores", "gaps"]
    stage, done = "", dict.fromkeys(totals, 0)
    for what, name, steps in heard:
        if what == "stage":
            stage = name
        elif what == "advance":
            done[stage] += steps
    assert done == totals
    assert len(MODELS) == 7


def test_participation_ratio_counts_directions() -> None:
    random = np.random.default_rng(0)
    flat = random.normal(size=(2000, 4)) @ np.linalg.qr(random.normal(size=(9, 4)))[0].T
    assert participation_ratio(flat) == pytest.approx(4, rel=0.02)
    assert participation_ratio(flat * 1e-30) == pytest.approx(participation_ratio(flat))
    line = np.outer(random.normal(size=50), np.ones(70)) + 5.0
    assert participation_ratio(line) == pytest.approx(1.0)
    assert np.isnan(participation_ratio(np.ones((10, 3))))
    values = random.normal(size=(30, 50))
    spectrum = np.linalg.svd(values - values.mean(axis=0), compute_uv=False) ** 2
    assert participation_ratio(values) == pytest.approx(spectrum.sum() ** 2 / (spectrum**2).sum())
