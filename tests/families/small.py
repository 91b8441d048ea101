# SPDX-License-Identifier: Apache-2.0
"""Small models with random weights, and what their packages say; run in each environment.

``python small.py make FAMILY FOLDER`` writes files named as those a card names, and tells the
dims of its layers. ``python small.py say FAMILY FOLDER`` reads structures as JSON and writes what
the package's own interface says of them. Nothing of ``matteratlas`` is used but the stand-ins.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Card = dict[str, Any]
Row = dict[str, Any]
Said = dict[str, Any]


def atoms_of(row: Row) -> Any:
    from ase import Atoms

    return Atoms(row["numbers"], row["positions"], cell=row["cell"], pbc=row["pbc"])


def file_of(card: Card, folder: Path) -> Path:
    """Where the card's weights are to be: the address's last part, or the path in a repository."""
    path = card["checkpoint"]["path"]
    name = path.rpartition("/")[2] if card["checkpoint"]["obtained"] == "url" else path
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    return folder / name


# --- MACE ----------------------------------------------------------------------------------------


def mace_make(card: Card, folder: Path) -> Card:
    """A network of the card's elements and irreps, eight channels wide; all of it random."""
    import mace  # noqa: F401
    import torch
    from e3nn import o3
    from mace import modules

    torch.manual_seed(3)
    given = {la["name"]: o3.Irreps(la["irreps"]) for la in card["layers"]}
    deepest = max(1, given["block_1"].lmax)  # scalar charts are parts of networks with more
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    model = modules.ScaleShiftMACE(
        r_max=5.0, num_bessel=4, num_polynomial_cutoff=5, max_ell=2, interaction_cls=block,
        interaction_cls_first=block, num_interactions=2, num_elements=len(card["numbers"]),
        hidden_irreps=o3.Irreps("+".join(f"8x{n}{'eo'[n % 2]}" for n in range(deepest + 1))),
        MLP_irreps=o3.Irreps("4x0e"), gate=torch.nn.functional.silu, avg_num_neighbors=8.0,
        atomic_energies=-np.arange(len(card["numbers"]), dtype=float), correlation=2,
        atomic_numbers=card["numbers"], atomic_inter_scale=1.5, atomic_inter_shift=0.1,
    )  # fmt: skip
    torch.save(model, file_of(card, folder))
    blocks = [o3.Irreps(str(p.linear.irreps_out)) for p in model.products]
    if card["options"]["part"] == "invariant":
        blocks = [o3.Irreps([(m, ir) for m, ir in b if ir.l == 0]) for b in blocks]
    found = {"descriptors": sum(blocks, o3.Irreps("")), "block_1": blocks[0], "block_2": blocks[1]}
    # The published network has the same kinds of irreps in the same order, only more of each.
    for name, irreps in found.items():
        assert [ir for _, ir in irreps] == [ir for _, ir in given[name]], name
    return {n: {"dim": irreps.dim, "irreps": str(irreps)} for n, irreps in found.items()}


def mace_say(card: Card, folder: Path, rows: list[Row]) -> list[Said]:
    """Through the ASE calculator."""
    from mace.calculators import MACECalculator

    calculator = MACECalculator(
        model_paths=str(file_of(card, folder)), device="cpu", default_dtype="float64"
    )
    said = []
    for row in rows:
        atoms = atoms_of(row)
        only = card["options"]["part"] == "invariant"
        found = calculator.get_descriptors(atoms, invariants_only=only)
        atoms.calc = calculator
        said.append(
            {"pooled": {"descriptors": found.mean(axis=0)}, "energy": atoms.get_potential_energy()}
        )
    return said


MAKE: dict[str, Callable[[Card, Path], Card]] = {"mace": mace_make}
SAY: dict[str, Callable[[Card, Path, list[Row]], list[Said]]] = {"mace": mace_say}


def main() -> None:
    from matteratlas.builders.adapters.stand_ins import install_stand_ins

    warnings.filterwarnings("ignore")
    what, family, folder = sys.argv[1:]
    request = json.load(sys.stdin)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    install_stand_ins(request["stand_ins"])
    if what == "make":
        answer: Any = MAKE[family](request["card"], Path(folder))
    else:
        answer = SAY[family](request["card"], Path(folder), request["rows"])
    json.dump(answer, out, default=lambda values: np.asarray(values, dtype=float).tolist())
    out.close()


if __name__ == "__main__":
    main()
