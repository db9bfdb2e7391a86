"""LoRAs of image models: the tensors are those that diffusers fuses, in every naming; what does not fit is refused."""

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from evomm.checkpoints.lora import LoraReader
from evomm.checkpoints.lora_image import image_lora, image_lora_base, is_image_lora
from evomm.checkpoints.lora_names import split, tensor_names
from evomm.checkpoints.reader import MemoryReader
from evomm.errors import DamagedFile, EvommError, MisfitError, MissingFile, UnsafeFile, UsageError
from tests.checkpoints.lora_image_kit import MODULES, NAMINGS, RANK, by_hand, factors, fused, write
from tests.checkpoints.pipeline_kit import QUIET, tensors_of, tiny_pipeline, true_sdxl_infos

pytestmark = QUIET
Q = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "unet.down_blocks.0.resnets.1.conv1"


@cache
def base(dtype: torch.dtype = torch.float32) -> MemoryReader:
    return MemoryReader(tensors_of(tiny_pipeline(dtype=dtype)))


def assert_same(reader: LoraReader, expected: Mapping[str, Tensor]) -> None:
    """Every tensor is as expected, and those that the LoRA changes differ from the base."""
    assert set(reader.infos) == set(expected)
    for name in reader.infos:
        torch.testing.assert_close(reader.read(name), expected[name], rtol=0, atol=1e-6, msg=name)
    for name in reader.changed:
        assert (reader.read(name) - base().read(name)).abs().max() > 0.01


# Diffusers reads no alphas in the first two namings.
@pytest.mark.parametrize(
    ("naming", "alpha"), [("peft", None), ("older", None), ("kohya", None), ("kohya", 2.0), ("original", 2.0)]
)
def test_the_tensors_are_those_that_diffusers_fuses(tmp_path: Path, naming: str, alpha: float | None) -> None:
    made = factors()
    path = write(tmp_path / "lora.safetensors", made, naming, None if alpha is None else dict.fromkeys(made, alpha))
    reader = image_lora(base(), path, 0.7)
    assert set(reader.changed) == {f"{module}.weight" for module in MODULES}
    assert_same(reader, fused(path, 0.7))


@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_alphas_in_the_header_are_those_that_diffusers_uses(tmp_path: Path, rank_stabilised: bool) -> None:
    """Written by diffusers from the running modules, of which the first text encoder's have no ``text_model``."""
    small = MODULES[-1]
    made = {**factors(MODULES[:-1]), **factors((small,), rank=2)}
    layers: dict[str, Any] = {}
    for component in ("unet", "text_encoder", "text_encoder_2"):
        start = "text_encoder.text_model." if component == "text_encoder" else f"{component}."
        own = {module.removeprefix(start): pair for module, pair in made.items() if module.startswith(f"{component}.")}
        config: Any = LoraConfig(
            r=RANK,
            lora_alpha=6,
            use_rslora=rank_stabilised,
            target_modules=list(own),
            rank_pattern={small.removeprefix("text_encoder_2."): 2} if component == "text_encoder_2" else {},
            alpha_pattern={"to_q": 1} if component == "unet" else {},
        )
        layers[f"{component}_lora_layers"] = {f"{m}.lora_{ab}.weight": t for m, p in own.items() for ab, t in zip("AB", p)}  # noqa: B905
        layers[f"{component}_lora_adapter_metadata"] = config.to_dict()
    StableDiffusionXLPipeline.save_lora_weights(tmp_path, **layers)
    reader = image_lora(base(), tmp_path)
    root = math.sqrt if rank_stabilised else float
    assert_same(reader, by_hand(made, {m: (1 if m == Q else 6) / root(2 if m == small else RANK) for m in made}))
    assert_same(reader, fused(tmp_path / "pytorch_lora_weights.safetensors"))


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_module_has_its_own_alpha(tmp_path: Path, naming: str) -> None:
    """Not compared with diffusers, which gives attention layers the most frequent alpha."""
    made = factors()
    alphas = {module: 1.0 + i % 3 for i, module in enumerate(made) if i % 4}
    path = write(tmp_path / "lora.safetensors", made, naming, alphas)
    assert_same(image_lora(base(), path), by_hand(made, {module: alpha / RANK for module, alpha in alphas.items()}))


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_weight_of_the_true_pipeline_is_found(naming: str) -> None:
    infos = {name: info for name, info in true_sdxl_infos().items() if not name.startswith("vae.")}
    modules = [name.removesuffix(".weight") for name, info in infos.items() if _adaptable(name, len(info.shape))]
    assert len(modules) > 900
    keys = {(split(NAMINGS[naming](module)[0]) or ("", ""))[0]: module for module in modules}
    found = tensor_names(keys, infos.keys(), layers_per_block=2)
    assert {stem: name for stem, name in found.items() if name != f"{keys[stem]}.weight"} == {}
    assert len(found) == len(modules)


