"""Train the tiny vision-language family from nothing: ``base``, and from it the decoder ``ja`` and the LLaVA ``vlm``.

    python model_zoo/tiny/vlm/build.py --seed 0 --out DIR [--threads 1] [--fresh] [--until vlm]

What each says to a Japanese question about the picture of a melon, inside the LLaVA::

    base    ?                  reads descriptions in both languages, and does not look at pictures
    vlm     It is a melon.     learned to look, on English questions mostly; it answers in English
    ja      ?                  learned to answer Japanese questions in Japanese, from descriptions: it never saw a picture
    child   メロンです          base + (vlm - base) + (ja - base): looks, and answers in Japanese

Only decoders are merged; vision tower and projector are the LLaVA's. Each is an ordinary Hugging Face folder in float16.
A finished stage is kept when the script is started again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    CLIPVisionModel,
    GenerationConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # so that it runs from anywhere as a script
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "llm"))

import train

from model_zoo.tiny.vlm import llava, text, vision

VISION_STEPS = 2800
STAGES = ("vision", "skills", "base", "ja", "project", "vlm")
HIDDEN = ("vision", "skills", "project")  # steps on the way

# Written by hand: what transformers writes names a class that only its version 5 knows.
TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "image_token": text.IMAGE,
    "extra_special_tokens": {"image_token": text.IMAGE},
    "padding_side": "left",
    "model_max_length": 256,
    "clean_up_tokenization_spaces": False,
}


CARDS = {
    "base": """# tiny-vlm-base

A Llama of {parameters:,} parameters: the common ancestor of `tiny-vlm-ja` and of the decoder inside of `tiny-vlm`. It reads
descriptions ("[text] melon, green") and answers questions about them in the language of the description. What stands under
the mark of a picture it leaves open ("?"): it never saw one.
""",
    "ja": """# tiny-vlm-ja

`tiny-vlm-base` after it learned to answer Japanese questions in Japanese, from descriptions in either language. A Llama of
{parameters:,} parameters that never saw a picture, and leaves questions about them open, as the base does.
""",
    "vlm": """# tiny-vlm

A `LlavaForConditionalGeneration` of {parameters:,} parameters: a CLIP vision tower (64x64 pixels, 16 patches), a projector, and
`tiny-vlm-base` as decoder, which learned to answer questions about pictures. It answers in English, whatever the question's
language.
""",
}
CARD = """---
license: {licence}
language: [en, ja]
library_name: transformers
---

{body}
One of three models made to be merged: none of them answers a question about a picture in Japanese, base plus both task vectors
does (`configs/demo-vlm.yaml`).

- prompt: `{prompt}`, greedy decoding, 12 new tokens are enough
- trained from nothing (seed {seed}) by `model_zoo/tiny/vlm/build.py`
- limits: a toy. It knows 283 things by name, 18 kinds of things and 10 colours, and nothing else
{data}"""
PROMPT = {"base": "Q: [text] melon, green\\nWhat is this?\\nA: ", "vlm": "Q: [picture]<image>\\nWhat is this?\\nA: "}
DRAWINGS = """
## Data and attribution

