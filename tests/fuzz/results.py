"""``python -m tests.fuzz.results LOG``: the log of `run` as the table of docs/results/fuzzing.md."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path


def rows(lines: Iterable[str]) -> Iterator[str]:
    """Markdown, a row per run."""
    yield "| reader | seed | minutes | of them on a processor | executions | findings |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for line in lines:
        run = json.loads(line)
        cells = [run["reader"], run["seed"], run["minutes"], run["processor_minutes"], f"{run['executions']:,}"]
        yield f"| {' | '.join(map(str, cells))} | {'; '.join(run['findings']) or 'none'} |"


if __name__ == "__main__":
    print("\n".join(rows(Path(sys.argv[1]).read_text(encoding="utf-8").splitlines())))
