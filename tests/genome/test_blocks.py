"""Blocks: every tensor is in exactly one, and patterns match their members and nothing else."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomm.errors import UsageError
from evomm.genome.blocks import Grouping, Place, globs, group
from evomm.merge.recipe import Block
from evomm.plain import parse

LLAMA: Mapping[str, Place] = {
    "model.embed_tokens.weight": Place(None, "embeddings"),
    **{
        f"model.layers.{i}.{name}.weight": Place(i, component)
        for i in range(12)
        for name, component in [
            ("self_attn.q_proj", "attention"),
            ("self_attn.o_proj", "attention"),
            ("mlp.up_proj", "mlp"),
            ("mlp.down_proj", "mlp"),
            ("input_layernorm", "rest"),
        ]
    },
    "model.norm.weight": Place(None, "rest"),
    "lm_head.weight": Place(None, "head"),
}
GPT2: Mapping[str, Place] = {
    "wte.weight": Place(None, "embeddings"),
    "wpe.weight": Place(None, "embeddings"),
    **{
        f"h.{i}.{name}": Place(i, component)
        for i in range(11)
        for name, component in [("attn.c_attn.weight", "attention"), ("mlp.c_fc.bias", "mlp"), ("ln_1.weight", "rest")]
    },
    "ln_f.weight": Place(None, "rest"),
}
MODELS = pytest.mark.parametrize("places", [LLAMA, GPT2], ids=["llama", "gpt2"])
NAMES = st.lists(st.sampled_from(["a", "b", "ab", "0", "1", "10", "w"]), min_size=1, max_size=4).map(".".join)


def matched(blocks: tuple[Block, ...], places: Mapping[str, Place]) -> dict[str, list[str]]:
    """Block -> the tensors it matches."""
    return {block.name: [name for name in places if block.matches(name)] for block in blocks}


@given(st.lists(NAMES, min_size=1, max_size=20, unique=True), st.data())
def test_patterns_match_their_members_and_nothing_else(everything: list[str], data: st.DataObject) -> None:
    members = data.draw(st.lists(st.sampled_from(everything), min_size=1, unique=True))
    block = Block(name="x", tensors=globs(members, everything))
    assert [name for name in everything if block.matches(name)] == [name for name in everything if name in members]


def test_names_that_read_like_patterns_match_themselves() -> None:
    everything = ["a[0]", "a0", "b*", "bc", "d?", "de"]
    block = Block(name="x", tensors=globs(["a[0]", "b*", "d?"], everything))
    assert [name for name in everything if block.matches(name)] == ["a[0]", "b*", "d?"]


def test_patterns_are_short() -> None:
    assert globs(LLAMA, LLAMA) == ("*",)
    assert globs([name for name in LLAMA if ".layers.1." in name], LLAMA) == ("model.layers.1.*",)
    assert globs(["lm_head.weight"], LLAMA) == ("lm_head.*",)


@MODELS
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(
    "how",
    [{"by": "all"}, {"by": "component"}]
    + [{"by": by, "size": size} for by in ("layer", "layer+component") for size in (1, 4, 5)],
    ids=str,
)
def test_every_tensor_is_in_exactly_one_block(places: Mapping[str, Place], how: dict[str, object], apart: bool) -> None:
    grouping = parse(Grouping, {**how, "apart": apart}, "grouping")
    found = matched(group(places, grouping), places)
    assert sorted(name for names in found.values() for name in names) == sorted(places)
    assert all(found.values()), "a block of nothing would be searched in vain"
    outside = {place.component for place in places.values()} & {"embeddings", "head"}
    assert set(found) & {"embeddings", "head"} == (outside if apart else set())


@MODELS
def test_layers_are_numbered_in_their_order(places: Mapping[str, Place]) -> None:
    """10 comes after 9, and what is outside of the layers is the rest."""
    names = [block.name for block in group(places, Grouping(by="layer"))]
    layers = [int(name.removeprefix("layers.")) for name in names if name != "rest"]
    assert layers == sorted(layers)
    assert names.count("rest") == 1
    found = matched(group(places, Grouping(by="layer")), places)
    assert all(places[name].layer == 1 for name in found["layers.1"])


@MODELS
def test_layers_are_taken_several_at_a_time(places: Mapping[str, Place]) -> None:
    found = matched(group(places, Grouping(by="layer", size=4, apart=True)), places)
    assert {places[name].layer for name in found["layers.4-7"]} == {4, 5, 6, 7}


@MODELS
def test_components_are_told_apart(places: Mapping[str, Place]) -> None:
    found = matched(group(places, Grouping(by="component", apart=True)), places)
    assert all({places[name].component for name in names} == {block} for block, names in found.items())
    found = matched(group(places, Grouping(by="layer+component")), places)
    assert {(places[n].layer, places[n].component) for n in found["layers.10.attention"]} == {(10, "attention")}


def test_patterns_of_ones_own_the_first_that_matches_counts() -> None:
    patterns = {"early": ("model.layers.[0-3].*",), "late": ("model.layers.*",), "others": ("*",)}
    blocks = group(LLAMA, Grouping(patterns=patterns))
    first = {name: next(block.name for block in blocks if block.matches(name)) for name in LLAMA}
    assert first["model.layers.3.mlp.up_proj.weight"] == "early"
    assert first["model.layers.10.mlp.up_proj.weight"] == "late"
    assert first["lm_head.weight"] == "others"


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        ({"layers": ("model.layers.*",)}, r"3 tensor\(s\) are in no block, the first is 'model\.embed_tokens\.weight'"),
        ({"none": ("decoder.*",), "all": ("*",)}, r"block 'none' matches no tensor \(decoder\.\*\)"),
        ({"all": ("*",), "late": ("model.layers.*",)}, "block 'late' matches no tensor"),
    ],
)
def test_patterns_that_miss_are_refused(patterns: dict[str, tuple[str, ...]], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        group(LLAMA, Grouping(patterns=patterns))


@pytest.mark.parametrize(
    ("grouping", "said"),
    [
        ({"by": "all", "size": 2}, "size groups layers"),
        ({"size": 2}, "size groups layers"),
        ({"by": "layer", "size": 0}, "greater than or equal to 1"),
        ({"by": "block"}, "'all', 'layer', 'component'"),
        ({"by": "layer", "patterns": {"x": ["*"]}}, "not both"),
        ({"by": "layer", "sise": 2}, "unknown key 'sise'; did you mean 'size'"),
    ],
)
def test_groupings_that_mean_nothing_are_refused(grouping: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse(Grouping, grouping, "grouping")


UNET: Mapping[str, Place] = {
    "unet.time.weight": Place(0, "conv", "BASE"),
    "unet.down.0.weight": Place(1, "conv", "IN00"),
    "unet.down.1.to_q.weight": Place(2, "attn", "IN01"),
    "unet.down.1.conv.weight": Place(2, "conv", "IN01"),
    "unet.mid.weight": Place(3, "conv", "M00"),
    "vae.decoder.weight": Place(None, "vae", "vae"),
}


def test_blocks_are_called_what_the_field_calls_them() -> None:
    def names(**how: object) -> list[str]:
        return [block.name for block in group(UNET, parse(Grouping, how, "grouping"))]

    assert names(by="layer") == ["BASE", "IN00", "IN01", "M00", "vae"]
    assert names(by="layer", size=3) == ["BASE-IN01", "M00", "vae"]
    assert names(by="component") == ["conv", "attn", "vae"]
    assert names(by="layer+component") == ["BASE.conv", "IN00.conv", "IN01.attn", "IN01.conv", "M00.conv", "vae"]


def test_small_blocks_share_one() -> None:
    sizes = dict(zip(UNET, (1, 2, 30, 40, 26, 1), strict=True))
    found = matched(group(UNET, Grouping(by="layer", least=0.05), sizes), UNET)
    assert list(found) == ["IN01", "M00", "small"]
    assert found["small"] == ["unet.time.weight", "unet.down.0.weight", "vae.decoder.weight"]
    whole = matched(group(UNET, Grouping(by="layer", least=0.015), {**sizes, "vae.decoder.weight": 9}), UNET)
    assert list(whole) == ["BASE", "IN00", "IN01", "M00", "vae"], "a single small block keeps its name"
    with pytest.raises(UsageError, match="headers"):
        group(UNET, Grouping(by="layer", least=0.05))
