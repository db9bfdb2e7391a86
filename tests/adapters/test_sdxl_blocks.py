"""Blocks of UNets: every tensor in exactly one, named as block-weight users name them; their strings, in and out."""

import re
from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomm.adapters.sdxl_blocks import block_names, parse_weights, places, unfold, weight_strings
from evomm.checkpoints.original import original_name
from evomm.errors import UsageError
from evomm.genome.blocks import Grouping, group
from evomm.merge.recipe import Block, Recipe, Source
from tests.checkpoints.pipeline_kit import BLOCKS, QUIET, true_sdxl_infos

pytestmark = QUIET
ORDER = ("BASE", *BLOCKS)
UNET = [name for name in true_sdxl_infos() if name.startswith("unet.")]
SIZES = {name: info.numel for name, info in true_sdxl_infos().items()}


def from_original(name: str) -> str:
    """The block by the original layout's numbers, which is where the names come from."""
    original = original_name(name.removeprefix("unet."), frozenset({"2"}))
    if found := re.match(r"(input|output)_blocks\.(\d+)\.", original):
        return f"{'IN' if found[1] == 'input' else 'OUT'}{int(found[2]):02d}"
    return {"middle_block": "M00", "out": "OUT08", "time_embed": "BASE", "label_emb": "BASE"}[original.split(".")[0]]


def test_every_tensor_of_the_true_unet_is_in_exactly_one_block() -> None:
    assert len(UNET) == 1680
    found = places(UNET)
    assert {name: place.name for name, place in found.items()} == {name: from_original(name) for name in UNET}
    blocks = group(found, Grouping(by="layer"))
    assert [block.name for block in blocks] == list(ORDER)
    assert set(Counter(block.name for name in UNET for block in blocks if block.matches(name)).values()) <= {*range(1, 1681)}
    assert all(sum(block.matches(name) for block in blocks) == 1 for name in UNET)


def test_what_the_blocks_hold() -> None:
    """Six blocks hold most of the parameters, and the published attn group 700 tensors."""
    found = places(UNET)
    held: Counter[str] = Counter()
    for name, place in found.items():
        held[str(place.name)] += SIZES[name]
    assert sum(held.values()) == 2_567_463_684
    six = ("IN07", "IN08", "M00", "OUT00", "OUT01", "OUT02")
    assert 0.92 < sum(held[block] for block in six) / sum(held.values()) < 0.94
    assert sum(place.component == "attn" for place in found.values()) == 700
    few = group(found, Grouping(by="layer", least=0.02), SIZES)
    assert [block.name for block in few][-1] == "small"
    assert set(six) < {block.name for block in few}


def test_other_components_stand_for_themselves() -> None:
    found = places(list(true_sdxl_infos()))
    outside = {place.name for name, place in found.items() if not name.startswith("unet.")}
    assert outside == {"vae", "text_encoder", "text_encoder_2"}


def blocks(recipe: Recipe) -> Mapping[str, Mapping[str, float]]:
    """Block -> label -> weight."""
    return {block.name: block.parameters["weight"] for block in recipe.blocks}  # type: ignore[misc]


def recipe(**more: object) -> Recipe:
    """Base plus two task vectors."""
    sources = {label: Source(model=label) for label in ("base", "ja", "style")}
    return Recipe.model_validate({"method": "task_arithmetic", "base": "base", "parents": sources, **more})


@given(st.lists(st.floats(-2, 2).map(lambda x: float(f"{x:.6g}")), min_size=20, max_size=20))
def test_strings_in_and_out(weights: list[float]) -> None:
    text = ",".join(f"{weight:.6g}" for weight in weights)
    given_ = unfold(recipe(block_weights={"ja": text}, parameters={"weight": {"style": 0.5}}), UNET)
    assert [blocks(given_)[block] for block in ORDER] == [{"style": 0.5, "ja": weight} for weight in weights]
    assert weight_strings(given_, UNET) == {"ja": text, "style": ",".join(["0.5"] * 20)}


def test_attention_and_the_rest_have_strings_of_their_own_where_they_differ() -> None:
    made = recipe(
        blocks=[
            Block(name="attn", tensors=("*.to_[qkv].*", "*.to_out.0.*"), parameters={"weight": {"ja": 0.25, "style": 1.0}}),
            Block(name="conv", tensors=("*",), parameters={"weight": {"ja": 0.75, "style": 1.0}}),
        ]
    )
    found = weight_strings(made, UNET)
    assert set(found) == {"ja/conv", "ja/attn", "style"}
    assert found["ja/conv"] == ",".join(["0.75"] * 20)
    by_block = dict(zip(ORDER, found["ja/attn"].split(","), strict=True))
    assert by_block["IN04"] == by_block["M00"] == "0.25"
    assert by_block["IN01"] == "0.75", "a block without attention has the weight that it has"


def test_recipes_that_no_string_can_say() -> None:
    uneven = recipe(blocks=[Block(name="x", tensors=("*.0.*",), parameters={"weight": 0.5})])
    assert weight_strings(uneven, UNET) == {}
    assert weight_strings(Recipe(method="model_stock", base="a", parents={p: Source(model=p) for p in "abc"}), UNET) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [("1,2,3", r"expected 20 numbers \(BASE, IN00-..., OUT08\), got 3"), (",".join(["1"] * 19 + ["x"]), "expected numbers")],
)
def test_strings_that_cannot_be_meant(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_weights(text, ORDER)
    with pytest.raises(UsageError, match="not both"):
        unfold(recipe(block_weights={"ja": "1"}, blocks=[Block(name="x", tensors=("*",))]), UNET)


def test_the_order_of_the_string() -> None:
    assert block_names(reversed(ORDER)) == list(ORDER)
