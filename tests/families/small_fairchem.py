# SPDX-License-Identifier: Apache-2.0
"""fairchem for :mod:`small`: checkpoints in the format of the published ones, few narrow layers.

Same classes, heads and trainers, with normalizers and element references; run in the environments
of both versions. Nothing of ``matteratlas`` is used but the stand-ins.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

import small
from small import Card, Row, Said, atoms_of, file_of

EQUIFORMER: dict[str, Any] = {
    "model": "equiformer_v2_backbone", "use_pbc": True, "regress_forces": True, "otf_graph": True,
    "max_neighbors": 20, "max_radius": 12.0, "max_num_elements": 96, "sphere_channels": 16,
    "attn_hidden_channels": 8, "num_heads": 2, "attn_alpha_channels": 8, "attn_value_channels": 4,
    "ffn_hidden_channels": 16, "norm_type": "layer_norm_sh", "lmax_list": [4], "mmax_list": [2],
    "grid_resolution": 18, "edge_channels": 16, "use_atom_edge_embedding": True,
    "distance_function": "gaussian", "num_distance_basis": 512, "attn_activation": "silu",
    "ffn_activation": "silu", "use_gate_act": False, "use_grid_mlp": True, "use_sep_s2_act": True,
    "weight_init": "uniform", "enforce_max_neighbors_strictly": False, "avg_num_nodes": 31.17,
    "avg_degree": 61.95,
}  # fmt: skip
STRESS = {"module": "rank2_symmetric_head", "output_name": "stress", "decompose": True,
          "use_source_target_embedding": True}  # fmt: skip
ESEN: dict[str, Any] = {
    "model": "esen_backbone", "max_num_elements": 100, "sphere_channels": 16, "lmax": 3, "mmax": 2,
    "otf_graph": True, "max_neighbors": 300, "use_pbc": True, "cutoff": 6.0, "edge_channels": 16,
    "distance_function": "gaussian", "num_distance_basis": 64, "direct_forces": False,
    "regress_forces": True, "regress_stress": True, "hidden_channels": 16,
    "norm_type": "rms_norm_sh", "act_type": "gate", "mlp_type": "spectral", "use_envelope": True,
}  # fmt: skip
V1: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "equiformer_v2": (
        EQUIFORMER,
        {
            "energy": {"module": "equiformer_v2_energy_head"},
            "forces": {"module": "equiformer_v2_force_head"},
            "stress": STRESS,
        },
    ),
    "equiformer_v2_dens": (
        {**EQUIFORMER, "model": "equiformer_v2_dens_backbone"},
        {
            "energy": {"module": "eqV2_DeNS_scalar_head"},
            "forces": {"module": "eqV2_DeNS_vector_head"},
            "stress": {**STRESS, "module": "dens_rank2_symmetric_head"},
        },
    ),
    "esen": (ESEN, {"mptrj": {"module": "esen_mlp_efs_head"}}),
}
UMA: dict[str, Any] = {
    "model": "fairchem.core.models.uma.escn_moe.eSCNMDMoeBackbone", "moe_dropout": 0.05,
    "moe_layer_type": "pytorch", "num_experts": 4, "use_composition_embedding": True,
    "max_num_elements": 100, "sphere_channels": 16, "lmax": 2, "mmax": 2, "otf_graph": True,
    "max_neighbors": 300, "use_pbc": True, "use_pbc_single": True, "cutoff": 6.0,
    "edge_channels": 16, "distance_function": "gaussian", "num_distance_basis": 64,
    "regress_forces": True, "regress_stress": True, "direct_forces": False, "hidden_channels": 16,
    "norm_type": "rms_norm_sh", "act_type": "gate", "ff_type": "spectral",
    "chg_spin_emb_type": "rand_emb", "cs_emb_grad": True, "model_version": 1.1,
    "dataset_list": ["oc20", "omol", "omat", "odac", "omc"],
}  # fmt: skip


def references() -> np.ndarray:
    """An energy for each element, as the published files hold."""
    return np.linspace(-1.0, -9.0, 100)


def version_1(kind: str, blocks: int) -> dict[str, Any]:
    """What ``OCPCalculator`` reads: configuration, weights, normalizers, element references."""
    register()
    from fairchem.core.common.registry import registry
    from fairchem.core.modules.normalization.element_references import LinearReferences
    from fairchem.core.modules.normalization.normalizer import Normalizer

    backbone, heads = V1[kind]
    backbone = {**backbone, "num_layers": blocks}
    model = registry.get_model_class("hydra")(backbone=dict(backbone), heads=heads)
    levels = {"energy": "system", "forces": "atom", "stress": "system"}
    outputs: dict[str, Any] = {
        name: {"level": level, "property": name} for name, level in levels.items()
    }
    outputs["forces"] |= {"train_on_free_atoms": True, "eval_on_free_atoms": True}
    if kind != "esen":
        outputs["stress"]["decomposition"] = {
            "stress_isotropic": {"level": "system", "irrep_dim": 0},
            "stress_anisotropic": {"level": "system", "irrep_dim": 2},
        }
    config = {
        "trainer": {"esen": "mlip_trainer", "equiformer_v2": "equiformerv2_forces",
                    "equiformer_v2_dens": "equiformerv2_dens"}[kind],
        "task": {}, "outputs": outputs, "evaluation_metrics": {},
        "loss_functions": [{"energy": {"fn": "mae", "coefficient": 1}}],
        "optim": {
            "batch_size": 1, "eval_batch_size": 1, "ema_decay": 0.999, "use_denoising_pos": True,
            "denoising_pos_coefficient": 10, "denoising_pos_params": {
                "prob": 0.25, "fixed_noise_std": True, "std": 0.1, "corrupt_ratio": 0.25,
            },
        }, "dataset": {"src": "nowhere"},
        "model": {
            "name": "hydra", "backbone": backbone, "heads": heads, "otf_graph": True,
            "pass_through_head_outputs": True,
        },
        "cmd": {"seed": 0},
    }  # fmt: skip
    normalizers = {name: Normalizer(mean=0.0, rmsd=2.5).state_dict() for name in levels}
    linear = LinearReferences(torch.tensor(references(), dtype=torch.float32))
    return {
        "config": config, "state_dict": model.state_dict(), "normalizers": normalizers,
        "elementrefs": {"energy": linear.state_dict()},
    }  # fmt: skip


def version_2(blocks: int) -> Any:
    """What ``load_predict_unit`` reads."""
    import hydra
    from fairchem.core.units.mlip_unit.api.inference import MLIPInferenceCheckpoint

    names = UMA["dataset_list"]
    config = {
        "_target_": "fairchem.core.models.base.HydraModel",
        "backbone": {**UMA, "num_layers": blocks},
        "heads": {
            "energyandforcehead": {
                "module": "fairchem.core.models.uma.escn_moe.DatasetSpecificSingleHeadWrapper",
                "head_cls": "fairchem.core.models.uma.escn_md.MLP_EFS_Head",
                "head_kwargs": {"wrap_property": False},
                "dataset_names": names,
            }
        },
        "pass_through_head_outputs": True,
    }
    model = hydra.utils.instantiate({**config, "model_id": "UMA-1.1"})
    module = "fairchem.core.modules.normalization"
    tasks = [
        {
            "_target_": "fairchem.core.units.mlip_unit.mlip_unit.Task",
            "name": f"{name}_{what}", "level": level, "property": what, "datasets": [name],
            "out_spec": {
                "_target_": "fairchem.core.units.mlip_unit.mlip_unit.OutputSpec",
                "dim": dim, "dtype": "float32",
            },
            "normalizer": {"_target_": f"{module}.normalizer.Normalizer", "mean": 0.0,
                           "rmsd": 1.423},
            "element_references": None if what != "energy" else {
                "_target_": f"{module}.element_references.ElementReferences",
                "element_references": {"_target_": "torch.tensor", "data": references().tolist()},
            },
        }
        for name in names
        for what, level, dim in (
            ("energy", "system", [1]), ("forces", "atom", [3]), ("stress", "system", [1, 9])
        )
    ]  # fmt: skip
    averaged = torch.optim.swa_utils.AveragedModel(model)
    return MLIPInferenceCheckpoint(
        model_config=config, model_state_dict=model.state_dict(),
        ema_state_dict=averaged.state_dict(), tasks_config=tasks,
    )  # fmt: skip


def register() -> None:
    """What the package's ``setup_imports`` does, without the models of other families."""
    from fairchem.core.common.registry import registry

    for name in (
        "trainers.ocp_trainer", "models.esen.esen", "models.esen.trainers.trainer",
        "models.equiformer_v2.equiformer_v2_dens", "models.equiformer_v2.trainers.dens_trainer",
    ):  # fmt: skip
        importlib.import_module(f"fairchem.core.{name}")
    registry.register("imports_setup", True)


