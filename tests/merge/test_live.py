"""Writing into a resident model again and again: the child is the last recipe's, whatever was written before it."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from evomm.errors import DamagedFile
from evomm.merge.engine import Engine
from evomm.merge.live import Live
from evomm.merge.plan import Readers
from evomm.merge.recipe import Block, Recipe, Source
from tests.merge.kit import readers

NAMES = ("a.w", "b.w", "c.w")


def parents() -> Readers:
    """Two models of three tensors."""
    torch.manual_seed(0)
    return readers({label: {name: torch.randn(7, 3) for name in NAMES} for label in ("one", "two")})


def mix(*weights: float, seed: int = 0, method: str = "dare_linear") -> Recipe:
    """A weight of ``two`` for each tensor, over the base ``one``, with a random mask."""
    blocks = tuple(
        Block(name=name, tensors=(name,), parameters={"weight": weight, "density": 0.5})
        for name, weight in zip(NAMES, weights, strict=True)
    )
    sources = {label: Source(model=label) for label in ("one", "two")}
    return Recipe(method=method, base="one", parents=sources, blocks=blocks, seed=seed)


def resident() -> dict[str, Tensor]:
    """Memory for a model."""
    return {name: torch.zeros(7, 3) for name in NAMES}


@pytest.mark.parametrize(
    "path",
    [
        [mix(1, 1, 1), mix(1, 0.5, 1)],
        [mix(1, 1, 1), mix(1, 0.5, 1), mix(1, 1, 1)],
        [mix(1, 1, 1), mix(1, 1, 1, seed=1)],
        [mix(1, 1, 1), mix(1, 1, 1, method="dare_ties"), mix(1, 1, 1)],
        [mix(1, 1, 1), mix(1, 1, 1)],
    ],
)
def test_the_last_recipe_counts(path: Sequence[Recipe]) -> None:
    again, fresh = resident(), resident()
    live = Live(Engine(parents()), again)
    for recipe in path:
        live.write(recipe)
    Live(Engine(parents()), fresh).write(path[-1])
    assert all(torch.equal(again[name], fresh[name]) for name in NAMES)


def test_only_what_changed_is_made_again() -> None:
    model = resident()
    live = Live(Engine(parents()), model)
    live.write(mix(1, 1, 1))
    for tensor in model.values():
        tensor.fill_(9.0)
    live.write(mix(1, 0.5, 1))
    assert [bool((model[name] == 9.0).all()) for name in NAMES] == [True, False, True]


def test_what_failed_halfway_is_made_again() -> None:
    """A write that ends in an error leaves nothing that is taken for whole."""
    model, broken = resident(), dict(parents())
    damaged = {name: torch.full((7, 3), float("nan")) if name == "c.w" else torch.ones(7, 3) for name in NAMES}
    live = Live(Engine({**broken, "bad": readers({"bad": damaged})["bad"]}), model)
    live.write(mix(1, 1, 1))
    bad = mix(1, 1, 1).model_copy(update={"parents": {"one": Source(model="one"), "bad": Source(model="bad")}})
    with pytest.raises(DamagedFile):
        live.write(bad)
    live.write(mix(1, 1, 1))
    fresh = resident()
    Live(Engine(parents()), fresh).write(mix(1, 1, 1))
    assert all(torch.equal(model[name], fresh[name]) for name in NAMES)
