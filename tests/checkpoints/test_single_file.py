"""Reading single files: diffusers' names and the same bits; what is no such file is refused by name."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from evomm.checkpoints.digest import checkpoint_digest, file_digest
from evomm.checkpoints.original import stored
from evomm.checkpoints.reader import MemoryReader
from evomm.checkpoints.single_file import SingleFile
from evomm.errors import DamagedFile, MisfitError, MissingFile, UnsafeFile, UsageError
from tests.checkpoints.pipeline_kit import QUIET, tensors_of, tiny_pipeline, write_refiner_header, write_sd15_header

pytestmark = QUIET
UNET = "model.diffusion_model."


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in tensors_of(tiny_pipeline()).items()}


@pytest.fixture(scope="module")
def originals(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tiny pipeline in the original layout, put together in memory."""
    made = {}
    for name, one in stored(MemoryReader(tensors).infos).items():
        if one.value is not None:
            made[name] = one.value
        else:
            whole = torch.cat([tensors[part].reshape(-1, *tensors[part].shape[1:]) for part in one.parts])
            made[name] = (whole.T if one.turned else whole).reshape(one.info.shape).contiguous()
    return made


def equal(model: SingleFile, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file reads as the tensors, names, shapes, dtypes and bits, whole and in pieces."""
    infos = {name: (info.dtype, info.shape) for name, info in model.infos.items()}
    assert infos == {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    whole = all(torch.equal(model.read(name), tensor) for name, tensor in tensors.items())
    return whole and all(torch.equal(model.flat(name)[3:9], tensor.reshape(-1)[3:9]) for name, tensor in tensors.items())


def part(tensors: Mapping[str, Tensor], prefix: str, new: str = "") -> dict[str, Tensor]:
    """Tensors below a prefix, under another."""
    return {new + name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def save(path: Path, tensors: Mapping[str, Tensor], **metadata: str) -> SingleFile:
    save_file(dict(tensors), path, metadata={"format": "pt", **metadata})
    return SingleFile(path)


def test_a_file_reads_as_the_pipeline_that_it_holds(
    tmp_path: Path, tensors: Mapping[str, Tensor], originals: Mapping[str, Tensor]
) -> None:
    model = save(tmp_path / "x.safetensors", originals, author="nobody")
    assert equal(model, tensors)
    assert (model.family, model.prediction_type, model.zero_terminal_snr) == ("xl_base", None, False)
    assert model.left_out == ("conditioner.embedders.0.transformer.text_model.embeddings.position_ids",)
    assert (model.files, model.folder, model.config, model.configs) == ((model.path,), tmp_path, {}, ())
    assert model.metadata["author"] == "nobody"
    assert checkpoint_digest(model) == file_digest(model.path)


def test_tensors_that_are_no_weights_of_the_model_are_left_out(
    tmp_path: Path, tensors: Mapping[str, Tensor], originals: Mapping[str, Tensor]
) -> None:
    """Of tools, trainers and samplers."""
    extra = {
        **{f"model_ema.{number}": torch.zeros(1) for number in range(120)},
        "model_ema.decay": torch.zeros(()),
        "conditioner.embedders.1.model.logit_scale": torch.zeros(()),
        "conditioner.embedders.0.transformer.text_projection.weight": torch.eye(16),
        "denoiser.sigmas": torch.zeros(1000),
        "alphas_cumprod": torch.zeros(1000),
    }
    model = save(tmp_path / "x.safetensors", {**originals, **extra})
    assert equal(model, tensors)
    assert set(model.left_out) - set(extra) == {"conditioner.embedders.0.transformer.text_model.embeddings.position_ids"}


def test_dtypes_may_be_mixed(tmp_path: Path, tensors: Mapping[str, Tensor], originals: Mapping[str, Tensor]) -> None:
    kinds = [torch.float16, torch.float32, torch.bfloat16]
    mixed = {name: t.to(kinds[i % 3]) if t.is_floating_point() else t for i, (name, t) in enumerate(originals.items())}
    model = save(tmp_path / "x.safetensors", mixed)
    assert all(torch.equal(model.read(name), tensor.to(model.infos[name].dtype)) for name, tensor in tensors.items())


@pytest.mark.parametrize("prefix", [UNET, "", None], ids=["original", "bare", "diffusers"])
def test_a_unet_alone_is_read(
    tmp_path: Path, tensors: Mapping[str, Tensor], originals: Mapping[str, Tensor], prefix: str | None
) -> None:
    found = part(tensors, "unet.") if prefix is None else part(originals, UNET, prefix)
    model = save(tmp_path / "x.safetensors", found)
    assert equal(model, part(tensors, "unet.", "unet."))
    assert (model.family, model.left_out) == ("xl_base", ())


def test_inpainting_is_told_by_its_channels(tmp_path: Path, originals: Mapping[str, Tensor]) -> None:
    nine = {**originals, f"{UNET}input_blocks.0.0.weight": torch.zeros(8, 9, 3, 3)}
    assert save(tmp_path / "whole.safetensors", nine).family == "xl_inpaint"
    assert save(tmp_path / "unet.safetensors", part(nine, UNET, UNET)).family == "xl_inpaint"


def test_relatives_are_told_apart(tmp_path: Path) -> None:
    assert SingleFile(write_sd15_header(tmp_path / "v1.safetensors")).family == "v1"
    assert SingleFile(write_refiner_header(tmp_path / "refiner.safetensors")).family == "xl_refiner"


@pytest.mark.parametrize(
    ("markers", "metadata", "said"),
    [
        (["v_pred", "ztsnr"], {}, "v_prediction"),
        (["v_pred"], {"modelspec.prediction_type": "epsilon"}, "v_prediction"),
        ([], {"modelspec.prediction_type": "v"}, "v_prediction"),
        ([], {"modelspec.prediction_type": "epsilon"}, "epsilon"),
        ([], {}, None),
    ],
)
def test_what_the_unet_predicts_is_told_by_markers_and_metadata(
    tmp_path: Path, originals: Mapping[str, Tensor], markers: list[str], metadata: dict[str, str], said: str | None
) -> None:
    unet = part(originals, UNET, UNET)
    model = save(tmp_path / "x.safetensors", {**unet, **{name: torch.empty(0) for name in markers}}, **metadata)
    assert (model.prediction_type, model.zero_terminal_snr, model.left_out) == (said, "ztsnr" in markers, tuple(markers))


def test_what_is_no_such_file_is_refused(tmp_path: Path, tensors: Mapping[str, Tensor], originals: Mapping[str, Tensor]) -> None:
    def refused(error: type[Exception], said: str, name: str, found: Mapping[str, Tensor] | None = None) -> None:
        with pytest.raises(error, match=said):
            save(tmp_path / name, found) if found is not None else SingleFile(tmp_path / name)

    refused(MissingFile, "found nothing", "nowhere.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    refused(MissingFile, "found a folder", "folder.safetensors")
    for name in ("x.ckpt", "x.pt"):
        (tmp_path / name).write_bytes(b"")
        refused(UnsafeFile, r"a pickle can run code.*expected a \.safetensors file", name)
    lora = {"lora_unet_down_blocks_1.lora_down.weight": torch.zeros(1), "lora_unet_down_blocks_1.lora_up.weight": torch.zeros(1)}
    refused(UsageError, r"lora\.safetensors: a LoRA and no model of its own", "lora.safetensors", lora)
    flux = {f"{UNET}double_blocks.0.img_attn.norm.key_norm.scale": torch.zeros(1)}
    refused(MisfitError, r"no Stable Diffusion UNet in it .its first tensor is 'model", "flux.safetensors", flux)
    refused(MisfitError, "no Stable Diffusion UNet", "vae.safetensors", part(tensors, "vae."))
    refused(MisfitError, "its first tensor is 'none'", "empty.safetensors", {})
    lost = {name: tensor for name, tensor in originals.items() if name != f"{UNET}label_emb.0.2.bias"}
    refused(DamagedFile, r"lost\.safetensors: lacks tensors.*'label_emb\.0\.2\.bias'", "lost.safetensors", lost)
    flat = {**part(originals, UNET, UNET), f"{UNET}input_blocks.0.0.weight": torch.zeros(3)}
    refused(DamagedFile, r"input_blocks\.0\.0\.weight' has shape \[3\]", "flat.safetensors", flat)
    refused(DamagedFile, r"'conv_in\.weight' has shape \[\]", "bare.safetensors",
            {**part(tensors, "unet."), "conv_in.weight": torch.zeros(())})  # fmt: skip
    good = tmp_path / "good.safetensors"
    save(good, originals)
    (tmp_path / "short.safetensors").write_bytes(good.read_bytes()[:-1])
    refused(DamagedFile, r"short\.safetensors: not a whole safetensors file", "short.safetensors")


def test_a_part_of_a_fused_tensor_is_a_view_of_the_file(tmp_path: Path, originals: Mapping[str, Tensor]) -> None:
    model = save(tmp_path / "x.safetensors", originals)
    query, value = (model.read(f"text_encoder_2.text_model.encoder.layers.3.self_attn.{letter}_proj.weight") for letter in "qv")
    assert value.data_ptr() - query.data_ptr() == 2 * query.nbytes
