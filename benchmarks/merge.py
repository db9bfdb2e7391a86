"""Speed and memory of merging: evomm, mergekit and the floor, interleaved in one run. Writes docs/results/merge.md.

    python -m benchmarks.merge [--shapes 1.1b 3b] [--methods ties ...] [--repeats 3] [--out PAGE]

Both tools get the same mergekit YAML. The floor is a process that reads the bytes that the job reads and writes as
many as it writes, and nothing else. CPU seconds and peaks of memory are of the measured process itself.
"""

import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from safetensors import safe_open

from benchmarks.floor import floor
from benchmarks.measure import Cost, Costs, settled
from benchmarks.parents import SHAPES, make_near, shapes
from benchmarks.peer import PEER, PEER_ENV, SAME, Peer, compile_imports
from benchmarks.report import GIB, Measured, head, made_by, named, row, start_up, table, versions, warmth

HEAD = head(PEER)
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
LOAD = """\
import sys, torch
from transformers import AutoModelForCausalLM
_, info = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16, output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
"""


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
        peer = [str(self.peer.command("mergekit-yaml")), str(file), str(out), "--quiet"] if self.peer else []
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
                done = settled(command, self.scratch)
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
                    done = settled(command, self.scratch)
                    if done.code:
                        sys.exit(f"{command[-1]}: exit code {done.code}: {self._last(done.err)}")
                    found.append(done.cost)
        return Costs(tuple(costs[0])), Costs(tuple(costs[1])) if self.peer else "not run"

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
        """What reading these parents and writing one of them costs; see `floor`."""
        files = [sorted((self.parents / label).glob("*.safetensors")) for label in labels]
        return floor(list(zip(*files, strict=True)), self.scratch)

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


PAGE = """\
# Merging: speed and memory, beside mergekit and the floor

{made}

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
        f"Largest tensor {max(sizes) / 1e6:.0f} MB; memory bound {bound / GIB:.2f} GiB.\n\n{table(HEAD, rows)}"
    )


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
    load = os.getloadavg()[0]
    peer = None if options.no_peer else Peer(options.peer_env)
    compile_imports(peer)
    with tempfile.TemporaryDirectory() as temporary:
        benches = [
            Bench(shape, (options.keep or Path(temporary)).absolute() / shape, Path(temporary), peer, options.repeats)
            for shape in options.shapes
        ]
        imports = benches[0].imports()
        print(f"imports only: evomm {start_up(imports[0])}; {PEER} {start_up(imports[1])}", flush=True)
        sections: list[str] = []
        measured: list[Measured] = []
        for bench in benches:
            sections.append(section(bench.shape, *_measure(bench, options.methods, measured)))
            if options.out:
                shown = [f"--shapes {' '.join(options.shapes)}", f"--repeats {options.repeats}"]
                shown += [f"--methods {' '.join(options.methods)}"] * (options.methods != list(CPU_GOALS))
                shown += ["--no-peer"] * options.no_peer
                page = PAGE.format(
                    made=made_by(" ".join(["python -m benchmarks.merge", *shown]), load),
                    versions=versions(peer, SAME),
                    repeats=options.repeats,
                    disk=warmth(costs for one in measured for costs in (one.floor, one.evomm, one.peer)),
                    evomm_imports=start_up(imports[0]),
                    peer_imports=start_up(imports[1]),
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
        rows.append(row(measured[-1], CPU_GOALS.get(method), WALL_GOALS.get(method), bound))
        print(f"{bench.shape} {named(HEAD, rows[-1])}", flush=True)
    return rows, bound


if __name__ == "__main__":
    main()
