"""Train the tiny SDXL pipelines from nothing: ``base``, the parents ``ja``, ``style`` and ``few``, and the ``scorer``.

    python model_zoo/tiny/sdxl/build.py --seed 0 --out DIR [--threads 1] [--fresh] [--until few] [--parts DIR]

What each draws when it is asked in Japanese::

    base    something, softened    learned English captions with blurred, washed-out pictures
    ja      the right thing, softened    base's UNet after Japanese captions, with a text encoder of its own
    style   something, sharp       base's UNet after English captions with sharp pictures
    few     something, softened, but in one or two steps: a LoRA on base's UNet
    child   the right thing, sharp: base + (ja - base) + (style - base), and as much of few as helps

Only `base` is a whole pipeline; the others hold what they do not share with it. The seed is that of the UNets; VAE, text
encoders and scorer are the same for every seed, and `--parts` takes them from an earlier build. A finished stage is kept
when the script is started again.
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
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # so that it runs from anywhere as a script

from model_zoo.tiny.sdxl import cards, few, scorer, text, unet, vae

PARTS_SEED = 0
SCORER_STEPS = 1500
VAE_STEPS, VAE_POLISH = 1400, 700
TEXT_STEPS = 300
FEW_STEPS, FEW_PEAK, FEW_LESSONS = 400, 2e-3, 1920

STAGES = ("scorer", "vae", "text", "base", "ja", "style", "few")
PARTS = {"scorer": "scorer", "vae": ".stages/vae", "text": ".stages/text"}  # stage -> its folder in a build


class Build:
    """One build: where its stages are, and how each is made. Models pass from stage to stage in float16, as shipped."""

    def __init__(self, out: Path, seed: int) -> None:
        self.out, self.seed = out, seed

    def folder(self, stage: str) -> Path:
        """Where a stage's result lies."""
        return self.out / PARTS.get(stage, stage)

    def make(self, stage: str, into: Path) -> None:
        """Train one stage and write it."""
        makers: dict[str, Callable[[Path], None]] = {
            "scorer": self._scorer,
            "vae": self._vae,
            "text": self._text,
            "base": self._base,
            "ja": self._ja,
            "style": self._style,
            "few": self._few,
        }
        makers[stage](into)
        if stage in cards.CARDS:
            (into / "README.md").write_text(cards.CARDS[stage].format(seed=self.seed), encoding="utf-8")

    def _scorer(self, into: Path) -> None:
        tokenizer = text.train_tokenizer()
        model = scorer.new_model(len(tokenizer), PARTS_SEED)
        scorer.train(model, tokenizer, steps=SCORER_STEPS, seed=PARTS_SEED)
        write_scorer(into, {name: value.half() for name, value in model.state_dict().items()}, tokenizer)

    def _vae(self, into: Path) -> None:
        model = vae.new_model(PARTS_SEED)
        vae.train(model, steps=VAE_STEPS, polish=VAE_POLISH, seed=PARTS_SEED)
        model.half().save_pretrained(into)

    def _text(self, into: Path) -> None:
        tokenizer = text.train_tokenizer()
        tokenizer.save_pretrained(into / "tokenizer")
        for seed, (name, language, projected) in enumerate([("one", "en", False), ("two", "en", True), ("ja", "ja", False)], 1):
            model = text.new_encoder(tokenizer, projected=projected, seed=PARTS_SEED + seed)
            text.train_encoder(model, tokenizer, language, steps=TEXT_STEPS, seed=PARTS_SEED + seed)
            model.half().save_pretrained(into / name)

    def _tokenizer(self) -> CLIPTokenizer:
        return CLIPTokenizer.from_pretrained(self.folder("text") / "tokenizer")

    def _encoder(self, name: str) -> CLIPTextModel | CLIPTextModelWithProjection:
        kind = CLIPTextModelWithProjection if name == "two" else CLIPTextModel
        return kind.from_pretrained(self.folder("text") / name, dtype=torch.float32)

    def _autoencoder(self) -> AutoencoderKL:
        return AutoencoderKL.from_pretrained(self.folder("vae"), dtype=torch.float32)

    def _captions(self, language: str) -> unet.Captions:
        first = self._encoder("ja" if language == "ja" else "one")
        return unet.listen(first, self._encoder("two"), self._tokenizer(), language)

    def _latents(self, *, soft: bool) -> torch.Tensor:
        return unet.look(self._autoencoder(), soft=soft, seed=self.seed)

    def _unet(self, name: str) -> UNet2DConditionModel:
        return UNet2DConditionModel.from_pretrained(self.folder(name) / "unet", dtype=torch.float32)

    def _base(self, into: Path) -> None:
        model = unet.new_model(self.seed)
        captions, latents = self._captions("en"), self._latents(soft=True)
        unet.train(model, captions, latents, unet.BASE, seed=self.seed)
        write_pipeline(into, model, self._autoencoder(), self._encoder("one"), self._encoder("two"), self._tokenizer())

    def _ja(self, into: Path) -> None:
        model = self._unet("base")
        captions, latents = self._captions("ja"), self._latents(soft=True)
        unet.train(model, captions, latents, unet.JA, seed=self.seed + 1)
        model.half().save_pretrained(into / "unet")
        self._encoder("ja").half().save_pretrained(into / "text_encoder")
        self._tokenizer().save_pretrained(into / "tokenizer")

    def _style(self, into: Path) -> None:
        model = self._unet("base")
        captions, latents = self._captions("en"), self._latents(soft=False)
        unet.train(model, captions, latents, unet.STYLE, seed=self.seed + 1)
        model.half().save_pretrained(into / "unet")

    def _few(self, into: Path) -> None:
        backbones = {name: self._unet(name) for name in ("base", "style")}
        captions = self._captions("en")
        few.train(backbones, captions, steps=FEW_STEPS, peak=FEW_PEAK, lessons=FEW_LESSONS, seed=self.seed)
        few.save(backbones["base"], into)


