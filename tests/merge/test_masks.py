"""Random masks: common random numbers make candidates comparable, and pieces invisible."""

import hashlib
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.merge.kit import LABELS, merge_one, merged, readers, recipe

N = 200_003
ROWS, COLUMNS = 4_000, 50


def mask(density: float, label: str = "a", name: str = "w", seed: int = 0, numel: int = N, piece: int = 1 << 16) -> Tensor:
    """The elements that DARE keeps, read off a child of ones."""
    only = {other: float(other == label) for other in LABELS[1:]}
    ones = {other: torch.ones(numel) if other != "base" else torch.zeros(numel) for other in LABELS}
    parents = readers({other: {name: tensor} for other, tensor in ones.items()})
    return merged(recipe("dare_linear", weight=only, density=density, rescale=False, seed=seed), parents, piece)[name] > 0


def ranks() -> Tensor:
    """(ROWS, COLUMNS): in each row, every rank once."""
    generator = torch.Generator().manual_seed(0)
    return torch.argsort(torch.rand(ROWS, COLUMNS, generator=generator), dim=1)


def ranked_mask(density: float, epsilon: float, where: Tensor, seed: int = 0, **more: Any) -> Tensor:
    """The elements that DELLA keeps of a task vector whose magnitudes grow with the rank."""
    signs = torch.where(where % 3 == 0, -1.0, 1.0)
    parents = {"base": torch.zeros_like(signs), "a": signs * (1 + where), **more}
    labels = ("base", "a", *more)
    values = {"weight": {label: float(label == "a") for label in labels[1:]}, "density": density, "epsilon": epsilon}
    return merge_one(recipe("della_linear", labels, seed=seed, rescale=False, **values), parents) != 0  # type: ignore[arg-type]


def test_a_mask_is_contained_in_every_denser_mask() -> None:
    masks = [mask(density) for density in (0.0, 0.1, 0.4, 0.5, 0.99, 1.0)]
    for sparse, dense in pairwise(masks):
        assert bool((sparse <= dense).all())
    assert not masks[0].any()
    assert masks[-1].all()


