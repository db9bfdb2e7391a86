"""What searchers and settings need to reach a quality: docs/results/search.md.

    python -m benchmarks.search --seeds 0 1 2 3 4 --work DIR [--entries mergekit evomm ...] [--out docs/results/search.md]

Every entry searches the space of `demo-llm` (two task vectors, 8 blocks), without a baseline, with a seed of its own. After each
generation the candidate that promises most so far is scored on 500 held-out problems: what a user would have who stopped there.
Costs are evaluations of all search examples; a race that answers a third of them costs a third of one.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import numpy as np

from benchmarks.report import table
from benchmarks.story import evolve
from evomm.fitness.score import Score
from evomm.run.engine import restore
from evomm.run.evaluate import Evaluator
from evomm.run.race import promises
from evomm.run.setup import Setup
from evomm.run.store import Store, Trial

_FREE = "genes=[{parameter: weight, low: -1.0, high: 3.0, start: 0.5}]"  # walls so far away that they do not matter
_BOTH = "genes=[{parameter: weight, low: 0.0, high: 1.0, start: 0.5}, {parameter: density, low: 0.0, high: 1.0, start: 0.5}]"


@dataclass(frozen=True)
class Entry:
    """What it is, and the overrides of demo-llm's config."""

    about: str
    overrides: Sequence[str]


ENTRIES: Mapping[str, Entry] = {
    "mergekit": Entry(
        "CMA-ES as mergekit-evolve sets it: weights begin at 1/n, sigma 1/6 of a weight, cma's own population",
        [_FREE, "search={method: cma, evaluations: 120, sigma: 0.041666666666666664}"],
    ),
    "published": Entry(
        "CMA-ES as published: DARE-TIES, a weight and a density per parent from 0.5, sigma 1/6",
        ["method=dare_ties", "grouping={by: all}", _BOTH, "search={method: cma, evaluations: 120}"],
    ),
    "evomm": Entry("CMA-ES as in demo-llm: task vectors begin at 1, sigma 0.25 of a weight, population 10", []),
    "raced": Entry("the same, raced", ["racing={}"]),
    "genetic": Entry("genetic algorithm, as demo-llm otherwise", ["search.method=genetic"]),
    "m2n2": Entry("M2N2, as demo-llm otherwise", ["search.method=m2n2"]),
    "nsga2": Entry("NSGA-II with one goal, as demo-llm otherwise", ["search.method=nsga2"]),
    "random": Entry("random search, start included", ["search.method=random"]),
}
REFERENCE, PEER = "evomm", "mergekit"
SHARES = (0.9, 0.97)  # of the gain
HELD_OUT = 500  # problems of the test split
GOAL = 0.25  # of the peer's evaluations, to the first of these
PAGE = """\
# What searchers and settings need

Made by `python -m benchmarks.search --seeds {seeds} --work DIR --out docs/results/search.md`, on the small language models of
`demo-llm`. {n} held-out problems, right *and* in Japanese. The gain of a seed is what the child of `{reference}` has over the
best parent; a cost is how many evaluations of all search problems were paid for when the most promising candidate so far first
had that share of it. Medians over seeds, in brackets the least and the most; `>` where a seed did not get there in its budget.

{summary}

{told}

{about}
"""


@dataclass(frozen=True)
class Curve:
    """One run: costs and held-out scores of what promises most after each generation; the child's and best parent's scores."""

    costs: Sequence[float]
    scores: Sequence[float]
    child: float
    parent: float

    def cost(self, score: float) -> float:
        """Evaluations until a score was reached; infinite when it was not."""
        return next((cost for cost, had in zip(self.costs, self.scores, strict=True) if had >= score), np.inf)


def curve(folder: Path) -> Curve:
    """Read a run, and score what it would have given after each generation; kept in curve.json beside it."""
    kept = folder / "curve.json"
    if not kept.exists():
        with Store.open(folder / "run") as store:
            setup = restore(store)
            kept.write_text(json.dumps(_measured(store, setup)), encoding="utf-8")
    return Curve(**json.loads(kept.read_text(encoding="utf-8")))


