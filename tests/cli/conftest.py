"""Running the command line inside the test's process."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from evomm.cli.app import main


@dataclass(frozen=True)
class Said:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str


Evomm = Callable[..., Said]


@pytest.fixture
def evomm(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Evomm:
    """``evomm("merge", "r.yaml", "-o", "out")`` runs the entry point as a shell would."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def call(*arguments: object) -> Said:
        capfd.readouterr()
        monkeypatch.setattr("sys.argv", ["evomm", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        return Said(code, out, err)

    return call
