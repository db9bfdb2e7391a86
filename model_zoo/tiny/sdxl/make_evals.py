"""Write the demo's prompts, ``evals/data/tiny-emoji/{ja,en}.jsonl``: one line per concept, split 40/20/40.

    {"prompt": "赤リンゴ", "split": "search", "emoji": "🍎", "en": "red apple", "index": 337}

The UNets were trained on all of these concepts: they draw no others. The split keeps the search away from the concepts that
the report is about; it does not make them new to the parents. Splits are stratified by category, and both files agree.

    python model_zoo/tiny/sdxl/make_evals.py [--out evals/data/tiny-emoji]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # so that it runs from anywhere as a script

from model_zoo.tiny.sdxl import pictures

SEED = 20240319
SPLITS = ("search", "validation", "test", "search", "test")  # dealt out in turn: 40, 20 and 40%


def splits() -> dict[int, str]:
    """Row -> split of every concept; the deal goes on from one category to the next."""
    rng = random.Random(SEED)
    table = pictures.concepts()
    dealt: list[int] = []
    for category in pictures.CONCEPTS:
        rows = [row for row, own in table.items() if own == category]
        dealt += rng.sample(rows, len(rows))
    return {row: SPLITS[place % len(SPLITS)] for place, row in enumerate(dealt)}


def main() -> None:
    """Write both files, lines in the data's order."""
    parser = argparse.ArgumentParser(description="Write the prompts of the picture demo.")
    default = Path(__file__).resolve().parents[3] / "evals" / "data" / "tiny-emoji"
    parser.add_argument("--out", type=Path, default=default)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    data, split = pictures.load(), splits()
    for language in pictures.LANGUAGES:
        with (out / f"{language}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for row in pictures.concepts():
                line = {
                    "prompt": data.names[language][row],
                    "split": split[row],
                    "emoji": data.emoji[row],
                    "en": data.names["en"][row],
                    "index": row,
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
