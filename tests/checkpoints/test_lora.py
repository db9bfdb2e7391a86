"""LoRA adapters as sources: the tensors are those that peft merges, however they are cut; what does not fit is refused."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from evomm.checkpoints.lora import LoraReader, is_lora, read_adapter, recorded_base
from evomm.checkpoints.lora_config import CONFIG, WEIGHTS, LoraConfig
from evomm.checkpoints.reader import Checkpoint, MemoryReader
from evomm.errors import DamagedFile, EvommError, MisfitError, MissingFile, UnsafeFile, UsageError
from tests.checkpoints.peft_kit import QUIET, gpt2, llama, logits, saved, state, with_lora

Q = "model.layers.0.self_attn.q_proj"
pytestmark = QUIET


def assert_same(reader: LoraReader, merged: Mapping[str, Tensor]) -> None:
    """Every tensor of the base's files is what peft merges, and some differ from the base."""
    assert reader.changed
    for name, info in reader.infos.items():
        read = reader.read(name)
        assert (read.dtype, tuple(read.shape)) == (info.dtype, info.shape)
        torch.testing.assert_close(read, merged[name], rtol=0, atol=1e-6, msg=name)


VARIANTS: Mapping[str, tuple[Callable[[], Any], Mapping[str, Any]]] = {
    "plain": (llama, {"target_modules": ["q_proj", "down_proj"], "r": 4, "lora_alpha": 12}),
    "rank-stabilised": (llama, {"target_modules": "all-linear", "r": 4, "lora_alpha": 3, "use_rslora": True}),
    "patterns": (
        llama,
        {
            "target_modules": ["q_proj", "k_proj", "up_proj"],
            "r": 4,
            "rank_pattern": {"layers.0.self_attn.q_proj": 2, r"layers\.\d+\.mlp.up_proj": 6},
            "alpha_pattern": {"k_proj": 5, "model.layers.1.self_attn.q_proj": 7, "q_proj": 11},
        },
    ),
    "embeddings": (llama, {"target_modules": ["q_proj", "embed_tokens", "lm_head"], "r": 4}),
    "whole modules": (llama, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "model.norm"]}),
    "tied whole modules": (
        lambda: llama(tied=True),
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "biases": (lambda: llama(bias=True), {"target_modules": ["q_proj"], "bias": "all"}),
    "transposed": (gpt2, {"target_modules": ["c_attn", "c_proj", "wte"], "r": 4, "bias": "all"}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_tensors_are_those_that_peft_merges(tmp_path: Path, variant: str) -> None:
    make, options = VARIANTS[variant]
    base = Checkpoint(saved(make(), tmp_path / "base"))
    folder = saved(with_lora(make(), **options), tmp_path / "lora")
    reader = LoraReader(base, read_adapter(folder))
    merged = state(peft.PeftModel.from_pretrained(make(), folder).merge_and_unload())
    assert_same(reader, merged)
    differing = {name for name in base.infos if not torch.equal(base.read(name), merged[name])}
    assert set(reader.changed) >= differing
    assert differing


def test_tied_embeddings_change_together(tmp_path: Path) -> None:
    """Peft stores the head a second time and would merge the change twice; running, it adds it once."""
    adapted = with_lora(llama(tied=True), target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True)
    base = Checkpoint(saved(llama(tied=True), tmp_path / "base"))
    reader = LoraReader(base, read_adapter(saved(adapted, tmp_path / "lora")))
    assert "lm_head.weight" not in reader.infos
    child = llama(tied=True)
    child.load_state_dict({name: reader.read(name) for name in reader.infos}, strict=False)
    child.tie_weights()
    torch.testing.assert_close(logits(child), logits(adapted.eval()), rtol=0, atol=1e-5)


def test_a_pattern_is_a_name_or_its_tail_and_the_first_one_counts() -> None:
    config = LoraConfig(r=8, lora_alpha=16, rank_pattern={"q_proj": 2, r".*\.0\..*": 3}, alpha_pattern={"0.k_proj": 3})
    assert [config.rank(name) for name in ("q_proj", "a.0.q_proj", "a.0.xq_proj", "xq_proj")] == [2, 2, 3, 8]
    assert [config.scaling(name) for name in ("q_proj", "a.0.k_proj", "a.10.k_proj")] == [8, 1, 2]


class Convolutions(nn.Module):
    """A kernel of 3×3 and one of 1×1."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide = nn.Conv2d(3, 5, 3)
        self.narrow = nn.Conv2d(5, 4, 1)


def test_convolutions_are_adapted_as_peft_does(tmp_path: Path) -> None:
    adapted = with_lora(Convolutions(), target_modules=["wide", "narrow"], r=2, lora_alpha=3)
    reader = LoraReader(MemoryReader(Convolutions().state_dict()), read_adapter(saved(adapted, tmp_path)))
    assert set(reader.changed) == {"wide.weight", "narrow.weight"}
    assert_same(reader, state(adapted.merge_and_unload()))


def test_scale_multiplies_every_kind_of_change(tmp_path: Path) -> None:
    tensors = state(llama())
    adapted = with_lora(llama(), target_modules=["q_proj"], modules_to_save=["model.norm"])
    folder = saved(adapted, tmp_path)
    merged = state(adapted.merge_and_unload())
    none, half = (LoraReader(MemoryReader(tensors), read_adapter(folder), scale) for scale in (0.0, 0.5))
    for name, before in tensors.items():
        assert torch.equal(none.read(name), before)
        torch.testing.assert_close(half.read(name), (before + merged[name]) / 2, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_sums_are_float32_and_rounded_once(tmp_path: Path, dtype: torch.dtype) -> None:
    adapted = with_lora(llama(), target_modules=["q_proj"])
    folder = saved(adapted, tmp_path)
    tensors = {name: tensor.to(dtype) for name, tensor in state(llama()).items()}
    layer: Any = adapted.get_submodule(f"base_model.model.{Q}")
    delta = layer.get_delta_weight("default").detach()
    read = LoraReader(MemoryReader(tensors), read_adapter(folder)).read(f"{Q}.weight")
    assert read.dtype == dtype
    assert torch.equal(read, (tensors[f"{Q}.weight"].float() + delta).to(dtype))


@pytest.mark.parametrize(("leave_out", "put_before"), [("transformer.", ""), ("", ""), ("transformer.", "model.")])
def test_bases_are_named_with_or_without_a_leading_word(tmp_path: Path, leave_out: str, put_before: str) -> None:
    """GPT-2's hub checkpoint leaves ``transformer.`` out; an adapter of AutoModel leaves out what the base has."""
    adapted = with_lora(gpt2(), target_modules=["c_attn"], bias="all")
    folder = saved(adapted, tmp_path)
    if put_before:  # the adapter is the one without the word
        tensors = load_file(folder / WEIGHTS)
        save_file({name.replace(".transformer.", "."): tensor for name, tensor in tensors.items()}, folder / WEIGHTS)

    def named(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {put_before + name.removeprefix(leave_out): t for name, t in tensors.items() if name != "lm_head.weight"}

    reader = LoraReader(MemoryReader(named(state(gpt2()))), read_adapter(folder))
    assert_same(reader, named(state(adapted.merge_and_unload())))


def test_names_of_the_running_model_can_be_told(tmp_path: Path) -> None:
    """LLaVA's files say language_model.model, its running model says model.language_model."""
    tensors = {f"base_model.model.model.language_model.{name}": tensor for name, tensor in PAIR.items()}
    folder = adapter(tmp_path)
    save_file({**tensors, "base_model.model.lm_head.weight": torch.ones(3)}, folder / WEIGHTS)
    files = {"language_model.model.q.weight": torch.zeros(6, 4), "language_model.lm_head.weight": torch.zeros(3)}
    names = {"language_model.model.q.weight": "model.language_model.q.weight", "language_model.lm_head.weight": "lm_head.weight"}
    assert set(LoraReader(MemoryReader(files), read_adapter(folder, names)).changed) == set(files)
    with pytest.raises(MisfitError, match="which this base does not have"):
        LoraReader(MemoryReader(files), read_adapter(folder))


def test_a_name_that_fits_twice_is_refused(tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    weights = {"encoder.q.weight": torch.zeros(6, 4), "decoder.q.weight": torch.zeros(6, 4)}
    with pytest.raises(MisfitError, match=r"'q.weight' could be more than one tensor of this base"):
        LoraReader(MemoryReader(weights), read_adapter(folder))


@given(st.data())
def test_any_slice_is_that_of_the_whole_tensor(tmp_path: Path, data: st.DataObject) -> None:
    """To the last bit: blocks of rows are longer than these slices, and shorter than these tensors."""
    columns, rows = data.draw(st.sampled_from([(3, 70_000), (300, 500), (20_000, 19), (1, 40)]))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16]))
    turned = data.draw(st.booleans())
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(16, columns, generator=generator), torch.randn(rows, 16, generator=generator)
    folder = adapter(tmp_path, {"fan_in_fan_out": turned, "r": 16}, a=b.T if turned else a, b=a.T if turned else b)
    weight = torch.randn(rows, columns, generator=generator).to(dtype)
    reader = LoraReader(MemoryReader({"q.weight": weight}), read_adapter(folder))
    whole = reader.read("q.weight").reshape(-1)
    start = data.draw(st.integers(0, weight.numel()))
    stop = data.draw(st.integers(start, min(weight.numel(), start + 3 * columns)))
    piece = reader.flat("q.weight")[start:stop]
    assert piece.dtype == dtype
    assert torch.equal(piece, whole[start:stop])
    torch.testing.assert_close(whole.view(rows, columns).float(), weight.float() + b @ a / 2, rtol=1e-2, atol=1e-3)


def test_the_number_of_threads_changes_nothing(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(64, 1500, generator=generator), torch.randn(700, 64, generator=generator)
    folder = adapter(tmp_path, {"r": 64}, a=a, b=b)
    reader = LoraReader(MemoryReader({"q.weight": torch.zeros(700, 1500)}), read_adapter(folder))
    threads, seen = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            seen.append(reader.read("q.weight"))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_the_base_is_left_alone(tmp_path: Path) -> None:
    weight = torch.zeros(6, 4)
    reader = LoraReader(MemoryReader({"q.weight": weight, "other": weight}), read_adapter(adapter(tmp_path)))
    assert reader.read("q.weight").abs().min() > 0
    assert weight.abs().max() == 0
    assert reader.read("other") is weight


def test_a_folder_with_an_adapter_and_no_model_is_a_lora(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "lora")
    assert is_lora(folder)
    assert recorded_base(folder) is None
    assert not is_lora(saved(llama(), tmp_path / "model"))
    (tmp_path / "model" / CONFIG).write_text("{}")
    assert not is_lora(tmp_path / "model")
    assert not is_lora(tmp_path / "nowhere")


def test_the_base_that_an_adapter_names_is_told(tmp_path: Path) -> None:
    assert recorded_base(adapter(tmp_path / "a", {"base_model_name_or_path": "owner/base"})) == "owner/base"
    pinned = {"base_model_name_or_path": "owner/base", "revision": "v2"}
    assert recorded_base(adapter(tmp_path / "b", pinned)) == "owner/base@v2"


def adapter(
    folder: Path,
    config: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    a: Tensor | None = None,
    b: Tensor | None = None,
) -> Path:
    """An adapter of one matrix ``q`` (6, 4), rank 2 and scaling 1/2, unless told otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    rank = (config or {}).get("r", 2)
    (folder / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": rank / 2, **(config or {})}))
    one = {"q.lora_A.weight": torch.ones(2, 4) if a is None else a, "q.lora_B.weight": torch.ones(6, 2) if b is None else b}
    chosen = one if tensors is None else tensors
    save_file({f"base_model.model.{name}": tensor.contiguous() for name, tensor in chosen.items()}, folder / WEIGHTS)
    return folder


BASE = MemoryReader({"q.weight": torch.zeros(6, 4), "q.bias": torch.zeros(6), "norm.weight": torch.zeros(4)})
A, B = torch.ones(2, 4), torch.ones(6, 2)
PAIR = {"q.lora_A.weight": A, "q.lora_B.weight": B}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "LOHA"}, "expected peft_type 'LORA', found 'LOHA'"),
        ({"peft_type": None}, "expected peft_type 'LORA', found None"),
        ({"use_dora": True}, "use_dora is True, a variant"),
        ({"lora_bias": True}, "lora_bias is True, a variant"),
        ({"megatron_config": {"a": 1}}, "megatron_config is"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters is"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices is"),
        ({"use_qalora": True}, "use_qalora is"),
        ({"kasa_config": {"beta": 1}}, "kasa_config is"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is"),
        ({"invented_tomorrow": 3}, "invented_tomorrow is 3, a variant"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4', which changes the base's weights"),
    ],
)
def test_variants_that_cannot_be_applied_are_refused_by_their_key(tmp_path: Path, config: Mapping[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        read_adapter(adapter(tmp_path, config))
    assert "merge_and_unload" in str(caught.value)


def test_every_key_that_peft_writes_is_known(tmp_path: Path) -> None:
    adapted = peft.get_peft_model(
        llama(), peft.LoraConfig(target_modules=["q_proj"], lora_dropout=0.1, exclude_modules=["k_proj"])
    )
    LoraReader(MemoryReader(state(llama())), read_adapter(saved(adapted, tmp_path)))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"r": 0}, "r: Input should be greater than 0"),
        ({"r": "many"}, "r: Input should be a valid integer"),
        ({"lora_alpha": float("nan")}, "lora_alpha: Input should be a finite number"),
        ({"rank_pattern": {"(": 2}}, r"rank_pattern: '\(' is no regular expression"),
        ({"alpha_pattern": 3}, "alpha_pattern"),
    ],
)
def test_a_config_with_impossible_values_is_damaged(tmp_path: Path, config: Mapping[str, Any], said: str) -> None:
    folder = adapter(tmp_path)
    (folder / CONFIG).write_text(json.dumps({"peft_type": "LORA", **config}))
    with pytest.raises(DamagedFile, match=said):
        read_adapter(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "\udcff"])
def test_a_config_that_is_no_object_is_damaged(tmp_path: Path, text: str) -> None:
    folder = adapter(tmp_path)
    (folder / CONFIG).write_text(text, errors="surrogateescape")
    with pytest.raises(DamagedFile, match=CONFIG):
        read_adapter(folder)


@pytest.mark.parametrize(
    ("tensors", "kind", "said"),
    [
        ({}, DamagedFile, "holds no tensors"),
        ({"q.lora_A.weight": A}, DamagedFile, "'q' has lora_A; expected one A and one B"),
        ({"q.lora_A.weight": A, "q.lora_embedding_B": B}, DamagedFile, "lora_A and lora_embedding_B"),
        ({**PAIR, "q.lora_A.weight": torch.ones(3, 4)}, DamagedFile, r"A \[3, 4\] and B \[6, 2\]; expected \[2, in\]"),
        ({**PAIR, "q.lora_A.weight": torch.ones(8)}, DamagedFile, r"A \[8\]"),
        ({**PAIR, "q.lora_B.weight": torch.ones(0, 2)}, DamagedFile, r"B \[0, 2\]"),
        ({**PAIR, "q.lora_B.weight": B * float("nan")}, DamagedFile, "'base_model.model.q.lora_B.weight' holds NaN"),
        ({"norm.weight": torch.full((4,), float("inf"))}, DamagedFile, "holds NaN or infinity"),
        ({**PAIR, "q.lora_magnitude_vector": torch.ones(6)}, UsageError, "lora_magnitude_vector' belongs to a variant"),
        ({**PAIR, "q.lora_B.bias": torch.ones(6)}, UsageError, "lora_B.bias' belongs to a variant"),
        ({"e.token_adapter.trainable_tokens_delta": A}, UsageError, "belongs to a variant"),
        ({"k.lora_A.weight": A, "k.lora_B.weight": B}, MisfitError, "'k.weight', which this base does not have .1 of 1"),
        ({"k.weight": A}, MisfitError, "'k.weight', which this base does not have"),
        ({"norm.weight": torch.ones(4), "norm2.weight": torch.ones(4)}, MisfitError, "'norm2.weight', which this base"),
        ({**PAIR, "q.lora_A.weight": torch.ones(2, 5)}, MisfitError, r"'q.weight' has shape \[6, 5\], expected .* \[6, 4\]"),
        ({**PAIR, "q.lora_B.weight": torch.ones(7, 2)}, MisfitError, r"'q.weight' has shape \[7, 4\], expected .* \[6, 4\]"),
        ({"q.lora_A.weight": B.T, "q.lora_B.weight": A.T}, MisfitError, "fan_in_fan_out in adapter_config.json says"),
        ({"norm.weight": torch.ones(5)}, MisfitError, r"'norm.weight' has shape \[5\], expected the base's \[4\]"),
        ({"q.bias": torch.ones(4)}, MisfitError, r"'q.bias' has shape \[4\], expected the base's \[6\]"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    tmp_path: Path, tensors: Mapping[str, Tensor], kind: type[EvommError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        LoraReader(BASE, read_adapter(adapter(tmp_path, {"base_model_name_or_path": "owner/base"}, tensors)))


def test_the_right_base_is_named_when_it_is_another(tmp_path: Path) -> None:
    folder = adapter(tmp_path, {"base_model_name_or_path": "owner/base"})
    with pytest.raises(MisfitError, match=r"use the base that it was trained on \(owner/base\)"):
        LoraReader(MemoryReader({"k.weight": torch.zeros(6, 4)}), read_adapter(folder))


def test_a_quantized_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MisfitError, match=r"'q.weight' is quantized \(torch.int8\)"):
        LoraReader(MemoryReader({"q.weight": torch.zeros(6, 4, dtype=torch.int8)}), read_adapter(adapter(tmp_path)))


def test_pickled_adapters_are_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(UnsafeFile, match=r"only pickled weights .*save_pretrained writes safetensors"):
        read_adapter(folder)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="expected an adapter folder, found nothing"):
        read_adapter(tmp_path / "nowhere")
    folder = adapter(tmp_path / "lora")
    (folder / WEIGHTS).unlink()
    with pytest.raises(MissingFile, match=f"expected {WEIGHTS}, found no weights"):
        read_adapter(folder)
    (folder / CONFIG).unlink()
    with pytest.raises(MissingFile, match=f"expected {CONFIG}"):
        read_adapter(folder)


def test_a_truncated_adapter_is_damaged(tmp_path: Path) -> None:
    path = adapter(tmp_path) / WEIGHTS
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DamagedFile, match="not a whole safetensors file"):
        read_adapter(tmp_path)


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "lora")
    (folder / WEIGHTS).rename(tmp_path / "elsewhere.safetensors")
    (folder / WEIGHTS).symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(UnsafeFile, match="outside of the model folder"):
        read_adapter(folder)
