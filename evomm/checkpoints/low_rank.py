"""The product of two thin matrices that comes nearest to a matrix, by singular values (Eckart and Young, 1936).

Exact for small matrices. For large ones the range is found with random vectors and a few power iterations: algorithms 4.4
and 5.1 of Halko, Martinsson and Tropp, "Finding structure with randomness" (arXiv 0909.4061).
"""

import hashlib

import torch
from torch import Tensor

EXACT = 1024  # rows or columns up to which all singular values are computed; a few seconds at most
_EXTRA = 16  # random vectors beyond the rank
_POWERS = 4  # times that the range is multiplied through, which sharpens slowly decaying singular values


def factors(matrix: Tensor, rank: int, seed: int, name: str) -> tuple[Tensor, Tensor]:
    """B (rows, rank) and A (rank, columns), float32, so that B @ A is the best approximation of the matrix.

    Singular values are split evenly between both, and what a small matrix lacks in rank is filled with zeros. The result
    is a function of the arguments: random vectors come from (seed, name).
    """
    small = min(matrix.shape)
    if small <= max(EXACT, rank + _EXTRA):
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    else:
        u, s, vh = _randomized(matrix, rank + _EXTRA, _generator(seed, name))
    found = min(rank, len(s))
    root = s[:found].sqrt()  # (found,)
    b, a = matrix.new_zeros(matrix.shape[0], rank), matrix.new_zeros(rank, matrix.shape[1])
    b[:, :found] = u[:, :found] * root
    a[:found] = root[:, None] * vh[:found]
    return b, a


def _randomized(matrix: Tensor, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    q = _orthonormal(matrix @ torch.randn(matrix.shape[1], width, generator=generator))  # (rows, width)
    for _ in range(_POWERS):  # orthonormal in between, or rounding loses all but the largest directions
        q = _orthonormal(matrix @ _orthonormal(matrix.T @ q))
    u, s, vh = torch.linalg.svd(q.T @ matrix, full_matrices=False)
    return q @ u, s, vh


def _orthonormal(columns: Tensor) -> Tensor:
    q: Tensor = torch.linalg.qr(columns).Q
    return q


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