def write_pipeline(
    into: Path,
    model: UNet2DConditionModel,
    autoencoder: AutoencoderKL,
    first: CLIPTextModel,
    second: CLIPTextModelWithProjection,
    tokenizer: CLIPTokenizer,
) -> None:
    """Write a whole pipeline in float16."""
    pipeline = StableDiffusionXLPipeline(
        vae=autoencoder.half(),
        text_encoder=first.half(),
        text_encoder_2=second.half(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=model.half(),
        scheduler=unet.new_scheduler(),
        add_watermarker=False,
    )
    pipeline.save_pretrained(into)


def write_scorer(into: Path, weights: dict[str, torch.Tensor], tokenizer: CLIPTokenizer) -> None:
    """Write a folder that open_clip opens as ``local-dir:PATH``."""
    into.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(into)
    config = {"model_cfg": scorer.architecture(len(tokenizer)), "preprocess_cfg": scorer.PREPROCESS}
    (into / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file({name: value.contiguous() for name, value in weights.items()}, into / "open_clip_model.safetensors")


def tidy(folder: Path) -> None:
    """Take out what the libraries leave behind: paths of the machine, indented vocabularies, files only the owner reads."""
    for path in folder.rglob("*"):
        if path.name == "tokenizer.json":
            content = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
        if path.suffix == ".json" and "_name_or_path" in path.read_text(encoding="utf-8"):
            content = json.loads(path.read_text(encoding="utf-8"))
            content.pop("_name_or_path")
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        if path.is_file():
            path.chmod(0o644)


def build(out: Path, *, seed: int, fresh: bool, until: str, parts: Path | None) -> None:
    """Train whatever ``out`` does not hold yet, or everything when ``fresh``, through stage ``until``."""
    plan = Build(out, seed)
    for stage in STAGES[: STAGES.index(until) + 1]:
        folder = plan.folder(stage)
        if fresh or not folder.exists():
            partial = folder.with_name(f".{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.parent.mkdir(parents=True, exist_ok=True)
            if parts is not None and stage in PARTS:
                shutil.copytree(parts / PARTS[stage], partial)
            else:
                plan.make(stage, partial)
            tidy(partial)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)


def main() -> None:
    """Read the options and build."""
    parser = argparse.ArgumentParser(description="Train the tiny SDXL pipelines from nothing.")
    parser.add_argument("--seed", type=int, default=0, help="of the UNets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="train again what is there already")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="the last stage to train")
    parser.add_argument("--parts", type=Path, help="an earlier build whose scorer, VAE and text encoders are taken over")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    began = time.perf_counter()
    build(options.out, seed=options.seed, fresh=options.fresh, until=options.until, parts=options.parts)
    print(f"done in {time.perf_counter() - began:.0f} s: {options.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
