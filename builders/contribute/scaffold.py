# SPDX-License-Identifier: Apache-2.0
"""Begin a contribution: card, adapter and test, with what is still to be chosen marked.

What is written is valid YAML and Python; the check refuses it until every mark is gone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from ...registry import catalog
from ...schemas.cards import Modality
from ...schemas.errors import CardError
from .folder import BROUGHT, CHOICE

_ADAPTERS = Path(__file__).parents[1] / "adapters"


@dataclass(frozen=True)
class _Form:
    """What models of one modality have in common: kinds, level, a set to test on, and a base."""

    kinds: str
    level: str
    tested_on: str
    invariances: str = "permutation, rotation, translation"
    smiles: bool = False


_MOLECULE = _Form("[molecule]", "structure", "g2", smiles=True)
_FORMS: dict[str, _Form] = {
    "atoms3d": _Form("[molecule, crystal]", "atom", "g2"),
    "smiles": _Form("[molecule]", "token", "g2", smiles=True),
    "selfies": _Form("[molecule]", "token", "g2", smiles=True),
    "graph2d": _MOLECULE,
    "protein_sequence": _Form("[protein]", "residue", "proteins"),
    "protein_structure": _Form("[protein]", "residue", "proteins"),
    "text": _Form("[molecule, crystal, protein]", "structure", "g2"),
    "composition": _Form("[molecule, crystal]", "structure", "elements"),
    "descriptor": _Form("[molecule, crystal]", "structure", "g2"),
}


def scaffold(
    model_id: str,
    *,
    family: str,
    modality: str,
    out: Path,
    learned: bool = True,
    brought: bool = False,
) -> list[Path]:
    """Write ``out/<id>/`` with card, adapter and test; the files, in the order to fill them in.

    Parameters
    ----------
    learned:
        False for descriptors: nothing was trained, so nothing is asked about it.
    brought:
        The model cannot be shared: a card alone, whose vectors are brought.

    Raises
    ------
    CardError
        A name that is malformed or taken, an unknown modality, or a folder that is there.
    """
    for key, name in (("MODEL", model_id), ("--family", family)):
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name):
            raise CardError(f"{key} '{name}': use lower-case letters, digits, '.', '_' and '-'")
    if modality not in _FORMS:
        raise CardError(f"--modality '{modality}': one of {', '.join(get_args(Modality))}")
    if model_id in catalog.models():
        raise CardError(f"MODEL '{model_id}': is taken; see: matteratlas models show {model_id}")
    folder = out / model_id
    if folder.exists() and any(folder.iterdir()):
        raise CardError(f"{folder}: exists; remove it, or choose another --out")
    form = _FORMS[modality]
    module = _module(family)
    if (_ADAPTERS / f"{module}.py").exists():  # the family has an adapter; this may be another
        module = _module(model_id)
    name = "".join(part.capitalize() for part in re.split(r"[^a-z0-9]+", model_id) if part)
    name = name if name[:1].isalpha() else f"M{name}"
    adapter = BROUGHT if brought else f"{module}:{name}"
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"{model_id}.yaml": _card(model_id, family, modality, form, adapter, learned)}
    if not brought:
        files[f"{module}.py"] = _adapter(name, form, learned)
        files[f"test_{module}.py"] = _test(model_id, form)
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
    return [folder / file for file in files]


def _module(name: str) -> str:
    module = re.sub(r"[^a-z0-9]+", "_", name)
    return module if module[:1].isalpha() else f"m_{module}"


def _card(
    model_id: str, family: str, modality: str, form: _Form, adapter: str, learned: bool
) -> str:
    brought = adapter == BROUGHT
    level = "structure" if brought else form.level
    if learned:
        trained = f"""\
  sets: null
  domains: "{CHOICE}: list of domains it was trained on, see docs/reference/cards.md"
  elements: "{CHOICE}: elements it was trained on, as [H, C] or H-Kr, or null"
  max_atoms: null
  level_of_theory: null"""
        source = f"""\
  obtained: "{CHOICE}: package, hub, gated or url"
  package: "{CHOICE}: name==version of the package, or ORG/NAME on a hub, or null"
  path: "{CHOICE}: file inside the package or repository, or the address"
  revision: null  # full commit on a hub
  sha256: "{CHOICE}: of the weights file (sha256sum FILE)"
  unpickles: false"""
        if brought:
            source = _nothing("brought")
    else:
        trained = "\n".join(
            f"  {k}: null" for k in ("sets", "domains", "elements", "max_atoms", "level_of_theory")
        )
        source = _nothing("brought" if brought else "none")
    weights = f'"{CHOICE}: SPDX identifier of the weights (not of the code)"' if learned else "null"
    parameters = f'"{CHOICE}: number of parameters, or null"' if learned else "null"
    pooling = "none" if level == "structure" else "mean"
    environment = "null" if brought else f'"{CHOICE}: {{package: version}} it was run with"'
    return f"""\
