"""Paths through the layers of several language models: shared, never copied, run in any order and any number of times.

model = load("a", {"a": ..., "b": ...}, "cpu", torch.float32)  # all parents' layers, and everything else of the carrier
route(model, steps, config)  # the resident model is the path now
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evomm.adapters import llm_model
from evomm.adapters.base import LoadedModel
from evomm.errors import MisfitError
from evomm.genome.dataflow import Step


class Visit(nn.Module):
    """A layer at one place of a path: its input is scaled, and its keys and values are cached under the place's number."""

    def __init__(self, layer: nn.Module, place: int, scale: float) -> None:
        super().__init__()
        self.layer = layer
        self._place, self._scale = place, scale
        self._numbered = [module for module in layer.modules() if hasattr(module, "layer_idx")]

    def __getattr__(self, name: str) -> Any:
        """What models ask of their layers, such as which attention they have."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def forward(self, hidden: Tensor, *arguments: Any, **named: Any) -> Any:
        """(N, T, width) -> what the layer gives."""
        for module in self._numbered:
            module.layer_idx = self._place  # type: ignore[assignment]  # a layer that comes twice has two caches
        return self.layer(hidden * self._scale if self._scale != 1.0 else hidden, *arguments, **named)


def load(carrier: str, folders: Mapping[str, Path], device: str, dtype: torch.dtype) -> LoadedModel:
    """The carrier's model and tokenizer, with the layers of all parents on a shelf; raises what loading can raise."""
    whole = llm_model.load(folders[carrier], device, dtype)
    shelf = {carrier: list(_layers(whole.parts[0])[2])}
    for label, folder in folders.items():
        if label not in shelf:
            shelf[label] = list(_layers(llm_model.load(folder, device, dtype).parts[0])[2])
    return LoadedModel({}, (*whole.parts, shelf))


def route(model: LoadedModel, steps: Sequence[Step], config: Mapping[str, Any]) -> None:
    """Make the resident model run these steps.

    Args:
        config: of the child's config.json, how many layers there are and what is said of them one by one.
    """
    network, _, shelf = model.parts
    home, name, _ = _layers(network)
    setattr(home, name, nn.ModuleList([Visit(shelf[s.label][s.layer], place, s.scale) for place, s in enumerate(steps)]))
    for key, value in config.items():
        setattr(network.config, key, value)


def _layers(network: Any) -> tuple[Any, str, nn.ModuleList]:
    """(the module that holds them, their attribute, the layers) of a decoder."""
    count = network.config.num_hidden_layers
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return module, name, child
    raise MisfitError(f"a {type(network).__name__} keeps its layers in no list, so they cannot be run in another order")
