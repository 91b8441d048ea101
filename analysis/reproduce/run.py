# SPDX-License-Identifier: Apache-2.0
"""Write the study's figures and claims from an atlas."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ...schemas.errors import missing_extra, of_sound_data
from ...schemas.progress import Reporter, Silent
from ..charts import ChartReader
from ..report.figures import altair
from . import figures_energies, figures_models, figures_pairs, figures_vectors
from .charts import finished
from .claims import Verdict, judge
from .figure import Figure
from .pages import claims_page, figures_page
from .study import Study


def reproduce(
    path: str | Path, *, out: str | Path, reporter: Reporter | None = None
) -> tuple[list[Figure], list[Verdict]]:
    """Write every figure of the study that an atlas has the scores for, and judge its claims.

    Writes ``figure-*.svg``, ``.pdf`` and ``.csv``, ``figures.md``, ``claims.md`` and
    ``claims.csv`` into ``out``; a figure that cannot be made is listed with the reason.

    Parameters
    ----------
    path :
        An analysed atlas: a folder or any URL :func:`matteratlas.open_atlas` takes.
    out :
        Folder, made if absent; files of the same names are replaced.

    Returns
    -------
    figures : list of Figure
    verdicts : list of Verdict

    Raises
    ------
    ArchiveError
        Not an atlas, or not analysed yet.
    MissingExtraError
        Altair or vl-convert is not installed.
    """
    location, folder, said = str(path), Path(out), reporter or Silent()
    with of_sound_data(location, f"run: matteratlas validate {location}"):
        study = Study.of(location)
        folder.mkdir(parents=True, exist_ok=True)
        makers = _makers(study)
        said.stage("figures", len(makers))
        figures: list[Figure] = []
        for make in makers:
            made = make()
            for figure in made if isinstance(made, list) else [made]:
                _write(figure, folder)
                figures.append(figure)
            said.advance(figures[-1].number, 1)
        verdicts = judge(study, {f.number: f for f in figures})
    _text(figures_page(study, figures), folder / "figures.md")
    _text(claims_page(study, verdicts), folder / "claims.md")
    return figures, verdicts


def _makers(study: Study) -> list[Callable[[], Figure | list[Figure]]]:
    """What makes each figure, in the study's order."""
    reader: list[ChartReader] = []

    def layers() -> ChartReader:  # opened once, and only if a figure asks for vectors
        if not reader:
            reader.append(ChartReader(study.atlas, layers="all"))
        return reader[0]

    pairs, models, vectors = figures_pairs, figures_models, figures_vectors
    matrix = partial(pairs.full_matrix, study)
    error = partial(models.performance_against_alignment, study)
    return [
        partial(models.model_table, study),
        partial(pairs.condensed_matrix, study, "1A1", "QM9"),
        partial(pairs.family_block, study, "1A2", 0),
        partial(pairs.family_block, study, "1A3", 1),
        partial(error, "1B", "crystal", "cknna"),
        partial(pairs.condensed_matrix, study, "1C", "OMat24"),
        partial(pairs.local_against_global, study),
        partial(models.dimension_violins, study),
        partial(pairs.model_tree, study),
        lambda: vectors.projections(study, layers(), "OMat24", "2A"),
        partial(pairs.imbalance_plane, study, "2B", "OMat24"),
        partial(pairs.contrast, study),
        partial(error, "3", "molecule", "distance_correlation"),
        lambda: vectors.sweeps(study, layers()),
        lambda: figures_energies.energy_figures(study, layers()),
        partial(models.performance_bars, study),
        lambda: vectors.projections(study, layers(), "QM9", "C5"),
        partial(matrix, "C6", "QM9", "cknna"),
        partial(models.dimension_bars, study),
        partial(matrix, "C8", "QM9", "distance_correlation"),
        partial(pairs.imbalance_plane, study, "C9", "QM9"),
        partial(matrix, "C10", "OMat24", "cknna"),
        partial(matrix, "C13", "RCSB", "cknna"),
        *(
            partial(matrix, f"extra {metric} {selection}", name, metric)
            for name, selection in (("OMat24", "crystals"), ("RCSB", "proteins"))
            for metric in ("distance_correlation", "linear_cka", "information_imbalance")
        ),
        lambda: vectors.layer_sweep(study, layers()),
    ]


def _write(figure: Figure, folder: Path) -> None:
    if figure.table is not None:
        _text(figure.table.to_csv(index=False, lineterminator="\n"), folder / f"{figure.stem}.csv")
    if figure.text:
        _text(figure.text, folder / f"{figure.stem}.txt")
    if figure.chart is None:
        return
    try:
        import vl_convert
    except ModuleNotFoundError as error:
        raise missing_extra("vl-convert-python", "cpu") from error
    # A figure is a file of its own: no notebook has to carry its rows.
    with altair().data_transformers.enable("default", max_rows=None):
        specification = finished(figure.chart).to_dict()
    _text(vl_convert.vegalite_to_svg(specification), folder / f"{figure.stem}.svg")
    _bytes(vl_convert.vegalite_to_pdf(specification), folder / f"{figure.stem}.pdf")


def _text(content: str, target: Path) -> None:
    _bytes(content.encode(), target)


def _bytes(content: bytes, target: Path) -> None:
    """Whole or not at all."""
    scratch = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        scratch.write_bytes(content)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
