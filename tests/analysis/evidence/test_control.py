# SPDX-License-Identifier: Apache-2.0
"""The law of controls on real rows: random weights are uninformative on every cue."""

from __future__ import annotations

import pandas as pd
import pytest
from made_evidence import bare_evidence

from matteratlas.analysis.evidence.retention import PATH, retention_stage
from matteratlas.builders.build import build
from matteratlas.schemas.retention import CUES

CONTROLS = ("chgnet-0.3.0-random", "chgnet-0.3.0-random-1")
MODELS = [*CONTROLS, "chgnet-0.3.0", "mat2vec", "magpie", "random-128"]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    root = tmp_path_factory.mktemp("control") / "atlas"
    sets = ["g2", "elements", "prototypes"]
    build(root, models=MODELS, sets=sets, selection="full", workers=0, keep_nodes=False)
    table = CUES.validate(retention_stage(bare_evidence(root)).tables[PATH])
    return table[table["side"] == "all"]


def test_controls_are_uninformative_on_every_cue(read: pd.DataFrame) -> None:
    for control, sibling in zip(CONTROLS, reversed(CONTROLS), strict=True):
        own = read[read["model"] == control]
        assert {"mass_density", "coordination", "atomization_energy", "rings"} <= set(own["cue"])
        assert not own["informative"].any()
        assert (own["control"] == sibling).all()
        assert (own["added_q_value"].dropna() >= 0.05).all()


def test_random_vectors_and_tables_of_elements_are_uninformative(read: pd.DataFrame) -> None:
    for model in ("mat2vec", "magpie", "random-128"):
        own = read[read["model"] == model]
        assert len(own) > 15 and not own["informative"].any(), model
    # Not for want of reading: tables tell the composition, random vectors nothing at all.
    scores = read[read["cue"] == "composition"].groupby("model")["score"].min()
    assert scores["mat2vec"] > 0.8 and scores["random-128"] < 0.1


def test_training_shows_where_random_weights_do_not(read: pd.DataFrame) -> None:
    trained = read[(read["model"] == "chgnet-0.3.0") & ~read["determined"]]
    assert {frozenset(c.split(",")) for c in trained["control"]} == {frozenset(CONTROLS)}
    assert trained["added"].mean() > 0.05
    assert trained["added_p_value"].min() < 0.05
