"""What keeps a search on pictures honest: terms and limits beside the fit of picture and prompt.

A scorer can be pleased in ways that nobody wants. Each guard measures something per picture, g:

    diversity    mean of 1 - cosine to the pictures of other prompts: low when one picture is painted for all
    parents      1 - cosine to the nearest picture that a parent painted for the same prompt: high when the child drifts away
    scorer       cosine by another scorer: an aesthetic one (PickScore), or one held out (weight 0, for the report only)

and adds to the fitness of that picture

    weight * g  -  penalty * (max(0, minimum - g) + max(0, g - maximum))

    guards:
      - {kind: diversity, minimum: 0.1, penalty: 2}
      - {kind: scorer, scorer: ViT-B-32/laion2b_s34b_b79k, caption: "{answer}"}      # a column, nothing more
"""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from evomm.plain import Plain


class Guard(Plain):
    """One guard of a task file.

    name: of its column, the kind when absent. weight, minimum, maximum, penalty: as above. scorer and caption: for the
    kind "scorer", as in the task.
    """

    kind: Literal["diversity", "parents", "scorer"]
    name: str = ""
    weight: float = 0.0
    minimum: float | None = None
    maximum: float | None = None
    penalty: float = Field(default=1.0, ge=0)
    scorer: str | None = None
    caption: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.kind == "scorer") != (self.scorer is not None):
            raise ValueError("a guard of kind 'scorer' names a scorer, and no other kind does")
        if self.caption is not None and self.kind != "scorer":
            raise ValueError("only a guard of kind 'scorer' has a caption")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")
        return self

    @property
    def column(self) -> str:
        """What its column is called."""
        return self.name or self.kind

    def term(self, measured: Tensor) -> Tensor:
        """What it adds to the fitness of each picture."""
        outside = torch.zeros_like(measured)
        if self.minimum is not None:
            outside = outside + (self.minimum - measured).clamp(min=0)
        if self.maximum is not None:
            outside = outside + (measured - self.maximum).clamp(min=0)
        return self.weight * measured - self.penalty * outside


def diversity(features: Tensor, prompts: Tensor) -> Tensor:
    """Of each picture, the mean of 1 - cosine to pictures of other prompts.

    Args:
        features: (N, K) unit vectors. prompts: (N,) number of each picture's prompt; there must be two at least.
    """
    other = (prompts[:, None] != prompts[None, :]).to(features.dtype)  # (N, N)
    return ((1 - features @ features.T) * other).sum(1) / other.sum(1)


def drift(features: Tensor, parents: Tensor) -> Tensor:
    """Of each picture, 1 - cosine to the nearest of the parents' pictures.

    Args:
        features: (N, K) unit vectors. parents: (N, M, K) those of the M pictures that parents painted for its prompt.
    """
    return 1 - torch.einsum("nk,nmk->nm", features, parents).amax(1)
