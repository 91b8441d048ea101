# SPDX-License-Identifier: Apache-2.0
"""Both stages on a small archive with real files: planted energies in, tables out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from atlas_factory import use_made_up_registry, write_atlas

from matteratlas.analysis.analyze import analyze
from matteratlas.analysis.record import ANALYSIS
from matteratlas.builders.adapters.base import Embedded, Missing
from matteratlas.builders.writer import UnitWriter
from matteratlas.registry import catalog
from matteratlas.registry.files import Files
from matteratlas.registry.index import write_index
from matteratlas.registry.tables import write_table
from matteratlas.registry.unit import open_unit
from matteratlas.schemas.cards import Energy
from matteratlas.schemas.scores import SCORE_TABLES

#: Model -> error of its energies an atom (eV), and what its card says they are.
GIVES = {
    "lattice-a": (0.02, "total_energy"),
    "lattice-b": (0.05, "total_energy"),
    "bond-a": (0.20, "formation_energy_per_atom"),
    "organic-a": (0.10, "total_energy"),
}
TABLES = ("performance", "performance_alignment", "performance_correlation")


def structures(root: Path) -> pd.DataFrame:
    sets = [pd.read_parquet(p) for p in sorted((root / "structures").glob("*.parquet"))]
    return pd.concat(sets, ignore_index=True)


def plant_energies(root: Path) -> None:
    """Reference energies: linear in composition, plus what the models' latent points say."""
    random = np.random.default_rng(7)
    true: dict[str, float] = {}
    latent: dict[str, np.ndarray] = {}
    for path in sorted((root / "structures").glob("*.parquet")):
        table = pd.read_parquet(path)
        for row in table.drop_duplicates("id").itertuples():
            if row.id in true:
                continue
            latent[row.id] = random.normal(size=4)
            atoms = row.n_atoms
            true[row.id] = -150.0 * atoms - 40.0 + 0.5 * atoms * float(latent[row.id].sum())
        column = "label_energy" if path.stem == "ores" else "label_atomization_energy"
        sign = 1.0 if path.stem == "ores" else -1.0
        table[column] = [sign * true[i] for i in table["id"]]
        if path.stem == "ores":
            table.loc[table.index[:3], column] = np.nan  # not everything is labelled
        path.unlink()
        write_table(table, path)
    images = {m: random.normal(size=(4, c.layer().dim)) for m, c in catalog.models().items()}
    atoms_of = structures(root).drop_duplicates("id").set_index("id")["n_atoms"]
    for model, card in catalog.models().items():
        error, quantity = GIVES.get(model, (None, ""))
        for set_id, set_card in catalog.structure_sets().items():
            unit = open_unit(Files(str(root)), model, set_id)
            ids, reasons = unit.ids(), unit.reasons()
            first = {x: unit.vectors(x).read() for x in unit.record.layers}
            with UnitWriter(
                root, card, set_card, fingerprint="f", model_fingerprint="m", build_version="0"
            ) as writer:
                for i, (structure_id, reason) in enumerate(zip(ids, reasons, strict=True)):
                    if reason:
                        writer.append(structure_id, Missing(reason))
                        continue
                    atoms = int(atoms_of[structure_id])
                    vectors = {name: values[i] for name, values in first.items()}
                    if card.learned:
                        seen = latent[structure_id] @ images[model]
                        vectors[card.default_layer] = seen.astype(np.float32)
                    energy = None
                    if error is not None:
                        noise = np.random.default_rng([len(model), i]).normal() * error
                        energy = true[structure_id] + (noise + 3.0) * atoms + 9.0
                        if quantity == "formation_energy_per_atom":
                            energy /= atoms
                    writer.append(structure_id, Embedded(pooled=vectors, energy=energy))
                writer.finish()
    write_index(root)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An analysed atlas with energies. Read-only."""
    with pytest.MonkeyPatch.context() as patch:
        use_made_up_registry(patch)
        cards = {}
        for model, card in catalog.models().items():
            _, quantity = GIVES.get(model, (0.0, None))
            unit = "eV" if quantity == "total_energy" else "eV/atom"
            energy = Energy(quantity=quantity, unit=unit, reference="made up") if quantity else None
            cards[model] = card.model_copy(update={"energy": energy})
        patch.setattr(catalog, "models", lambda folder=None: cards)
        root = write_atlas(tmp_path_factory.mktemp("labelled") / "atlas", seed=1)
        plant_energies(root)
        analyze(root, permutations=19, metrics=["mutual_knn", "linear_cka"], workers=1)
        yield root


def read(root: Path, name: str) -> pd.DataFrame:
    path = f"scores/{name}.parquet"
    return SCORE_TABLES[path].validate(pd.read_parquet(root / path))


def test_own_energies_err_by_what_was_planted(labelled: Path) -> None:
    table = read(labelled, "performance")
    whole = table[table["stratum"].isna() & (table["set"] == "ores")].set_index(["method", "model"])
    own = whole.loc["own_energy"]
    assert set(own.index) == set(GIVES)  # organic-a on the oxides
    own = own.drop(index="organic-a").sort_values("mae")
    assert list(own.index) == ["lattice-a", "lattice-b", "bond-a"]
    for model in own.index:
        expected = GIVES[model][0] * np.sqrt(2 / np.pi)  # mean size of a Gaussian
        assert own.loc[model, "mae_per_atom"] == pytest.approx(expected, rel=0.25)
    assert (own["mae"] > own["mae_per_atom"]).all()
    assert (own["standard_error"] > 0).all()


def test_one_number_by_plain_numpy(labelled: Path) -> None:
    table = read(labelled, "performance")
    row = table[
        (table["set"] == "ores") & (table["stratum"] == "alloys") & (table["model"] == "bond-a")
    ].set_index("method")
    rows = pd.read_parquet(labelled / "structures/ores.parquet")
    rows = rows[(rows["stratum"] == "alloys") & rows["label_energy"].notna()]
    unit = pd.read_parquet(labelled / "parquet/bond-a/ores.parquet").set_index("structure_id")
    model = unit.loc[rows["id"], "energy"].to_numpy() * rows["n_atoms"].to_numpy()
    carbon = rows["n_atoms"].to_numpy() - 1.0  # and always one of iron
    fits = [np.polyval(np.polyfit(carbon, e, 1), carbon) for e in (rows["label_energy"], model)]
    left = (rows["label_energy"].to_numpy() - fits[0]) - (model - fits[1])
    assert row.loc["own_energy", "mae"] == pytest.approx(np.abs(left).mean(), rel=1e-6)
    assert row.loc["own_energy", "n"] == len(rows) == 45
    assert row.loc["own_energy", "parameters"] == 2
    baseline = np.abs(rows["label_energy"].to_numpy() - fits[0]).mean()
    assert row.loc["own_energy", "baseline"] == pytest.approx(baseline)


def test_probes_read_what_embeddings_hold(labelled: Path) -> None:
    table = read(labelled, "performance")
    whole = table[table["stratum"].isna() & (table["method"] == "probe")]
    ratio = (whole["mae"] / whole["baseline"]).groupby([whole["set"], whole["model"]]).max()
    for set_id in ("ores", "organics"):
        assert (ratio[set_id][["lattice-a", "bond-a", "field-a"]] < 0.1).all()
        assert ratio[set_id]["noise"] > 0.9
    assert ratio[ratio.index.get_level_values(1) == "noise"].between(0.9, 1.3).all()


def test_atomisation_energies_are_turned_round(labelled: Path) -> None:
    table = read(labelled, "performance")
    own = table[(table["set"] == "organics") & (table["method"] == "own_energy")]
    assert len(own) and (own["mae"] < 0.5 * own["baseline"]).all()
    assert set(own["label"]) == {"atomization_energy"}


def test_the_baseline_is_composition_alone_on_the_core_rows(labelled: Path) -> None:
    table = read(labelled, "performance")
    for _, part in table.groupby(["set", "stratum"], dropna=False):
        base = part[part["method"] == "baseline"]
        assert len(base) == 1
        assert base["mae"].iloc[0] == base["baseline"].iloc[0]
        core = part[part["role"] == "core"]
        assert core["rows_sha256"].nunique() == 1
        assert core["baseline"].nunique() == 1


def test_models_with_fewer_rows_are_partial(labelled: Path) -> None:
    table = read(labelled, "performance")
    organic = table[(table["model"] == "organic-a") & table["stratum"].isna()]
    assert set(organic["role"]) == {"partial"}  # it takes no metals
    assert organic["n"].max() < table[table["stratum"].isna()]["n"].max()
    joined = read(labelled, "performance_alignment")
    whole = joined[(joined["model"] == "organic-a") & joined["stratum"].isna()]
    assert len(whole) and not whole["counted"].any()


def test_the_best_performer_is_the_reference(labelled: Path) -> None:
    joined = read(labelled, "performance_alignment")
    whole = joined[joined["stratum"].isna() & (joined["set"] == "ores")]
    assert set(whole["reference"]) == {"lattice-a"}
    assert set(whole["reference_family"]) == {"lattice"}
    assert set(whole["reference_rule"]) == {"best_performer"}
    assert set(whole["selection"]) >= {"crystals"}
    assert "lattice-a" not in set(whole["model"])
    pairs = pd.read_parquet(labelled / "scores/pairs.parquet")
    one = whole[(whole["model"] == "bond-a") & (whole["metric"] == "linear_cka")].iloc[0]
    pair = pairs[
        (pairs["selection"] == one["selection"])
        & (pairs["metric"] == "linear_cka")
        & ((pairs["model_a"] == "lattice-a") & (pairs["model_b"] == "bond-a"))
    ].iloc[0]
    assert one["alignment"] == pair["calibrated"] and one["value"] == pair["value"]
    assert not whole.loc[whole["model"].isin(["noise", "shape"]), "counted"].any()


def test_few_families_are_said(labelled: Path) -> None:
    read(labelled, "performance_correlation")  # may be empty, must be valid
    notes = json.loads((labelled / ANALYSIS).read_text())["notes"]
    assert any("few families prove little" in note for note in notes)


def test_without_labels_tables_are_empty_and_a_note_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_made_up_registry(monkeypatch)
    root = write_atlas(tmp_path / "atlas")
    analyze(root, permutations=0, metrics=["linear_cka"], workers=1)
    assert [len(read(root, name)) for name in TABLES] == [0, 0, 0]
    notes = json.loads((root / ANALYSIS).read_text())["notes"]
    assert any("no structure of this atlas has a reference energy" in note for note in notes)