def make(card: Card, folder: Path) -> Card:
    """One block more than the card's deepest layer, sixteen channels."""
    torch.manual_seed(7)
    inner = [la["name"] for la in card["layers"] if la["name"] != "last"]
    blocks = 1 + max(int(name.removeprefix("block_")) for name in inner)
    kind = {"equiformer-v2": "equiformer_v2"}.get(card["family"], card["family"])
    kind += "_dens" if "dens" in card["id"] else ""
    content = version_2(blocks) if kind == "uma" else version_1(kind, blocks)
    torch.save(content, file_of(card, folder))
    return {la["name"]: {"dim": 16, "irreps": "16x0e"} for la in card["layers"]}


def say(card: Card, folder: Path, rows: list[Row]) -> list[Said]:
    """Through the ASE calculators, forces and stress included."""
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    path = file_of(card, folder)
    calculators = by_version_2(path) if card["family"] == "uma" else by_version_1(path)
    said = []
    for row in rows:
        atoms = atoms_of(row)
        calculator, backbone = calculators["omat" if atoms.pbc.any() else "omol"]
        if card["family"] == "uma":
            atoms.info |= {"charge": 0, "spin": 0 if atoms.pbc.any() else 1}
        elif not atoms.pbc.all():
            atoms.center(vacuum=12.0)
            atoms.pbc = True
        atoms.calc = calculator
        energy = float(atoms.get_potential_energy())
        said.append({"pooled": {"last": backbone[-1]}, "energy": energy})
    return said


