"""Many small mergekit configurations through mergekit and evomm, their tensors compared. Writes docs/results/merge-equality.md.

    python -m benchmarks.merge_equal [--only 'ties/*'] [--out PAGE]

Ends with exit code 1 when a configuration differs, or is refused by one tool only, without a reason in equal_page.REASONS.
"""

import argparse
import contextlib
import fnmatch
import io
import shutil
import string
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import typer
import yaml
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.equal_cases import Case, Run, cases
from benchmarks.equal_compare import EPSILON, Child, Difference, compare, units
from benchmarks.equal_page import Kind, Outcome, meant, page, row, verdicts
from benchmarks.equal_parents import LABELS, LAYERS, folder_of, make
from benchmarks.equal_random import random_cases, statistics
from benchmarks.equal_reference import Plan, reference, undecided
from benchmarks.measure import child_environment
from benchmarks.peer import PEER, PEER_ENV, Peer, PeerWorker
from evomm.cli.app import app
from evomm.errors import EvommError

HALF_UNIT = 0.51  # one rounding, in units in the last place, and float32's share of it


class Bench:
    """Runs cases: makes the models they need, merges with both tools, compares."""

    def __init__(self, root: Path, worker: PeerWorker) -> None:
        self._root = root
        self._worker = worker

    def outcome(self, case: Case, run: Run) -> Outcome:
        """Both tools' children of one run, compared."""
        file = self._file(case, run)
        ours, theirs = self._root / "ours", self._root / "theirs"
        try:
            refused = merge_ours(file, ours), self._short(self._worker.merge(file, theirs, seed=1))
            mine = self._short(refused[0])
            if mine and refused[1]:
                return Outcome(run, "both refuse", (f"evomm: {mine}", f"{PEER}: {refused[1]}"))
            if mine:
                return Outcome(run, "differs" if mine.startswith("crash") else "refused", (mine,))
            if refused[1]:
                return Outcome(run, "mergekit refuses", (refused[1],))
            children = Child.read(ours), Child.read(theirs)
        finally:
            for folder in (ours, theirs):
                shutil.rmtree(folder, ignore_errors=True)
        if case.name.startswith("random/"):
            return self._random(case, run, *children)
        difference = compare(*children)
        outcome = self._judge_strict(case, run, difference) if run.strict else _judge_rounded(run, difference)
        if difference.remarks:
            outcome.kind, outcome.why = "differs", (*outcome.why, *difference.remarks)
        if not run.strict and run.out is None and run.arithmetic == "bfloat16":
            outcome.distances = self._distances(case, run, *children)
        if outcome.distances is not None and outcome.distances[0][1] > HALF_UNIT:
            far = f"evomm is {outcome.distances[0][1]:.2f} units in the last place from float64"
            outcome.kind, outcome.why = "differs", (*outcome.why, far)
        return outcome

    def _judge_strict(self, case: Case, run: Run, difference: Difference) -> Outcome:
        if not difference.beyond:
            kind: Kind = "equal" if difference.equal == difference.elements else "within rounding"
            return Outcome(run, kind, difference=difference)
        count = sum(int(gap.count_nonzero()) for gap in difference.beyond.values())
        plan = self._plan(case, run)
        unexplained = count
        if plan is not None:
            unexplained = 0
            for name, gap in difference.beyond.items():
                allowed = undecided(plan, name, getattr(torch, run.parents), gap)
                unexplained += int(gap.count_nonzero() if allowed is None else gap[~allowed].count_nonzero())
        if unexplained:
            first = next(iter(difference.beyond))
            why = (f"{unexplained} elements beyond rounding, such as in {first}",)
            return Outcome(run, "differs", why, difference, count - unexplained)
        return Outcome(run, "at the threshold", (), difference, count)

    def _distances(
        self, case: Case, run: Run, ours: Child, theirs: Child
    ) -> tuple[tuple[float, float], tuple[float, float]] | None:
        """(mean, largest) distance from the float64 formula, of evomm and of mergekit."""
        plan = self._plan(case, run)
        if plan is None:
            return None
        found: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name in ours.tensors:
            exact = reference(plan, name)
            if exact is None:
                return None
            at = torch.stack([exact.abs(), *(plan.read(model, name).abs() for model in plan.parents)]).amax(0)
            for child, distances in zip((ours, theirs), found, strict=True):
                gap = (child.tensors[name].double() - exact).abs()
                distances.append(units(gap, at, torch.bfloat16).reshape(-1))
        mine, other = (torch.cat(distances) for distances in found)
        return (float(mine.mean()), float(mine.max())), (float(other.mean()), float(other.max()))

    def _random(self, case: Case, run: Run, ours: Child, theirs: Child) -> Outcome:
        parents = {label: self._tensors(case, run, label) for label in LABELS}
        found = statistics(case, parents["base"], parents, ours.tensors, theirs.tensors)
        wrong = tuple(s.name for s in found if not s.fine)
        return Outcome(run, "differs" if wrong else "within chance", wrong, statistics=found)

    def _plan(self, case: Case, run: Run) -> Plan | None:
        """The configuration for `equal_reference`; None for forms that it does not cover."""
        document = yaml.safe_load(self._text(case, run))
        if "models" not in document or case.family.startswith("vocabulary"):
            return None
        folders = {model["model"] for model in document["models"]} | ({document.get("base_model")} - {None})
        return Plan(document, {folder: _load(Path(folder)) for folder in folders}, LAYERS)

    def _tensors(self, case: Case, run: Run, label: str) -> dict[str, Tensor]:
        return _load(folder_of(self._root, case.family, run.parents, case.sharded, label))

    def _file(self, case: Case, run: Run) -> Path:
        file = self._root / "case.yaml"
        file.write_text(self._text(case, run))
        return file

    def _text(self, case: Case, run: Run) -> str:
        """The YAML with dtypes and the models' folders in it."""
        make(self._root, case.family, run.parents, case.sharded)
        names = {label: str(folder_of(self._root, case.family, run.parents, case.sharded, label)) for label in LABELS}
        if "_float32" in case.text:
            make(self._root, case.family, "float32", case.sharded)
            for label in LABELS:
                names[f"{label}_float32"] = str(folder_of(self._root, case.family, "float32", case.sharded, label))
        dtypes = (f"dtype: {run.dtype}\n" if run.dtype else "") + (f"out_dtype: {run.out}\n" if run.out else "")
        return string.Template(case.text).substitute(names) + dtypes

    def _short(self, message: str | None) -> str | None:
        """A refusal in one line, without this machine's folders."""
        if message is None:
            return None
        lines = [line.strip() for line in message.replace(f"{self._root}/", "").splitlines() if line.strip()]
        return " ".join(lines)[:240] or "no message"


