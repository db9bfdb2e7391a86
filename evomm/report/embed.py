"""Pictures inside of a page: scaled down, as data."""

import base64
import io
import warnings
from pathlib import Path

from PIL import Image

_SIDE = 256  # pixels of the longer side


def uri(picture: Image.Image, side: int = _SIDE) -> str:
    """A picture as a ``data:`` address; tiny ones in whole multiples, which keeps them crisp, and without loss."""
    shown = picture.convert("RGB")
    larger = side // 2 // max(shown.size)
    if larger > 1:
        shown = shown.resize((shown.width * larger, shown.height * larger), Image.Resampling.NEAREST)
    shown.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    shown.save(out, format="WEBP", quality=82, lossless=larger > 1)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"


def stored(folder: Path, name: str) -> str | None:
    """A picture of a run's folder; None when there is no such picture, or when it leads out of the folder."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG"]) as picture:
                return uri(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombWarning, Image.DecompressionBombError):
        return None
