"""Draws a table of docs/results as bars with their intervals: `python -m docs.site.bars` writes those of docs/images anew.

Read is the first seed's column of rows such as ``| uniform merge | 32.9 (30.1-35.9) · 33.8 | ...``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

DOCS = Path(__file__).parents[1]
DRAWN = {
    "demo-llm": "1,000 held-out Japanese problems: right and in Japanese, %",
    "demo-vlm": "465 questions about unseen drawings, answered in Japanese: ROUGE-L × 100",
}
_ROW = re.compile(r"^\| (?!child's lead|lead)([^|]+) \| ([\d.]+) \(([\d.]+)(?:-| to )([\d.]+)\)", re.MULTILINE)
_LEFT, _WIDTH, _STEP = 260, 400, 30  # of names, of 100 points, of a row


@dataclass(frozen=True)
class Bar:
    """A row of a table: a name, its score and the 95% interval, in percent."""

    name: str
    score: float
    low: float
    high: float


def read(results: str) -> list[Bar]:
    """The rows of a page's first table."""
    table = results[results.index("\n| ") :].partition("\n\n")[0]
    return [Bar(row[1].replace("*", ""), *map(float, row.groups()[1:])) for row in _ROW.finditer(table)]


def draw(title: str, bars: Sequence[Bar]) -> str:
    """An SVG that is readable on light and dark pages."""
    height = 50 + _STEP * len(bars)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" font-family="sans-serif" font-size="14">',
        f'<rect width="760" height="{height}" rx="6" fill="#ffffff"/>',
        f'<text x="16" y="26" fill="#222222" font-weight="bold">{escape(title)}</text>',
    ]
    for number, bar in enumerate(bars):
        top, colour = 42 + _STEP * number, "#00796b" if bar.name.startswith("child") else "#90a4ae"
        middle, (left, right, end) = top + 10, (_LEFT + _WIDTH * x / 100 for x in (bar.low, bar.high, bar.score))
        lines += [
            f'<text x="{_LEFT - 10}" y="{top + 15}" text-anchor="end" fill="#222222">{escape(bar.name)}</text>',
            f'<rect x="{_LEFT}" y="{top}" width="{end - _LEFT:.1f}" height="20" fill="{colour}"/>',
            f'<path d="M{left:.1f} {middle}H{right:.1f}M{left:.1f} {top + 5}v10M{right:.1f} {top + 5}v10" stroke="#222222"/>',
            f'<text x="{right + 8:.1f}" y="{top + 15}" fill="#222222">{bar.score:.1f}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def picture(name: str) -> str:
    """What docs/images/NAME.svg must be."""
    return draw(DRAWN[name], read((DOCS / "results" / f"{name}.md").read_text(encoding="utf-8")))


if __name__ == "__main__":
    for each in DRAWN:
        (DOCS / "images" / f"{each}.svg").write_text(picture(each), encoding="utf-8")
