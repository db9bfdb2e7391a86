"""How things look: results on stdout, everything else on stderr; plain lines in a pipe."""

import json
import sys
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


_PIPE_WIDTH = 140  # of a table that goes into a file


class _Lazy:
    """A rich console that is made when it first prints, since importing rich takes longer than all of ``evomm --help``."""

    def __init__(self, stderr: bool) -> None:
        self._stderr = stderr

    @cached_property
    def real(self) -> "Console":
        """The console itself."""
        from rich.console import Console

        terminal = (sys.stderr if self._stderr else sys.stdout).isatty()
        return Console(stderr=self._stderr, highlight=False, soft_wrap=not terminal, width=None if terminal else _PIPE_WIDTH)

    def print(self, *things: object, style: str | None = None) -> None:
        """As rich's; texts without the letters that steer a terminal."""
        self.real.print(*(_steerless(thing) if isinstance(thing, str) else thing for thing in things), style=style)


def _steerless(text: str) -> str:
    """Names and answers of models are in what is shown, and some letters would move the cursor or hide what stands there."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else repr(letter)[1:-1] for letter in text)


out, err = _Lazy(stderr=False), _Lazy(stderr=True)


def print_json(content: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(content, ensure_ascii=False) + "\n")


def error(text: str) -> None:
    """What went wrong."""
    from rich.markup import escape

    err.print(f"[bold red]error:[/] {escape(text)}")


def note(text: str) -> None:
    """Something worth knowing that is no result."""
    from rich.markup import escape

    err.print(escape(text), style="dim")


def size(nbytes: float) -> str:
    """Bytes as people read them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.3g} {unit}"
    return f"{nbytes:.0f} B"


def percent(score: Mapping[str, float]) -> str:
    """An interval such as 62.0 (58.1-65.8)."""
    return f"{100 * score['score']:.1f} ({100 * score['low']:.1f}-{100 * score['high']:.1f})"


def show_weights(strings: Mapping[str, str]) -> None:
    """Block weights to copy: a line each, however long; nothing when there are none."""
    from rich.markup import escape

    for label, text in strings.items():
        out.real.print(f"block weights of {escape(label)}: {text}", soft_wrap=True)
