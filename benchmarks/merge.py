"""Speed and memory of merging: evomm, mergekit and the floor, interleaved in one run. Writes docs/results/merge.md.

    python -m benchmarks.merge [--shapes 1.1b 3b] [--methods ties ...] [--repeats 3] [--out PAGE]

Both tools get the same mergekit YAML. The floor is a process that reads the bytes that the job reads and writes as
many as it writes, and nothing else. CPU seconds and peaks of memory are of the measured process itself.
"""

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import yaml
from safetensors import safe_open

from benchmarks.measure import Cost, Costs, Finished, measure
from benchmarks.parents import SHAPES, make_near, shapes
from benchmarks.peer import PEER, PEER_ENV, SAME, Peer, compile_imports

GIB = 1 << 30
CPU_GOALS = {  # mergekit's CPU seconds over evomm's, at least
    "linear": 2.5,
    "slerp": 2.5,
    "task_arithmetic": 2.5,
    "model_stock": 2.5,
    "dare_ties": 5.0,
    "ties": 10.0,
    "breadcrumbs": 10.0,
    "della": 10.0,
}
WALL_GOALS = {"linear": 2.0, "task_arithmetic": 2.0, "ties": 4.0, "dare_ties": 4.0, "della": 4.0}  # evomm's over the floor's
PER_PARENT: dict[str, dict[str, float]] = {
    "linear": {"weight": 0.5},
    "task_arithmetic": {"weight": 0.5},
    "dare_ties": {"weight": 0.5, "density": 0.5},
    "ties": {"weight": 0.5, "density": 0.5},
    "breadcrumbs": {"weight": 0.5, "density": 0.5, "gamma": 0.01},
    "della": {"weight": 0.5, "density": 0.5, "epsilon": 0.1},
}
FLOOR = """\
import json, os, sys, time
job = json.loads(sys.argv[1])
block = memoryview(bytearray(1 << 20))
out = os.open(job["out"], os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o644)
os.posix_fallocate(out, 0, job["size"])
at = 0
for names in job["inputs"]:
    files = [open(name, "rb", 0) for name in names]
    while True:
        for file in files:
            got = file.readinto(block)
        if not got:
            break
        os.pwrite(out, block[:got], at)
        at += got
started = time.monotonic()
os.fsync(out)
print(time.monotonic() - started)
"""
LOAD = """\
import sys, torch
from transformers import AutoModelForCausalLM
_, info = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16, output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
"""


@dataclass(frozen=True)
class Measured:
    """One job, measured. evomm and peer: their costs, or why there are none; sync: seconds of the floor's fsync."""

    method: str
    floor: Costs
    sync: float
    evomm: Costs | str
    peer: Costs | str


