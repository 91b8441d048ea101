# SPDX-License-Identifier: Apache-2.0
"""The models of the study this registry set out from, and the card of each.

Edamadaka et al., "Universally Converging Representations of Matter Across Scientific Foundation
Models", arXiv:2512.03750, Table 1: 59 rows, the random baseline included.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import NamedTuple


class StudyModel(NamedTuple):
    """A row of Table 1 as printed, and the card that stands for it.

    Attributes
    ----------
    row, name:
        Number in the order printed, from 1, and the name.
    card:
        Id in the registry.
    training_data, modality, embedding, level_of_theory:
        As printed; empty for "None". A model whose card says otherwise says so in its notes.
    parameters:
        As printed; None for the random baseline.
    """

    row: int
    name: str
    card: str
    training_data: str
    modality: str
    embedding: str
    level_of_theory: str
    parameters: int | None


@cache
def study_models(path: Path | None = None) -> tuple[StudyModel, ...]:
    """All rows, in the order printed."""
    path = path or Path(__file__).with_name("study_models.csv")
    with path.open(encoding="utf-8", newline="") as handle:
        return tuple(_read(row) for row in csv.DictReader(handle))


def _read(row: dict[str, str]) -> StudyModel:
    return StudyModel(
        row=int(row["row"]),
        name=row["name"],
        card=row["card"],
        training_data=row["training_data"],
        modality=row["modality"],
        embedding=row["embedding"],
        level_of_theory=row["level_of_theory"],
        parameters=int(row["parameters"]) if row["parameters"] else None,
    )
