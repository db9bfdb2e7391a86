"""Image models: what fits, what is taken from whom, and that disk, live model and diffusers agree."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModelWithProjection

from evomm.adapters.base import Model
from evomm.adapters.generation import ImageGeneration
from evomm.adapters.sdxl import SDXLAdapter
from evomm.adapters.sdxl_model import noise_seed
from evomm.adapters.table import detect
from evomm.errors import DamagedFile, MisfitError, MissingFile, UnsafeFile, UsageError
from evomm.merge.engine import Engine
from evomm.merge.live import Live
from evomm.merge.recipe import Recipe, Source
from tests.checkpoints.pipeline_kit import (
    QUIET,
    make_pipeline,
    tensors_of,
    tiny_pipeline,
    write_refiner_header,
    write_sd15_header,
)

pytestmark = QUIET
PROMPTS = ["a red fox", "two cups of tea", "snow"]
QUICK = ImageGeneration(steps=2, guidance=1.0, batch=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Three tiny pipelines: base, and two that only differ in their weights."""
    home = tmp_path_factory.mktemp("sdxl")
    return {label: make_pipeline(home / label, seed) for seed, label in enumerate(("base", "a", "b"))}


@pytest.fixture
def folders(made: Mapping[str, Path], tmp_path: Path) -> Mapping[str, Path]:
    """Copies that a test may change."""
    return {label: Path(shutil.copytree(path, tmp_path / label)) for label, path in made.items()}


def opened(paths: Mapping[str, Path]) -> tuple[SDXLAdapter, dict[str, Model]]:
    """The adapter and its models."""
    adapter = SDXLAdapter()
    return adapter, {label: adapter.open(path) for label, path in paths.items()}


def recipe(**more: Any) -> Recipe:
    """base + 0.5 a + 0.25 b in the UNet, everything else of base."""
    whole = dict.fromkeys(("vae", "text_encoder", "text_encoder_2"), "base")
    fields = {
        "method": "task_arithmetic",
        "base": "base",
        "parents": {label: Source(model=label) for label in ("base", "a", "b")},
        "parameters": {"weight": {"a": 0.5, "b": 0.25}},
        "components": whole,
        "dtype": "float16",
    }
    return Recipe.model_validate({**fields, **more})


def pixels(pictures: Any) -> Any:
    """(E, H, W, 3) of pictures."""
    return np.stack([np.asarray(picture) for picture in pictures])


def drawn(adapter: SDXLAdapter, models: Mapping[str, Model], what: Recipe, options: ImageGeneration = QUICK) -> Any:
    """Pictures of the live model."""
    model = adapter.load(what, models, "cpu", torch.float32)
    Live(Engine(models), model.targets).write(what)
    return pixels(adapter.generate(model, PROMPTS, options))


def test_live_and_disk_are_the_same_model(made: Mapping[str, Path], tmp_path: Path) -> None:
    """The child on disk is what diffusers loads, and draws what the live model drew."""
    adapter, models = opened(made)
    assert isinstance(detect(made["a"]), SDXLAdapter)
    assert list(adapter.check(models, "base", whole=recipe().components)) == []
    live = drawn(adapter, models, recipe())
    adapter.save(recipe(), models, tmp_path / "child")
    again, child = opened({"child": tmp_path / "child"})
    alone = Recipe(method="linear", parents={"child": Source(model="child")})
    assert np.array_equal(pixels(again.generate(again.load(alone, child, "cpu", torch.float32), PROMPTS, QUICK)), live)
    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "child", dtype=torch.float16)
    parents = {label: tensors_of(StableDiffusionXLPipeline.from_pretrained(made[label])) for label in made}
    for name, tensor in tensors_of(pipeline).items():
        base, a, b = (parents[label][name].float() for label in ("base", "a", "b"))
        expected = base + 0.5 * (a - base) + 0.25 * (b - base) if name.startswith("unet.") else base
        assert torch.equal(tensor, expected.half()) or (tensor.float() - expected).abs().max() < 1e-3, name


