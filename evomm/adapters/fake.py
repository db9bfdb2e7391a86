"""A model small enough to check by hand: the adapter that tests use, and a real one.

Its checkpoint holds vectors ``layers.N.weight`` of one length K and a config with ``model_type: evomm-fake``. Asked
``k`` (a number below K), it answers with the rounded sum of all layers' k-th elements:

    layers.0.weight = [1.0, 2.0], layers.1.weight = [0.0, 5.0]      "0" -> "1"      "1" -> "7"
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from evomm.adapters.base import Adapter, LoadedModel, Model
from evomm.adapters.generation import Generation
from evomm.checkpoints.reader import read_json
from evomm.errors import MisfitError
from evomm.genome.blocks import Place
from evomm.merge.plan import refuse_misfits
from evomm.merge.recipe import Recipe


class FakeAdapter(Adapter):
    """Adds up vectors."""

    name = "fake"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """By its model type."""
        return (path / "config.json").exists() and read_json(path / "config.json").get("model_type") == "evomm-fake"

    def blocks(self, model: Model) -> Mapping[str, Place]:
        """One layer per vector."""
        odd = next((name for name in model.infos if not re.fullmatch(r"layers\.\d{1,4}\.weight", name)), None)
        if odd is not None:
            raise MisfitError(f"{model.folder}: holds '{odd}'; expected vectors called layers.N.weight")
        return {name: Place(int(name.split(".")[1]), "mlp") for name in model.infos}

    def check(
        self, models: Mapping[str, Model], reference: str, *, stacked: bool = False, whole: Mapping[str, str] = {}
    ) -> Sequence[str]:
        """Names and shapes must agree."""
        if not stacked:
            refuse_misfits({label: model.infos for label, model in models.items()}, reference, whole)
        return ()

    def load(self, recipe: Recipe, models: Mapping[str, Model], device: str, dtype: torch.dtype) -> LoadedModel:
        """Copies of the vectors, in memory."""
        carrier = models[recipe.carrier]
        targets = {name: carrier.read(name).to(device, dtype, copy=True) for name in carrier.infos}
        return LoadedModel(targets, parts=None)

    def generate(self, model: LoadedModel, prompts: Sequence[str], options: Generation) -> Sequence[str]:
        """The rounded sum of the elements that each prompt names."""
        total = torch.stack([t.float() for t in model.targets.values()]).sum(0)
        return [str(round(float(total[int(re.findall(r"\d+", prompt)[-1])]))) for prompt in prompts]
