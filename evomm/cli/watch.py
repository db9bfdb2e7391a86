"""``evomm watch``: a run going on, seen from another terminal; reads its store, and touches nothing."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomm.cli.show import out

if TYPE_CHECKING:
    from rich.console import Group

    from evomm.report.story import Story


def watch(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    once: Annotated[bool, typer.Option("--once", help="Print where it is now, and end.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 2.0,
) -> None:
    """Show how far a run is and how good, until it is finished."""
    import time

    from rich.live import Live

    from evomm.run.stages import begun, stage_names

    names = stage_names(run)

    def look() -> tuple["Group", bool]:
        from evomm.report.story import Story

        folders = begun(run)
        story = Story.read(folders[-1])
        return _shown(story, names), story.finished and len(folders) == max(1, len(names))

    shown, over = look()
    if once or not out.real.is_terminal:
        out.print(shown)
        return
    with Live(shown, console=out.real, auto_refresh=False) as live:
        while not over:
            time.sleep(every)
            shown, over = look()
            live.update(shown, refresh=True)


def _shown(story: "Story", names: list[str]) -> "Group":
    import time

    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    from evomm.report.glance import lines, seconds_left, stage
    from evomm.report.words import clock, verdict

    table = Table(title=escape(f"{story.name}: {stage(story)}"), title_justify="left")
    table.add_column("search")
    for column in ("evaluations", "best", "median now"):
        table.add_column(column, justify="right")
    table.add_column("best, by generation")
    for line in lines(story):
        failed = f" ({line.failed} failed)" if line.failed else ""
        best, middle = ("" if value is None else f"{100 * value:.1f}" for value in (line.best, line.middle))
        table.add_row(line.name, f"{line.done}/{line.total}{failed}", best, middle, line.bars)
    said = [f"stages: {escape(' → '.join(names))}"] if names else []
    if story.finished:
        said.append(escape(verdict(story).text))
        said.append(f"evomm report {escape(str(story.folder))} shows the whole")
    else:
        left, ago = seconds_left(story), clock(time.time() - story.written)
        pace = "no evaluation yet" if left is None else f"about {clock(left)} of searching left"
        said.append(f"{pace}; last written {ago} ago")
    return Group(table, *said)