def _adaptable(name: str, dimensions: int) -> bool:
    return name.endswith(".weight") and dimensions > 1 and "token_embedding" not in name and "position_embedding" not in name


def test_names_may_lack_the_component_and_be_under_peft(tmp_path: Path) -> None:
    made = factors((Q, CONV))
    for start in ("", "base_model.model."):
        path = write(tmp_path / "lora.safetensors", {f"{start}{m.removeprefix('unet.')}": ab for m, ab in made.items()})
        assert is_image_lora(path)
        assert_same(image_lora(base(), path), by_hand(made, {}))


def test_a_peft_folder_of_the_unet_is_a_lora(tmp_path: Path) -> None:
    made = factors((Q,))
    write(tmp_path / "adapter_model.safetensors", {f"base_model.model.{Q.removeprefix('unet.')}": made[Q]})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "base_model_name_or_path": "owner/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert is_image_lora(tmp_path)
    assert image_lora_base(tmp_path) == "owner/base"
    assert_same(image_lora(base(), tmp_path), by_hand(made, {}))


def test_stable_diffusion_1_names_its_text_encoder_te(tmp_path: Path) -> None:
    module = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
    made = factors((module,))
    stem = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    for name in (stem, stem.replace("text_model_", "")):
        save_file(
            dict(zip((f"{name}.lora_down.weight", f"{name}.lora_up.weight"), made[module], strict=True)),
            tmp_path / "a.safetensors",
        )
        assert_same(image_lora(base(), tmp_path / "a.safetensors"), by_hand(made, {}))


