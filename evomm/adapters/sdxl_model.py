"""Image models brought to life with diffusers.

Kept apart from `sdxl`, because importing diffusers takes seconds that a merge need not pay.
"""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from evomm.adapters import resident
from evomm.adapters.base import LoadedModel, Model
from evomm.adapters.generation import ImageGeneration
from evomm.adapters.sdxl_files import config_folder, index, owner, scheduler_config
from evomm.errors import DamagedFile, MisfitError, UsageError, nearest
from evomm.merge.recipe import Recipe
from evomm.plain import cut

PIPELINES = {"StableDiffusionXLPipeline": StableDiffusionXLPipeline, "StableDiffusionPipeline": StableDiffusionPipeline}
_FLATTENED = "text_model."  # of a CLIP text model's names, which recent transformers leave out


def load(recipe: Recipe, models: Mapping[str, Model], device: str, dtype: torch.dtype) -> LoadedModel:
    """The pipeline in evaluation mode, each component built by its owner's files and holding its owner's weights.

    The first text encoder is always loaded without a projection, whatever its files say: the pipeline takes the pooled
    vector from the first encoder that gives one, which must be the second. A VAE that overflows in float16 (`force_upcast`)
    is kept in float32.

    Raises MissingFile, DamagedFile or MisfitError when files are not there, or contradict the weights.
    """
    content = index(recipe, models)
    kind = str(content.get("_class_name"))
    if kind not in PIPELINES:
        raise MisfitError(f"a pipeline of class '{kind}' can be merged, but not drawn with; known: {', '.join(PIPELINES)}")
    parts: dict[str, Any] = {}
    targets: dict[str, Tensor] = {}
    for name in ("unet", "vae", "text_encoder", *(["text_encoder_2"] if "text_encoder_2" in content else [])):
        module = _empty(name, config_folder(name, recipe, models))
        kept = torch.float32 if name == "vae" and module.config.force_upcast and dtype == torch.float16 else dtype
        label = recipe.components.get(name, recipe.carrier)
        label = label if any(n.startswith(f"{name}.") for n in models[label].infos) else str(owner(name, recipe, models))
        targets |= _fill(module, name, models[label], device, kept)
        parts[name] = module.eval().requires_grad_(False)
    for name in ("tokenizer", *(["tokenizer_2"] if "tokenizer_2" in content else [])):
        folder = config_folder(name, recipe, models)  # Japanese models bring tokenizers of other classes than CLIP's
        parts[name] = resident.tokens(AutoTokenizer, folder)
    settings = scheduler_config(recipe, models)
    parts["scheduler"] = _scheduler_class(str(settings.get("_class_name"))).from_config(settings)
    pipeline = PIPELINES[kind](**parts, **_switches(PIPELINES[kind], content))
    pipeline.set_progress_bar_config(disable=True)
    return LoadedModel(targets, pipeline)


@torch.inference_mode()
def generate(model: LoadedModel, prompts: Sequence[str], options: ImageGeneration) -> list[Image.Image]:
    """One picture per prompt; the noise of the i-th is a function of (seed, i), drawn on the CPU.

    Raises ArithmeticError when a picture holds NaN, as happens when a merge overflows.
    """
    pipeline = model.parts
    own = pipeline.scheduler
    pipeline.scheduler = _scheduler(own, options)
    try:
        drawn: list[Image.Image] = []
        for start in range(0, len(prompts), options.batch):
            batch = list(prompts[start : start + options.batch])
            noise = [torch.Generator("cpu").manual_seed(noise_seed(options.seed, start + i)) for i in range(len(batch))]
            latents = pipeline(
                prompt=batch,
                negative_prompt=[options.negative] * len(batch) if options.guidance > 1 and options.negative else None,
                num_inference_steps=options.steps,
                guidance_scale=options.guidance,
                width=options.width,
                height=options.height,
                generator=noise,
                output_type="latent",
            ).images
            drawn += _decode(pipeline, latents)
    finally:
        pipeline.scheduler = own
    return drawn