@pytest.mark.parametrize("density", [0.02, 0.4, 0.5, 0.9])
def test_a_mask_has_its_density_everywhere(density: float) -> None:
    """Five standard deviations, over the whole and over its parts, as by the position modulo 8."""
    found = mask(density).double()
    for part in (found, found[: N // 10], found[-N // 10 :], *(found[offset::8] for offset in range(8))):
        assert abs(part.mean().item() - density) < 5 * (density * (1 - density) / part.numel()) ** 0.5


@pytest.mark.parametrize("other", [{"label": "b"}, {"name": "v"}, {"seed": 1}], ids=str)
def test_masks_of_other_parents_tensors_and_seeds_are_independent(other: dict[str, Any]) -> None:
    both = (mask(0.5) & mask(0.5, **other)).double().mean().item()
    assert abs(both - 0.25) < 5 * (0.25 * 0.75 / N) ** 0.5


def test_neighbours_in_a_mask_are_independent() -> None:
    found = mask(0.5)
    for apart in (1, 2, 3, 4, 8):
        both = (found[apart:] & found[:-apart]).double().mean().item()
        assert abs(both - 0.25) < 5 * (0.25 * 0.75 / N) ** 0.5


def test_a_mask_does_not_know_how_it_was_cut() -> None:
    expected = mask(0.4, numel=1_001)
    assert all(torch.equal(mask(0.4, numel=1_001, piece=size), expected) for size in (64, 128, 320))


def test_a_mask_does_not_know_who_else_is_merged() -> None:
    """Adding a parent leaves the masks of the others alone."""
    one = {"base": torch.zeros(1_000), "a": torch.ones(1_000)}
    alone = merge_one(recipe("dare_linear", ("base", "a"), density=0.4, rescale=False), one) > 0
    assert torch.equal(alone, mask(0.4, numel=1_000))
    where = ranks()[:30]
    assert torch.equal(ranked_mask(0.5, 0.2, where), ranked_mask(0.5, 0.2, where, b=torch.ones(30, COLUMNS)))


def test_the_mask_of_a_seed_is_fixed_for_good() -> None:
    """Recipes re-make models bit for bit, also next year: these elements are SplitMix64's for sha256("7\\nw\\na")."""
    draws = stream(b"7\nw\na", 1 << 20)  # so many that some are equal to the threshold
    assert np.array_equal(mask(0.3, seed=7, numel=1 << 20).numpy(), draws < round(0.3 * 65_536))
    sorted_rows = torch.arange(32).repeat(1 << 15, 1)  # the position of an element is its rank
    thresholds = np.rint(np.linspace(0.3, 0.7, 32) * 65_536)
    assert np.array_equal(ranked_mask(0.5, 0.2, sorted_rows, seed=7).numpy(), draws.reshape(-1, 32) < thresholds)


def stream(key: bytes, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Draws of 16 bits, the lowest of each word of 64 first; SplitMix64 as its paper has it, in exact integers."""
    full = (1 << 64) - 1
    state, words = int.from_bytes(hashlib.sha256(key).digest()[:8], "little"), []
    for _ in range(-(-count // 4)):
        state = (state + 0x9E3779B97F4A7C15) & full
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & full
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & full
        words.append(z ^ (z >> 31))
    return np.array([word >> shift & 0xFFFF for word in words for shift in (0, 16, 32, 48)], dtype=np.int64)[:count]


@pytest.mark.parametrize(("density", "epsilon", "low", "high"), [
    (0.5, 0.2, 0.3, 0.7),
    (0.3, 0.0, 0.3, 0.3),
    (0.9, 0.3, 0.6, 1.0),
    (0.1, 0.15, 0.0, 0.25),
])  # fmt: skip
def test_the_larger_are_kept_more_often_from_density_minus_to_plus_epsilon(
    density: float, epsilon: float, low: float, high: float
) -> None:
    where = ranks()
    kept = ranked_mask(density, epsilon, where).double()
    for rank in range(COLUMNS):
        expected = low + (high - low) * rank / (COLUMNS - 1)
        found = kept[where == rank].mean().item()
        assert abs(found - expected) < 5 * (expected * (1 - expected) / ROWS) ** 0.5 + 2**-15, rank


def test_ranked_masks_are_nested_and_belong_to_their_seed() -> None:
    where = ranks()
    masks = [ranked_mask(density, 0.1, where) for density in (0.0, 0.1, 0.4, 0.5, 0.95, 1.0)]
    for sparse, dense in pairwise(masks):
        assert bool((sparse <= dense).all())
    assert not masks[0].any()
    assert masks[-1].all()
    both = (masks[3] & ranked_mask(0.5, 0.1, where, seed=1)).double().mean().item()
    assert abs(both - 0.25) < 0.01


def test_rows_beyond_sixteen_bits_of_positions_are_ranked_too() -> None:
    where = torch.argsort(torch.rand(3, 70_000, generator=torch.Generator().manual_seed(0)), dim=1)
    kept = ranked_mask(0.5, 0.4, where).double()
    for part in range(7):
        inside = (where >= part * 10_000) & (where < (part + 1) * 10_000)
        assert abs(kept[inside].mean().item() - (0.1 + 0.8 * (part + 0.5) / 7)) < 0.02


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear"])
@pytest.mark.parametrize("density", [0.2, 0.6, 0.95])
def test_rescaling_keeps_the_expected_size(method: str, density: float) -> None:
    """Over many elements, the sum of magnitudes of what is kept and scaled up is that of the task vector."""
    delta = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(3)) ** 3  # few large, many small
    parents = {"base": torch.zeros_like(delta), "a": delta}
    child = merge_one(recipe(method, ("base", "a"), density=density, normalize=False), parents)
    assert child.abs().sum().item() == pytest.approx(delta.abs().sum().item(), rel=0.02)
    plain = merge_one(recipe(method, ("base", "a"), density=density, normalize=False, rescale=False), parents)
    kept = plain != 0
    gains = child[kept] / plain[kept]
    assert torch.equal(kept, child != 0), "rescaling changes no mask"
    np.testing.assert_allclose(gains.numpy(), gains[0].item(), rtol=1e-5)
