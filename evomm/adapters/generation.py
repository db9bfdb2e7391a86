"""How a model is asked to answer: what every kind of answer shares, and what texts and pictures add.

A task says what it asks for (`Task.options`), a run may change it, and the adapter obeys:

    TextGeneration(max_new_tokens=32, batch=64)
    ImageGeneration(steps=4, guidance=1.0, scheduler="EulerDiscreteScheduler", spacing="trailing")
"""

from dataclasses import dataclass
from typing import Literal, TypeVar

from PIL import Image
from pydantic import Field, field_validator

from evomm.errors import UsageError
from evomm.plain import Plain

G = TypeVar("G", bound="Generation")

PICTURE = "<image>"
"""Where the picture goes in the text of a `Shown`, whatever a model's own token for it is."""


@dataclass(frozen=True)
class Shown:
    """A prompt with a picture (PIL, RGB); the text holds `PICTURE` once."""

    text: str
    picture: Image.Image


class Generation(Plain):
    """What every kind of answer has; batch: prompts at a time."""

    batch: int = Field(default=64, ge=1)


class Answering(Plain):
    """How texts are found: greedily, or as the best of so many beams.

    repetition_penalty: what has been said is made less likely by this factor (arXiv 1909.05858); 1 is none. chat: the prompt is
    what a user says, and is written down as the model's own chat template has it.
    """

    max_new_tokens: int = Field(default=256, ge=1)
    beams: int = Field(default=1, ge=1)
    repetition_penalty: float = Field(default=1.0, gt=0)
    chat: bool = False


class TextGeneration(Generation, Answering):
    """Texts."""


class Drawing(Plain):
    """How pictures are drawn.

    steps: of denoising. guidance: scale of classifier-free guidance; 0 or 1 is none. width, height: in pixels, the model's
    own when absent. seed: of the noise; the i-th prompt of a call gets noise of its own, a function of (seed, i) whatever
    the batch. negative: what not to draw. scheduler: a class of diffusers, the pipeline's own when absent. spacing: how the
    scheduler picks its timesteps, its own way when absent.

    Few-step models are trained for one setting and draw badly in any other. SDXL-Lightning (arXiv 2402.13929), for one:
    EulerDiscreteScheduler, trailing, as many steps as it was distilled for, guidance 0.
    """

    steps: int = Field(default=30, ge=1, le=1000)
    guidance: float = Field(default=5.0, ge=0)
    width: int | None = Field(default=None, ge=8, multiple_of=8)
    height: int | None = Field(default=None, ge=8, multiple_of=8)
    seed: int = Field(default=0, ge=0, lt=2**31)
    negative: str = ""
    scheduler: str | None = None
    spacing: Literal["leading", "trailing", "linspace"] | None = None

    @field_validator("scheduler")
    @classmethod
    def _class_name(cls, scheduler: str | None) -> str | None:
        if scheduler is not None and not (scheduler.isidentifier() and scheduler.endswith("Scheduler")):
            raise ValueError(f"expected a scheduler class of diffusers, such as EulerDiscreteScheduler, got '{scheduler}'")
        return scheduler


class ImageGeneration(Generation, Drawing):
    """Pictures, from fixed noise; answers are PIL images in RGB."""


def expect(options: Generation, kind: type[G]) -> G:
    """The options as the kind an adapter understands; UsageError when a task asks for another kind of answer."""
    if not isinstance(options, kind):
        raise UsageError(
            f"the task asks with {type(options).__name__}, this kind of model answers {kind.__name__}; "
            "pair tasks on text with language models, and tasks on pictures with models that draw"
        )
    return options