def noise_seed(seed: int, number: int) -> int:
    """Of the generator for one picture; of 32 bits, since torch's generators on the CPU ignore further ones."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint32)[0])


def _decode(pipeline: Any, latents: Tensor) -> list[Image.Image]:
    """Pictures of latents, one at a time in memory where they are large; the VAE works in its own dtype."""
    vae, config = pipeline.vae, pipeline.vae.config
    latents = latents.to(vae.dtype)
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        mean, std = (torch.tensor(config[key]).view(1, -1, 1, 1).to(latents) for key in ("latents_mean", "latents_std"))
        latents = latents * std / config.scaling_factor + mean
    else:
        latents = latents / config.scaling_factor
    pixels = torch.cat([vae.decode(part, return_dict=False)[0].float().cpu() for part in torch.split(latents, _at_once(latents))])
    bad = int((~pixels.isfinite()).flatten(1).any(1).sum())
    if bad:
        raise ArithmeticError(f"{bad} of {len(pixels)} pictures hold NaN: the mixture overflows in {latents.dtype}")
    pictures: list[Image.Image] = pipeline.image_processor.postprocess(pixels, output_type="pil")
    return pictures


def _at_once(latents: Tensor) -> int:
    """Pictures that are decoded together: one of 1024 x 1024, many small ones."""
    return max(1, (1 << 16) // (latents.shape[-1] * latents.shape[-2]))


def _empty(name: str, folder: Path) -> Any:
    """A component of the class that its place in the pipeline asks for, without memory for its weights."""
    try:
        with init_empty_weights(include_buffers=False):
            if name == "unet":
                return UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder, local_files_only=True))
            if name == "vae":
                return AutoencoderKL.from_config(AutoencoderKL.load_config(folder, local_files_only=True))
            config = CLIPTextConfig.from_pretrained(folder, local_files_only=True)
            return CLIPTextModelWithProjection(config) if name == "text_encoder_2" else CLIPTextModel(config)
    except Exception as error:  # these classes fail in as many ways as configs can be wrong
        raise DamagedFile(
            f"{folder}: its config is of no {name} ({type(error).__name__}: {cut(str(error))}); copy it again"
        ) from error


def _fill(module: nn.Module, component: str, model: Model, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Give a module the parent's weights; returns shared name -> the resident tensor."""
    names = {_shared(component, name, module): name for name in module.state_dict()}
    wanted = {shared: name for shared, name in names.items() if not name.endswith("position_ids")}
    lost = [shared for shared in wanted if shared not in model.infos]
    if lost:
        raise DamagedFile(
            f"{model.folder}: {component}/config.json asks for {len(lost)} tensor(s) that no file holds, the first is "
            f"'{lost[0]}'; the config is of another model, or the model was copied in part"
        )
    state = {}
    for shared, name in wanted.items():
        expected, found = tuple(module.state_dict()[name].shape), model.infos[shared].shape
        if expected != found:
            raise DamagedFile(
                f"{model.folder}: {component}/config.json asks for '{shared}' of shape {list(expected)}, the file has "
                f"{list(found)}; the config is of another model"
            )
        state[name] = model.read(shared).to(device, dtype, copy=True)
    module.load_state_dict(state, strict=False, assign=True)
    module.to(device)  # buffers
    held = dict(module.named_parameters())
    return {shared: held[name].detach() for shared, name in wanted.items()}


def _shared(component: str, name: str, module: nn.Module) -> str:
    """The name that parents share: a text model's begins with ``text_model.`` whatever this version of transformers does."""
    flattened = isinstance(module, CLIPTextModel) and not name.startswith(_FLATTENED)
    return f"{component}.{_FLATTENED if flattened else ''}{name}"


def _scheduler(own: Any, options: ImageGeneration) -> Any:
    """The pipeline's scheduler, or the one that the options name, with their spacing of timesteps."""
    changes = {} if options.spacing is None else {"timestep_spacing": options.spacing}
    kind = type(own) if options.scheduler is None else _scheduler_class(options.scheduler)
    return kind.from_config(own.config, **changes)


def _scheduler_class(name: str) -> Any:
    known = [kind for kind in dir(diffusers) if kind.endswith("Scheduler") and not kind.startswith("Flax")]
    if name not in known:
        raise UsageError(f"unknown scheduler '{name}'{nearest(name, known)}")
    return getattr(diffusers, name)


def _switches(kind: type, content: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the pipeline that are no components, as model_index.json has them; checkers and watermarks are off."""
    known = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
    own = {key: value for key, value in content.items() if key in known and isinstance(value, bool)}
    off = {"add_watermarker": False, "requires_safety_checker": False, "safety_checker": None, "feature_extractor": None}
    return own | {key: value for key, value in off.items() if key in known}
