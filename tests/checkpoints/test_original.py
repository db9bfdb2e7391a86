"""The way back to the original layout is exactly the reverse of diffusers' own way there, for every tensor."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from evomm.checkpoints.binary import header
from evomm.checkpoints.converters import convert, model_type
from evomm.checkpoints.original import original_layout, original_name, stored
from evomm.checkpoints.reader import MemoryReader, TensorInfo
from evomm.checkpoints.single_file import SingleFile
from evomm.errors import MisfitError, UsageError
from tests.checkpoints.pipeline_kit import canonical, tensors_of, tiny_pipeline, true_sdxl_infos


def true_sd15_infos() -> dict[str, TensorInfo]:
    """Every tensor of Stable Diffusion 1.5, from its published config."""
    with torch.device("meta"):
        models = {
            "unet": UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8),
            "vae": AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
            ),
            "text_encoder": CLIPTextModel(
                CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
            ),
        }
    return {
        canonical(component, name): TensorInfo(torch.float16, tuple(tensor.shape))
        for component, model in models.items()
        for name, tensor in model.state_dict().items()
    }


def refuse_difference(infos: Mapping[str, TensorInfo], family: str) -> None:
    """There and back again: every tensor has one place, and is found there as it was put there."""
    there = stored(infos, family)
    shapes = {name: one.info.shape for name, one in there.items()}
    assert sorted(part for one in there.values() for part in one.parts) == sorted(infos)
    assert model_type(shapes) == family
    back = convert(shapes, "add_embedding")
    assert {name: part.shape for name, part in back.items()} == {name: info.shape for name, info in infos.items()}
    for name, one in there.items():
        at = 0
        for part in one.parts:
            assert (back[part].source, back[part].start, back[part].turned) == (name, at, one.turned)
            at += infos[part].numel
        assert at == one.info.numel or one.value is not None


def test_the_way_back_is_the_reverse_for_sdxl() -> None:
    refuse_difference(true_sdxl_infos(), "xl_base")


def test_the_way_back_is_the_reverse_for_the_tiny_pipeline() -> None:
    refuse_difference(MemoryReader(tensors_of(tiny_pipeline())).infos, "xl_base")


def test_the_way_back_is_the_reverse_for_inpainting() -> None:
    nine = {"unet.conv_in.weight": TensorInfo(torch.float16, (320, 9, 3, 3))}
    refuse_difference({**true_sdxl_infos(), **nine}, "xl_inpaint")
    refuse_difference({**true_sd15_infos(), **nine}, "inpainting")


def test_the_way_back_is_the_reverse_for_sd15() -> None:
    refuse_difference(true_sd15_infos(), "v1")


def test_the_layout_is_that_of_the_published_file() -> None:
    """Counts and shapes of sd_xl_base_1.0.safetensors, which has bigG's logit_scale beside them."""
    there = stored(true_sdxl_infos())
    count = {
        prefix: sum(name.startswith(prefix) for name in there) for prefix in ("model.", "first_stage_model.", "conditioner.")
    }
    assert count == {"model.": 1680, "first_stage_model.": 248, "conditioner.": 197 + 389}
    first, second = "conditioner.embedders.0.transformer.text_model", "conditioner.embedders.1.model"
    assert there[f"{first}.embeddings.position_ids"].info == TensorInfo(torch.int64, (1, 77))
    assert there[f"{second}.transformer.resblocks.31.attn.in_proj_weight"].info.shape == (3840, 1280)
    assert there["first_stage_model.encoder.mid.attn_1.q.weight"].info.shape == (512, 512, 1, 1)
    assert there["model.diffusion_model.output_blocks.8.0.skip_connection.weight"].info.shape == (320, 640, 1, 1)
    assert there[f"{second}.text_projection"].turned


def test_a_file_of_the_true_size_reads_as_diffusers_names_it(tmp_path: Path) -> None:
    """A header, and a hole where the weights would be."""
    there = {name: one.info for name, one in stored(true_sdxl_infos()).items()}
    head, _ = header(there, {})
    path = tmp_path / "sd_xl_base.safetensors"
    path.write_bytes(head)
    os.truncate(path, len(head) + sum(info.nbytes for info in there.values()))
    model = SingleFile(path)
    assert model.infos == true_sdxl_infos()
    assert (model.family, len(model.left_out)) == ("xl_base", 1)
    assert model.nbytes > 6_900_000_000


def test_blocks_are_numbered_as_the_field_does() -> None:
    pairs = {
        "conv_in.weight": "input_blocks.0.0.weight",
        "down_blocks.0.downsamplers.0.conv.bias": "input_blocks.3.0.op.bias",
        "down_blocks.2.attentions.1.transformer_blocks.9.norm1.weight": "input_blocks.8.1.transformer_blocks.9.norm1.weight",
        "mid_block.resnets.1.time_emb_proj.bias": "middle_block.2.emb_layers.1.bias",
        "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.2.conv.weight",
        "up_blocks.2.resnets.2.conv_shortcut.weight": "output_blocks.8.0.skip_connection.weight",
        "conv_out.bias": "out.2.bias",
        "add_embedding.linear_2.weight": "label_emb.0.2.weight",
    }
    assert {name: original_name(name) for name in pairs} == pairs


def test_what_has_no_place_is_refused_by_name() -> None:
    info = TensorInfo(torch.float16, (4, 4))
    with pytest.raises(MisfitError, match=r"of 'xl_base' has no 'safety_checker'"):
        stored({"safety_checker.concept_embeds": info})
    for name in (
        "unet.encoder_hid_proj.weight",
        "text_encoder_2.text_model.odd.weight",
        "vae.encoder.mid_block.attentions.0.x.bias",
    ):
        with pytest.raises(MisfitError, match=f"'{name}': the original layout has no place for it"):
            stored({name: info})
    query = "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.weight"
    with pytest.raises(MisfitError, match="holds a query, a key and a value"):
        stored({query: info})
    with pytest.raises(UsageError, match=r"'xl_refiner' cannot be written; known: xl_base, xl_inpaint, v1, inpainting"):
        original_layout("xl_refiner")
