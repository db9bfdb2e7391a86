"""The adapters by the name that configs use."""

from collections.abc import Mapping
from pathlib import Path

from evomm.adapters.base import Adapter
from evomm.adapters.fake import FakeAdapter
from evomm.adapters.llm import LLMAdapter
from evomm.checkpoints.reader import Checkpoint
from evomm.errors import MisfitError

ADAPTERS: Mapping[str, type[Adapter]] = {"llm": LLMAdapter, "fake": FakeAdapter}


def detect(folder: Path) -> Adapter:
    """The adapter of a model folder, from its config.json."""
    config = Checkpoint(folder).config
    for adapter in ADAPTERS.values():
        if adapter.recognises(config):
            return adapter()
    kind = config.get("architectures") or config.get("model_type") or "no config.json"
    raise MisfitError(f"{folder}: no adapter for this kind of model ({kind}); there are: {', '.join(ADAPTERS)}")