@dataclass(frozen=True)
class Bench:
    """Where things are: the parents, a scratch folder for outputs and logs, the peer, and how often to measure."""

    shape: str
    parents: Path
    scratch: Path
    peer: Peer | None
    repeats: int

    def job(self, method: str) -> Measured:
        """Floor, evomm, peer, floor, evomm, peer, ...; the first floor warms the cache and is not counted."""
        file, labels = self._recipe(method)
        out = self.scratch / "out"
        evomm = [str(Path(sys.executable).with_name("evomm")), "merge", str(file), "-o", str(out), "--json"]
        peer = [str(self.peer.command), str(file), str(out), "--quiet"] if self.peer else []
        self._floor(labels)
        costs: dict[str, list[Cost]] = {"floor": [], "evomm": [], "peer": []}
        refused = {} if self.peer else {"peer": "not run"}
        syncs = []
        for repeat in range(self.repeats):
            cost, sync = self._floor(labels)
            costs["floor"].append(cost)
            syncs.append(sync)
            for name, command in (("evomm", evomm), ("peer", peer)):
                if name in refused:
                    continue
                done = self._run(command)
                if done.code:
                    refused[name] = f"exit code {done.code}: {self._last(done.err)}"
                else:
                    costs[name].append(done.cost)
                    check_headers(out, self.shape)
                    if repeat == 0 and name == "evomm" and method == "linear":
                        quiet = subprocess.DEVNULL
                        subprocess.run([sys.executable, "-c", LOAD, str(out)], check=True, stdout=quiet, stderr=quiet)
                shutil.rmtree(out, ignore_errors=True)
        found = {name: refused.get(name) or Costs(tuple(runs)) for name, runs in costs.items()}
        floor = found["floor"]
        assert isinstance(floor, Costs)
        return Measured(method, floor, min(syncs), found["evomm"], found["peer"])

    def imports(self) -> tuple[Costs, Costs | str]:
        """What importing the code of the merge verb costs, without a merge."""
        ours = [sys.executable, "-c", "import evomm.cli.app, evomm.run.make"]
        theirs = [str(self.peer.python), "-c", "import mergekit.scripts.run_yaml"] if self.peer else []
        costs: list[list[Cost]] = [[], []]
        for _ in range(self.repeats):
            for found, command in zip(costs, (ours, theirs), strict=True):
                if command:
                    done = self._run(command)
                    if done.code:
                        sys.exit(f"{command[-1]}: exit code {done.code}: {self._last(done.err)}")
                    found.append(done.cost)
        return Costs(tuple(costs[0])), Costs(tuple(costs[1])) if self.peer else "not run"

    def _run(self, command: Sequence[str]) -> Finished:
        os.sync()  # what the last job wrote is on the disk before the next one is timed
        return measure(command, self.scratch)

    def _recipe(self, method: str) -> tuple[Path, list[str]]:
        """The mergekit YAML of a job, and the parents it reads."""
        parameters = PER_PARENT.get(method)
        models = [{"model": str(self.parents / label)} | ({"parameters": parameters} if parameters else {}) for label in "ab"]
        content: dict[str, object] = {"merge_method": method, "models": models, "dtype": "bfloat16"}
        labels = ["a", "b"]
        if method == "slerp":
            content |= {"base_model": str(self.parents / "a"), "parameters": {"t": 0.4}}
        elif method != "linear":
            content["base_model"] = str(self.parents / "base")
            labels.append("base")
        file = self.scratch / f"{method}.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        return file, labels

    def _floor(self, labels: Sequence[str]) -> tuple[Cost, float]:
        """Read these parents and write one of them, and nothing else; its cost and its seconds of fsync."""
        files = [[str(path) for path in sorted((self.parents / label).glob("*.safetensors"))] for label in labels]
        out = self.scratch / "floor.bin"
        size = sum(Path(file).stat().st_size for file in files[0])
        job = {"inputs": list(zip(*files, strict=True)), "out": str(out), "size": size}
        done = self._run([sys.executable, "-c", FLOOR, json.dumps(job)])
        if done.code:
            sys.exit(f"the floor failed: {self._last(done.err)}")
        out.unlink()
        return done.cost, float(done.out)

    def _last(self, text: str) -> str:
        """The last line of what a process complained, without the folders of this machine."""
        lines = text.replace(f"{self.scratch}/", "").replace(f"{self.parents}/", "").strip().splitlines()
        return lines[-1][:200] if lines else "no message"


