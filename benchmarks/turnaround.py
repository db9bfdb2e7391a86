"""The turn-around of one candidate of a search: a genome decoded, and all weights of a resident model rewritten.

    python -m benchmarks.turnaround [--shape 1.1b] [--candidates 7] [--dtype float16] [--peer-methods ties] [--out PAGE]

Two parents near one base; a gene per parent and layer for every parameter, and all of them change with every candidate.
Candidates are interleaved with the floor (the same process, threads and memory): reading three models once and writing one.
mergekit's time is that of `mergekit-yaml`, one process, for the last candidate's recipe. Writes docs/results/turnaround.md.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor

from benchmarks.measure import Cost, settled
from benchmarks.memory_floor import FORMS, MemoryFloor
from benchmarks.parents import SHAPES, make_near, shapes
from benchmarks.peer import PEER, PEER_ENV, SAME, Peer
from benchmarks.report import made_by, table, verdict, versions
from evomm.checkpoints.reader import Checkpoint, MemoryReader
from evomm.genome.codec import Codec
from evomm.genome.space import GeneRule, make_space
from evomm.merge.engine import Engine, Pieces
from evomm.merge.live import Live
from evomm.merge.plan import Job, Readers, plan
from evomm.merge.recipe import Block, Recipe, Source

LABELS = ("a", "b")
GOALS = {"task_arithmetic": 1.5, "ties": 2.0}  # the turn-around over the floor, at most
PEER_GOAL = 20.0  # mergekit's wall time over the turn-around, at least
WEIGHT = GeneRule(parameter="weight", low=0.1, high=0.9, start=0.5)
DENSITY = GeneRule(parameter="density", low=0.1, high=0.9, start=0.5)
RULES = {"task_arithmetic": [WEIGHT], "ties": [WEIGHT, DENSITY]}
OUTSIDE = {"embed_tokens": "embed", "model.norm": "norm", "lm_head": "head"}  # what is in no layer: part of its name -> block
Spent = tuple[float, float]  # wall and CPU seconds


@dataclass
class Found:
    """What was measured of one method: seconds of the first write, of candidates, of decoding and of planning alone."""

    first: Spent = (0.0, 0.0)
    turns: list[Spent] = field(default_factory=list)
    decoding: list[float] = field(default_factory=list)
    planning: list[float] = field(default_factory=list)
    peer: Cost | str = "not run"


class Search:
    """One method's genome over a resident model, and candidates drawn from it."""

    def __init__(self, method: str, shape: str, readers: Readers, targets: Mapping[str, Tensor], threads: int) -> None:
        layers = range(SHAPES[shape]["num_hidden_layers"])
        blocks = [Block(name=f"layers.{i}", tensors=(f"model.layers.{i}.*",)) for i in layers]
        blocks += [Block(name=name, tensors=(f"*{part}*",)) for part, name in OUTSIDE.items()]
        template = Recipe(method=method, base="base", parents={label: Source(model=label) for label in ("base", *LABELS)})
        self._codec = Codec(make_space(blocks, LABELS, method, RULES[method]), template, blocks)
        self._random = np.random.default_rng(0)
        self._readers = readers
        self._targets = targets
        self._live = Live(Engine(readers, threads=threads), targets)
        self.genes = len(self._codec.space.genes)
        self.found = Found()
        self.recipe = template

    def turn(self) -> Spent:
        """Decode a fresh genome and write its child."""
        vector = self._random.random(self.genes)
        wall, cpu = time.perf_counter(), time.process_time()
        self.recipe = self._codec.decode(vector)
        decoded = time.perf_counter()
        self._live.write(self.recipe)
        spent = time.perf_counter() - wall, time.process_time() - cpu
        self.found.decoding.append(decoded - wall)
        planned = time.perf_counter()
        plan(self.recipe, self._readers)
        self.found.planning.append(time.perf_counter() - planned)
        return spent

    def check(self) -> None:
        """The resident model is what a merge to disk computes, on some of the tensors; exits when not."""

        def take(job: Job, pieces: Pieces) -> None:
            for start, piece in pieces:
                if not torch.equal(self._targets[job.name].view(-1)[start : start + piece.numel()], piece):
                    sys.exit(f"{self.recipe.method}: '{job.name}' in memory is not what a merge to disk gives")

        Engine(self._readers, forgetful=True).each(self.recipe, plan(self.recipe, self._readers)[::17], take)

    def document(self, parents: Path) -> str:
        """The last candidate's recipe as mergekit's YAML."""
        found = {block.name: block.parameters for block in self.recipe.blocks}

        def values(parameter: str, label: str) -> list[dict[str, object]]:
            one = {name: values[parameter][label] for name, values in found.items()}  # type: ignore[index]
            outside: list[dict[str, object]] = [{"filter": part, "value": one[name]} for part, name in OUTSIDE.items()]
            return [*outside, {"value": [value for name, value in one.items() if name.startswith("layers.")]}]

        models = [
            {
                "model": str(parents / label),
                "parameters": {rule.parameter: values(rule.parameter, label) for rule in RULES[self.recipe.method]},
            }
            for label in LABELS
        ]
        return yaml.safe_dump(
            {"merge_method": self.recipe.method, "base_model": str(parents / "base"), "models": models, "dtype": "bfloat16"}
        )


