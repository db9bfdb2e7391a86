"""What paths through layers bring, alone and after a search on weights, for several seeds: docs/results/demo-dfs.md.

    python -m benchmarks.story_dfs --seeds 0 1 2 --work DIR [--out docs/results/demo-dfs.md]

For each seed `demo-dfs` and `demo-ps-dfs` are evolved with that seed as the search's, on the shipped language models. Paths
begin as the first parent (`math`; the first stage's child), so its line is the start. Nothing is chosen by hand.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from benchmarks.story import Document, evolve, table
from evomm.genome.dataflow import Step, steps_of
from evomm.merge.recipe import Recipe

STORIES = {
    "demo-dfs": {
        "math": "math parent: the start",
        "ja": "Japanese parent",
        "uniform": "uniform merge",
        "random": "random search, same budget",
        "child": "**child (CMA-ES on paths)**",
    },
    "demo-ps-dfs": {
        "both": "child of the search on weights: the start",
        "ja": "Japanese parent",
        "math": "math parent",
        "uniform": "uniform merge",
        "random": "random search, same budget",
        "child": "**child (CMA-ES on paths)**",
    },
}
PAGE = """\
# Paths through layers, {count} seeds

Made by `python -m benchmarks.story_dfs --seeds {seeds} --work DIR --out docs/results/demo-dfs.md`: both demos on the shipped
language models, each with every seed as the search's. {n} held-out problems: right *and* in Japanese, % with Wilson's 95%
intervals, in brackets the number alone; leads are means of the paired difference per problem. Seconds are of two shared cores,
and hold the searches of the baselines too; those of `demo-ps-dfs` are of its second stage.

## From one parent's layers to both parents' (`demo-dfs`)

{alone}

The first seed's path, as parent.layer, with the scale of what goes in where it is not 1: {path}.

## After a search on weights (`demo-ps-dfs`)

{after}

The first seed's path: {path_after}.
"""


def told(name: str, documents: Mapping[int, Document]) -> str:
    """The table of one demo."""
    return table(documents, STORIES[name], lambda d, role: f"[{100 * d['parts'][role]['number']['score']:.1f}]", {})


def path(document: Document) -> str:
    """The child's path in words."""
    steps = steps_of(Recipe.from_yaml((Path(document["run"]) / "recipe.yaml").read_text(encoding="utf-8")))
    return " → ".join(f"{step.label}.{step.layer}{_scaled(step)}" for step in steps)


def _scaled(step: Step) -> str:
    return "" if abs(step.scale - 1) < 1e-9 else f" (×{step.scale:.2f})"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", choices=list(STORIES), help="run one demo, write no page")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found: dict[str, dict[int, Document]] = {}
    for name in [options.only] if options.only else STORIES:
        for seed in options.seeds:
            folder = options.work.resolve() / name / str(seed)
            found.setdefault(name, {})[seed] = evolve(name, folder, [f"seed={seed}"])
            print(told(name, found[name]), flush=True)
    if options.out and not options.only:
        alone, after = found["demo-dfs"], found["demo-ps-dfs"]
        first = options.seeds[0]
        text = PAGE.format(
            seeds=" ".join(map(str, options.seeds)),
            count=len(options.seeds),
            n=alone[first]["test"]["child"]["n"],
            alone=told("demo-dfs", alone),
            path=path(alone[first]),
            after=told("demo-ps-dfs", after),
            path_after=path(after[first]),
        )
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
