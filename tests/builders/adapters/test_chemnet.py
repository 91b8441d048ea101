# SPDX-License-Identifier: Apache-2.0
"""ChemNet against ``fcd.get_predictions``."""

from __future__ import annotations

import dataclasses

import fcd
import fcd.utils
import numpy as np
import pytest
from string_probes import SMILES, adapter, distance, embedded, from_smiles, reason

from matteratlas.builders.adapters.base import load_adapter
from matteratlas.registry.catalog import model
from matteratlas.schemas.cards import elements_of
from matteratlas.schemas.errors import SourceError
from matteratlas.schemas.structures import ATOMIC_NUMBERS

READABLE = tuple(s for s in SMILES if "Na" not in s)


def test_equals_the_package() -> None:
    theirs = fcd.get_predictions(fcd.load_ref_model(), list(READABLE), n_jobs=0, device="cpu")
    ours = embedded("chemnet", [from_smiles(s) for s in READABLE])
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.nodes == {}
        assert distance(mine.pooled["features"], other) < 1e-5
    assert np.ptp(theirs, axis=0).max() > 0.1  # the rows do differ


def test_card_counts_and_elements() -> None:
    card = model("chemnet")
    assert card.parameters == sum(p.numel() for p in adapter("chemnet").model.parameters())  # type: ignore[attr-defined]
    tokens = vars(fcd.utils)["__vocab"]
    assert elements_of(card.supports.elements) == {t for t in tokens if t in ATOMIC_NUMBERS}


def test_stereo_centres_count_and_double_bonds_do_not() -> None:
    left, right = embedded("chemnet", [from_smiles(s) for s in ("C[C@H](N)F", "C[C@@H](N)F")])
    assert distance(left.pooled["features"], right.pooled["features"]) > 1e-3
    # No token for the direction of a double bond, in the package either.
    trans, cis = embedded("chemnet", [from_smiles(s) for s in ("C/C=C/C", "C/C=C\\C")])
    assert distance(trans.pooled["features"], cis.pooled["features"]) < 1e-5
    theirs = fcd.get_predictions(fcd.load_ref_model(), ["C/C=C/C"], n_jobs=0, device="cpu")
    assert distance(trans.pooled["features"], theirs[0]) < 1e-5


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("[Na+].[Cl-]", "unsupported_element: Na"),
        ("c1ccpcc1", "unsupported_element: P (no token for aromatic p)"),
        ("C%10CCCCC%10", "invalid: no token for '%' in SMILES 'C%10CCCCC%10'"),
        ("C9CCCCC9", "invalid: no token for '9' in SMILES 'C9CCCCC9'"),
        ("[se]1cccc1", "unsupported_element: Se"),
    ],
)
def test_what_has_no_token_is_missing(smiles: str, expected: str) -> None:
    assert reason("chemnet", from_smiles(smiles)) == expected


def test_length_limit() -> None:
    ethanol = from_smiles("CCO")
    long = dataclasses.replace(ethanol, smiles="C" * 349)
    assert len(embedded("chemnet", [long])) == 1
    longer = dataclasses.replace(ethanol, smiles="C" * 350)
    assert reason("chemnet", longer) == "too_large: 350 > 349 characters"


def test_other_weights_are_refused() -> None:
    card = model("chemnet")
    wrong = card.checkpoint.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(SourceError, match=r"ChemNet_v0\.13_pretrained\.pt has sha256"):
        load_adapter(card.model_copy(update={"checkpoint": wrong}))
