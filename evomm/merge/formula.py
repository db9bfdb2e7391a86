"""What becomes of every element of a tensor, in numbers alone: which of them count, and how they are mixed.

Most methods do the same to all elements once they know a few numbers about the whole tensor. They give these numbers, as a
`Formula`; the engine applies it, to 16-bit floats in one loop from file to file.

>>> Formula([0.5, 2.0], bands=[(1.0, 9.0), (-1.0, 9.0)]).of([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])])
tensor([ 6., 13.])
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evomm.merge import elementwise
from evomm.merge.elementwise import Bands, Election


@dataclass(frozen=True)
class Formula:
    """Σ_p f_p x_p, of all elements or of some.

    Attributes:
        factors: (P,) f_p.
        bands: per parent, which magnitudes count (others are taken for 0): those above the first number, up to the second.
        election: of signs, whose voices are the f_p x_p.
    """

    factors: Sequence[float]
    bands: Bands | None = None
    election: Election | None = None

    def of(self, values: Sequence[Tensor]) -> Tensor:
        """A new tensor; float32, of any one shape."""
        kept = values if self.bands is None else list(map(elementwise.trim, values, self.bands))
        if self.election is None:
            return elementwise.combination(kept, self.factors)
        merged = elementwise.elect(kept, self.factors, self.factors, self.election.weights, self.election.normalize)
        return merged if self.election.scale == 1 else merged.mul_(self.election.scale)

    def of_halves(self, out: Tensor, values: Sequence[Tensor], base: Tensor | None) -> float:
        """base + `of` the differences from it, or `of` the values, rounded into ``out``; the same bits in one loop.

        16-bit floats of one dtype on a CPU, (n,) each. Gives the largest magnitude there, not finite when one is not.
        """
        if self.election is None:
            return elementwise.combine_halves(out, values, base, self.bands, self.factors)
        base = torch.zeros_like(out) if base is None else base
        return elementwise.elect_halves(out, values, base, self.bands, self.factors, self.election)
