"""Where parents differ, and what the child took from whom: needs the parents' weights, and says so when they are not here."""

from dataclasses import dataclass
from pathlib import Path

from evomm.checkpoints.locate import locate
from evomm.errors import EvommError
from evomm.genome.codec import Codec
from evomm.merge.recipe import Recipe
from evomm.merge.table import METHODS, parameters
from evomm.report.story import Story
from evomm.run.engine import restore
from evomm.run.look import Row, compare
from evomm.run.store import Store

FREELY = 2_000_000_000  # bytes of parents that are read without being asked to


@dataclass(frozen=True)
class Share:
    """A block. distances: of each parent to the reference, over its norm. shares: of each in what the child changes."""

    block: str
    parameters: int
    distances: tuple[float, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Apart:
    """labels: of the parents that are compared with a reference: the base, or else the first of them. shared: whether shares
    mean something, as they do where task vectors are weighted. why: a sentence when there is nothing to show.
    """

    labels: tuple[str, ...] = ()
    reference: str = ""
    blocks: tuple[Share, ...] = ()
    shared: bool = False
    why: str = ""

    @property
    def total(self) -> tuple[float, ...]:
        """Each parent's share of the change, blocks weighted by their parameters."""
        whole = sum(one.parameters for one in self.blocks)
        return tuple(sum(one.parameters * one.shares[i] for one in self.blocks) / whole for i in range(len(self.labels)))


def apart(story: Story, recipe: Recipe, wanted: bool | None) -> Apart:
    """Compare the parents. wanted: whether to read their weights; None: when they are not large."""
    if recipe.slices:
        return Apart(why="Layers are taken as they are: the path above says which are whose.")
    if wanted is False:
        return Apart(why="The parents' weights were not read (--no-weights).")
    try:
        size = _size(story)
        if wanted is None and size > FREELY:
            return Apart(why=f"The parents are large ({size / 1e9:.0f} GB); `evomm report --weights` reads them for this part.")
        with Store.open(story.folder) as store:
            setup = restore(store)
    except EvommError as error:
        return Apart(why=f"The parents are not here as they were, so this part is left out: {error}")
    assert isinstance(setup.codec, Codec)  # there are no slices
    reference, *labels = dict.fromkeys([recipe.base or recipe.mixed[0], *recipe.mixed])
    rows = compare([setup.models[label] for label in (reference, *labels)], setup.codec.blocks)
    shared = METHODS[recipe.method].takes_deltas(recipe.base) and "weight" in parameters(recipe.method)
    blocks = tuple(Share(row.block, row.parameters, row.distances, _shares(row, recipe) if shared else ()) for row in rows)
    return Apart(tuple(labels), reference, blocks, shared)


def _shares(row: Row, recipe: Recipe) -> tuple[float, ...]:
    """|w| · |parent - base| of each parent, over their sum."""
    first = next(block.tensors[0] for block in recipe.blocks if block.name == row.block)
    weights = recipe.arguments(first)["weight"]
    assert isinstance(weights, tuple)  # one per parent
    changes = [abs(weight) * distance for weight, distance in zip(weights, row.distances, strict=True)]
    whole = sum(changes)
    return tuple(change / whole if whole else 0.0 for change in changes)


def _size(story: Story) -> int:
    """Of the parents' files, bytes; raises MissingFile when one is not here."""
    paths = {
        locate(name, story.beside, download=False)
        for source in story.config.models.values()
        for name in (source.model, source.lora)
        if name
    }
    return sum(_bytes(path) for path in paths)


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.rglob("*.safetensors"))
