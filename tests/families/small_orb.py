# SPDX-License-Identifier: Apache-2.0
"""Orb for :mod:`small`: the architectures at full size with random weights, run in its environment.

Nothing of ``matteratlas`` is used but the stand-ins.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import small
from small import Card, Row, Said, atoms_of, file_of


def architecture(name: str) -> Any:
    """The architecture of a published model, as the package initialises it."""
    from orb_models.forcefield import pretrained
    from orb_models.forcefield.atomic_system import SystemConfig

    _, version, *rest = name.split("-")
    kind, neighbours = rest[:2] if rest else ("", "20")
    kind = "_".join(["orb", version, *([kind] if kind else []), "architecture"])
    config = SystemConfig(radius=6.0, max_num_neighbors=20 if neighbours == "20" else 120)
    return getattr(pretrained, kind)(device="cpu", system_config=config)


def make(card: Card, folder: Path) -> Card:
    """A state dict with the names and shapes of the published one."""
    import torch

    torch.manual_seed(3)
    model = architecture(card["options"]["model"])
    torch.save(model.state_dict(), file_of(card, folder))
    return {layer["name"]: {} for layer in card["layers"]}


def say(card: Card, folder: Path, rows: list[Row]) -> list[Said]:
    """Through the ASE calculator, forces and stress included, of the model by its name."""
    import torch
    from orb_models.forcefield.calculator import ORBCalculator
    from orb_models.forcefield.pretrained import ORB_PRETRAINED_MODELS

    model = ORB_PRETRAINED_MODELS[card["options"]["model"]](
        weights_path=str(file_of(card, folder)), device="cpu", precision="float32-highest",
        compile=False,
    )  # fmt: skip
    seen: list[Any] = []
    model.model.register_forward_hook(
        lambda _m, _a, out: seen.append(out["node_features"].detach().clone())
    )
    calculator = ORBCalculator(model, device="cpu")
    said = []
    for row in rows:
        atoms = atoms_of(row)
        if not atoms.pbc.any():
            # Far from the origin the graph loses digits; the model has no use for a place.
            atoms.positions -= atoms.positions.mean(axis=0)
        atoms.calc = calculator
        energy = float(atoms.get_potential_energy())
        pooled = {card["default_layer"]: seen[-1].to(torch.float64).mean(0).numpy()}
        said.append({"pooled": pooled, "energy": energy})
    return said


if __name__ == "__main__":
    small.MAKE["orb"], small.SAY["orb"] = make, say
    small.main()
