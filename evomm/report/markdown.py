"""Markdown that shows text as text, whatever is in it."""

import re
from collections.abc import Sequence

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~$&!])")


def text(found: object) -> str:
    """One line in which nothing is markup.

    >>> text("a|b <c>")
    'a\\\\|b \\\\<c\\\\>'
    """
    return _SPECIAL.sub(r"\\\1", " ".join(str(found).split()))


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], bold: int | None = None, left: int = 1) -> str:
    """A table. bold: the row that is printed so. left: columns of words; those of numbers, behind them, stand on the right."""
    lines = ["| " + " | ".join(map(text, heads)) + " |", "|" + "---|" * left + "---:|" * (len(heads) - left)]
    for number, row in enumerate(rows):
        cells = [f"**{text(cell)}**" if number == bold and str(cell) else text(cell) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def code(found: str, language: str = "") -> str:
    """A block of code, fenced with more backticks than it holds."""
    longest = max((len(run) for run in re.findall(r"`+", found)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{found.rstrip()}\n{fence}"


def link(found: str) -> str:
    """A web address that can be followed; anything else as text."""
    return f"<{found}>" if re.fullmatch(r"https?://[^\s<>()\"'`]+", found) else text(found)
