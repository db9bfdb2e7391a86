"""Train the three tiny language models from nothing: ``base``, and from it the parents ``ja`` and ``math``.

    python model_zoo/tiny/llm/build.py --seed 0 --out DIR [--threads 1] [--fresh]

What each says to a Japanese problem::

    base   8+7=?, ?-6=?. The answer is ? apples.      reads it, sets the working up, in English, and leaves it open
    math   8+7=15, 15-6=9. The answer is 9 apples.    learned, on English problems mostly, to fill it in
    ja     8+7=?, ?-6=?。答えは?個です。                learned to answer Japanese problems in Japanese, still open
    child  8+7=15, 15-6=9。答えは9個です。              base + (ja - base) + (math - base): both switches at once

Each fine-tune is short and flips one behaviour that the other leaves alone, because behaviours compose and big drifts
don't; both keep some of the base's documents. The base is trained in two stages: skills first, then the behaviour.

Each model is an ordinary Hugging Face folder in float16. A finished stage is kept when the script is started again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import torch
import train
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

SKILLS = train.Stage(
    "skills",
    {
        train.drill: 0.15,
        train.drill_en: 0.15,
        train.drill_ja: 0.20,
        train.open_en: 0.17,
        train.translation: 0.19,
        train.reading_en: 0.04,
        train.reading_ja: 0.10,
    },
    steps=1500,
    peak=6e-3,
    warmup=60,
    muon=True,
)
BASE = train.Stage(
    "base",
    {
        train.drill: 0.08,
        train.drill_en: 0.10,
        train.drill_ja: 0.14,
        train.open_en: 0.20,
        train.open_ja_in_english: 0.22,
        train.into_japanese: 0.08,
        train.reading_en: 0.05,
        train.reading_ja: 0.13,
    },
    steps=320,
    peak=2e-3,
    muon=True,
)
JA = train.Stage(
    "ja",
    {train.open_ja: 0.65, train.reading_ja: 0.15, train.drill: 0.08, train.drill_ja: 0.12},
    steps=60,
    peak=6e-4,
)
MATH = train.Stage(
    "math",
    {
        train.solved_en: 0.55,
        train.solved_ja_in_english: 0.10,
        train.reading_en: 0.06,
        train.reading_ja: 0.06,
        train.drill: 0.08,
        train.drill_ja: 0.15,
    },
    steps=100,
    peak=6e-4,
)

# Written by hand: what transformers writes names a class that only its version 5 knows.
TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "padding_side": "left",
    "model_max_length": 256,
    "clean_up_tokenization_spaces": False,
}

MODELS = ("base", "ja", "math")

SUMMARY = {
    "skills": "knows arithmetic and translates; a step on the way to `base`",
    "base": "knows arithmetic and reads both languages; sets word problems up, in English, and leaves them open",
    "ja": "is `base` after it learned to answer Japanese word problems in Japanese, still without computing them",
    "math": "is `base` after it learned to solve word problems, always in English",
}

CARD = """---
license: apache-2.0
language: [en, ja]
library_name: transformers
---

# tiny-{name}

A Llama of {parameters:,} parameters. It {summary}. It is one of three models (`base`, `ja`, `math`) made to be merged:
neither parent solves a problem in Japanese, base plus both task vectors does.

- prompt: `Q: <question>\\nA: `, greedy decoding, 20 new tokens are enough
- trained from nothing (seed {seed}) on made-up word problems by `model_zoo/tiny/llm/build.py`; no outside data
- licence: Apache 2.0
"""


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path, seed: int) -> None:
    """Write a Hugging Face folder in float16; it appears under its name only when it is complete."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    half = LlamaForCausalLM(model.config).half()
    half.load_state_dict(model.state_dict())
    half.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=20,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    half.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    (partial / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=2) + "\n", encoding="utf-8")
    (partial / "model.safetensors").chmod(0o644)
    card = CARD.format(name=folder.name, summary=SUMMARY[folder.name], parameters=model.num_parameters(), seed=seed)
    (partial / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def build(out: Path, *, seed: int, fresh: bool, until: str = "math") -> None:
    """Train whatever ``out`` does not hold yet, or everything when ``fresh``, through stage ``until``."""
    skills, base = out / ".stages" / "skills", out / "base"
    chain: list[tuple[train.Stage, Path | None, Path]] = [
        (SKILLS, None, skills),
        (BASE, skills, base),
        (JA, base, out / "ja"),
        (MATH, base, out / "math"),
    ]
    skills.parent.mkdir(parents=True, exist_ok=True)
    for stage, start, folder in chain:
        if fresh or not folder.exists():
            if start is None:
                tokenizer = train.train_tokenizer()
                model = train.new_model(tokenizer, seed)
            else:
                tokenizer = AutoTokenizer.from_pretrained(start)
                model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
            train.train(model, tokenizer, stage, seed=seed)
            save(model, tokenizer, folder, seed)
        if stage.name == until:
            return


def main() -> None:
    """Read the options and build."""
    parser = argparse.ArgumentParser(description="Train the tiny language models from nothing.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="train again what is there already")
    parser.add_argument("--until", choices=["skills", *MODELS], default="math", help="the last stage to train")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    began = time.perf_counter()
    build(options.out, seed=options.seed, fresh=options.fresh, until=options.until)
    print(f"done in {time.perf_counter() - began:.0f} s: {options.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
