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
from types import SimpleNamespace
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


# --- PET -----------------------------------------------------------------------------------------


def pet_make(card: Card, folder: Path) -> Card:
    """A network of the card's elements with eight channels, its baseline energies set."""
    import torch
    from metatrain.pet import PET
    from metatrain.utils.architectures import get_default_hypers
    from metatrain.utils.data import DatasetInfo
    from metatrain.utils.data.target_info import get_energy_target_info

    torch.manual_seed(3)
    settings = get_default_hypers("pet")["model"] | {
        "d_pet": 8, "d_node": 8, "d_head": 8, "d_feedforward": 16, "num_heads": 2,
        "featurizer_type": "residual",
    }  # fmt: skip
    energy = get_energy_target_info("energy", {"quantity": "energy", "unit": "eV"})
    known = DatasetInfo("angstrom", atomic_types=card["numbers"], targets={"energy": energy})
    model = PET(settings, known)
    torch.save(model.get_checkpoint(), file_of(card, folder))
    return {"last_layer": {"dim": model.last_layer_feature_size}}


def pet_say(card: Card, folder: Path, rows: list[Row]) -> list[Said]:
    """Through the exported model, as the package's calculators run it, in double precision."""
    import torch
    from metatomic.torch import ModelEvaluationOptions, ModelOutput, systems_to_torch
    from metatrain.utils.neighbor_lists import get_system_with_neighbor_lists
    from upet._models import _get_upet_exported_atomistic_model

    model = _get_upet_exported_atomistic_model(checkpoint_path=file_of(card, folder))
    lists = model.requested_neighbor_lists()
    names = {"last_layer": "mtt::aux::energy_last_layer_features"}
    outputs = {n: ModelOutput(sample_kind="atom") for n in names.values()}
    outputs["energy"] = ModelOutput(quantity="energy", unit="eV", sample_kind="system")
    options = ModelEvaluationOptions(length_unit="angstrom", outputs=outputs)
    said = []
    for row in rows:
        system = systems_to_torch(atoms_of(row), dtype=torch.float64)
        system = get_system_with_neighbor_lists(system, lists).to(dtype=torch.float32)
        found = model([system], options, check_consistency=True)
        pooled = {la: found[n].block().values.detach().mean(0).numpy() for la, n in names.items()}
        said.append({"pooled": pooled, "energy": found["energy"].block().values.item()})
    return said


# --- Geom2Vec ------------------------------------------------------------------------------------


def geom2vec_make(card: Card, folder: Path) -> Card:
    """The encoder with the card's settings, saved with its training head and under its prefix."""
    import torch
    from torchmdnet.models.torchmd_et import TorchMD_ET

    torch.manual_seed(3)
    model = TorchMD_ET(
        hidden_channels=card["options"]["channels"], num_layers=card["options"]["layers"],
        num_rbf=card["options"]["basis"], num_heads=card["options"]["heads"],
        cutoff_upper=card["options"]["cutoff"], trainable_rbf=False, neighbor_embedding=False,
    )  # fmt: skip
    state = {f"representation_model.{n}": v for n, v in model.state_dict().items()}
    torch.save({**state, "output_model_noise.x": torch.zeros(3)}, file_of(card, folder))
    return {"scalars": {}}


def geom2vec_say(card: Card, folder: Path, rows: list[Row]) -> list[Said]:
    """Through TorchMD-NET's factory, one molecule at a time, in double precision."""
    import torch
    from torchmdnet.models.model import create_model

    o = card["options"]
    model = create_model(
        {
            "model": "equivariant-transformer", "precision": 64, "embedding_dimension":
            o["channels"], "num_layers": o["layers"], "num_rbf": o["basis"], "rbf_type": "expnorm",
            "trainable_rbf": False, "activation": "silu", "neighbor_embedding": False,
            "cutoff_lower": 0.0, "cutoff_upper": o["cutoff"], "max_z": 100, "max_num_neighbors":
            200, "attn_activation": "silu", "num_heads": o["heads"], "distance_influence": "both",
            "check_errors": True, "aggr": "add", "output_model": "Scalar", "reduce_op": "add",
            "derivative": False, "atom_filter": -1, "prior_model": None,
        }
    ).representation_model  # fmt: skip
    state = torch.load(file_of(card, folder), weights_only=True)
    model.load_state_dict(
        {n.partition(".")[2]: v for n, v in state.items() if n.startswith("representation")}
    )
    model = model.double().eval()
    said = []
    for row in rows:
        z, pos = torch.tensor(row["numbers"]), torch.tensor(row["positions"], dtype=torch.float64)
        x = model(z, pos, torch.zeros(len(z), dtype=torch.long))[0].detach()
        said.append({"pooled": {"scalars": x.mean(0).numpy()}, "energy": None})
    return said


