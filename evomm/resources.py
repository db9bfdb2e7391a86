"""Finds the data that ships with the project (model_zoo, evals, configs), in a checkout or installed."""

from pathlib import Path

from evomm.errors import MissingFile
from evomm.plain import exists

_PACKAGE = Path(__file__).resolve().parent
_HOMES = (_PACKAGE / "_data", _PACKAGE.parent)  # in the wheel; in a checkout


def resource(*parts: str) -> Path:
    """The path of shipped data, e.g. ``resource("model_zoo", "tiny", "llm", "ja")``.

    Raises MissingFile when it is in neither home.
    """
    for home in _HOMES if ".." not in parts else ():
        path = home.joinpath(*parts)
        if exists(path):
            return path
    raise MissingFile(f"'{'/'.join(parts)}' is not among the data shipped with evomm; `evomm zoo list` shows what is")
