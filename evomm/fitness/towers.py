"""A loaded scorer of pictures and texts, whichever library it came from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Towers:
    """(N,) pictures or texts -> (N, K) features."""

    pictures: Callable[[Sequence[Image.Image]], Tensor]
    texts: Callable[[Sequence[str]], Tensor]
