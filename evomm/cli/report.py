"""``evomm report``: a run as one HTML file, or several runs side by side."""

from pathlib import Path
from typing import Annotated

import typer

from evomm.cli.show import out


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs; of one, everything; of several, how they compare.")],
    output: Annotated[Path | None, typer.Option("-o", "--out", help="The file; by default RUN/report.html.")] = None,
    examples: Annotated[int, typer.Option(min=0, help="At most so many wins, losses and ties.")] = 30,
    weights: Annotated[
        bool | None, typer.Option("--weights/--no-weights", help="Read the parents' weights; by default when they are small.")
    ] = None,
    watts: Annotated[float | None, typer.Option(min=0, help="What the machine draws: estimates energy.")] = None,
    price: Annotated[float | None, typer.Option(min=0, help="Of an hour of the machine: estimates money.")] = None,
) -> None:
    """Write what a run found, finished or not, as one HTML file that needs no network."""
    from evomm.cli.progress import working
    from evomm.report.cost import Rates
    from evomm.report.page import Wishes, page, save
    from evomm.report.story import Story
    from evomm.run.stages import begun, stage_names

    found = [begun(run) for run in runs]
    output = output or (runs[0] if len(runs) == 1 else Path()) / "report.html"
    with working("reading"):
        stories = [Story.read(folders[-1]) for folders in found]
        text = page(stories, Wishes(examples, weights, Rates(watts, price)), stage_names(runs[0]))
    save(text, output)
    out.print(str(output))
