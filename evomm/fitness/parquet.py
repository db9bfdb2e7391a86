"""Rows of parquet files, as data sets on the hub are stored: a picture is ``{bytes, path}``.

    JA-VG-VQA-500                 image, qas: [{question, answer, ...}, ...], ...
    JA-VLM-Bench-In-the-Wild      image, question, answer, ...

Where a picture has several questions (``qas``), the first is asked, as the published evaluation does.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from evomm.errors import UsageError
from evomm.plain import cut

_COLUMNS = ("id", "question_id", "split", "image", "question", "prompt", "answer", "answers", "qas")
_BATCH = 64  # rows decoded at a time: pictures are large


def rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of one file, in order; UsageError when it is no parquet file."""
    try:
        with parquet.ParquetFile(path) as file:
            known = [name for name in file.schema_arrow.names if name in _COLUMNS]
            for batch in file.iter_batches(batch_size=_BATCH, columns=known):
                yield from (_flat(row) for row in batch.to_pylist())
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # the last two: values that Python has no type for
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(f"{path}: cannot be read as parquet ({cut(first)}); fetch it again") from error


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    asked = row.pop("qas", None)
    if isinstance(asked, list) and asked and isinstance(asked[0], Mapping):
        row |= {key: asked[0][key] for key in ("question", "answer") if key in asked[0]}
    if "id" not in row and "question_id" in row:
        row["id"] = row["question_id"]
    return row