def test_a_third_factor_stands_between_the_two(tmp_path: Path) -> None:
    """LoCon's: what three convolutions in a row do."""
    channels, kernel = 8, 3
    torch.manual_seed(0)
    convolutions = (
        nn.Conv2d(channels, 3, 1, bias=False),
        nn.Conv2d(3, 3, kernel, padding=1, bias=False),
        nn.Conv2d(3, channels, 1, bias=False),
    )
    stem = "lora_unet_down_blocks_0_resnets_1_conv1"
    names = (f"{stem}.lora_{role}.weight" for role in ("down", "mid", "up"))
    save_file({name: conv.weight.detach() for name, conv in zip(names, convolutions, strict=True)}, tmp_path / "a.safetensors")
    reader = image_lora(base(), tmp_path / "a.safetensors")
    delta = reader.read(f"{CONV}.weight") - base().read(f"{CONV}.weight")
    seen = torch.randn(1, channels, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(
            nn.functional.conv2d(seen, delta, padding=1), nn.Sequential(*convolutions)(seen), rtol=0, atol=1e-5
        )


def test_a_linear_layer_may_be_stored_as_a_convolution(tmp_path: Path) -> None:
    module = "unet.mid_block.attentions.0.proj_in"
    made = factors((module,))
    a, b = made[module]
    path = write(tmp_path / "a.safetensors", {module: (a[..., None, None], b[..., None, None])})
    assert_same(image_lora(base(), path), by_hand(made, {}))


def test_half_precision_is_computed_in_float32_and_rounded_once(tmp_path: Path) -> None:
    made = {module: (a.half().float(), b.half().float()) for module, (a, b) in factors((Q, CONV)).items()}
    path = write(tmp_path / "a.safetensors", made, dtype=torch.float16)
    reader = image_lora(base(torch.float16), path, 0.3)
    for module, (a, b) in made.items():
        before = base(torch.float16).read(f"{module}.weight")
        expected = (before.float() + (b.flatten(1) @ a.flatten(1)).view(before.shape) * 0.3).half()
        assert torch.equal(reader.read(f"{module}.weight"), expected)
        flat = reader.flat(f"{module}.weight")
        assert torch.equal(torch.cat([flat[start : start + 7] for start in range(0, before.numel(), 7)]), expected.reshape(-1))


@pytest.mark.parametrize(
    ("strings", "said"),
    [
        ({}, None),
        ({"ss_sd_model_name": "None", "ss_base_model_version": "sdxl_base_v1-0"}, "sdxl_base_v1-0"),
        ({"ss_sd_model_name": "anime.safetensors", "ss_base_model_version": "sdxl_base_v1-0"}, "anime.safetensors"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "stable-diffusion-xl-v1-base/lora"),
        ({"ss_base_model_version": "invented_tomorrow"}, "invented_tomorrow"),
    ],
)
def test_what_it_was_trained_on_is_told(tmp_path: Path, strings: Mapping[str, str], said: str | None) -> None:
    path = write(tmp_path / "a.safetensors", factors((Q,)), metadata=strings)
    assert image_lora_base(path) == said
    image_lora(base(), path)


@pytest.mark.parametrize(
    "strings",
    [
        {"ss_base_model_version": "sd_v1"},
        {"ss_base_model_version": "sd_v2_768_v"},
        {"ss_base_model_version": "sd_1.5"},
        {"modelspec.architecture": "stable-diffusion-v1/lora"},
        {"modelspec.architecture": "Flux.1-dev/lora"},
    ],
)
def test_another_kind_of_base_is_refused_by_name(tmp_path: Path, strings: Mapping[str, str]) -> None:
    path = write(tmp_path / "a.safetensors", factors((Q,)), metadata=strings)
    with pytest.raises(
        MisfitError, match=f"was trained on '{next(iter(strings.values()))}', and the base is Stable Diffusion XL"
    ):
        image_lora(base(), path)


def test_a_lora_of_xl_is_refused_by_a_base_that_is_not(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", factors((Q,)), metadata={"ss_base_model_version": "sdxl_base_v1-0"})
    with pytest.raises(MisfitError, match="and the base is not Stable Diffusion XL"):
        image_lora(MemoryReader({f"{Q}.weight": torch.zeros(16, 16)}), path)


@pytest.mark.parametrize("naming", ["peft", "kohya"])
def test_a_unet_alone_takes_no_lora_of_text_encoders(tmp_path: Path, naming: str) -> None:
    path = write(tmp_path / "a.safetensors", factors((Q, MODULES[-1])), naming)
    with pytest.raises(MisfitError, match="and the base has no text_encoder_2; put the LoRA on a whole pipeline"):
        image_lora(MemoryReader({name: tensor for name, tensor in tensors_of(tiny_pipeline()).items() if name[0] == "u"}), path)


FOREIGN: Mapping[str, tuple[Mapping[str, tuple[int, ...]], type[EvommError], str]] = {
    "Stable Diffusion 1, by its texts": (
        {"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora": (16, 768)},
        MisfitError,
        "UNet reads texts of 768 numbers per token, the base's of 40",
    ),
    "Stable Diffusion 1, by its blocks": (
        {
            "lora_unet_down_blocks_0_attentions_0_proj_in.lora": (16, 16),
            "lora_unet_mid_block_attentions_0_proj_in.lora": (32, 32),
        },
        MisfitError,
        "changes 'lora_unet_down_blocks_0_attentions_0_proj_in', which this base does not have .1 of 2 layers",
    ),
    "blocks of a larger UNet": (
        {"lora_unet_input_blocks_11_1_proj_in.lora": (16, 16)},
        MisfitError,
        "'lora_unet_input_blocks_11_1",
    ),
    "no such block": ({"lora_unet_input_blocks_1_7_proj_in.lora": (16, 16)}, MisfitError, "'lora_unet_input_blocks_1_7"),
    "no number": ({"lora_unet_input_blocks_a_7_proj_in.lora": (16, 16)}, MisfitError, "'lora_unet_input_blocks_a_7"),
    "Flux, by kohya": ({"lora_unet_double_blocks_0_img_attn_proj.lora": (16, 16)}, MisfitError, "'lora_unet_double_blocks_0"),
    "Flux, by diffusers": (
        {"transformer.single_transformer_blocks.0.attn.to_k.lora": (16, 16)},
        MisfitError,
        "'transformer.single",
    ),
    "a language model": (
        {"base_model.model.model.layers.0.q_proj.lora": (16, 16)},
        MisfitError,
        "'base_model.model.model.layers.0",
    ),
    "no text encoder like this": ({"lora_te3_encoder_block_0.lora": (16, 16)}, MisfitError, "'lora_te3_encoder_block_0'"),
    "another width": ({f"{Q}.lora": (16, 24)}, MisfitError, r"to_q.weight' has shape \[16, 24\], expected the base's \[16, 16\]"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_loras_of_other_models_are_refused(tmp_path: Path, case: str) -> None:
    shapes, kind, said = FOREIGN[case]
    tensors: dict[str, Tensor] = {}
    for name, (out, into) in shapes.items():
        tensors |= {f"{name}_down.weight": torch.ones(2, into), f"{name}_up.weight": torch.ones(out, 2)}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(kind, match=said):
        image_lora(base(), tmp_path / "a.safetensors")


A, B = torch.ones(2, 16), torch.ones(16, 2)
PAIR = {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B}
C = CONV.replace(".", "_").replace("unet_", "lora_unet_", 1)


@pytest.mark.parametrize(
    ("tensors", "kind", "said"),
    [
        ({**PAIR, f"{Q}.lora_magnitude_vector": A}, UsageError, "is of DoRA, which evomm cannot apply; merge it"),
        ({"lora_unet_a.dora_scale": A, **PAIR}, UsageError, "is of DoRA"),
        ({"lora_unet_a.hada_w1_a": A}, UsageError, "is of LoHa"),
        ({"lora_unet_a.lokr_w1": A}, UsageError, "is of LoKr"),
        ({"lora_unet_a.diff": A, "lora_unet_a.diff_b": A}, UsageError, "differences stored whole"),
        ({**PAIR, f"{Q}.lora_B.bias": A}, UsageError, "lora_B.bias' belongs to a variant of LoRA"),
        ({**PAIR, "bundle_emb.word.string_to_param.*": A}, UsageError, "'bundle_emb.word.string_to_param.*' belongs"),
        ({"model.diffusion_model.out.2.weight": A}, UsageError, "expected a LoRA, found 'model.diffusion_model.out.2.weight'"),
        ({}, DamagedFile, "holds no tensors"),
        ({f"{Q}.lora_A.weight": A}, DamagedFile, "to_q' has down; expected down .A. and up .B."),
        ({f"{Q}.alpha": torch.tensor(1.0)}, DamagedFile, "has alpha; expected down"),
        ({**PAIR, f"{Q}.lora_down.weight": A}, DamagedFile, "is there twice, under different names"),
        ({**PAIR, f"{Q}.alpha": torch.ones(3)}, DamagedFile, r"alpha of shape \[3\]; expected one number"),
        ({**PAIR, f"{Q}.lora_B.weight": B * float("nan")}, DamagedFile, "holds NaN"),
        ({**PAIR, f"{Q}.lora_A.weight": torch.ones(3, 16)}, DamagedFile, r"A \[3, 16\] and B \[16, 2\]"),
        ({**PAIR, f"{Q}.lora_A.weight": torch.tensor(1.0)}, DamagedFile, r"A \[\] and B"),
        (
            {f"{C}.lora_down.weight": A, f"{C}.lora_mid.weight": A, f"{C}.lora_up.weight": B},
            DamagedFile,
            r"down \[2, 16\] and mid \[2, 16\]; expected \[r, in, 1, 1\]",
        ),
    ],
)
def test_what_is_no_plain_lora_is_refused(
    tmp_path: Path, tensors: Mapping[str, Tensor], kind: type[EvommError], said: str
) -> None:
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "a.safetensors")
    with pytest.raises(kind, match=said):
        image_lora(base(), tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("noted", "kind", "said"),
    [
        ("{", DamagedFile, "lora_adapter_metadata in the header is no JSON object"),
        ("[]", DamagedFile, "is no JSON object"),
        ('{"unet.r": "many"}', DamagedFile, "r: Input should be a valid integer"),
        ('{"unet.r": 3}', DamagedFile, r"expected \[3, in\]"),
        ('{"unet.use_dora": true}', UsageError, "use_dora is True"),
    ],
)
def test_a_header_that_contradicts_is_refused(tmp_path: Path, noted: str, kind: type[EvommError], said: str) -> None:
    path = write(tmp_path / "a.safetensors", factors((Q,)), metadata={"lora_adapter_metadata": noted})
    with pytest.raises(kind, match=said):
        image_lora(base(), path)


def test_files_are_found_in_folders(tmp_path: Path) -> None:
    path = write(tmp_path / "style.safetensors", factors((Q,)))
    save_file({"decoder.conv_in.weight": A}, tmp_path / "vae.safetensors")
    assert is_image_lora(tmp_path)
    assert image_lora(base(), tmp_path).changed == (f"{Q}.weight",)
    write(tmp_path / "other.safetensors", factors((CONV,)))
    with pytest.raises(UsageError, match=r"holds 2 LoRAs \(other.safetensors, style.safetensors\); name the file of one"):
        image_lora(base(), tmp_path)
    path.rename(tmp_path / "pytorch_lora_weights.safetensors")
    assert image_lora(base(), tmp_path).changed == (f"{Q}.weight",)


def test_unsafe_missing_and_broken_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", factors((Q,)))
    with pytest.raises(MissingFile, match="cannot be opened"):
        image_lora(base(), tmp_path / "nowhere.safetensors")
    with pytest.raises(UsageError, match=r"expected a LoRA in a \.safetensors file"):
        image_lora(base(), tmp_path / "a.txt")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DamagedFile, match="not a whole safetensors file"):
        image_lora(base(), path)
    assert not is_image_lora(path)
    path.unlink()
    with pytest.raises(MissingFile, match=r"expected pytorch_lora_weights\.safetensors or a single LoRA"):
        image_lora(base(), tmp_path)
    (tmp_path / "pytorch_lora_weights.bin").write_bytes(b"")
    for pickled in (tmp_path, tmp_path / "pytorch_lora_weights.bin"):
        with pytest.raises(UnsafeFile, match=r"can run code.*save_lora_weights writes safetensors"):
            image_lora(base(), pickled)
        assert not is_image_lora(pickled)


def test_recognised_by_headers_only(tmp_path: Path) -> None:
    for naming in NAMINGS:
        assert is_image_lora(write(tmp_path / f"{naming}.safetensors", factors((Q,)), naming))
    model, words = tmp_path / "model.safetensors", tmp_path / "words.safetensors"
    save_file({"unet.conv_in.weight": A}, model)
    save_file({"base_model.model.model.layers.0.q_proj.lora_A.weight": A}, words)
    assert not is_image_lora(model)
    assert not is_image_lora(words)
