"""What can go wrong, as a tree; the command line turns each branch into its exit code.

    EvommError
    ├── UsageError          2   bad option, config or recipe
    ├── MisfitError         3   the parents don't fit together
    ├── CheckpointError     4   a file is ...
    │   ├── MissingFile         ... not there
    │   ├── DamagedFile         ... there, but not what it should be
    │   ├── UnsafeFile          ... of a kind that can run code or that points out of its folder
    │   └── WriteFailed         ... impossible to write (full disk, no permission, already there)
    └── EvaluationError     5   a model could not be scored

Every message says what was expected, what came, and what to do.
"""

import difflib
from collections.abc import Iterable

_LONGEST = 8_000


class EvommError(Exception):
    """The root: whatever evomm raises on purpose. Its message can be shown: what files say in it is cut, half letters spelled."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        text = message if len(message) <= _LONGEST else f"{message[:_LONGEST]} ... ({len(message)} letters)"
        super().__init__(text.encode("utf-8", "backslashreplace").decode("utf-8"))


class UsageError(EvommError):
    """A bad option, config, recipe or task file."""

    exit_code = 2


class MisfitError(EvommError):
    """Parents that cannot be merged with one another."""

    exit_code = 3


class CheckpointError(EvommError):
    """A file that cannot be used."""

    exit_code = 4


class MissingFile(CheckpointError):  # noqa: N818 - reads as what it says
    """A file or model that is not there."""


class DamagedFile(CheckpointError):  # noqa: N818
    """A file whose content is not what its format demands."""


class UnsafeFile(CheckpointError):  # noqa: N818
    """A file that could run code, or a path that leaves its folder."""


class WriteFailed(CheckpointError):  # noqa: N818
    """An output that could not be written; nothing half-made is left behind."""


class EvaluationError(EvommError):
    """A model that could not be scored."""

    exit_code = 5


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: ``; did you mean 'weight'?``, or the list of all when nothing is near."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(names) or 'none'}"
