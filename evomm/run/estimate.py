"""What a run or a merge will take, from headers alone: does it fit, what is missing, memory and disk.

Parents that are not on this machine are taken from their cards in model_zoo/parents.yaml, so that nothing is fetched.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from evomm.adapters.base import Adapter, Model
from evomm.adapters.table import ADAPTERS
from evomm.checkpoints.locate import fetch_command, fetch_data_command, hub_parts, locate
from evomm.errors import MissingFile
from evomm.fitness.table import load_task
from evomm.fitness.task import HUB
from evomm.genome.blocks import group
from evomm.genome.space import make_space
from evomm.merge.mergekit.document import Document
from evomm.merge.mergekit.resolve import resolve
from evomm.merge.plan import plan
from evomm.merge.recipe import DTYPE_NAMES, Recipe, Source
from evomm.run.cards import cards
from evomm.run.config import EvolveConfig
from evomm.run.evaluate import device
from evomm.run.make import Workshop
from evomm.run.parents import open_parent
from evomm.run.setup import complete, make_codec

_WORKING = 1_000_000_000  # interpreter, libraries, activations of a small batch
_CHUNKS = 4  # copies of the largest tensor that loading and live merging may hold


@dataclass
class Estimate:
    """The answer of `evomm plan`.

    memory_bytes: of the process that evaluates (the resident model, and the largest tensor a few times). disk_bytes: of
    an exported child. genes: None when it takes a missing parent's headers to know. missing: what must be had first.
    notes: what is odd, and where numbers come from. licences: label -> licence, where a card names one.
    stages: of a run of several, each one's own.
    """

    memory_bytes: int = 0
    disk_bytes: int = 0
    genes: int | None = None
    evaluations: int = 0
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    licences: dict[str, str] = field(default_factory=dict)
    memory_free: int = 0
    disk_free: int = 0
    stages: dict[str, "Estimate"] = field(default_factory=dict)

    @property
    def fits(self) -> bool:
        """Whether nothing is missing and memory and disk suffice."""
        return not self.missing and self.memory_bytes <= self.memory_free and self.disk_bytes <= self.disk_free


def estimate_run(config: EvolveConfig, beside: Path, out: Path) -> Estimate:
    """Estimate an evolution.

    Raises MisfitError when the parents that are here don't fit together, and what reading headers can raise.
    """
    found = Estimate(evaluations=config.search.evaluations * (1 + len(config.baselines)))
    adapter = ADAPTERS[config.adapter]()
    here = _open(config.models, beside, adapter, found)
    for task in config.tasks.values():
        found.missing += [_lost(task, path) for path in load_task(task, beside).missing()]
    template = config.template()
    parameters, largest = _count(here, config.models, found)
    if set(here) == set(config.models):
        template = complete(config, adapter, here)
        here = dict(adapter.aligned(template, here)[0])
        found.notes += adapter.check(here, template.carrier, whole=template.components)
        found.genes = len(make_codec(config, adapter, here, template).space.genes)
    elif not config.grouping.least and config.flow is None:  # which depend on what is not here
        places = adapter.sketch(_layers(config.models))
        if places:
            found.genes = len(make_space(group(places, config.grouping), template.mixed, config.method, config.genes).genes)
    resident = (
        parameters * DTYPE_NAMES[config.compute].itemsize * (len(config.models) if config.flow else 1)
    )  # all parents' layers
    _fill(found, resident + _CHUNKS * largest * 4 + _WORKING, parameters * DTYPE_NAMES[config.dtype].itemsize, out, config)
    return found


def _lost(task: str, path: Path) -> str:
    """Data that is not here, and where to get it."""
    on_hub = str(path).startswith(HUB)
    how = f"`{fetch_data_command(str(path).removeprefix(HUB))}`" if on_hub else f"see {task}.yaml"
    return f"data of task '{task}': {path if on_hub else path.name} ({how})"


def estimate_merge(recipe: Recipe, beside: Path, out: Path) -> Estimate:
    """Estimate a merge: nothing is resident but pieces of tensors."""
    found = Estimate()
    disk = _merge_bytes(recipe.parents, lambda models, adapter: recipe, beside, found)
    _fill(found, _WORKING, disk, out, None)
    return found


def estimate_documents(documents: Sequence[Document], beside: Path, out: Path) -> Estimate:
    """Estimate the merges of a mergekit file, in order; a stage that stands on others is counted like the largest of them."""
    found = Estimate()
    stages = {document.name for document in documents}
    sizes: list[int] = []
    for document in documents:
        sources = document.sources()
        files = {label: source for label, source in sources.items() if source.model not in stages}
        whole = len(files) == len(sources)

        def compiled(models: Mapping[str, Model], adapter: Adapter, document: Document = document) -> Recipe:
            return resolve(document, {label: model.infos for label, model in models.items()}, adapter.layers(models)).recipe

        size = _merge_bytes(files, compiled if whole else None, beside, found)
        if not whole:
            found.notes.append(f"'{document.name or 'the last document'}' stands on other stages; its size is taken from theirs")
        sizes.append(max(size, 0 if whole else max(sizes, default=0)))
    _fill(found, _WORKING, sum(sizes), out, None)
    return found


def _merge_bytes(
    sources: Mapping[str, Source],
    compiled: Callable[[Mapping[str, Model], Adapter], Recipe] | None,
    beside: Path,
    found: Estimate,
) -> int:
    """Bytes of a child; what is missing or odd goes into the estimate."""
    here = [_find(name, beside, found) for s in sources.values() for name in (s.model, s.lora) if name is not None]
    _licences(found, sources)
    if not sources or compiled is None:
        return 0
    if None in here:
        return _card_bytes(sources, found)
    adapter, models = Workshop(beside).open(sources)
    recipe = compiled(models, adapter)
    aligned, alignment = adapter.aligned(recipe, models)
    recipe = adapter.unfold(recipe, aligned)
    recipe = recipe.model_copy(update={"components": {**adapter.lent(recipe, aligned), **recipe.components}})
    adapter.refuse_unknown(recipe.components, aligned)
    found.notes += adapter.check(aligned, recipe.carrier, stacked=bool(recipe.slices), whole=recipe.components)
    found.notes += alignment.warnings if alignment else ()
    return sum(job.info.nbytes for job in plan(recipe, aligned, adapter.layers(aligned)))


def _card_bytes(sources: Mapping[str, Source], found: Estimate) -> int:
    """Of the first parent with a card, in 16 bits; told when there is none."""
    known = cards()
    for source in sources.values():
        card = known.get(_repo(source.model))
        if card is not None and card.parameters:
            return 2 * card.parameters
    found.notes.append("the size is unknown until a parent is here; disk is counted as 0")
    return 0


def _open(sources: Mapping[str, Source], beside: Path, adapter: Adapter, found: Estimate) -> dict[str, Model]:
    here = {}
    for label, source in sources.items():
        paths = {name: _find(name, beside, found) for name in (source.model, source.lora) if name is not None}
        if all(paths.values()):
            parent = open_parent(adapter, source, lambda name: locate(name, beside, download=False))
            found.notes += [parent.note] if parent.note else []
            here[label] = parent.model
    _licences(found, sources)
    return here


def _find(model: str, beside: Path, found: Estimate) -> Path | None:
    try:
        return locate(model, beside, download=False)
    except MissingFile:
        how = f"`{fetch_command(model)}`" if hub_parts(model) else "no such folder"
        told = f"{model} ({how})"
        if told not in found.missing:
            found.missing.append(told)
        return None


def _licences(found: Estimate, sources: Mapping[str, Source]) -> None:
    known = cards()
    for label, source in sources.items():
        card = known.get(_repo(source.lora or source.model))
        if card is not None:
            found.licences[label] = card.licence


def _repo(model: str) -> str:
    """What a card is found by."""
    parts = hub_parts(model)
    return parts[0] if parts else model


def _count(here: Mapping[str, Model], sources: Mapping[str, Source], found: Estimate) -> tuple[int, int]:
    """(parameters, elements of the largest tensor) of the child; from a card when no parent is here."""
    if here:
        sizes = [[info.numel for info in model.infos.values()] for model in here.values()]
        return max(map(sum, sizes)), max(map(max, sizes))
    known = cards()
    for source in sources.values():
        card = known.get(_repo(source.model))
        if card is not None and card.parameters:
            return card.parameters, card.parameters // 50  # embeddings of a 7B are 2% of it
    found.notes.append("sizes are unknown until a parent is here; memory and disk are counted without the model")
    return 0, 0


def _layers(sources: Mapping[str, Source]) -> int | None:
    """Of a parent that is not here, from its card."""
    known = cards()
    found = (known.get(_repo(source.model)) for source in sources.values())
    return next((card.layers for card in found if card and card.layers), None)


def _fill(found: Estimate, memory: int, disk: int, out: Path, config: EvolveConfig | None) -> None:
    found.memory_bytes, found.disk_bytes = memory, disk
    target = device(config.device) if config else "cpu"
    if target.startswith("cuda"):
        found.memory_free = torch.cuda.mem_get_info(target)[0]
    else:
        found.memory_free = _free_memory()
    home = next(p for p in [out, *out.resolve().parents] if p.exists())
    found.disk_free = shutil.disk_usage(home).free


def _free_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