# --- EvolutionaryScale ---------------------------------------------------------------------------


def esmc_make(card: Card, folder: Path) -> Card:
    """As many blocks as the published one, two heads wide."""
    import torch
    from esm.models.esmc import ESMC
    from esm.tokenization import EsmSequenceTokenizer

    torch.manual_seed(3)
    depth = {"esmc-300m": 30, "esmc-600m": 36}[card["id"]]
    model = ESMC(128, 2, depth, EsmSequenceTokenizer(), use_flash_attn=False)
    torch.save(model.state_dict(), file_of(card, folder))
    return {la["name"]: {"dim": 128} for la in card["layers"]}


def esmc_say(card: Card, folder: Path, rows: list[Row]) -> list[Said]:
    """Through ``encode`` and ``logits``, as the package's own examples."""
    import torch
    from esm.models.esmc import ESMC
    from esm.sdk.api import ESMProtein, LogitsConfig
    from esm.tokenization import EsmSequenceTokenizer

    depth = {"esmc-300m": 30, "esmc-600m": 36}[card["id"]]
    model = ESMC(128, 2, depth, EsmSequenceTokenizer(), use_flash_attn=False).eval()
    model.load_state_dict(torch.load(file_of(card, folder), weights_only=True))
    wanted = LogitsConfig(sequence=True, return_embeddings=True)
    said = []
    for row in rows:
        tokens = model.encode(ESMProtein(sequence=row["sequence"]))
        found = model.logits(tokens, wanted).embeddings
        said.append({"pooled": {"last": found[0, 1:-1].mean(0).numpy()}, "energy": None})
    return said


def _esm3(folder: Path) -> Any:
    from esm.models.esm3 import ESM3
    from esm.models.vqvae import StructureTokenEncoder
    from esm.tokenization import EsmSequenceTokenizer, StructureTokenizer

    def encoder(_device: Any) -> Any:
        import torch

        model = StructureTokenEncoder(
            d_model=64, n_heads=1, v_heads=8, n_layers=2, d_out=16, n_codes=32
        )
        path = folder / "data/weights/esm3_structure_encoder_v0.pth"
        if path.is_file():
            model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()

    return ESM3(
        d_model=128, n_heads=2, v_heads=8, n_layers=48, structure_encoder_fn=encoder,
        structure_decoder_fn=encoder, function_decoder_fn=encoder,
        tokenizers=SimpleNamespace(
            sequence=EsmSequenceTokenizer(), structure=StructureTokenizer()
        ),
    ).eval()  # fmt: skip


def esm3_make(card: Card, folder: Path) -> Card:
    """As many blocks as the published one, two heads wide, and a writer of 32 structure tokens."""
    import torch

    torch.manual_seed(3)
    model = _esm3(folder)
    torch.save(model.state_dict(), file_of(card, folder))
    for name in card["options"].get("also", []):
        torch.save(model.get_structure_encoder().state_dict(), folder / name)
    return {la["name"]: {"dim": 128} for la in card["layers"]}


