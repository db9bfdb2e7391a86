"""``evomm resume``: go on with a run, whatever stopped it."""

from pathlib import Path
from typing import Annotated

import typer

from evomm.cli.evolve import show_outcome


def resume(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print {run, seconds, evaluations, test, ...}.")] = False,
) -> None:
    """Go on where a run stopped; the outcome is that of a run that never stopped."""
    from evomm.cli.progress import RunWatch
    from evomm.run.stages import resume_stages

    with RunWatch(run) as watch:
        outcome = resume_stages(run, watch)
    show_outcome(outcome, as_json)
