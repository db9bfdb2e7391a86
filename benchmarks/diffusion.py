"""Speed and memory of merging UNets of SDXL's shape: evomm, sd-mecha and the floor, in one run. Writes docs/results/diffusion.md.

    python -m benchmarks.diffusion --work DIR [--methods linear ...] [--repeats 2] [--small] [--out PAGE]

DIR gets the parents (`unet_parents`, 21 GB, kept for the next time) and, one at a time, children of 5 GB. Both tools read the
same single files in the original layout and write one; evomm then does the same jobs with one parent as a diffusers folder.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from benchmarks.floor import floor
from benchmarks.measure import Cost, Costs, settled
from benchmarks.peer import Peer, compile_imports
from benchmarks.report import GIB, Measured, head, made_by, named, row, start_up, table, versions, warmth
from benchmarks.unet_parents import FOLDER, infos, make
from evomm import Pipeline, SingleFile
from evomm.checkpoints.reader import read_tensors

PEER, PEER_VERSION, SAME = "sd-mecha", "1.1.8", ("torch", "safetensors", "numpy")
PEER_ENV = Path(__file__).resolve().parent.parent / ".venv-sd-mecha"
HEAD = head(PEER)
WALL_GOAL = 4.0  # evomm's wall time over the floor's, at most
STEP = 20  # of the tensors, in the order of their names, every how manieth is compared
PEER_MERGE = """\
import json, sys, sd_mecha
job = json.loads(sys.argv[1])
parents = {name: sd_mecha.model(file) for name, file in job["parents"].items()}
sd_mecha.merge(eval(job["recipe"], {"m": sd_mecha, **parents}), output=job["out"])
"""


@dataclass(frozen=True)
class Job:
    """One merge, said to both tools.

    Attributes:
        recipe: evomm's, without the parents.
        parents: their labels, in evomm's order.
        peer: the recipe in sd-mecha's language, ``m`` being the library.
        goal: the peer's CPU seconds over evomm's, at least.
        exact: whether both compute the same sums, so that only roundings differ.
    """

    recipe: Mapping[str, object]
    parents: tuple[str, ...]
    peer: str
    goal: float
    exact: bool = True


JOBS = {
    "linear": Job(
        {"method": "linear", "parameters": {"weight": {"a": 0.7, "b": 0.3}}},
        ("a", "b"),
        "m.weighted_sum(a, b, alpha=0.3)",
        goal=2.0,
    ),
    "add_difference": Job(
        {"method": "add_difference", "base": "base", "parameters": {"alpha": 0.7}},
        ("base", "a", "b"),
        "m.add_difference(a, b, base, alpha=0.7)",
        goal=2.0,
    ),
    "ties": Job(
        {"method": "ties", "base": "base", "parameters": {"density": 0.5}},
        ("base", "a", "b"),
        "base + m.ties_sum(a - base, b - base, k=0.5, vote_sgn=True)",
        goal=4.0,
        exact=False,
    ),
}


@dataclass(frozen=True)
class Bench:
    """Where parents and children are, the peer, and how often to measure."""

    work: Path
    peer: Peer | None
    repeats: int
    small: bool

    def run(self, name: str) -> Iterator[tuple[Measured, str]]:
        """One job on single files, then on layouts mixed: what was measured, and how equal the children are."""
        job = JOBS[name]
        ours, theirs, mixed = (self.work / f"{name}-{which}" for which in ("evomm.safetensors", "peer.safetensors", "mixed"))
        single = {label: self.work / f"{label}.safetensors" for label in job.parents}
        try:
            commands = {"evomm": self._evomm(job, single, ours)}
            if self.peer is not None:
                what = {"parents": {label: str(file) for label, file in single.items()}, "recipe": job.peer, "out": str(theirs)}
                commands["peer"] = [str(self.peer.python), "-c", PEER_MERGE, json.dumps(what)]
            outs = {"evomm": ours, "peer": theirs}
            yield self._measured(name, commands, outs, list(single.values())), self._beside(job, ours, theirs)
            there = {**single, FOLDER: self.work / FOLDER}
            files = [
                *(there[label] for label in job.parents if label != FOLDER),
                *(self.work / FOLDER / "unet").glob("*.safetensors"),
            ]
            found = self._measured(f"{name}, mixed", {"evomm": self._evomm(job, there, mixed)}, {"evomm": mixed}, files)
            yield found, self._same(ours, mixed)
        finally:
            for out in (ours, theirs, mixed):
                remove(out)

    def _measured(
        self, name: str, commands: Mapping[str, Sequence[str]], outs: Mapping[str, Path], files: Sequence[Path]
    ) -> Measured:
        """Floor, evomm, peer, floor, evomm, peer, ...; before each, its inputs are read once, which is not counted."""
        costs: dict[str, list[Cost]] = {tool: [] for tool in commands}
        floors, syncs, refused = [], [], {}
        for _ in range(self.repeats):
            warm(files)
            cost, sync = floor([files], self.work)
            floors.append(cost)
            syncs.append(sync)
            for tool, command in commands.items():
                if tool in refused:
                    continue
                remove(outs[tool])
                warm(files)
                done = settled(command, self.work)
                if done.code:
                    refused[tool] = f"exit code {done.code}: {done.err.strip().splitlines()[-1][:200]}"
                else:
                    costs[tool].append(done.cost)
        found = {tool: refused.get(tool) or Costs(tuple(runs)) for tool, runs in costs.items()}
        return Measured(name, Costs(tuple(floors)), min(syncs), found["evomm"], found.get("peer", "—"))

    def _evomm(self, job: Job, parents: Mapping[str, Path], out: Path) -> list[str]:
        content = {**job.recipe, "parents": {label: {"model": str(path)} for label, path in parents.items()}}
        file = self.work / f"{out.stem}.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        return [str(Path(sys.executable).with_name("evomm")), "merge", str(file), "-o", str(out), "--json"]

    def imports(self) -> tuple[Costs, Costs | str]:
        """What importing costs, of what merges of single files need."""
        ours = [sys.executable, "-c", "import evomm.cli.app, evomm.run.make, diffusers.loaders.single_file_utils"]
        theirs = [str(self.peer.python), "-c", "import sd_mecha"] if self.peer else []
        costs = [[settled(command, self.work).cost for _ in range(self.repeats)] for command in (ours, theirs) if command]
        return Costs(tuple(costs[0])), Costs(tuple(costs[1])) if self.peer else "not run"

    def _beside(self, job: Job, ours: Path, theirs: Path) -> str:
        """How far the children of both tools are from one another, in some of the tensors."""
        if not theirs.exists() or not ours.exists():
            return ""
        a, b = read_tensors(ours), read_tensors(theirs)
        if {name: (t.dtype, t.shape) for name, t in a.items()} != {name: (t.dtype, t.shape) for name, t in b.items()}:
            return "the children have different tensors"
        names = sorted(a)[::STEP]
        steps = [apart(a[name], b[name]) for name in names]
        count, most = sum(s.numel() for s in steps), max(int(s.max()) for s in steps)
        differ = sum(int((s > 0).sum()) for s in steps) / count
        far = sum(int((s > 1).sum()) for s in steps) / count
        text = f"{count / 1e6:.0f}M elements of {len(names)} tensors; {differ:.4%} differ from {PEER}'s, by {most} ulp at most"
        return text if job.exact else f"{text}; {far:.4%} by more than one"

    def _same(self, single: Path, folder: Path) -> str:
        """Whether every tensor has the bits of the single file's."""
        if not single.exists() or not folder.exists():
            return "not made"
        a, b = SingleFile(single), Pipeline(folder)
        if a.infos != b.infos or a.infos != infos(self.small):
            sys.exit("a child's tensors are not those of the parents")
        other = [name for name in a.infos if not torch.equal(a.read(name).view(torch.int16), b.read(name).view(torch.int16))]
        return f"{len(other)} of {len(a.infos)} tensors differ from those of the merge of single files"


def apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """How many float16 numbers two are apart, element by element: 1 for neighbours."""
    return (_place(a) - _place(b)).abs()


def _place(tensor: torch.Tensor) -> torch.Tensor:
    """Float16 numbers counted from 0."""
    bits = tensor.view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


def warm(files: Sequence[Path]) -> None:
    """Read files once, so that they are cached."""
    block = memoryview(bytearray(1 << 22))
    for file in files:
        with file.open("rb", 0) as source:
            while source.readinto(block):
                pass


def remove(out: Path) -> None:
    """A child, whether it is a file or a folder."""
    if out.is_dir():
        shutil.rmtree(out)
    else:
        out.unlink(missing_ok=True)


PAGE = """\
# Merging UNets of SDXL's shape: speed and memory, beside sd-mecha and the floor

{made}

{versions}

* Parents are random UNets of SDXL's shape in float16 ({tensors:,} tensors, {parameters:,} parameters, {gigabytes:.2f} GB each): a
  base, and two near it as fine-tunes are (`python -m benchmarks.unet_parents`).
* `evomm merge RECIPE -o OUT` and a script of sd-mecha's three lines (`model`, the method, `merge(recipe, output=OUT)`) read the
  same single files in the original layout and write one, with each tool's own defaults: arithmetic in float32 on the CPU, its own
  number of threads, the result in float16. "Mixed" are evomm's merges of a diffusers folder with single files, to a folder.
* Methods, evomm's / sd-mecha's:
{methods}
  With `vote_sgn=True` the majority weighs task vectors by size, as everybody's TIES does, and is not that of heads. (Written so
  because sd-mecha 1.1.8's own `add_difference_ties` raises an AttributeError on models of files.) Of task vectors that are equal
  in size at the cutoff, sd-mecha keeps all, evomm all or none, whichever is nearer to the density.
* Every job is one process of its own, from start to end: imports, reading, computing, writing. Jobs are interleaved (floor,
  evomm, sd-mecha, floor, ...), {repeats} repeats; before each, the disk is synced and the inputs are read once, which is not
  counted. Times are given as least-most of the repeats and ratios are of the least; memory is the most.
* CPU-s are user + system seconds of that process. GiB is the peak of anonymous memory (RssAnon, sampled every 10 ms; mapped files
  are page cache and not counted). The bound that evomm promises is 1 GiB + 4 × the largest tensor: {bound:.2f} GiB.
* The floor is a process that reads the same inputs and writes as many bytes as the output has, in blocks of 1 MiB, and nothing
  else; it ends with fsync as evomm's writer does (sd-mecha does not wait for the disk). The ratio without that wait is given too.
* {disk}

Starting up, imports only: evomm {evomm_imports}; sd-mecha {peer_imports}.

{table}

Are the children equal? Every {step}th tensor was compared with sd-mecha's, and every tensor of mixed merges with that of the
merge of single files:

{equal}
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder for parents and children: 36 GB")
    parser.add_argument("--methods", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="small parents, to try the script")
    parser.add_argument("--peer-env", type=Path, default=PEER_ENV, help=f"an environment with {PEER}; made when absent")
    parser.add_argument("--no-peer", action="store_true", help="evomm and the floor only")
    parser.add_argument("--out", type=Path, help="write the page here, such as docs/results/diffusion.md")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    peer = None if options.no_peer else Peer(options.peer_env, PEER, PEER_VERSION, SAME)
    compile_imports(peer)
    work: Path = options.work.absolute()
    make(work, options.small)
    bench = Bench(work, peer, options.repeats, options.small)
    tensors = infos(options.small)
    bound = GIB + 4 * max(info.nbytes for info in tensors.values())
    imports = bench.imports()
    print(f"imports only: evomm {start_up(imports[0])}; {PEER} {start_up(imports[1])}", flush=True)
    rows, equal, measured = [], [], []
    for name in options.methods:
        for found, likeness in bench.run(name):
            measured.append(found)
            rows.append(row(found, JOBS[name].goal, WALL_GOAL, bound))
            equal.append(f"* {found.name}: {likeness}" if likeness else "")
            print(f"{named(HEAD, rows[-1])}\n{equal[-1]}", flush=True)
    shown = ["--work DIR", f"--repeats {options.repeats}", *["--small"] * options.small, *["--no-peer"] * options.no_peer]
    shown += [f"--methods {' '.join(options.methods)}"] * (options.methods != list(JOBS))
    page = PAGE.format(
        made=made_by(" ".join(["python -m benchmarks.diffusion", *shown]), load),
        versions=versions(peer, SAME),
        tensors=len(tensors),
        parameters=sum(info.numel for info in tensors.values()),
        gigabytes=sum(info.nbytes for info in tensors.values()) / 1e9,
        methods="\n".join(f"  * {json.dumps(JOBS[name].recipe)} / `{JOBS[name].peer}`" for name in options.methods),
        repeats=options.repeats,
        bound=bound / GIB,
        disk=warmth(costs for one in measured for costs in (one.floor, one.evomm, one.peer)),
        evomm_imports=start_up(imports[0]),
        peer_imports=start_up(imports[1]),
        table=table(HEAD, rows),
        step=STEP,
        equal="\n".join(line for line in equal if line),
    )
    print(page)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
