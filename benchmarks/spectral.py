"""Do spectral merges earn a place? Iso-C and TSV-M against task arithmetic on the small language models.

    python -m benchmarks.spectral [--limit 200] [--alphas 0.5 1 1.5 2 3 5 8]

Each method merges the Japanese and the math parent with one coefficient for all layers; the best coefficient is chosen on the
search split and scored on the validation split, so that each method gets the same, small search.

Iso-C (arXiv 2502.04959): the summed task vector U S Vᵀ of a matrix becomes mean(S) U Vᵀ. TSV-M (arXiv 2412.00081): each parent
keeps 1/P of its singular directions, and their stacked U and V are replaced with the nearest orthogonal matrices. What is not a
matrix is summed.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from evomm import ADAPTERS, CheckpointWriter
from evomm.adapters.base import Model
from evomm.resources import resource
from evomm.run.measure import measure

TASK = "tiny-math-ja"


def total(deltas: Sequence[Tensor]) -> Tensor:
    """Task arithmetic."""
    return torch.stack(list(deltas)).sum(0)


def iso_c(deltas: Sequence[Tensor]) -> Tensor:
    """Every direction of the summed task vector gets the mean singular value."""
    u, s, vt = torch.linalg.svd(total(deltas), full_matrices=False)
    merged: Tensor = s.mean() * (u @ vt)
    return merged


def tsv_m(deltas: Sequence[Tensor]) -> Tensor:
    """The parents' strongest directions, made orthogonal to one another."""
    rank = max(1, min(deltas[0].shape) // len(deltas))
    parts = [torch.linalg.svd(delta, full_matrices=False) for delta in deltas]
    u = torch.cat([part[0][:, :rank] for part in parts], dim=1)
    s = torch.cat([part[1][:rank] for part in parts])
    vt = torch.cat([part[2][:rank] for part in parts])
    return orthogonal(u) @ torch.diag(s) @ orthogonal(vt)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal rows or columns (Procrustes)."""
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    nearest: Tensor = u @ vt
    return nearest


METHODS: Mapping[str, Callable[[Sequence[Tensor]], Tensor]] = {"task_arithmetic": total, "iso_c": iso_c, "tsv_m": tsv_m}


def child(method: str, alpha: float, models: Mapping[str, Model], out: Path) -> None:
    """Write base + alpha · method(task vectors)."""
    base = models["base"]
    with CheckpointWriter(out, base.infos) as writer:
        for name, info in base.infos.items():
            start = base.read(name).float()
            deltas = [models[label].read(name).float() - start for label in ("ja", "math")]
            matrix = len(info.shape) == 2 and "embed" not in name
            merged = (METHODS[method] if matrix else total)(deltas)
            writer.write(name, (start + alpha * merged).to(info.dtype))
        writer.carry(base.folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    adapter = ADAPTERS["llm"]()
    models = {label: adapter.open(resource("model_zoo", "tiny", "llm", label)) for label in ("base", "ja", "math")}
    for method in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            found = {}
            for alpha in options.alphas:
                child(method, alpha, models, Path(folder) / str(alpha))
                found[alpha] = measure(str(Path(folder) / str(alpha)), TASK, "search", limit=options.limit, batch=200).score.mean
            best = max(found, key=lambda alpha: found[alpha])
            score = measure(str(Path(folder) / str(best)), TASK, "validation", batch=200).score
        ends = score.interval
        shown = " ".join(f"{alpha:g}: {100 * value:.1f}" for alpha, value in found.items())
        percent = f"{100 * ends.score:.1f} ({100 * ends.low:.1f}-{100 * ends.high:.1f})"
        print(f"{method:16} search {shown}   validation at {best:g}: {percent}", flush=True)


if __name__ == "__main__":
    main()