id: {model_id}
name: "{CHOICE}: as people call it"
family: {family}
version: "{CHOICE}: of the weights, or of the package that computes it"
lifecycle: active
starter: false
learned: {str(learned).lower()}
modality: {modality}
architecture: null  # vanilla, invariant or equivariant
context_free: false
parameters: {parameters}
training:
{trained}
supports:  # what is outside is recorded as missing, with the reason
  kinds: {form.kinds}
  elements: null
  max_atoms: null
  min_atoms: 1
  periodicity: null
checkpoint:
{source}
licence:
  code: "{CHOICE}: SPDX identifier of the code, e.g. MIT"
  weights: {weights}
adapter: {adapter}
options: null
layers:
  - name: last
    dim: "{CHOICE}: length of a vector"
    level: {level}
    irreps: null
    where: "{CHOICE}: the tensor or function, in the package's own names"
default_layer: last
pooling: {pooling}
invariances: [{form.invariances}]
tolerance: {"1.0e-4" if learned else "1.0e-6"}
energy: null
environment: {environment}
isolation: null
authors: ["{CHOICE}: names"]
paper: "{CHOICE}: null, or title, doi and arxiv as a mapping"
performance: null
notes: "{CHOICE}: what a reader of the vectors should know"
"""


def _nothing(obtained: str) -> str:
    rest = "\n".join(f"  {k}: null" for k in ("package", "path", "revision", "sha256"))
    return f"  obtained: {obtained}\n{rest}\n  unpickles: false"


def _adapter(name: str, form: _Form, learned: bool) -> str:
    base = "SmilesAdapter" if form.smiles else "Adapter"
    imports = (
        "from .base import Embedded\nfrom .smiles import SmilesAdapter, read_smiles"
        if form.smiles
        else "from .base import Adapter, Embedded"
    )
    weights = " and load the weights of self.checkpoint()" if learned else ""
    read = '        molecule = read_smiles(structure.smiles or "")\n' if form.smiles else ""
    given = "molecule" if form.smiles else "structure"
    if form.level == "structure":
        what, shape, kind = "vector", "(dim,) vector of one structure", "pooled"
    else:
        what, shape, kind = "vectors", f"(n, dim), one row a {form.level}", "nodes"
    return f'''\
# SPDX-License-Identifier: Apache-2.0
"""{CHOICE}: what is embedded and how, in a line, and the source (paper, DOI)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np

from ...schemas.structures import Structure
{imports}


class {name}({base}):
    """{CHOICE}: what a vector holds, in which order and unit."""

    batch_size: ClassVar[int] = 64

    def load(self) -> None:
        """{CHOICE}: import the package here{weights}."""

    def forward(self, structures: Sequence[Structure]) -> Iterable[Embedded]:
        """Embed each structure."""
        for structure in structures:
            yield Embedded({kind}={{self.card.default_layer: self.{what}(structure)}})

    def {what}(self, structure: Structure) -> np.ndarray:
        """{shape}."""
{read}        return np.asarray({given})  # {CHOICE}: call the model
'''


def _test(model_id: str, form: _Form) -> str:
    return f'''\
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np

from matteratlas.builders.adapters.base import Embedded, load_adapter
from matteratlas.builders.structures.sets import load_set
from matteratlas.registry import catalog
from matteratlas.schemas.structures import Structure


def expected(structure: Structure) -> np.ndarray:
    """The vector by the package's own path, without the adapter."""
    return np.asarray(structure.positions)  # {CHOICE}: call the package


def test_vectors_are_those_of_the_package() -> None:
    adapter = load_adapter(catalog.model("{model_id}"))
    rows = load_set(catalog.structure_set("{form.tested_on}"), selection="starter").structures
    rows = [s for s in rows if adapter.missing_reason(s) is None][:5]
    assert len(rows) == 5
    for structure, found in zip(rows, adapter.embed(rows), strict=True):
        assert isinstance(found, Embedded), found
        vector = found.pooled[adapter.card.default_layer]
        np.testing.assert_allclose(vector, expected(structure), rtol=1e-5, atol=1e-6)
'''
