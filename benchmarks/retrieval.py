"""Can the small scorer be trusted as a fitness? Retrieval and ranking on drawings that it never saw.

    python -m benchmarks.retrieval [--out docs/results/retrieval.md] [--scorer model_zoo/tiny/sdxl/scorer]

The pictures are Noto drawings of 240 emoji whose Twemoji drawings, but not these, the scorer was trained on; a caption is the
CLDR short name. R@k: how often the right picture is among the k with the highest cosine to the caption. Ranked above a
shuffled one: how often the right picture beats another one of the 240, paired at random. Softened pictures are the right ones,
blurred and washed out as what `base` and `ja` learned to draw.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
from PIL import Image
from torch import Tensor

from evomm.fitness.score import interval
from evomm.resources import resource
from model_zoo.tiny.sdxl import pictures

NAMES = {"en": "English", "ja": "Japanese"}
SHUFFLES = 20  # other pictures that each right one is held against
SEED = 0


def percent(values: Sequence[float]) -> str:
    """Mean and 95% interval of right-or-wrong values."""
    ends = interval(values)
    return f"{100 * ends.score:.1f} ({100 * ends.low:.1f}-{100 * ends.high:.1f})"


def cosine(values: Sequence[float]) -> str:
    """Mean and 95% interval of cosines."""
    ends = interval(values)
    return f"{ends.score:.3f} ({ends.low:.3f}-{ends.high:.3f})"


def images(batch: Tensor) -> list[Image.Image]:
    """As the scorer gets pictures: 8 bits."""
    return [Image.fromarray((p.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()) for p in batch]


class Judge:
    """An open_clip folder, and the cosines it gives."""

    def __init__(self, folder: Path) -> None:
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        self.model.eval()

    @torch.no_grad()
    def cosines(self, captions: Sequence[str], batch: Tensor) -> Tensor:
        """(captions, pictures)."""
        seen = self.model.encode_image(torch.stack([self.preprocess(one) for one in images(batch)]), normalize=True)
        read = self.model.encode_text(self.tokenizer(list(captions)), normalize=True)
        table: Tensor = read @ seen.T
        return table


def rows_of(judge: Judge, language: str) -> list[str]:
    """The table row of one language: its cells."""
    data, rows = pictures.load(), pictures.held_out()
    captions = [data.names[language][row] for row in rows]
    sharp = pictures.reduce(data.drawings[pictures.VENDORS.index("google")][rows])
    table = judge.cosines(captions, sharp)
    own = table.diagonal()
    better = (table > own[:, None]).sum(dim=1)
    rng = random.Random(SEED)
    # Pairs of one caption are not independent: the rate is one value per caption, and the interval is over captions.
    others = [rng.sample([other for other in range(len(rows)) if other != place], SHUFFLES) for place in range(len(rows))]
    single = [float(own[place] > table[place, chosen[0]]) for place, chosen in enumerate(others)]
    many = [float((own[place] > table[place, chosen]).float().mean()) for place, chosen in enumerate(others)]
    softened = judge.cosines(captions, pictures.soften(sharp)).diagonal()
    wrong = [float(table[place, chosen].mean()) for place, chosen in enumerate(others)]
    ends = interval(many)
    return [
        NAMES[language],
        percent([float(place < 1) for place in better.tolist()]),
        percent([float(place < 5) for place in better.tolist()]),
        percent(single),
        f"{100 * ends.score:.1f} ({100 * ends.low:.1f}-{100 * ends.high:.1f})",
        cosine(own.tolist()),
        cosine(softened.tolist()),
        cosine(wrong),
        percent([float(a > b) for a, b in zip(own.tolist(), softened.tolist(), strict=True)]),
    ]


def page(judge: Judge) -> str:
    """The page."""
    count = len(pictures.held_out())
    head = [
        "language",
        "R@1, %",
        "R@5, %",
        "above a shuffled picture, %",
        f"the same over {SHUFFLES} shuffles each, %",
        "cosine: right, sharp",
        "right, softened",
        "wrong",
        "sharp above softened, %",
    ]
    chance = ["chance", f"{100 / count:.1f}", f"{500 / count:.1f}", "50.0", "50.0", "", "", "", "50.0"]
    lines = [head, ["---"] * len(head), *(rows_of(judge, language) for language in pictures.LANGUAGES), chance]
    return "\n".join(
        [
            "# Can the small scorer be trusted?",
            "",
            "Made by `python -m benchmarks.retrieval --out docs/results/retrieval.md`. Text to picture over the Noto drawings of",
            f"{count} emoji that the scorer in `model_zoo/tiny/sdxl` never saw; it was trained on the Twemoji drawings of the",
            "same emoji. Captions are CLDR short names; 95% intervals, Wilson's where a value is right or wrong.",
            "",
            *("| " + " | ".join(line) + " |" for line in lines),
            "",
        ]
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--scorer", type=Path, default=resource("model_zoo") / "tiny" / "sdxl" / "scorer")
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = page(Judge(options.scorer))
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