def by_version_1(path: Path) -> dict[str, Any]:
    register()
    from fairchem.core.common.relaxation.ase_utils import OCPCalculator

    calculator = OCPCalculator(checkpoint_path=path, cpu=True, seed=0)
    seen = watch(calculator.trainer._unwrapped_model.backbone)
    return dict.fromkeys(("omat", "omol"), (calculator, seen))


def by_version_2(path: Path) -> dict[str, Any]:
    from fairchem.core.calculate.ase_calculator import FAIRChemCalculator
    from fairchem.core.units.mlip_unit import load_predict_unit

    unit = load_predict_unit(str(path), "batch", device="cpu")
    seen = watch(unit.model.module.backbone)
    return {task: (FAIRChemCalculator(unit, task_name=task), seen) for task in ("omat", "omol")}


def watch(backbone: Any) -> list[np.ndarray]:
    """A list that gets the mean of the l=0 node features of each call."""
    seen: list[np.ndarray] = []

    def hook(_module: Any, _inputs: Any, output: Any) -> None:
        features = output["node_embedding"]
        features = getattr(features, "embedding", features)[:, 0, :]
        seen.append(features.detach().to(torch.float64).mean(0).numpy())

    backbone.register_forward_hook(hook)
    return seen


if __name__ == "__main__":
    for family in ("uma", "esen", "equiformer-v2"):
        small.MAKE[family], small.SAY[family] = make, say
    small.main()
