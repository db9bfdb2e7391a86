"""The whole Japanese-math story, training included, for several seeds: the table in docs/results/demo-llm.md.

    python -m benchmarks.story_llm --seeds 0 1 2 --work DIR [--out docs/results/demo-llm.md]

For each seed: trains base, ja and math from scratch with that seed (skipped when DIR/SEED/zoo is there and whole), evolves with
that seed as the search's, and reads the test scores. Nothing is chosen by hand.
"""

import argparse
from pathlib import Path

from benchmarks.story import Document, evolve, table, train

ROLES = {
    "base": "base",
    "ja": "Japanese parent",
    "math": "math parent",
    "uniform": "uniform merge",
    "random": "random search, same budget",
    "child": "**child (CMA-ES)**",
}
PAGE = """\
# The Japanese-math story, {count} seeds, training included

Made by `python -m benchmarks.story_llm --seeds {seeds} --work DIR --out docs/results/demo-llm.md`: for each seed, base and
parents are trained from scratch and the demo's config is evolved on them. {n} held-out problems: right *and* in Japanese, % with
Wilson's 95% intervals, in brackets the number alone; leads are means of the paired difference. Seconds are of two shared cores,
and hold the baseline's search too.

{table}
"""


def settings(seed: int, zoo: Path) -> list[str]:
    """Overrides of the demo's config for a seed."""
    return [f"seed={seed}", f"base={zoo / 'base'}", f"parents.ja={zoo / 'ja'}", f"parents.math={zoo / 'math'}"]


def told(documents: dict[int, Document]) -> str:
    """The table of the page; the number alone in brackets behind each score."""
    return table(documents, ROLES, lambda document, role: f"[{100 * document['parts'][role]['number']['score']:.1f}]", {})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    documents = {}
    for seed in options.seeds:
        folder = options.work.resolve() / str(seed)
        train("llm/build.py", seed, folder / "zoo", ("base", "ja", "math"))
        documents[seed] = evolve("demo-llm", folder, settings(seed, folder / "zoo"))
        print(told(documents), flush=True)
    if options.out:
        n = documents[options.seeds[0]]["test"]["child"]["n"]
        seeds = " ".join(map(str, options.seeds))
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(PAGE.format(seeds=seeds, count=len(documents), n=n, table=told(documents)), encoding="utf-8")


if __name__ == "__main__":
    main()
