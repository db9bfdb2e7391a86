"""Write the evaluation problems, ``evals/data/tiny-math/{en,ja}.jsonl``, from the held-out tenth of the world.

One line of ``en.jsonl``::

    {"id": "search-0000", "split": "search", "question": "Ken has 8 ...", "answer": 9, "solution": "8+7=15, ..."}

The same id is the same abstract problem in both files. No abstract problem, and no question text, occurs twice, so the
splits are disjoint. Kinds take turns, so any prefix of a split is balanced over them.

    python model_zoo/tiny/llm/make_evals.py [--out evals/data/tiny-math]
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

import world

SIZES = {"search": 512, "validation": 512, "test": 1000}
SEED = 20240319


def problems(rng: random.Random) -> Iterator[world.Problem]:
    """Endless held-out problems, each kind once per round in a fresh order, none of them twice in either language."""
    seen: set[str] = set()
    while True:
        for kind in rng.sample(list(world.KINDS), len(world.KINDS)):
            problem = world.sample(rng, held_out=True, kind=kind)
            while seen & {problem.question(language) for language in world.LANGUAGES}:
                problem = world.sample(rng, held_out=True, kind=kind)
            seen |= {problem.question(language) for language in world.LANGUAGES}
            yield problem


def main() -> None:
    """Write both files."""
    here = Path(__file__).resolve()
    parser = argparse.ArgumentParser(description="Write the evaluation problems of the tiny world.")
    parser.add_argument("--out", type=Path, default=here.parents[3] / "evals" / "data" / "tiny-math")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    drawn = problems(random.Random(SEED))
    table = [(f"{split}-{n:04d}", split, next(drawn)) for split, size in SIZES.items() for n in range(size)]
    for language in world.LANGUAGES:
        with (out / f"{language}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for name, split, problem in table:
                row = {
                    "id": name,
                    "split": split,
                    "question": problem.question(language),
                    "answer": problem.answer,
                    "solution": problem.solved(language),
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
