"""The tree of errors: what its docstring draws is what there is."""

import re

import pytest

from evomm import errors
from evomm.errors import EvommError, nearest

CLASSES = {name: c for name, c in vars(errors).items() if isinstance(c, type) and issubclass(c, Exception)}


def test_every_error_is_an_evomm_error_and_drawn() -> None:
    assert errors.__doc__ is not None
    drawn = re.findall(r"^[\s│├└─]*(\w+)", errors.__doc__.split("\n\n")[1], re.MULTILINE)
    assert sorted(drawn) == sorted(CLASSES)
    assert all(issubclass(c, EvommError) for c in CLASSES.values())


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("UsageError", 2),
        ("MisfitError", 3),
        ("CheckpointError", 4),
        ("MissingFile", 4),
        ("DamagedFile", 4),
        ("UnsafeFile", 4),
        ("WriteFailed", 4),
        ("EvaluationError", 5),
    ],
)
def test_exit_codes_that_scripts_depend_on(name: str, code: int) -> None:
    assert CLASSES[name]("x").exit_code == code  # type: ignore[attr-defined]


def test_a_misspelt_name_is_answered_with_the_nearest_or_with_all() -> None:
    known = ["weight", "density"]
    assert nearest("wieght", known) == "; did you mean 'weight'?"
    assert nearest("zzz", known) == "; known: density, weight"
    assert nearest("zzz", []) == "; known: none"
