"""How well pictures fit texts, by a model that puts both into one space (CLIP, arXiv 2103.00020).

A scorer is named like this:

    xlm-roberta-large-ViT-H-14/frozen_laion5b_s13b_b90k    a model of open_clip and its weights, in many languages
    hf-hub:llm-jp/llm-jp-clip-vit-base-patch16             open_clip's layout on the hub, optionally @revision
    zoo:tiny/sdxl/scorer, ./my-clip                        a folder in open_clip's layout
    transformers:openai/clip-vit-large-patch14             a hub id or folder of a CLIP class of transformers
    transformers:yuvalkirstain/PickScore_v1,laion/CLIP-ViT-H-14-laion2B-s32B-b79K     and where its processor is

Weights are read from safetensors; nothing that could run code is loaded. Loading waits until the first picture comes.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from evomm.checkpoints.locate import locate
from evomm.errors import EvaluationError, MissingFile
from evomm.fitness.towers import Towers
from evomm.plain import exists


def by_path(source: str, beside: Path | None = None) -> bool:
    """Whether a source names a folder: by how it is written, or because there is one of this name."""
    there = any(exists(path) and path.is_dir() for path in ((beside or Path()) / source, Path(source)))
    return there or source.startswith((".", "/", "~", "local-dir:", "zoo:"))


class ClipScorer:
    """Cosines of pictures with texts, in [-1, 1].

    They are kept as they are: torchmetrics' CLIPScore is 100 times their mean, but clamped at 0, where a search would see
    no slope. SigLIP's sigmoid would only bend the same order, so its models give cosines too.

    Args:
        source: as above. beside: where relative paths start. device: "auto" is the GPU when there is one.
        batch: pictures at a time. The same pictures in the same batches score the same to the bit.
    """

    def __init__(self, source: str, beside: Path | None = None, device: str = "auto", batch: int = 32) -> None:
        self.source = source
        self._beside = beside
        self._device = device
        self._batch = batch
        self._loaded: Towers | None = None
        self._known: dict[str, Tensor] = {}

    def missing(self) -> bool:
        """Whether it is a folder that is not there; others are looked for when first used."""
        if not by_path(self.source, self._beside):
            return False
        try:
            locate(self.source.removeprefix("local-dir:"), self._beside, download=False)
        except MissingFile:
            return True
        return False

    def files(self) -> list[Path]:
        """Its files, when it is a folder; what has a name elsewhere is known by that name."""
        if not by_path(self.source, self._beside):
            return []
        folder = locate(self.source.removeprefix("local-dir:"), self._beside, download=False)
        return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else [folder]

    def score(self, pictures: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        """(N,) cosine of each picture with its text."""
        return (self.pictures(pictures) * self.texts(texts)).sum(-1)

    def pictures(self, pictures: Sequence[Image.Image]) -> Tensor:
        """(N, K) unit vectors in float64; EvaluationError when one is not finite."""
        tower = self._towers().pictures
        chunks = [pictures[i : i + self._batch] for i in range(0, len(pictures), self._batch)]
        with torch.inference_mode():
            return self._unit(torch.cat([tower(chunk).to("cpu", torch.float64) for chunk in chunks]))

    def texts(self, texts: Sequence[str]) -> Tensor:
        """(N, K) unit vectors in float64; one by one, so that a text's vector depends on no other, and once only."""
        tower = self._towers().texts
        with torch.inference_mode():
            for text in texts:
                if text not in self._known:
                    self._known[text] = self._unit(tower([text])[0].to("cpu", torch.float64))
        return torch.stack([self._known[text] for text in texts])

    def _towers(self) -> Towers:
        if self._loaded is None:
            device = ("cuda" if torch.cuda.is_available() else "cpu") if self._device == "auto" else self._device
            self._loaded = self._load(device)
        return self._loaded

    def _load(self, device: str) -> Towers:
        # Imported here: open_clip takes seconds, and tasks on text do not need it.
        from evomm.fitness import clip_models

        if self.source.startswith("transformers:"):
            return clip_models.of_transformers(self.source.removeprefix("transformers:"), self._beside, device)
        if self.source.startswith("hf-hub:"):
            return clip_models.of_folder(locate(self.source.removeprefix("hf-hub:")), device)
        if by_path(self.source, self._beside):
            return clip_models.of_folder(locate(self.source.removeprefix("local-dir:"), self._beside), device)
        return clip_models.of_name(self.source, device)

    def _unit(self, raw: Tensor) -> Tensor:
        if not raw.isfinite().all():
            raise EvaluationError(f"the scorer '{self.source}' gave NaN or infinity; it cannot judge these pictures or texts")
        return torch.nn.functional.normalize(raw, dim=-1)
