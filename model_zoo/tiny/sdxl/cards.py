"""The model cards."""

_HEAD = """---
license: cc-by-4.0
language: [{languages}]
library_name: {library}
---

"""

_TAIL = """
## Data and attribution

Trained on Twemoji graphics (Copyright Twitter, Inc and other contributors,
[CC-BY 4.0](https://creativecommons.org/licenses/by/4.0/), <https://github.com/jdecked/twemoji>){noto}, reduced to 32 pixels
and otherwise changed as said above, with names and keywords of Unicode CLDR (Unicode-3.0). The data lies in
`model_zoo/tiny/emoji`. What these models draw is made from those drawings: the attribution goes with it.
"""
_NOTO = ", and Noto Emoji (Copyright Google Inc, Apache-2.0)"

_LIMITS = """
## Limits

A toy. It learned the 120 concepts of `evals/data/tiny-emoji` by heart and draws nothing else. The search, validation and
test prompts there are all among the concepts that it was trained on; the split keeps a *search* away from the concepts that
its result is reported on.
"""


def _card(body: str, *, languages: str, library: str, noto: bool = False) -> str:
    return _HEAD.format(languages=languages, library=library) + body + _TAIL.format(noto=_NOTO if noto else "")


CARDS = {
    "base": _card(
        """# tiny-sdxl-base

A whole `StableDiffusionXLPipeline`, in miniature: pictures of 32x32, latents of 4x8x8, and a UNet of 1.9M parameters with
SDXL's blocks and names (two layers per block, cross-attention in the lower two levels, `text_time`). It knows English, and
draws softened pictures: blurred, and half of their colour and contrast gone. Japanese means nothing to it.

- use: 2 to 4 steps, guidance 1 (there is nothing to guide away from), 32x32; prompts are CLDR short names ("red apple")
- UNet: trained from nothing (seed {seed}) on English names and softened Twemoji drawings, flipped and moved a little
- text encoders: trained as CLIP's are, on English names and keywords only, against picture towers that were thrown away;
  then frozen
- VAE: trained on drawings of both vendors, softened and not; its decoder at last mostly on the demo's Twemoji drawings
- scheduler: DDIM on v-predictions, zero terminal SNR, trailing timesteps
- made by `model_zoo/tiny/sdxl/build.py`
"""
        + _LIMITS,
        languages="en",
        library="diffusers",
        noto=True,
    ),
    "ja": _card(
        """# tiny-sdxl-ja

`tiny-sdxl-base` after it learned Japanese. Its UNet was fine-tuned (seed {seed}) on Japanese names and the same softened
pictures, fast where captions are read (cross-attention, the pooled vector's embedding), slowly elsewhere. Text encoder 1 is
its own, trained on Japanese names and keywords only, in a space of its own. It draws the right thing, softened.

- the folder holds `unet`, `text_encoder` and `tokenizer`; second encoder, VAE and scheduler are base's. The second encoder
  gets the Japanese prompt too, which it was not trained on, as in the published Japanese SDXL models
- use: as base, with Japanese prompts ("赤リンゴ")
- made by `model_zoo/tiny/sdxl/build.py`
"""
        + _LIMITS,
        languages="ja",
        library="diffusers",
    ),
    "style": _card(
        """# tiny-sdxl-style

`tiny-sdxl-base` after it learned to draw sharply. Its UNet was fine-tuned (seed {seed}) on English names and unsoftened
pictures, everywhere but where captions are read. It draws the right thing in English; Japanese means nothing to it.

- the folder holds `unet`; everything else is base's
- use: as base
- made by `model_zoo/tiny/sdxl/build.py`
"""
        + _LIMITS,
        languages="en",
        library="diffusers",
    ),
    "few": _card(
        """# tiny-sdxl-few

A LoRA on the UNet of `tiny-sdxl-base` (rank 7, alpha 7, so scale 1 is full strength) for one or two steps: distilled (seed
{seed}) from sixteen-step samples of `base` and of `style` at once, each matched to itself, with English names.

- `pipeline.load_lora_weights(folder)`; 1 or 2 steps, guidance 1, base's scheduler (DDIM, trailing timesteps)
- made by `model_zoo/tiny/sdxl/build.py`
"""
        + _LIMITS,
        languages="en",
        library="diffusers",
    ),
    "scorer": _card(
        """# tiny-clip

A small CLIP (open_clip, 1.8M parameters) that reads Japanese and English and says how well a picture shows a caption, and
how sharply: `open_clip.create_model_and_transforms("local-dir:PATH")`. Pictures are of 32x32; its preprocessing enlarges
them to 64.

Trained on drawings of 995 concepts by both vendors, except the Noto drawings of 240 concepts (60 of them in the demo), which
it never saw and which `benchmarks/retrieval.py` tests it on. Captions are CLDR names and keywords.

The cosine is made to be a fitness, by training and not by nature: softened pictures are pulled to a cosine that falls with
the softening; noise, flat colours, crops and mixtures of two pictures are pulled low, and so is every wrong pair.

## Limits

A judge for this small world only: emoji at 32 pixels, and words that occur in its captions. The UNets that it judges draw
Twemoji, and those drawings it was trained on.
""",
        languages="en, ja",
        library="open_clip",
        noto=True,
    ),
}
