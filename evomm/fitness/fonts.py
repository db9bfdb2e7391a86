"""A font that has the letters of a text, where this machine has one.

Labels in Japanese need a font that ships with few systems. Without one they are left off: boxes in their place tell nothing.
"""

from collections.abc import Iterable
from functools import cache

from PIL import ImageFont

# File names, which PIL looks for where each system keeps its fonts.
_NAMES = (
    "NotoSansCJK-Regular.ttc",  # Linux, and what follows
    "NotoSansCJKjp-Regular.otf",
    "NotoSansJP-Regular.otf",
    "NotoSansJP-Regular.ttf",
    "ipaexg.ttf",
    "ipag.ttf",
    "ipagp.ttf",
    "TakaoGothic.ttf",
    "VL-Gothic-Regular.ttf",
    "DroidSansFallbackFull.ttf",
    "ヒラギノ角ゴシック W3.ttc",  # macOS
    "Hiragino Sans GB.ttc",
    "Arial Unicode.ttf",
    "YuGothM.ttc",  # Windows
    "YuGothR.ttc",
    "meiryo.ttc",
    "msgothic.ttc",
    "DejaVuSans.ttf",  # for European letters
    "arial.ttf",
)
_NO_LETTER = "\U0010ffff"  # a code point that no font has: what is drawn for it is drawn for all that are missing


def font_for(texts: Iterable[str], size: int) -> ImageFont.FreeTypeFont | None:
    """The first font that has every letter of the texts; None when this machine has none."""
    return _font(frozenset(letter for text in texts for letter in text if not letter.isspace()), size)


@cache
def _font(letters: frozenset[str], size: int) -> ImageFont.FreeTypeFont | None:
    return next((font for font in _fonts(size) if all(_has(font, letter) for letter in sorted(letters))), None)


@cache
def _fonts(size: int) -> tuple[ImageFont.FreeTypeFont, ...]:
    """PIL's own, which has ASCII and little more, then those of this machine."""
    own = ImageFont.load_default(size)
    found = [own] if isinstance(own, ImageFont.FreeTypeFont) else []
    for name in _NAMES:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:  # not on this machine
            continue
    return tuple(found)


def _has(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    drawn, missing = font.getmask(letter), font.getmask(_NO_LETTER)
    return (drawn.size, bytes(drawn)) != (missing.size, bytes(missing))
