"""docs/security.md: every line names tests, and they are there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINES = [line for line in (ROOT / "docs" / "security.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")][2:]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_line_of_the_threat_model_names_a_test_that_is_there() -> None:
    assert len(LINES) > 20, "the threat model is not read any more"
    for line in LINES:
        threat, _, shown = line.strip("|").rpartition("|")
        assert NAMED.search(shown), f"no test is named for: {threat}"
    for file, name in NAMED.findall("\n".join(LINES)):
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {name}"
