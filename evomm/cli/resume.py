"""``evomm resume``: go on with a run, whatever stopped it."""

from pathlib import Path
from typing import Annotated

import typer

from evomm.cli.batch import run_jobs
from evomm.cli.evolve import show_outcome


def resume(
    run: Annotated[Path, typer.Argument(help="The run's folder, or a batch's.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print {run, seconds, evaluations, test, ...}.")] = False,
) -> None:
    """Go on where a run or a batch stopped; the outcome is that of one that never stopped."""
    from evomm.cli.progress import RunWatch
    from evomm.run.batch import stored_jobs
    from evomm.run.stages import resume_stages

    jobs = stored_jobs(run)
    if jobs is not None:
        run_jobs(jobs, run, as_json)
        return
    with RunWatch(run) as watch:
        outcome = resume_stages(run, watch)
    show_outcome(outcome, as_json)
