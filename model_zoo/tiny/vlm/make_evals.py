"""Write the questions about pictures, ``evals/data/tiny-vqa/{ja,en}.jsonl``, and the held-out drawings that they are about.

One line of ``ja.jsonl``::

    {"id": "search-0000", "split": "search",
     "question": "これは何ですか。", "answer": "ソックスです", "image": "pictures/742.png"}

The picture is Noto's drawing in that row of ``model_zoo/tiny/emoji/emoji64.npz``. The same id is the same question in both
files. No picture is in two splits, and no model was trained on any of them; the concepts, and Twemoji's drawings of them, were.

    python model_zoo/tiny/vlm/make_evals.py [--out evals/data/tiny-vqa]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # so that it runs from anywhere as a script

from PIL import Image

from model_zoo.tiny.sdxl import pictures
from model_zoo.tiny.vlm import world

SIZES = {"search": 48, "validation": 36, "test": 96}  # pictures, each with three to five questions
Both = dict[world.Language, tuple[str, str]]


def questions() -> Iterator[tuple[str, int, Both]]:
    """Split, row and question of everything that is asked: each picture's questions in a row, checks with both outcomes."""
    rng = random.Random(world.SEED)
    dealt = [split for split, size in SIZES.items() for _ in range(size)]
    for split, concept in zip(dealt, world.held_out(), strict=True):
        about = world.thing(concept, world.GOOGLE)
        for asked in world.possible(about):
            for yes in (True, False) if asked == "check" else (True,):
                yield split, concept.row, world.ask(about, asked, rng, yes=yes)


def draw(row: int, path: Path) -> None:
    """Write Noto's drawing of a row as PNG."""
    pixels = (pictures.load().drawings[world.GOOGLE, row] * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path, optimize=True)


def main() -> None:
    """Write questions and pictures."""
    parser = argparse.ArgumentParser(description="Write the questions about the pictures of the small world.")
    default = Path(__file__).resolve().parents[3] / "evals" / "data" / "tiny-vqa"
    parser.add_argument("--out", type=Path, default=default)
    out: Path = parser.parse_args().out
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    table = list(questions())
    for row in {row for _, row, _ in table}:
        draw(row, out / "pictures" / f"{row}.png")
    for language in world.LANGUAGES:
        counts = dict.fromkeys(SIZES, 0)
        with (out / f"{language}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for split, row, both in table:
                question, answer = both[language]
                line = {
                    "id": f"{split}-{counts[split]:04d}",
                    "split": split,
                    "question": question,
                    "answer": answer,
                    "image": f"pictures/{row}.png",
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                counts[split] += 1


if __name__ == "__main__":
    main()