def test_pictures_are_those_of_diffusers(made: Mapping[str, Path]) -> None:
    """Same noise, same steps: the same pictures as the plain pipeline draws."""
    adapter, models = opened(made)
    alone = Recipe(method="linear", parents={"a": Source(model="a")})
    ours = pixels(adapter.generate(adapter.load(alone, models, "cpu", torch.float32), PROMPTS[:1], QUICK))
    pipeline = StableDiffusionXLPipeline.from_pretrained(made["a"], dtype=torch.float32, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.Generator("cpu").manual_seed(noise_seed(0, 0))
    theirs = pipeline(PROMPTS[:1], num_inference_steps=2, guidance_scale=1.0, generator=[noise]).images
    assert np.abs(ours.astype(int) - pixels(theirs).astype(int)).max() <= 1


def test_noise_depends_on_seed_and_place_alone(made: Mapping[str, Path]) -> None:
    adapter, models = opened(made)
    model = adapter.load(Recipe(method="linear", parents={"a": Source(model="a")}), models, "cpu", torch.float32)

    def of(prompts: list[str], **more: Any) -> Any:
        return pixels(adapter.generate(model, prompts, QUICK.model_copy(update=more))).astype(int)

    together, again, apart = of(PROMPTS), of(PROMPTS), of(PROMPTS, batch=1)
    assert np.array_equal(together, again)
    assert np.abs(together - apart).max() <= 2  # sums in another order
    assert np.abs(of(PROMPTS, seed=1) - together).max() > 20
    assert np.abs(of([PROMPTS[0]] * 2)[0] - of([PROMPTS[0]] * 2)[1]).max() > 20
    assert of(PROMPTS[:1], width=32, height=48).shape == (1, 48, 32, 3)
    assert np.abs(of(PROMPTS, guidance=5.0, negative="snow") - together).max() > 2
    assert np.abs(of(PROMPTS, scheduler="DDIMScheduler", spacing="trailing") - together).max() > 2
    assert np.array_equal(of(PROMPTS), together), "options of one call must not stay"
    with pytest.raises(UsageError, match="unknown scheduler 'DDMScheduler'; did you mean"):
        of(PROMPTS, scheduler="DDMScheduler")


def test_a_mixture_that_overflows_is_told(made: Mapping[str, Path]) -> None:
    adapter, models = opened(made)
    what = recipe(parameters={"weight": {"a": 3e4, "b": -3e4}}, dtype="float32")
    with pytest.raises(ArithmeticError, match="pictures hold NaN"):
        drawn(adapter, models, what.model_copy(update={"parameters": {"weight": {"a": 1e30, "b": 1e30}}}))


def test_components_come_from_their_owners(made: Mapping[str, Path], tmp_path: Path) -> None:
    """Encoder and tokenizer of a, as the published model has its Japanese ones, everything else base's."""
    adapter, models = opened(made)
    what = recipe(components={"vae": "base", "text_encoder": "a", "text_encoder_2": "base"})
    adapter.save(what, models, tmp_path / "child")
    a, base = (tensors_of(StableDiffusionXLPipeline.from_pretrained(made[label])) for label in ("a", "base"))
    child = tensors_of(StableDiffusionXLPipeline.from_pretrained(tmp_path / "child"))
    for name, tensor in child.items():
        if not name.startswith("unet."):
            assert torch.equal(tensor, (a if name.startswith("text_encoder.") else base)[name]), name


def test_the_pooled_vector_is_the_second_encoders(folders: Mapping[str, Path]) -> None:
    """A first encoder with a projection, by the class that its files name, must not give the pooled vector."""
    adapter, models = opened(folders)
    alone = Recipe(method="linear", parents={"a": Source(model="a")})
    expected = drawn(adapter, models, alone)
    path = folders["a"]
    pipeline = StableDiffusionXLPipeline.from_pretrained(path)
    config = pipeline.text_encoder.config
    projecting = CLIPTextModelWithProjection(config)
    inner = projecting.text_model.load_state_dict(
        {name.removeprefix("text_model."): tensor for name, tensor in pipeline.text_encoder.state_dict().items()}, strict=False
    )
    assert not inner.missing_keys
    shutil.rmtree(path / "text_encoder")
    projecting.half().save_pretrained(path / "text_encoder")
    listed = json.loads((path / "model_index.json").read_text())
    listed["text_encoder"] = ["transformers", "CLIPTextModelWithProjection"]
    (path / "model_index.json").write_text(json.dumps(listed))
    adapter, models = opened(folders)
    model = adapter.load(alone, models, "cpu", torch.float32)
    _, _, pooled, _ = model.parts.encode_prompt(PROMPTS[0], do_classifier_free_guidance=False)
    assert pooled.shape[-1] == pipeline.text_encoder_2.config.projection_dim
    assert np.array_equal(drawn(adapter, models, alone), expected)


def test_a_unet_alone_is_a_parent(folders: Mapping[str, Path], tmp_path: Path) -> None:
    """As fine-tunes of a UNet are published: what it lacks is lent."""
    for component in ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"):
        shutil.rmtree(folders["a"] / component)
    (folders["a"] / "model_index.json").unlink()
    adapter, models = opened(folders)
    what = recipe(components={})
    assert adapter.lent(what, models) == dict.fromkeys(("vae", "text_encoder", "text_encoder_2"), "base")
    whole = adapter.whole(models, "base")
    assert whole == dict.fromkeys(("vae", "text_encoder", "text_encoder_2"), "base")
    adapter.check(models, "base", whole=whole)
    drawn(adapter, models, recipe(components=whole))
    with pytest.raises(MisfitError, match="not in 'a'"):
        adapter.check(models, "base")
    alone = Recipe(method="linear", parents={"a": Source(model="a")})
    with pytest.raises(MissingFile, match="no parent says how the pipeline is built"):
        adapter.load(alone, {"a": models["a"]}, "cpu", torch.float32)


def test_single_files_and_folders_are_parents_of_one_merge(made: Mapping[str, Path], tmp_path: Path) -> None:
    """A child of folders only, and the same with one parent as a single file: the same tensors, in either layout."""
    adapter, models = opened(made)
    single = tmp_path / "a.safetensors"
    adapter.save(Recipe(method="linear", parents={"a": Source(model="a")}), {"a": models["a"]}, single)
    _, mixed = opened({**made, "a": single})
    adapter.check(mixed, "base", whole=recipe().components)
    adapter.save(recipe(), models, tmp_path / "one")
    adapter.save(recipe(), mixed, tmp_path / "two")
    one, two = (adapter.open(tmp_path / name) for name in ("one", "two"))
    assert list(one.infos) == list(two.infos)
    assert all(torch.equal(one.read(name), two.read(name)) for name in one.infos)
    adapter.save(recipe(), mixed, tmp_path / "child.safetensors")
    three = adapter.open(tmp_path / "child.safetensors")
    assert all(torch.equal(one.read(name), three.read(name)) for name in one.infos)
    loaded = StableDiffusionXLPipeline.from_single_file(
        tmp_path / "child.safetensors", config=str(made["base"]), local_files_only=True, dtype=torch.float16
    )
    for name, tensor in tensors_of(loaded).items():
        assert torch.equal(tensor, one.read(name)), name
    assert detect(single).name == "sdxl"


def test_predictions_must_agree(made: Mapping[str, Path], tmp_path: Path) -> None:
    other = make_pipeline(tmp_path / "v", 5, prediction_type="v_prediction")
    adapter, models = opened({"base": made["base"], "v": other})
    with pytest.raises(MisfitError, match="'v' predicts v_prediction, 'base' epsilon"):
        adapter.check(models, "base")


def test_other_families_are_refused_by_name(made: Mapping[str, Path], tmp_path: Path) -> None:
    """Stable Diffusion 1.5, a refiner, and a pickle among SDXL's: one clear message each."""
    for write, said in [(write_sd15_header, "Stable Diffusion 1"), (write_refiner_header, "SDXL refiner")]:
        with pytest.raises(MisfitError, match=said) as error:
            adapter, models = opened({"base": made["base"], "other": write(tmp_path / "other.safetensors")})
            adapter.check(models, "base")
        assert "\n" not in str(error.value)
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x04.")
    with pytest.raises(UnsafeFile, match=r"model\.ckpt"):
        opened({"pickle": tmp_path / "model.ckpt"})
    assert detect(tmp_path / "model.ckpt").name == "sdxl"


def test_configs_that_contradict_the_weights(folders: Mapping[str, Path]) -> None:
    adapter, models = opened(folders)
    path = folders["base"] / "unet" / "config.json"
    path.write_text(path.read_text().replace('"cross_attention_dim": 40', '"cross_attention_dim": 48'))
    with pytest.raises(DamagedFile, match=r"unet/config\.json asks for '.*attn2.*' of shape"):
        adapter.load(recipe(), models, "cpu", torch.float32)
    weights = folders["base"] / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor for name, tensor in tensors.items() if "conv_in" not in name}, weights)
    adapter, models = opened({**folders, "a": folders["b"]})
    path.write_text(path.read_text().replace('"cross_attention_dim": 48', '"cross_attention_dim": 40'))
    with pytest.raises(DamagedFile, match=r"vae/config\.json asks for 4 tensor"):
        adapter.load(recipe(), models, "cpu", torch.float32)


