"""Reads numbers as people write them, in English and Japanese.

    1,234 · １，２３４ · -5 · 3/4 · 3.5 · 5万 · 1億2,000万 · 3千5百

The published parser of the Japanese math evaluation reads "1,234" as 234 and takes 23 of 250 references wrong.
"""

import re
import unicodedata
from fractions import Fraction

_UNITS = {"百": 100, "千": 1_000, "万": 10_000, "億": 100_000_000, "兆": 1_000_000_000_000}
_PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?![\d,]*\d)|\d+)(?:\.\d+)?"
_UNITED = rf"(?:{_PLAIN}[百千万億兆]+)+(?:{_PLAIN})?"
# 14/7=? is a division that is being worked out, not the fraction 14/7.
_NUMBER = re.compile(rf"(?P<sign>-)?(?P<value>{_UNITED}|{_PLAIN})(?:\s?/\s?(?P<below>\d+)(?![\d,.]*\d|\s*=))?")
_PIECE = re.compile(rf"(?P<number>{_PLAIN})(?P<units>[百千万億兆]*)")
_MINUS = str.maketrans({"−": "-", "‐": "-", "–": "-", "﹣": "-", "△": "-", "▲": "-", "、": " ", "⁄": "/", "∕": "/"})


# Exponents and units that hold one: 25m² and 25㎡ are 25, and NFKC would make 25m2 of both.
_EXPONENTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹㎟㎠㎡㎢㎣㎤㎥㎦]")
_SUBTRACTED_FROM = re.compile(r"[0-9)\]]\s*$|[A-Za-z]$")
_LONGEST = 1_000  # letters of a number; a model that repeats a digit for ever has written none
_END = 20_000  # letters at the end of a text that are looked at


def last_number(text: str) -> Fraction | None:
    """The last number of a text, exactly; None when it holds none, or digits without end."""
    plain = unicodedata.normalize("NFKC", _EXPONENTS.sub("", text[-_END:])).translate(_MINUS)
    found = list(_NUMBER.finditer(plain))
    if not found or len(found[-1][0]) > _LONGEST:
        return None
    value, before = _value(found[-1]), plain[: found[-1].start()]
    # A minus is a sign only where nothing stands before it that it could be subtracted from: 15-8 and 15 -8 hold no -8.
    return -value if found[-1]["sign"] and not _SUBTRACTED_FROM.search(before) else value


def _value(match: re.Match[str]) -> Fraction:
    value = _united(match["value"])
    below = int(match["below"]) if match["below"] else 1
    if below == 0:  # "5/0" is no fraction: the last number of it is 0
        return Fraction(0)
    return value / below


def _united(text: str) -> Fraction:
    """5万3000 -> 53000; 百 and 千 multiply within a section, 万, 億 and 兆 close it."""
    total, section = Fraction(0), Fraction(0)
    for piece in _PIECE.finditer(text):
        section += _scaled(piece["number"], [u for u in piece["units"] if u in "百千"])
        for unit in piece["units"]:
            if unit in "万億兆":
                total, section = total + section * _UNITS[unit], Fraction(0)
    return total + section


def _scaled(number: str, units: list[str]) -> Fraction:
    value = Fraction(number.replace(",", ""))
    for unit in units:
        value *= _UNITS[unit]
    return value