def esm3_say(card: Card, folder: Path, rows: list[Row]) -> list[Said]:
    """Through ``encode`` and ``logits``, as the package's own examples."""
    import torch
    from esm.sdk.api import ESMProtein, LogitsConfig

    model = _esm3(folder)
    model.load_state_dict(torch.load(file_of(card, folder), weights_only=True))
    heads: list[Any] = []
    model.output_heads.sequence_head.register_forward_pre_hook(
        lambda _m, a: heads.append(a[0].detach())
    )
    said = []
    for row in rows:
        if card["options"]["track"] == "sequence":
            protein = ESMProtein(sequence=row["sequence"])
        else:
            atoms = torch.full((len(row["backbone"]), 37, 3), float("nan"))
            atoms[:, [0, 1, 2, 4]] = torch.tensor(row["backbone"], dtype=torch.float32)
            protein = ESMProtein(coordinates=atoms)
        tokens = model.encode(protein)
        if card["options"]["track"] == "structure":
            tokens.sequence = None  # it would be a row of mask tokens
        found = model.logits(tokens, LogitsConfig(sequence=True, return_embeddings=True))
        pooled = {"block_48": found.embeddings[0, 1:-1].mean(0).numpy(),
                  "last": heads[-1][0, 1:-1].mean(0).numpy()}  # fmt: skip
        said.append({"pooled": pooled, "energy": None})
    return said


# --- ESM-IF1 -------------------------------------------------------------------------------------


def esm_if1_make(card: Card, folder: Path) -> Card:
    """Eight layers of 32 channels behind a small geometric encoder, as the file's ``args`` say."""
    import argparse

    import biotite.structure
    import torch

    biotite.structure.filter_backbone = biotite.structure.filter_peptide_backbone
    import esm
    from esm.inverse_folding.gvp_transformer import GVPTransformerModel

    torch.manual_seed(3)
    args = argparse.Namespace(
        arch="vt_medium_with_invariant_gvp", dropout=0.1, attention_dropout=0.1, encoder_layers=8,
        decoder_layers=1, encoder_embed_dim=32, decoder_embed_dim=32, encoder_ffn_embed_dim=64,
        decoder_ffn_embed_dim=64, encoder_attention_heads=4, decoder_attention_heads=4,
        gvp_top_k_neighbors=30, gvp_node_hidden_dim_scalar=32, gvp_node_hidden_dim_vector=8,
        gvp_edge_hidden_dim_scalar=8, gvp_edge_hidden_dim_vector=1, gvp_num_encoder_layers=2,
        gvp_dropout=0.1,
    )  # fmt: skip
    model = GVPTransformerModel(args, esm.Alphabet.from_architecture(args.arch))
    torch.save({"args": args, "model": model.state_dict()}, file_of(card, folder))
    return {la["name"]: {"dim": 32} for la in card["layers"]}


def esm_if1_say(card: Card, folder: Path, rows: list[Row]) -> list[Said]:
    """Through ``get_encoder_output``, each backbone centred.

    The package gives the tokens before and after a chain the origin for a place, and its dihedrals
    at the ends read it: what it says depends, by some thousandths, on where a chain lies.
    """
    import biotite.structure
    import torch

    biotite.structure.filter_backbone = biotite.structure.filter_peptide_backbone
    from esm.inverse_folding.util import get_encoder_output
    from esm.pretrained import load_model_and_alphabet_core

    data = torch.load(file_of(card, folder), weights_only=False)
    model, alphabet = load_model_and_alphabet_core("esm_if1", data, None)
    model.eval()
    said = []
    for row in rows:
        coords = np.asarray(row["backbone"])[:, :3]
        coords = (coords - coords.mean(axis=(0, 1))).astype(np.float32)
        found = get_encoder_output(model, alphabet, coords).detach()
        said.append({"pooled": {"last": found.mean(0).numpy()}, "energy": None})
    return said


MAKE: dict[str, Callable[[Card, Path], Card]] = {
    "mace": mace_make, "pet-mad": pet_make, "geom2vec": geom2vec_make, "esmc": esmc_make,
    "esm3": esm3_make, "esm-if1": esm_if1_make,
}  # fmt: skip
SAY: dict[str, Callable[[Card, Path, list[Row]], list[Said]]] = {
    "mace": mace_say, "pet-mad": pet_say, "geom2vec": geom2vec_say, "esmc": esmc_say,
    "esm3": esm3_say, "esm-if1": esm_if1_say,
}  # fmt: skip


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
