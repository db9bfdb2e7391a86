"""``evomm batch``: many runs from one file, resumable as a whole."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomm.cli.evolve import config_path
from evomm.cli.show import note, out, percent, print_json

if TYPE_CHECKING:
    from evomm.run.batch import Jobs


def batch(
    jobs: Annotated[Path, typer.Argument(help="A file of jobs (YAML): configs, and the values of a matrix.")],
    output: Annotated[Path | None, typer.Option("-o", "--out", help="The batch's folder; by default runs/NAME.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print {batch, jobs: [...]}.")] = False,
) -> None:
    """Run every job that is not done yet, and show them all; fails when one of them did."""
    from evomm.run.batch import load_batch

    run_jobs(load_batch(jobs, config_path), output or Path("runs") / jobs.stem, as_json)


def run_jobs(jobs: "Jobs", folder: Path, as_json: bool) -> None:
    """Go through them, and show what came out; EvaluationError when some failed."""
    from evomm.cli.progress import RunWatch
    from evomm.errors import EvaluationError
    from evomm.run.batch import run_batch

    note(f"batch: {folder}, {len(jobs.jobs)} jobs")
    with RunWatch(folder) as watch:
        results = run_batch(jobs, folder, watch)
    if as_json:
        print_json({"batch": str(folder), "jobs": [result.model_dump(mode="json") for result in results]})
    else:
        from rich.markup import escape
        from rich.table import Table

        table = Table(title="Test split, % (95% interval)")
        for column in ("job", "child", "lead over the best other", "evaluations", "seconds"):
            table.add_column(column, justify="left" if column == "job" else "right")
        for result in results:
            if result.child is None or result.lead is None:
                table.add_row(escape(result.name), f"[red]failed: {escape(result.failure or '')}[/]")
                continue
            lead = (
                f"{100 * result.lead.score:+.1f} ({100 * result.lead.low:+.1f} to {100 * result.lead.high:+.1f}), {result.over}"
            )
            numbers = f"{result.evaluations}", f"{result.seconds:.0f}"
            table.add_row(escape(result.name), percent(result.child.model_dump()), escape(lead), *numbers)
        out.print(table)
    failed = [result for result in results if result.failure]
    if failed:
        told = f"the first, {failed[0].name}: {failed[0].failure}"
        raise EvaluationError(f"{len(failed)} of {len(results)} jobs failed; {told}\n`evomm resume {folder}` tries them again")
