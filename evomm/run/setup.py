"""Everything a run needs before its first candidate: parents located and checked, blocks, genes, task.

Reads headers only; no model is loaded here, so that `evomm plan` can share it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evomm.adapters.base import Adapter, Model
from evomm.adapters.table import ADAPTERS
from evomm.checkpoints.locate import locate
from evomm.errors import DamagedFile, UsageError
from evomm.fitness.examples import SPLITS
from evomm.fitness.table import load_task
from evomm.fitness.task import Task
from evomm.genome.blocks import Grouping, group
from evomm.genome.codec import Codec
from evomm.genome.dataflow import FlowCodec
from evomm.genome.space import make_space
from evomm.merge.plan import component, plan
from evomm.merge.recipe import Block, Recipe
from evomm.run.config import MIXED, EvolveConfig
from evomm.run.goals import OWN
from evomm.run.parents import open_parent


@dataclass(frozen=True)
class Setup:
    """A run, ready to start. models are by parent label, tasks as `EvolveConfig.tasks`; warnings: what is odd but allowed."""

    config: EvolveConfig
    adapter: Adapter
    models: Mapping[str, Model]
    codec: Codec | FlowCodec
    tasks: Mapping[str, Task]
    warnings: Sequence[str]

    @property
    def task(self) -> Task:
        """The run's own."""
        return self.tasks[OWN]

    def parent(self, label: str) -> Recipe:
        """The recipe whose child is this parent, in its own dtype; what it does not have at all, others lend."""
        template = self.codec.template
        own = self.adapter.components(self.models[label])
        lent = {name: lender for name, lender in self._lenders().items() if name not in own}
        labels = [label, *dict.fromkeys(lent.values())]
        return Recipe(
            method="linear",
            parents={one: template.parents[one] for one in labels},
            components={**dict.fromkeys(own, label), **lent} if lent else {},
            generation=template.generation,
        )

    def _lenders(self) -> dict[str, str]:
        """Component -> who lends it to a parent that has none: the carrier, or else the first parent that has it."""
        found: dict[str, str] = {}
        for label in (self.codec.template.carrier, *self.models):
            for name in self.adapter.components(self.models[label]):
                found.setdefault(name, label)
        return found

    def uniform(self) -> Recipe:
        """The plain average of the parents, base not counted, where the child is mixed."""
        template = self.codec.template
        everywhere = Block(name="all", tensors=("*",), parents=tuple(self.config.parents))
        return Recipe(
            method="linear",
            parents=template.parents,
            blocks=(everywhere,),
            dtype=self.config.dtype,
            tokenizer=template.carrier,
            components=template.components,
            generation=template.generation,
        )


def prepare(
    config: EvolveConfig,
    beside: Path,
    digests: Mapping[str, str] | None = None,
    advance: Callable[[str], None] = lambda label: None,
) -> Setup:
    """Resolve and check everything.

    Args:
        beside: the folder that relative paths of the config start from.
        digests: label -> what the parents' digests must be, for a run that goes on.
        advance: called with each parent's label when its files have been read once.

    Raises MissingFile, DamagedFile, UnsafeFile, MisfitError or UsageError before any work is done.
    """
    tasks = {name: load_task(task, beside) for name, task in config.tasks.items()}
    for task in tasks.values():
        for split in SPLITS:
            task.examples(split, getattr(config.limits, split))  # an empty or broken task is told now, not after the search
        task.options(config.batch, config.generation)
    if config.racing is not None and not tasks[OWN].separable:
        raise UsageError(
            f"racing: task '{config.task}' compares the answers to different prompts (a guard on diversity), so no example has a "
            "score of its own; leave out `racing`, or the guard"
        )
    adapter = ADAPTERS[config.adapter]()
    parents = {label: open_parent(adapter, source, lambda name: locate(name, beside)) for label, source in config.models.items()}
    models = {label: parent.model for label, parent in parents.items()}
    template = complete(config, adapter, models)
    models = dict(adapter.aligned(template, models)[0])
    warnings = [
        *(note for task in tasks.values() for note in task.notes()),
        *(parent.note for parent in parents.values() if parent.note),
    ]
    warnings += adapter.check(models, template.carrier, whole=template.components)
    sources = {}
    for label, parent in parents.items():
        sources[label] = parent.found.model_copy(update={"digest": parent.digest})
        advance(label)
    for label, digest in (digests or {}).items():
        if sources[label].digest != digest:
            raise DamagedFile(
                f"parent '{label}' ({parents[label].path}) has changed since the run began; "
                "bring the old files back, or start a new run"
            )
    template = template.model_copy(update={"parents": sources})
    return Setup(config, adapter, models, make_codec(config, adapter, models, template), tasks, warnings)


def make_codec(config: EvolveConfig, adapter: Adapter, models: Mapping[str, Model], template: Recipe) -> Codec | FlowCodec:
    """What genomes mean; MisfitError or UsageError when the start cannot be made of these parents."""
    if config.flow is None:
        plan(template, models)
        blocks = mixed_blocks(adapter, models[template.carrier], template, config.grouping)
        return Codec(make_space(blocks, template.mixed, config.method, config.genes), template, blocks)
    layers = adapter.layers(models)
    depths = {label: 1 + max((at for at in places.values() if at is not None), default=-1) for label, places in layers.items()}
    outputs = {label: adapter.outputs(model) if config.flow.scales != "none" else {} for label, model in models.items()}
    codec = FlowCodec(config.flow, template, depths, outputs)
    plan(codec.decode(codec.space.start), models, layers)
    return codec


def complete(config: EvolveConfig, adapter: Adapter, models: Mapping[str, Model]) -> Recipe:
    """The config's recipe, with the components that this kind of model takes from one parent unless told to mix them."""
    template = config.template()
    whole = {**adapter.whole(models, template.carrier), **config.components}
    template = template.model_copy(update={"components": {name: label for name, label in whole.items() if label != MIXED}})
    adapter.refuse_unknown(template.components, models)
    return template


def mixed_blocks(adapter: Adapter, model: Model, template: Recipe, grouping: Grouping) -> tuple[Block, ...]:
    """The blocks of what is mixed: components that are taken whole have no genes."""
    places = {name: place for name, place in adapter.blocks(model).items() if component(name) not in template.components}
    return group(places, grouping, {name: info.numel for name, info in model.infos.items()})