def check_headers(folder: Path, shape: str) -> None:
    """Every tensor of the model is in the files, in its shape and in bfloat16, and no other; exits when not."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as handle:
            for name in handle.keys():  # noqa: SIM118 - a safetensors handle is no dict
                part = handle.get_slice(name)
                found[name] = (tuple(part.get_shape()), part.get_dtype())
    if found != {name: (size, "BF16") for name, size in shapes(shape)}:
        sys.exit(f"{folder.name}: the child's tensors are not those of the parents")


def cells(costs: Costs | str) -> list[str]:
    """CPU-s, wall, GiB of one tool."""
    if isinstance(costs, str):
        return [costs, "", ""]
    return [costs.spread(lambda c: c.cpu), costs.spread(lambda c: c.wall), f"{costs.anonymous / GIB:.2f}"]


def verdict(value: float, goal: float | None, met: Callable[[float, float], bool]) -> str:
    """Such as ``3.1x (goal 2.5: met)``."""
    if goal is None:
        return f"{value:.2f}x"
    return f"{value:.2f}x (goal {goal:g}: {'met' if met(value, goal) else 'MISSED'})"


def row(measured: Measured, bound: int) -> list[str]:
    """One line of the table."""
    ours, theirs, floor = measured.evomm, measured.peer, measured.floor
    ratio = over = bare = memory = ""
    if isinstance(ours, Costs):
        if isinstance(theirs, Costs):
            ratio = verdict(theirs.cpu / ours.cpu, CPU_GOALS.get(measured.method), lambda value, goal: value >= goal)
        over = verdict(ours.wall / floor.wall, WALL_GOALS.get(measured.method), lambda value, goal: value <= goal)
        bare = f"{ours.wall / (floor.wall - measured.sync):.2f}x"
        memory = "kept" if ours.anonymous <= bound else "MISSED"
    floors = [floor.spread(lambda c: c.cpu), f"{floor.spread(lambda c: c.wall)} (fsync {measured.sync:.2f})"]
    return [measured.method, *cells(ours), *cells(theirs), *floors, ratio, over, bare, memory]


HEAD = [
    "method",
    "evomm CPU-s",
    "evomm wall s",
    "evomm GiB",
    f"{PEER} CPU-s",
    f"{PEER} wall s",
    f"{PEER} GiB",
    "floor CPU-s",
    "floor wall s",
    f"CPU, {PEER} / evomm",
    "wall, evomm / floor",
    "... / floor without its fsync",
    "memory bound",
]


def table(rows: Sequence[Sequence[str]]) -> str:
    """As Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [HEAD, ["---"] * len(HEAD), *rows])


PAGE = """\
# Merging: speed and memory, beside mergekit and the floor

Made by `{command}` on {date}. Machine: {cores} cores ({machine}), {ram:.0f} GiB of memory, load average {load} at the start;
a shared machine, so trust ratios and minima.

{versions}

* Every job is one process of its own, from start to end: imports, reading, computing, writing. Jobs are interleaved (floor,
  evomm, mergekit, floor, ...), {repeats} repeats; outputs are deleted and the disk is synced before each. Times are given as
  least-most of the repeats and ratios are of the least; memory is the most.
* Both tools get the same mergekit YAML (two parents near one base, in bfloat16; the result in bfloat16; weight 0.5, density 0.5,
  gamma 0.01, epsilon 0.1, t 0.4): `evomm merge FILE -o OUT --json` and `mergekit-yaml FILE OUT --quiet`, on the CPU, with each
  tool's own number of threads. Both environments are byte-compiled beforehand, so nobody pays for compiling imports.
* CPU-s are user + system seconds of that process. GiB is the peak of anonymous memory (RssAnon, sampled every 10 ms; mapped
  files are page cache and not counted). The bound that evomm promises is 1 GiB + 4 × the largest tensor.
* The floor is a process that reads the same inputs and writes as many bytes as the output has, in blocks of 1 MiB, and nothing
  else; it ends with fsync as evomm's writer does (mergekit does not wait for the disk). The ratio without that wait is given too.
* The file cache was warmed by the floor. {disk}
* Every child's tensors were checked (names, shapes, dtype) after every run; evomm's linear children were loaded in transformers.

Starting up, imports only: evomm {evomm_imports}; mergekit {peer_imports}.

{sections}
"""


def section(shape: str, rows: Sequence[Sequence[str]], bound: int) -> str:
    """One shape's part of the page."""
    sizes = [math.prod(size) * 2 for _, size in shapes(shape)]
    return (
        f"## {shape}: {sum(sizes) / 1e9:.2f} GB per parent\n\n"
        f"Largest tensor {max(sizes) / 1e6:.0f} MB; memory bound {bound / GIB:.2f} GiB.\n\n{table(rows)}"
    )