def peer_cost(peer: Peer, search: Search, parents: Path, scratch: Path) -> Cost | str:
    """What mergekit takes for the last candidate's recipe."""
    file, out = scratch / "recipe.yaml", scratch / "out"
    file.write_text(search.document(parents))
    done = settled([str(peer.command("mergekit-yaml")), str(file), str(out), "--quiet"], scratch)
    shutil.rmtree(out, ignore_errors=True)
    return done.cost if done.code == 0 else f"exit code {done.code}"


def spread(values: Sequence[float]) -> str:
    """Least, median and most, such as ``0.61-0.70-0.98``."""
    return "-".join(f"{pick(values):.2f}" for pick in (min, statistics.median, max))


def told(spent: Spent) -> str:
    """Such as ``0.71 s (1.24 CPU-s)``."""
    return f"{spent[0]:.2f} s ({spent[1]:.2f} CPU-s)"


def row(search: Search, floor: Sequence[Spent]) -> list[str]:
    """One method's line of the table."""
    found, goal = search.found, GOALS[search.recipe.method]
    (walls, cpus), (floor_walls, floor_cpus) = zip(*found.turns, strict=True), zip(*floor, strict=True)
    median = statistics.median
    cells = [search.recipe.method, str(search.genes), f"{found.first[0]:.1f} ({found.first[1]:.1f})", spread(walls), spread(cpus)]
    cells += [
        f"{1000 * median(found.decoding):.1f} + {1000 * median(found.planning):.1f}",
        spread(floor_walls),
        spread(floor_cpus),
    ]
    cells.append(verdict(median(walls) / median(floor_walls), goal, lambda value, goal: value <= goal))
    cells += [f"{min(walls) / min(floor_walls):.2f}x", f"{median(cpus) / median(floor_cpus):.2f}x"]
    if isinstance(found.peer, str):
        return [*cells, found.peer, ""]
    times = verdict(found.peer.wall / median(walls), PEER_GOAL, lambda value, goal: value >= goal)
    return [*cells, f"{found.peer.wall:.1f} ({found.peer.cpu:.1f})", times]


HEAD = [
    "method",
    "genes",
    "first write, wall (CPU) s",
    "turn-around, wall s",
    "turn-around, CPU-s",
    "decoding + planning in it, ms",
    "floor, wall s",
    "floor, CPU-s",
    "wall, turn-around / floor",
    "... of the least",
    "CPU, turn-around / floor",
    f"{PEER}, wall (CPU) s",
    f"wall, {PEER} / turn-around",
]
PAGE = """\
# The turn-around of a candidate: decoding a genome, rewriting a resident model

{made}

{versions}

* Shape {shape}: {tensors} tensors, {size:.2f} GB per model in {dtype}; two parents near one base, in memory (bfloat16: their
  files, in the cache), and a resident model of the same dtype. {threads} threads. A gene per parent and layer for every
  parameter; all of them change with every candidate.
* {candidates} candidates per method, interleaved with the floor and each other. Times are least-median-most; ratios are of
  medians (and, beside them, of the least).
* The floor reads the three models' tensors once and writes one's, in the same process, with as many threads, over the same
  memory, tensor by tensor as the engine does. Three simple forms were tried in every round; the one with the least median
  counts: {forms}.
* The first write pays for what a search learns of the parents once: compiled code is loaded, pages are mapped, and for ties the
  magnitudes of each task vector are counted.
* What is resident after the last candidate was compared, bit for bit, with what a merge to disk computes (every 17th tensor).
* mergekit's wall time is that of one process, `mergekit-yaml FILE OUT --quiet`, for the last candidate's recipe: imports and the
  writing of files included, as its users' searches have them. It ran once per
  method, after all candidates and not interleaved with them: where the machine's load changed meanwhile, only the CPU-seconds
  compare.

{rows}
"""


