"""How things look: results on stdout, everything else on stderr; plain lines in a pipe."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

_PIPE_WIDTH = 140  # of a table that goes into a file
out = Console(highlight=False, soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else _PIPE_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def print_json(content: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(content, ensure_ascii=False) + "\n")


def error(text: str) -> None:
    """What went wrong."""
    err.print(f"[bold red]error:[/] {escape(text)}")


def note(text: str) -> None:
    """Something worth knowing that is no result."""
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