def merge_ours(file: Path, out: Path) -> str | None:
    """`evomm merge FILE -o OUT`; None, or why it was refused."""
    command = typer.main.get_command(app)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            command.main(["merge", str(file), "-o", str(out), "--json"], prog_name="evomm", standalone_mode=False)
    except EvommError as problem:
        return str(problem)
    except Exception as problem:  # what a user would see as a traceback
        return f"crash: {type(problem).__name__}: {problem}"
    return None


def _load(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def _judge_rounded(run: Run, difference: Difference) -> Outcome:
    """Arithmetic in 16 bits: on average within one unit in the last place."""
    unit = EPSILON[getattr(torch, run.arithmetic)]
    if difference.mean > unit:
        return Outcome(run, "differs", (f"mean difference {100 * difference.mean:.2f}% of the mean magnitude",), difference)
    return Outcome(run, "equal" if difference.equal == difference.elements else "within rounding", difference=difference)


def _check_worker(peer: Peer, worker: PeerWorker, root: Path) -> None:
    """The worker stands for `mergekit-yaml`; once, see that they write the same tensors."""
    bench = Bench(root, worker)
    case = next(case for case in cases() if case.name == "ties/two")
    file = bench._file(case, case.runs[0])
    environment = child_environment({"PYTHONHASHSEED": "0"})
    one, two = root / "one", root / "two"
    command = [str(peer.command("mergekit-yaml")), str(file), str(one), "--quiet"]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    worker.merge(file, two)
    if compare(Child.read(one), Child.read(two)).equal != compare(Child.read(one), Child.read(one)).elements:
        sys.exit(f"the worker and {'mergekit-yaml'} do not agree")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="a pattern over configurations, such as 'ties/*'")
    parser.add_argument("--peer-env", type=Path, default=PEER_ENV, help=f"an environment with {PEER}; made when absent")
    parser.add_argument("--out", type=Path, help="write the page here, such as docs/results/merge-equality.md")
    options = parser.parse_args()
    chosen = [case for case in (*cases(), *random_cases()) if fnmatch.fnmatch(case.name, options.only)]
    if not chosen:
        sys.exit(f"no configuration is named {options.only}")
    peer = Peer(options.peer_env)
    results: dict[Case, list[Outcome]] = {}
    with tempfile.TemporaryDirectory() as temporary, PeerWorker(peer) as worker:
        root = Path(temporary)
        _check_worker(peer, worker, root)
        bench = Bench(root, worker)
        for case in chosen:
            results[case] = [bench.outcome(case, run) for run in case.runs]
            print(" | ".join(cell for cell in row(case, results[case]) if cell), flush=True)
    print(f"\n{verdicts(results)}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        command = "python -m benchmarks.merge_equal" + (f" --only '{options.only}'" if options.only != "*" else "")
        options.out.write_text(page(results, command), encoding="utf-8")
    bad = [case.name for case, outcomes in results.items() if not all(meant(case, o) for o in outcomes)]
    if bad:
        sys.exit(f"{len(bad)} configuration(s) without a reason: {', '.join(bad)}")


if __name__ == "__main__":
    main()