def load(parents: Path, dtype: torch.dtype) -> Readers:
    """The parents as they are on the disk, or, in another dtype, in memory."""
    stored = {label: Checkpoint(parents / label) for label in ("base", *LABELS)}
    if dtype == torch.bfloat16:
        return stored
    return {label: MemoryReader({name: one.read(name).to(dtype) for name in one.infos}) for label, one in stored.items()}


def run(searches: Sequence[Search], floor: MemoryFloor, candidates: int) -> dict[str, list[Spent]]:
    """Measure all, interleaved; gives the floor's forms, candidates go to the searches."""
    floors: dict[str, list[Spent]] = {form: [] for form in FORMS}
    for search in searches:
        search.found.first = search.turn()
        print(f"{search.recipe.method}: first write {told(search.found.first)}", flush=True)
    for number in range(candidates):
        for search in searches:
            search.found.turns.append(search.turn())
            if number == candidates - 1:
                search.check()  # before the floor and others write there
            for form, spent in floors.items():
                spent.append(floor.measure(form))
            found = ", ".join(told(spent[-1]) for spent in floors.values())
            print(f"{search.recipe.method} {told(search.found.turns[-1])}; floor {found}", flush=True)
    return floors


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="1.1b")
    parser.add_argument("--methods", nargs="+", choices=GOALS, default=list(GOALS))
    parser.add_argument("--candidates", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", choices=["bfloat16", "float16"], default="bfloat16", help="of parents and model")
    parser.add_argument("--keep", type=Path, help="a folder for the parents, kept for the next time")
    parser.add_argument("--peer-env", type=Path, default=PEER_ENV, help=f"an environment with {PEER}; made when absent")
    parser.add_argument("--peer-methods", nargs="*", choices=GOALS, default=list(GOALS), help=f"what {PEER} is asked for, too")
    parser.add_argument("--out", type=Path, help="write the page here, such as docs/results/turnaround.md")
    options = parser.parse_args()
    load_average = os.getloadavg()[0]
    dtype: torch.dtype = getattr(torch, options.dtype)
    peer = Peer(options.peer_env) if options.peer_methods else None
    with tempfile.TemporaryDirectory() as temporary:
        parents = (options.keep or Path(temporary)).absolute() / options.shape
        make_near(options.shape, parents, "ab")
        readers = load(parents, dtype)
        targets = {name: torch.zeros(size, dtype=dtype) for name, size in shapes(options.shape)}
        models = [{name: reader.read(name) for name in targets} for reader in readers.values()]
        searches = [Search(method, options.shape, readers, targets, options.threads) for method in options.methods]
        floors = run(searches, MemoryFloor(models, targets, options.threads), options.candidates)
        if peer:
            subprocess.run([peer.python, "-c", "import mergekit.scripts.run_yaml"], check=True)  # is byte-compiled beforehand
            for search in (one for one in searches if one.recipe.method in options.peer_methods):
                search.found.peer = peer_cost(peer, search, parents, Path(temporary))
    medians = {form: statistics.median(wall for wall, _ in spent) for form, spent in floors.items()}
    best = floors[min(medians, key=medians.__getitem__)]
    rows = table(HEAD, [row(search, best) for search in searches])
    print(f"\n{rows}")
    if options.out:
        shown = ["python -m benchmarks.turnaround", f"--shape {options.shape} --candidates {options.candidates}"]
        shown += [f"--dtype {options.dtype}"] * (options.dtype != "bfloat16") + [
            " ".join(["--peer-methods", *options.peer_methods])
        ] * (options.peer_methods != list(GOALS))
        page = PAGE.format(
            made=made_by(" ".join(shown), load_average),
            versions=versions(peer, SAME),
            shape=options.shape,
            tensors=len(targets),
            size=sum(tensor.nbytes for tensor in targets.values()) / 1e9,
            dtype=options.dtype,
            threads=options.threads,
            candidates=options.candidates,
            forms=", ".join(f"{form} ({median:.2f} s)" for form, median in medians.items()),
            rows=rows,
        )
        options.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