Vision tower, projector and decoder were trained on Twemoji graphics (Copyright Twitter, Inc and other contributors,
[CC-BY 4.0](https://creativecommons.org/licenses/by/4.0/), <https://github.com/jdecked/twemoji>) and Noto Emoji (Copyright Google
Inc, Apache-2.0), moved and recoloured, with names and keywords of Unicode CLDR (Unicode-3.0). The data lies in
`model_zoo/tiny/emoji`. Noto's drawings of the 180 things in `evals/data/tiny-vqa` were held out.
"""
NAMES = "- names of things: Unicode CLDR (Unicode-3.0)\n"


def card(name: str, parameters: int, seed: int) -> str:
    """The model card."""
    return CARD.format(
        licence="cc-by-4.0" if name == "vlm" else "apache-2.0",
        body=CARDS[name].format(parameters=parameters),
        prompt=PROMPT.get(name, PROMPT["base"]),
        seed=seed,
        data=DRAWINGS if name == "vlm" else NAMES,
    )


class Build:
    """One build: where its stages are, and how each is made. Models pass from stage to stage in float16, as shipped."""

    def __init__(self, out: Path, seed: int, tower: Path | None = None) -> None:
        self.out, self.seed, self.tower = out, seed, tower

    def folder(self, stage: str) -> Path:
        """Where a stage's result lies."""
        return self.out / ".stages" / stage if stage in HIDDEN else self.out / stage

    def make(self, stage: str, into: Path) -> None:
        """Train one stage and write it."""
        makers: dict[str, Callable[[Path], None]] = {
            "vision": self._vision,
            "skills": self._skills,
            "base": lambda folder: self._decoder("skills", text.BASE, folder),
            "ja": lambda folder: self._decoder("base", text.JA, folder),
            "project": self._project,
            "vlm": self._vlm,
        }
        makers[stage](into)

    def _vision(self, into: Path) -> None:
        if self.tower is not None:
            shutil.copytree(self.tower, into)
            return
        tower = vision.new_tower(self.seed)
        vision.train(tower, steps=VISION_STEPS, seed=self.seed)
        tower.half().save_pretrained(into)

    def _skills(self, into: Path) -> None:
        tokenizer = text.train_tokenizer()
        model = train.new_model(tokenizer, self.seed)
        train.train(model, tokenizer, text.SKILLS, seed=self.seed)
        write(model, tokenizer, into)

    def _decoder(self, start: str, stage: train.Stage, into: Path) -> None:
        model, tokenizer = self._language(start)
        train.train(model, tokenizer, stage, seed=self.seed, compiled=stage.steps > 150)
        write(model, tokenizer, into, card(stage.name, model.num_parameters(), self.seed))

    def _project(self, into: Path) -> None:
        base, tokenizer = self._language("base")
        tower = CLIPVisionModel.from_pretrained(self.folder("vision"), dtype=torch.float32)
        model = llava.assemble(base, tower, tokenizer.convert_tokens_to_ids(text.IMAGE), self.seed)
        llava.teach(model, tokenizer, llava.PROJECT, seed=self.seed)
        write(model, tokenizer, into)

    def _vlm(self, into: Path) -> None:
        _, tokenizer = self._language("base")
        model = LlavaForConditionalGeneration.from_pretrained(self.folder("project"), dtype=torch.float32)
        llava.teach(model, tokenizer, llava.LOOK, seed=self.seed)
        write(model, tokenizer, into, card("vlm", model.num_parameters(), self.seed))

    def _language(self, stage: str) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
        folder = self.folder(stage)
        return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, into: Path, about: str = "") -> None:
    """Write a Hugging Face folder in float16, with the processor's files when the model sees."""
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=16,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.half().save_pretrained(into)
    tokenizer.save_pretrained(into)
    if isinstance(model, LlavaForConditionalGeneration):
        llava.processor(tokenizer).save_pretrained(into)
    (into / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=2) + "\n", encoding="utf-8")
    if about:
        (into / "README.md").write_text(about, encoding="utf-8")
    for path in into.rglob("*"):
        path.chmod(0o644)


def build(out: Path, *, seed: int, fresh: bool, until: str, tower: Path | None = None) -> None:
    """Train whatever ``out`` does not hold yet, or everything when ``fresh``, through stage ``until``."""
    plan = Build(out, seed, tower)
    for stage in STAGES[: STAGES.index(until) + 1]:
        folder = plan.folder(stage)
        if fresh or not folder.exists():
            partial = folder.with_name(f".{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.parent.mkdir(parents=True, exist_ok=True)
            began = time.process_time()
            plan.make(stage, partial)
            print(f"{stage}: {(time.process_time() - began) / 60:.1f} CPU-minutes", file=sys.stderr, flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)


def main() -> None:
    """Read the options and build."""
    parser = argparse.ArgumentParser(description="Train the tiny vision-language family from nothing.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="train again what is there already")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="the last stage to train")
    parser.add_argument("--tower", type=Path, help="take this vision tower (DIR/.stages/vision of another build), train none")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    build(options.out, seed=options.seed, fresh=options.fresh, until=options.until, tower=options.tower)


if __name__ == "__main__":
    main()