def _measured(store: Store, setup: Setup) -> dict[str, object]:
    name, tested = setup.config.search.method, store.finals("test")
    trials, evaluator = store.trials(name), Evaluator(setup)
    examples = len(evaluator.examples("search"))
    size = setup.config.search.size(len(setup.codec.space.genes))
    costs, scores, seen = list[float](), list[float](), dict[int, float]()
    for stop in range(size, len(trials) + 1, size):
        best = _most_promising(trials[:stop], size, setup.config.seed, examples)
        if best.number not in seen:
            recipe = setup.codec.decode(np.array(best.vector))
            seen[best.number] = evaluator.score(recipe, "test", range(HELD_OUT))[0].mean
        costs.append(sum(len(t.score.values) for t in trials[:stop] if t.score) / examples)
        scores.append(seen[best.number])
    child = next(final.score for subject, final in tested.items() if subject.startswith(f"{name}/"))
    parents = [tested[f"parent/{label}"].score for label in setup.config.models]
    return {"costs": costs, "scores": scores, "child": _mean(child), "parent": max(map(_mean, parents))}


def _mean(score: Score) -> float:
    """Over the problems that candidates are scored on."""
    return fmean(score.values[:HELD_OUT])


def _most_promising(trials: Sequence[Trial], size: int, seed: int, examples: int) -> Trial:
    raced = any(trial.level is not None for trial in trials)
    promised = promises(trials, size, seed, examples) if raced else {t.number: t.fitness for t in trials}
    return max((trial for trial in trials if trial.number in promised), key=lambda t: (promised[t.number], -t.number))


def needed(curves: Mapping[int, Curve], reference: Mapping[int, Curve], share: float) -> list[float]:
    """Per seed, the cost of a share of the gain."""
    targets = {seed: one.parent + share * (one.child - one.parent) for seed, one in reference.items()}
    return [curves[seed].cost(targets[seed]) for seed in curves]


def _span(costs: Sequence[float], budget: float) -> str:
    def told(cost: float) -> str:
        return f"{cost:.0f}" if np.isfinite(cost) else f">{budget:.0f}"

    return f"{told(float(median(costs)))} ({told(min(costs))} to {told(max(costs))})"


def page(found: Mapping[str, Mapping[int, Curve]]) -> str:
    """The whole page."""
    reference = found[REFERENCE]
    head = ["entry", "budget", "child, % (least to most)", *(f"to {share:.0%} of the gain" for share in SHARES)]
    rows = []
    for name, curves in found.items():
        budget = max(one.costs[-1] for one in curves.values())
        children = [100 * one.child for one in curves.values()]
        spans = [_span(needed(curves, reference, share), budget) for share in SHARES]
        rows.append([name, f"{budget:.0f}", f"{fmean(children):.1f} ({min(children):.1f} to {max(children):.1f})", *spans])
    return PAGE.format(
        seeds=" ".join(map(str, reference)),
        reference=REFERENCE,
        n=HELD_OUT,
        summary=table(head, rows),
        told="\n".join(_verdict(found, name) for name in (REFERENCE, "raced") if name in found and PEER in found),
        about="\n".join(f"* `{name}`: {ENTRIES[name].about}." for name in found),
    )


def _verdict(found: Mapping[str, Mapping[int, Curve]], name: str) -> str:
    """Ours beside the peer's settings; a seed on which the peer did not get there counts with its whole budget."""
    ours = needed(found[name], found[REFERENCE], SHARES[0])
    theirs = needed(found[PEER], found[REFERENCE], SHARES[0])
    capped = [min(cost, one.costs[-1]) for cost, one in zip(theirs, found[PEER].values(), strict=True)]
    ratios = [a / b for a, b in zip(ours, capped, strict=True)]
    verdict = "met" if median(ratios) <= GOAL else "MISSED"
    return (
        f"`{name}` needs {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) of the evaluations of `{PEER}` to "
        f"{SHARES[0]:.0%} of the gain; goal {GOAL:.2f}: {verdict}."
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--entries", nargs="+", choices=[*ENTRIES], default=[*ENTRIES])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found: dict[str, dict[int, Curve]] = {name: {} for name in options.entries}
    for seed in options.seeds:
        for name in options.entries:
            folder = options.work.resolve() / name / str(seed)
            document = evolve("demo-llm", folder, [f"seed={seed}", "baseline=null", *ENTRIES[name].overrides])
            found[name][seed] = curve(folder)
            print(f"{name}, seed {seed}: child {document['test']['child']['score']:.3f}, {document['seconds']:.0f} s", flush=True)
    print(page(found))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
