"""The tiny pipelines of the tests are what they claim: runnable, seeded, and of the true one's structure."""

import math
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline

from tests.checkpoints.pipeline_kit import QUIET, make_pipeline, tensors_of, tiny_pipeline, true_sdxl_infos

pytestmark = QUIET


def test_the_true_unet_has_its_published_size() -> None:
    unet = [info for name, info in true_sdxl_infos().items() if name.startswith("unet.")]
    assert (len(unet), sum(info.numel for info in unet)) == (1680, 2_567_463_684)


def test_the_tiny_pipeline_is_small_seeded_and_draws(tmp_path: Path) -> None:
    folder = make_pipeline(tmp_path / "tiny")
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 2_000_000
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float16, add_watermarker=False)
    same, other = tensors_of(tiny_pipeline()), tensors_of(tiny_pipeline(seed=1))
    for name, tensor in tensors_of(pipeline).items():
        assert torch.equal(tensor, same[name])
        assert not torch.equal(tensor, other[name])
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline.to(torch.float32)("a cat", num_inference_steps=2, height=64, width=64, output_type="pt").images
    assert drawn.shape == (1, 3, 64, 64)
    assert math.isfinite(float(drawn.mean()))


def test_the_tiny_unet_has_the_blocks_of_the_true_one() -> None:
    def blocks(names: list[str]) -> set[tuple[str, ...]]:
        return {tuple(name.split(".")[1:5]) for name in names if name.startswith("unet.")}

    assert blocks(list(tensors_of(tiny_pipeline()))) == blocks(list(true_sdxl_infos()))
