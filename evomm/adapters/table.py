"""The adapters by the name that configs use."""

from collections.abc import Mapping
from pathlib import Path

from evomm.adapters.base import Adapter
from evomm.adapters.fake import FakeAdapter
from evomm.adapters.llm import LLMAdapter
from evomm.adapters.sdxl import SDXLAdapter
from evomm.checkpoints.reader import Checkpoint
from evomm.errors import MisfitError

ADAPTERS: Mapping[str, type[Adapter]] = {"llm": LLMAdapter, "sdxl": SDXLAdapter, "fake": FakeAdapter}


def detect(path: Path) -> Adapter:
    """The adapter of a model, from what its folder or file says of itself."""
    for adapter in ADAPTERS.values():
        if adapter.recognises(path):
            return adapter()
    config = Checkpoint(path).config  # says what is wrong, when it is no model at all
    kind = config.get("architectures") or config.get("model_type") or "no config.json"
    raise MisfitError(f"{path}: no adapter for this kind of model ({kind}); there are: {', '.join(ADAPTERS)}")
