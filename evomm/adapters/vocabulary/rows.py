"""Where the rows of a parent's embedding come from, once it has the child's vocabulary.

From the parent itself, where it has the token. Otherwise from where the spec says; or from the only parent that has the token;
or from the base; or it is the mean of the parents that have it; or, when none has, zeros. Rows that are no token's are the mean
of all that are (https://nlp.stanford.edu/~johnhew/vocab-expansion.html).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from evomm.adapters.vocabulary.alignment import Alignment
from evomm.errors import MisfitError
from evomm.merge.vocabulary import Token, Vocabulary

ZEROS, MEAN, PADDING = -1, -2, -3  # donors that are no parent


@dataclass(frozen=True, eq=False)
class RowPlan:
    """For each of the child's rows: the number of the parent that it comes from (or what else it is), and its row there.

    labels: the parents by number. own: number of the parent that is aligned.
    """

    labels: tuple[str, ...]
    own: int
    donor: Tensor
    row: Tensor


def plan_rows(label: str, labels: tuple[str, ...], alignment: Alignment, spec: Vocabulary, name: str) -> RowPlan:
    """Where one parent's rows of a tensor come from; labels are the parents that have this tensor."""
    rows = torch.stack([alignment.rows[donor] for donor in labels])  # (P, ids)
    present = rows >= 0
    count, own = present.sum(0), labels.index(label)
    donor = torch.full((rows.shape[1],), PADDING)  # ids that are no token
    donor[list(alignment.vocabulary.values())] = ZEROS
    donor[count > 1] = MEAN
    for number in [own] if alignment.base not in labels else [labels.index(alignment.base), own]:
        donor[present[number]] = number
    donor[count == 1] = present.int().argmax(0)[count == 1]
    row = rows.gather(0, donor.clamp(min=0).unsqueeze(0)).squeeze(0)
    for token, wanted in spec.tokens.items():
        number = alignment.vocabulary[token]
        if wanted.force or not present[own, number]:
            donor[number], row[number] = _source(token, wanted, labels, alignment, name)
    padding = torch.full((alignment.size - len(donor),), PADDING)
    return RowPlan(labels, own, torch.cat([donor, padding]), torch.cat([row, padding]))


def _source(token: str, wanted: Token, labels: tuple[str, ...], alignment: Alignment, name: str) -> tuple[int, int]:
    """(donor, row) of a token that the spec lists."""
    if wanted.model is None:
        return ZEROS, 0
    if wanted.model not in labels:
        raise MisfitError(
            f"vocabulary: token {token!r} comes from '{wanted.model}', which has no tensor '{name}'; name another model"
        )
    row = alignment.own[wanted.model][wanted.token or token] if wanted.token_id is None else wanted.token_id
    return labels.index(wanted.model), row
