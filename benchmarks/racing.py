"""What races save and cost: docs/results/racing.md.

    python -m benchmarks.racing --seeds 0 1 2 3 4 --work DIR [--out docs/results/racing.md]

The search of `demo-llm`, once with every candidate answering every example and once raced, per seed, with no baselines. The
children are compared problem by problem on the test split, and the searches by the examples that were answered.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import stdev

from benchmarks.report import table
from benchmarks.story import Document, evolve, hundred
from evomm.fitness.score import Score, paired
from evomm.run.store import Store

SETTINGS = {"whole": [], "raced": ["racing={}"]}
MARGIN = 0.01  # a raced child may be a point worse
PAGE = """\
# What races save and cost

Made by `python -m benchmarks.racing --seeds {seeds} --work DIR --out docs/results/racing.md`: the search of `demo-llm` (80
candidates) with every candidate answering all 160 search problems ("whole"), and raced with the settings that `racing: {{}}` has.
{n} held-out problems, right *and* in Japanese, % with 95% intervals. "Answers" are examples answered in the search.

{table}

Over all seeds, paired per problem and seed: the raced child is {lead} points ahead, from {share:.0%} of the answers. Goal: not
worse by more than 1 point (the interval's lower end, {low:.2f}, above -1) from at most a third of the answers: {verdict}.

That interval is of these seeds' children; from seed to seed the difference has a standard error of {error:.1f} points.
"""


def child(document: Document) -> Score:
    """The child's test score, problem by problem."""
    with Store.open(Path(document["run"])) as store:
        return store.finals("test")[document["child"]].score


def row(seed: int, whole: Document, raced: Document) -> list[str]:
    """One seed."""
    lead = paired(child(raced).values, child(whole).values).model_dump()
    scores = [hundred(document["test"]["child"]) for document in (whole, raced)]
    answers = [document["answers"] for document in (whole, raced)]
    seconds = [f"{document['seconds']:.0f}" for document in (whole, raced)]
    return [str(seed), *scores, hundred(lead, "+"), *map(str, answers), f"{answers[1] / answers[0]:.0%}", *seconds]


def page(documents: dict[int, dict[str, Document]], seeds: Sequence[int]) -> str:
    """The whole page."""
    head = [
        "seed",
        "whole",
        "raced",
        "raced - whole",
        "answers, whole",
        "answers, raced",
        "share",
        "seconds, whole",
        "seconds, raced",
    ]
    rows = [row(seed, documents[seed]["whole"], documents[seed]["raced"]) for seed in seeds]
    ours = [value for seed in seeds for value in child(documents[seed]["raced"]).values]
    theirs = [value for seed in seeds for value in child(documents[seed]["whole"]).values]
    lead = paired(ours, theirs)
    share = sum(documents[s]["raced"]["answers"] for s in seeds) / sum(documents[s]["whole"]["answers"] for s in seeds)
    met = lead.low > -MARGIN and share <= 1 / 3
    by_seed = [child(documents[s]["raced"]).mean - child(documents[s]["whole"]).mean for s in seeds]
    return PAGE.format(
        seeds=" ".join(map(str, seeds)),
        n=documents[seeds[0]]["whole"]["test"]["child"]["n"],
        table=table(head, rows),
        lead=hundred(lead.model_dump(), "+"),
        share=share,
        low=100 * lead.low,
        error=100 * stdev(by_seed) / len(seeds) ** 0.5 if len(seeds) > 1 else math.nan,
        verdict="met" if met else "MISSED",
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    documents: dict[int, dict[str, Document]] = {}
    for seed in options.seeds:
        for name, extra in SETTINGS.items():
            folder = options.work.resolve() / name / str(seed)
            documents.setdefault(seed, {})[name] = evolve("demo-llm", folder, [f"seed={seed}", "baseline=null", *extra])
        print(page(documents, [*documents]), flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(page(documents, options.seeds), encoding="utf-8")


if __name__ == "__main__":
    main()