def _versions(peer: Peer | None) -> str:
    ours = {"python": platform.python_version(), **{name: version(name) for name in ("evomm", *SAME)}}
    lines = ["evomm's environment: " + ", ".join(f"{name} {number}" for name, number in ours.items()) + "."]
    if peer is not None:
        lines.append(f"{PEER}'s: " + ", ".join(f"{name} {number}" for name, number in peer.versions().items()) + ".")
    return "\n".join(lines)


def _disk(measured: Sequence[Measured]) -> str:
    """How warm it was: what the counted runs had to fetch from the disk."""
    costs = [c for m in measured for c in (m.floor, m.evomm, m.peer) if isinstance(c, Costs)]
    most = max((c.disk for c in costs), default=0)
    return "No counted run read from the disk." if most < 1 << 24 else f"The worst run read {most / GIB:.1f} GiB from the disk."


def _imports(costs: Costs | str) -> str:
    if isinstance(costs, str):
        return costs
    return f"{costs.spread(lambda c: c.cpu)} CPU-s, {costs.spread(lambda c: c.wall)} s wall, {costs.anonymous / GIB:.2f} GiB"


def _memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["1.1b"])
    parser.add_argument("--methods", nargs="+", choices=CPU_GOALS, default=list(CPU_GOALS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="a folder for the parents, kept for the next time")
    parser.add_argument("--peer-env", type=Path, default=PEER_ENV, help=f"an environment with {PEER}; made when absent")
    parser.add_argument("--no-peer", action="store_true", help="evomm and the floor only")
    parser.add_argument("--out", type=Path, help="write the page here, such as docs/results/merge.md")
    options = parser.parse_args()
    load = f"{os.getloadavg()[0]:.1f}"
    peer = None if options.no_peer else Peer(options.peer_env)
    compile_imports(peer)
    with tempfile.TemporaryDirectory() as temporary:
        benches = [
            Bench(shape, (options.keep or Path(temporary)).absolute() / shape, Path(temporary), peer, options.repeats)
            for shape in options.shapes
        ]
        imports = benches[0].imports()
        print(f"imports only: evomm {_imports(imports[0])}; {PEER} {_imports(imports[1])}", flush=True)
        sections: list[str] = []
        measured: list[Measured] = []
        for bench in benches:
            sections.append(section(bench.shape, *_measure(bench, options.methods, measured)))
            if options.out:
                shown = [f"--shapes {' '.join(options.shapes)}", f"--repeats {options.repeats}"]
                shown += [f"--methods {' '.join(options.methods)}"] * (options.methods != list(CPU_GOALS))
                page = PAGE.format(
                    command=" ".join(["python -m benchmarks.merge", *shown, *["--no-peer"] * options.no_peer]),
                    date=datetime.now(UTC).date(),
                    cores=os.cpu_count(),
                    machine=platform.machine(),
                    ram=_memory(),
                    load=load,
                    versions=_versions(peer),
                    repeats=options.repeats,
                    disk=_disk(measured),
                    evomm_imports=_imports(imports[0]),
                    peer_imports=_imports(imports[1]),
                    sections="\n\n".join(sections),
                )
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(page, encoding="utf-8")
    print("\n\n".join(sections))


def _measure(bench: Bench, methods: Sequence[str], measured: list[Measured]) -> tuple[list[list[str]], int]:
    """The rows of one shape, printed as they come, and its memory bound."""
    make_near(bench.shape, bench.parents, "ab")
    bound = GIB + 4 * max(math.prod(size) * 2 for _, size in shapes(bench.shape))
    rows = []
    for method in methods:
        measured.append(bench.job(method))
        rows.append(row(measured[-1], bound))
        print(f"{bench.shape} " + "; ".join(_named(rows[-1])), flush=True)
    return rows, bound


def _named(row: Sequence[str]) -> Iterator[str]:
    yield row[0]
    yield from (f"{name} {cell}" for name, cell in zip(HEAD[1:], row[1:], strict=True) if cell)


if __name__ == "__main__":
    main()
