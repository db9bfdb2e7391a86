"""The adapters by the name that configs use."""

from collections.abc import Mapping
from pathlib import Path

from evomm.adapters.base import Adapter
from evomm.adapters.fake import FakeAdapter
from evomm.adapters.llava import LlavaAdapter
from evomm.adapters.llm import LLMAdapter
from evomm.adapters.sdxl import SDXLAdapter
from evomm.checkpoints.reader import Checkpoint
from evomm.errors import MisfitError

ADAPTERS: Mapping[str, type[Adapter]] = {"llm": LLMAdapter, "llava": LlavaAdapter, "sdxl": SDXLAdapter, "fake": FakeAdapter}


def detect(*paths: Path) -> Adapter:
    """The adapter of models that are mixed, from what their folders or files say of themselves.

    Raises MisfitError for a model of no known kind, and for kinds that cannot be mixed.
    """
    kinds = {_kind(path): path for path in paths}
    for name in kinds:
        if kinds.keys() <= {name, *ADAPTERS[name].takes}:
            return ADAPTERS[name]()
    told = ", ".join(f"{path} ({name})" for name, path in kinds.items())
    raise MisfitError(f"models of different kinds cannot be mixed: {told}; merge models of one architecture")


def _kind(path: Path) -> str:
    name = next((name for name, adapter in ADAPTERS.items() if adapter.recognises(path)), None)
    if name is None:
        config = Checkpoint(path).config  # says what is wrong, when it is no model at all
        kind = config.get("architectures") or config.get("model_type") or "no config.json"
        raise MisfitError(f"{path}: no adapter for this kind of model ({kind}); there are: {', '.join(ADAPTERS)}")
    return name
