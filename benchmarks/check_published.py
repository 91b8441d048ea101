# SPDX-License-Identifier: Apache-2.0
"""Do the adapters give what the published packages give, on all of ASE's G2 and dcdft sets?

Prints, for each model and set, the largest relative deviation of a mean-pooled vector over the
layers the package itself exposes (largest component of the difference over the largest component
of the reference), and the largest deviation of the energy. Exits with 1 when a vector is off by
more than 1e-4 or an energy by more than 1e-4 eV an atom.

Usage: python benchmarks/check_published.py [MODEL ...]
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "builders" / "adapters"))

import numpy as np
from ase.collections import dcdft, g2
from probes import from_ase, to_ase_atoms
from published import REFERENCES

from matteratlas.builders.adapters.base import Embedded, Missing, load_adapter
from matteratlas.registry import catalog

VECTOR_LIMIT = 1e-4
ENERGY_LIMIT = 1e-4  # eV an atom


def check(model_id: str) -> bool:
    """Compare one model with its package on both sets; print a line a set."""
    reference = REFERENCES[model_id]()
    adapter = load_adapter(catalog.model(model_id))
    good = True
    for set_name, collection in (("g2", g2), ("dcdft", dcdft)):
        structures = [from_ase(collection[n], n) for n in collection.names]
        vector, energy, per_atom, compared, layers = 0.0, 0.0, 0.0, 0, set()
        missing: Counter[str] = Counter()
        for structure, result in zip(structures, adapter.embed(structures), strict=True):
            if isinstance(result, Missing):
                missing[result.reason.partition(":")[0]] += 1
                continue
            assert isinstance(result, Embedded)
            expected = reference(to_ase_atoms(structure))
            for layer, values in expected.pooled.items():
                layers.add(layer)
                off = np.abs(result.pooled[layer] - values).max() / np.abs(values).max()
                vector = max(vector, float(off))
            if (expected.energy is None) != (result.energy is None):
                raise SystemExit(f"{model_id}: energy on one side only for {structure.source_id}")
            if expected.energy is not None and result.energy is not None:
                off = abs(result.energy - expected.energy)
                energy, per_atom = max(energy, off), max(per_atom, off / len(structure))
            compared += 1
        good &= vector <= VECTOR_LIMIT and per_atom <= ENERGY_LIMIT
        shown = [f"{vector:11.1e}" if compared else f"{'-':>11s}"]
        shown.append(f"{energy:9.1e}" if compared and adapter.card.energy else f"{'-':>9s}")
        reasons = ", ".join(f"{k} {n}" for k, n in sorted(missing.items()))
        print(
            f"{model_id:24s} {set_name:6s} {compared:5d} {len(layers):7d} "
            f"{' '.join(shown)}  {reasons}",
            flush=True,
        )
    return good


def main() -> int:
    """Check the models named on the command line, or all with a reference."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", help="model ids; default: all with a reference")
    chosen = parser.parse_args().models or list(REFERENCES)
    warnings.simplefilter("ignore")
    print("model                    set        n  layers  vector rel.  energy eV  missing")
    return max(not check(model_id) for model_id in chosen)


if __name__ == "__main__":
    raise SystemExit(main())
