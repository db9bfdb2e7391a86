"""Charts as SVG that stands in a page: the page's fonts and colours, no script, no address, text as text.

Each is drawn twice, wide and narrow, and the page's style shows the one that fits.
"""

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_SIZES = {"wide": (7.0, 3.1), "narrow": (3.7, 3.2)}  # inches
_KEYS = {"wide": 3, "narrow": 1}  # names side by side above a chart
_LONG = 40  # letters of a name
# Stand-ins that no chart has otherwise; the page says what they look like, by day and by night.
_INK, _FAINT, _LINE = "#010101", "#020202", "#030303"
SERIES = tuple(f"#0{i}0{i}0{i}" for i in range(4, 10))
_COLOURS = {_INK: "var(--ink)", _FAINT: "var(--muted)", _LINE: "var(--line)"} | {
    colour: f"var(--series-{i})" for i, colour in enumerate(SERIES, 1)
}
_STYLE: Any = {  # the type of rcParams is a list of all their names
    "svg.fonttype": "none",
    "svg.hashsalt": "evomm",
    "text.parse_math": False,  # a label with two $ is no formula
    "font.size": 8.0,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.5,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _FAINT,
    "ytick.labelcolor": _FAINT,
    "legend.frameon": False,
}
_MANY = 3000  # points: beyond, only bands and lines are drawn


@dataclass(frozen=True)
class Curve:
    """One search. generations: fitness of candidates that were asked together. spread: whether points and quantiles are drawn.
    beside: whether it is what another is compared with.
    """

    name: str
    generations: Sequence[Sequence[float]]
    spread: bool = False
    beside: bool = False


def curves(found: Sequence[Curve], about: str) -> Markup:
    """Best fitness so far over evaluations, and of searches with a spread the candidates themselves."""

    def draw(axes: Axes) -> None:
        for place, curve in enumerate(found):
            colour = SERIES[place % len(SERIES)]
            values = np.array([value for generation in curve.generations for value in generation])
            if not np.isfinite(values).any():
                continue
            number = np.arange(1, len(values) + 1)
            if curve.spread:
                _spread(axes, curve, values, colour)
            best = 100 * np.maximum.accumulate(np.where(np.isfinite(values), values, -np.inf))
            best[~np.isfinite(best)] = np.nan
            label = f"{curve.name[:_LONG]}, best so far"
            how = (4 * place, (4, 4)) if curve.beside else "solid"  # lines on top of each other show both
            axes.step(number, best, where="post", color=colour, label=label, linewidth=1.7, linestyle=how)
        axes.set_xlabel("evaluation")
        axes.set_ylabel("fitness × 100")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return _svg(draw, "curves", about)


def scatter(points: Mapping[str, tuple[float, float]], names: tuple[str, str], chosen: str, about: str) -> Markup:
    """Points of two goals, joined in the order they are given; the chosen one is marked."""

    def draw(axes: Axes) -> None:
        x, y = (np.array([100 * point[k] for point in points.values()]) for k in (0, 1))
        axes.plot(x, y, ".-", color=SERIES[0], ms=7, linewidth=0.9, label="front")
        if chosen in points:
            axes.plot(*[[100 * value] for value in points[chosen]], "o", color=SERIES[1], ms=8, label=f"child ({chosen[:_LONG]})")
        axes.set_xlabel(f"{names[0][:_LONG]} × 100")
        axes.set_ylabel(f"{names[1][:_LONG]} × 100")

    return _svg(draw, "front", about)


def _spread(axes: Axes, curve: Curve, values: np.ndarray, colour: str) -> None:
    """The candidates, and of every generation the median and the middle 80%."""
    if len(values) <= _MANY:
        axes.plot(np.arange(1, len(values) + 1), 100 * np.where(np.isfinite(values), values, np.nan), ".", color=_FAINT, ms=2)
    ends = np.cumsum([len(generation) for generation in curve.generations])
    finite = [[100 * value for value in generation if np.isfinite(value)] or [np.nan] for generation in curve.generations]
    low, middle, high = (np.array([np.quantile(g, q) for g in finite]) for q in (0.1, 0.5, 0.9))
    starts = ends - [len(generation) for generation in curve.generations] + 1
    centre = (starts + ends) / 2
    axes.fill_between(centre, low, high, color=colour, alpha=0.18, linewidth=0, label="middle 80% of a generation")
    axes.plot(centre, middle, color=colour, linewidth=0.9, alpha=0.7, label="its median")


def _svg(draw: Callable[[Axes], None], chart: str, about: str) -> Markup:
    drawn = []
    for name, size in _SIZES.items():
        with rc_context(_STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the browser's fonts draw them
            figure = Figure(figsize=size, layout="constrained")
            draw(axes := figure.subplots())
            figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=_KEYS[name], fontsize=7)
            out = io.BytesIO()
            figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        drawn.append(_inline(out.getvalue(), chart, name, about))
    return Markup("").join(drawn)


def _inline(svg: bytes, chart: str, name: str, about: str) -> Markup:
    """What matplotlib drew, as a part of a page: without metadata, styles for everyone, namespaces, and fonts of its own."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in {"metadata", "style", "title"}:
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        found = {_local(key): value for key, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update(
            {key: _attribute(key, value, f"{chart}-{name}") for key, value in found.items() if key != "version"}
        )
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    root.attrib.update({"class": f"chart {name}", "role": "img", "aria-label": about})
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-")
    if key == "style":
        value = re.sub(r"font: (?:[\w ]* )?([\d.]+)px [^;]*", r"font-size: \1px", value)
        value = re.sub(r"font-family: [^;]*;? ?", "", value)
        for stand_in, real in _COLOURS.items():
            value = value.replace(stand_in, real)
    return value.replace("url(#", f"url(#{name}-")


def _local(name: str) -> str:
    return name.rpartition("}")[2]