def test_the_contract_of_few_steps_travels(made: Mapping[str, Path], tmp_path: Path) -> None:
    """How the child is meant to be asked is in its scheduler's config."""
    adapter, models = opened(made)
    few = recipe(generation={"steps": 4, "guidance": 0.0, "scheduler": "DDIMScheduler", "spacing": "trailing"})
    adapter.save(few, models, tmp_path / "child")
    scheduler = StableDiffusionXLPipeline.from_pretrained(tmp_path / "child").scheduler
    assert type(scheduler).__name__ == "DDIMScheduler"
    assert scheduler.config.timestep_spacing == "trailing"


def test_a_vae_that_overflows_in_half_precision_stays_in_float32(made: Mapping[str, Path]) -> None:
    """As diffusers does for SDXL's; the files say so."""
    adapter, models = opened(made)
    pipeline = adapter.load(Recipe(method="linear", parents={"a": Source(model="a")}), models, "cpu", torch.float16).parts
    assert (pipeline.unet.dtype, pipeline.vae.dtype) == (torch.float16, torch.float32)
    assert adapter.load(recipe(), models, "cpu", torch.bfloat16).parts.vae.dtype == torch.bfloat16


def test_stable_diffusion_1_is_carried_by_the_same_code(tmp_path: Path) -> None:
    """One text encoder, no sizes: mixed, drawn with, and the same on disk."""
    paths = {}
    for seed, label in enumerate(("base", "a", "b")):
        torch.manual_seed(seed)
        parts = tiny_pipeline(seed, dtype=torch.float32)
        widths = {"block_out_channels": (8, 16), "layers_per_block": 2, "norm_num_groups": 4, "cross_attention_dim": 16}
        kinds = {
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        }
        pipeline = StableDiffusionPipeline(
            vae=parts.vae,
            text_encoder=parts.text_encoder,
            tokenizer=parts.tokenizer,
            unet=UNet2DConditionModel(**widths, **kinds, attention_head_dim=2, sample_size=8),
            scheduler=parts.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        paths[label] = tmp_path / label
        pipeline.save_pretrained(paths[label])
    adapter, models = opened(paths)
    what = recipe(components=adapter.whole(models, "base"), dtype="float32")
    assert set(what.components) == {"vae", "text_encoder"}
    adapter.check(models, "base", whole=what.components)
    live = drawn(adapter, models, what)
    adapter.save(what, models, tmp_path / "child")
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "child")
    assert again.safety_checker is None
    child, alone = opened({"child": tmp_path / "child"})[1], Recipe(method="linear", parents={"child": Source(model="child")})
    assert np.array_equal(drawn(adapter, child, alone), live)
