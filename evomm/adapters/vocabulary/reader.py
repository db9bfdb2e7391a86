"""A parent as if it had the child's vocabulary: embeddings and head in the child's rows, all else as it is.

readers["b"] = AlignedReader("b", readers, alignment, spec, {"model.embed_tokens.weight": 0, "lm_head.weight": 0})
"""

from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from evomm.adapters.vocabulary.alignment import Alignment
from evomm.adapters.vocabulary.rows import MEAN, PADDING, ZEROS, RowPlan, plan_rows
from evomm.checkpoints.reader import Flat, TensorInfo, TensorReader
from evomm.errors import MisfitError
from evomm.merge.vocabulary import Vocabulary

_BLOCK = 1 << 18  # elements summed at a time


class AlignedReader:
    """One parent's tensors, with the child's vocabulary.

    Args:
        label: of the parent.
        readers: of all parents, by label.
        alignment: what `align` found.
        spec: what it was asked for.
        names: names of the tensors that have a row per token -> the axis of the rows, which must be 0.

    Raises MisfitError when such a tensor cannot be aligned.
    """

    def __init__(
        self, label: str, readers: Mapping[str, TensorReader], alignment: Alignment, spec: Vocabulary, names: Mapping[str, int]
    ) -> None:
        self._label = label
        self._readers = readers
        self._alignment = alignment
        self._spec = spec
        here = tuple(name for name in names if name in readers[label].infos)
        for name in here:
            _refuse_misfits(name, names[name], label, readers, alignment.sizes)
        self._names = () if alignment.identity(label) else here
        self._rows: dict[str, _Rows] = {}

    @cached_property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Name -> dtype and shape of every tensor, as the child has it."""
        infos = dict(self._readers[self._label].infos)
        for name in self._names:
            infos[name] = TensorInfo(infos[name].dtype, (self._alignment.size, *infos[name].shape[1:]))
        return infos

    def flat(self, name: str) -> Flat:
        """The tensor's elements in a row; rows are gathered when they are asked for."""
        if name not in self._names:
            return self._readers[self._label].flat(name)
        if name not in self._rows:
            with_it = {label: reader for label, reader in self._readers.items() if name in reader.infos}
            plan = plan_rows(self._label, tuple(with_it), self._alignment, self._spec, name)
            flats = {label: reader.flat(name) for label, reader in with_it.items()}
            self._rows[name] = _Rows(plan, self.infos[name], flats, self._alignment)
        return self._rows[name]

    def read(self, name: str) -> Tensor:
        """The whole tensor."""
        if name not in self._names:
            return self._readers[self._label].read(name)
        return self.flat(name)[:].view(self.infos[name].shape)


class _Rows:
    """The aligned tensor of one parent, in a row."""

    def __init__(self, plan: RowPlan, info: TensorInfo, flats: Mapping[str, Flat], alignment: Alignment) -> None:
        self._plan = plan
        self._info = info
        self._flats = flats
        self._parents = alignment.rows
        self._tokens = torch.tensor(sorted(alignment.vocabulary.values()))
        self._width = torch.Size(info.shape[1:]).numel()

    def __getitem__(self, part: slice) -> Tensor:
        """Elements of a slice without step."""
        start, stop, _ = part.indices(self._info.numel)
        if stop <= start:
            return torch.empty(0, dtype=self._info.dtype)
        first, last = start // self._width, -(-stop // self._width)
        offset = first * self._width
        return self._gather(torch.arange(first, last)).reshape(-1)[start - offset : stop - offset]

    def _gather(self, ids: Tensor) -> Tensor:
        """These of the child's rows, (rows, width); the parent's own memory where they follow one another there."""
        donor, row = self._plan.donor[ids], self._plan.row[ids]
        donors = torch.unique(donor).tolist()
        if donors == [self._plan.own]:
            return self._take(self._plan.own, row)
        out = torch.zeros(len(ids), self._width, dtype=self._info.dtype)
        for number in donors:
            where = (donor == number).nonzero().squeeze(1)
            if number == PADDING:
                values = self._padding
            elif number == MEAN:
                values = self._mean(ids[where])
            elif number != ZEROS:
                values = self._take(number, row[where])
            else:
                continue
            _bits(out)[where] = _bits(values.to(self._info.dtype))
        return out

    def _take(self, number: int, rows: Tensor) -> Tensor:
        """Rows of a parent, (rows, width)."""
        flat, width = self._flats[self._plan.labels[number]], self._width
        jumps = (rows.diff() != 1).nonzero().squeeze(1) + 1
        if len(jumps) and isinstance(flat, Tensor):
            whole = flat.view(-1, width)
            return _bits(whole)[rows].view(whole.dtype)
        bounds = [0, *jumps.tolist(), len(rows)]
        runs = [flat[int(rows[a]) * width : (int(rows[b - 1]) + 1) * width].view(-1, width) for a, b in pairwise(bounds)]
        return torch.cat(runs) if len(runs) > 1 else runs[0]

    def _mean(self, ids: Tensor) -> Tensor:
        """Float32 means over the parents that have these of the child's tokens, (ids, width)."""
        total, count = torch.zeros(len(ids), self._width), torch.zeros(len(ids), 1)
        for number, label in enumerate(self._plan.labels):
            rows = self._parents[label][ids]
            has = (rows >= 0).nonzero().squeeze(1)
            if len(has):
                total[has] += self._take(number, rows[has]).float()
                count[has] += 1
        return total / count

    @cached_property
    def _padding(self) -> Tensor:
        """The mean (width,) of the rows of all tokens, rounded once."""
        # Blocks of a fixed size, and of one column few enough elements that torch adds them in one thread: same order always.
        rows = max(1, min(1 << 14, _BLOCK // self._width))
        total = torch.zeros(self._width, dtype=torch.float64)
        for ids in torch.split(self._tokens, rows):
            total += self._gather(ids).double().sum(0)
        return (total / len(self._tokens)).float().to(self._info.dtype)


def _bits(tensor: Tensor) -> Tensor:
    """The same memory as integers: torch picks rows of every integer type, but not of every float."""
    return tensor.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.dtype.itemsize])


def _refuse_misfits(name: str, axis: int, label: str, readers: Mapping[str, TensorReader], sizes: Mapping[str, int]) -> None:
    if axis != 0:
        raise MisfitError(f"'{name}' has tokens on axis {axis}; evomm aligns tensors that have a row per token (axis 0)")
    ours = readers[label].infos[name]
    if not ours.dtype.is_floating_point:
        raise MisfitError(
            f"'{label}' holds '{name}' as {ours.dtype}; rows of quantised tensors can't be mixed, merge its original"
        )
    for other, reader in readers.items():
        found = reader.infos.get(name)
        if found is not None and found.shape != (sizes[other], *ours.shape[1:]):
            expected = [sizes[other], *ours.shape[1:]]
            raise MisfitError(
                f"'{name}' of '{other}' has shape {list(found.shape)}, expected {expected}: a row for each of its vocab_size, "
                f"as wide as those of '{label}'; merge models of one architecture and size"
            )
