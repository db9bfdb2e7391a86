"""Pictures as a task sees them: RGB PIL images. Which are blank, how they are stored, and sheets of them side by side."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from PIL.ImageFont import FreeTypeFont

from evomm.errors import UsageError, WriteFailed
from evomm.fitness.fonts import font_for

_FLAT = 2.0  # of 255: below this spread in every channel a picture shows nothing; the plainest sky spreads more
_GAP = 4
_PAPER, _INK = "white", "black"


def rgb(answers: Sequence[object]) -> list[Image.Image]:
    """Answers as pictures; UsageError when they are none.

    Tensors are not taken: what NaN looks like as a picture is a choice, and not this one's; adapters refuse it.
    """
    pictures = []
    for answer in answers:
        if not isinstance(answer, Image.Image):
            raise UsageError(
                f"expected pictures (PIL images) as answers, got {type(answer).__name__}; pair this task with a model that draws"
            )
        pictures.append(answer.convert("RGB"))
    return pictures


def blank(picture: Image.Image) -> bool:
    """Whether it is of (nearly) one colour: unpainted, washed out, or black because numbers overflowed."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float64)  # (H, W, 3)
    return bool(pixels.std(axis=(0, 1)).max() < _FLAT)


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG, and the folders it stands in; WriteFailed when that is impossible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, format="PNG")
    except OSError as error:
        raise WriteFailed(f"{path}: the picture cannot be written ({error})") from error


def grid(
    rows: Sequence[Sequence[Image.Image | None]],
    *,
    columns: Sequence[str] = (),
    labels: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    cell: int | None = None,
) -> Image.Image:
    """A sheet of pictures.

        grid([[real, ja, child]], columns=["real", "ja", "child"], labels=["りんご"])

    Args:
        rows: pictures row by row; None leaves a place empty, and so do short rows.
        columns: titles above. labels: one per row, on the left. captions: one per picture, beneath it.
        cell: width and height of each place in pixels; by default the largest picture's, but at least 96.

    Texts whose letters no font of this machine has are left off (see `fonts`).
    """
    pictures = [picture for row in rows for picture in row if picture is not None]
    if not pictures:
        raise ValueError("expected at least one picture, got none")
    cell = cell or max(96, *(max(picture.size) for picture in pictures))
    size = max(11, cell // 10)
    line = size + 2 * _GAP
    font = font_for([text for texts in (columns, labels, *captions) for text in texts], size)
    plain = font_for(columns, size)  # titles may be drawn where labels cannot
    left = _widest(labels, font, cell) + _GAP if font and any(labels) else 0
    top = line if plain and any(columns) else 0
    step = cell + _GAP + (line if font and any(text for row in captions for text in row) else 0)
    across = max(len(row) for row in rows)
    sheet = Image.new("RGB", (left + across * (cell + _GAP) + _GAP, top + len(rows) * step + _GAP), _PAPER)
    for x, title in enumerate(columns[:across]):
        _write(sheet, title, (left + _GAP + x * (cell + _GAP), _GAP), plain, cell)
    for y, row in enumerate(rows):
        high = top + _GAP + y * step
        if labels:
            _write(sheet, labels[y], (_GAP, high + (cell - size) // 2), font, left)
        for x, picture in enumerate(row):
            corner = (left + _GAP + x * (cell + _GAP), high)
            if picture is not None:
                sheet.paste(_fit(picture, cell), corner)
            if y < len(captions) and x < len(captions[y]):
                _write(sheet, captions[y][x], (corner[0], high + cell + _GAP // 2), font, cell)
    return sheet


def _fit(picture: Image.Image, cell: int) -> Image.Image:
    """The picture as large as the place, in its own proportions; whole multiples keep small pictures crisp."""
    scale = cell / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS)


def _widest(texts: Sequence[str], font: FreeTypeFont, cell: int) -> int:
    return min(3 * cell, max(int(font.getlength(text)) for text in texts) + _GAP)


def _write(sheet: Image.Image, text: str, corner: tuple[int, int], font: FreeTypeFont | None, width: int) -> None:
    """One line, cut where the place ends."""
    if font is None or not text:
        return
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-1]
    ImageDraw.Draw(sheet).text(corner, text, fill=_INK, font=font)
