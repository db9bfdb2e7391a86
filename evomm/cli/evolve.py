"""``evomm evolve``: a config, of one stage or several, becomes a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evomm.cli.show import note, out, percent, print_json, show_weights

if TYPE_CHECKING:
    from evomm.run.outcome import Outcome


def evolve(
    config: Annotated[Path, typer.Argument(help="A config (YAML), or the name of a shipped one such as demo-llm.")],
    output: Annotated[Path | None, typer.Option("-o", "--out", help="The run's folder; by default runs/NAME.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key, of every stage: search.evaluations=40.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print {run, seconds, evaluations, test, ...}.")] = False,
) -> None:
    """Search for the best blend of the parents, and test it once."""
    from evomm.cli.progress import RunWatch
    from evomm.run.stages import evolve_stages, load_stages

    path = config_path(config)
    stages = load_stages(path, settings or ())
    folder = output or _free_folder(path.stem)
    note(f"run: {folder}")
    with RunWatch(folder) as watch:
        outcome = evolve_stages(stages, folder, path.parent, watch)
    show_outcome(outcome, as_json)


def config_path(config: Path) -> Path:
    """A config's path; a bare name means a shipped one."""
    from evomm.errors import MissingFile, nearest
    from evomm.resources import resource

    if config.exists() or config.suffix or len(config.parts) > 1:
        return config
    shipped = {path.stem: path for path in resource("configs").glob("*.yaml")}
    if config.name not in shipped:
        raise MissingFile(f"{config}: no such file, and no shipped config{nearest(config.name, shipped)}")
    return shipped[config.name]


def show_outcome(outcome: "Outcome", as_json: bool) -> None:
    """The table that a person understands at once, or JSON."""
    document = outcome.as_json()
    if as_json:
        print_json(document)
        return
    parts = list(document["parts"]["child"])
    from rich.table import Table

    from evomm.run.looks import PICTURES

    table = Table(title=f"Test: {document['test']['child']['n']} examples never searched on, % (95% interval)")
    table.add_column("model")
    for column in ("score", *parts, *outcome.objectives, "child's lead"):
        table.add_column(column, justify="right")
    for role, interval in document["test"].items():
        lead = outcome.against(role)
        table.add_row(
            _called(role, outcome),
            percent(interval),
            *(f"{100 * document['parts'][role][part]['score']:.1f}" for part in parts),
            *(percent(roles[role]) for roles in document["objectives"].values()),
            "" if role == "child" else f"{100 * lead.score:+.1f} ({100 * lead.low:+.1f} to {100 * lead.high:+.1f})",
            style="bold green" if role == "child" else None,
        )
    out.print(table)
    _show_front(document)
    for kept in document["constraints"]:
        told = "keeps" if kept["met"] else "MISSES"
        out.print(
            f"The child {told} {kept['name']} >= {100 * kept['floor']:.1f}: it has {percent(kept['child'])} on the test split."
        )
    out.print(f"{outcome.evaluations} evaluations, {outcome.seconds:.0f} s. Recipe: {outcome.folder / 'recipe.yaml'}")
    if (outcome.folder / PICTURES).exists():
        out.print(f"Pictures of every improvement, and of all that was tested: {outcome.folder / PICTURES}")
    show_weights(outcome.block_weights)
    out.print(f"See what came out: evomm report {outcome.folder}")
    out.print(f"Get the model: evomm export {outcome.folder} -o MODEL")


def _show_front(document: dict[str, Any]) -> None:
    """The points that no other one beats, of which the child is one; nothing for a run with one goal."""
    from rich.table import Table

    front = document["front"]
    if not front:
        return
    table = Table(title="Front on the validation split, % (95% interval); `evomm export RUN --candidate NAME` writes any of them")
    for column in ("candidate", *next(iter(front.values()))):
        table.add_column(column)
    for candidate, goals in front.items():
        style = "bold green" if candidate == document["child"] else None
        table.add_row(candidate, *map(percent, goals.values()), style=style)
    out.print(table)


def _called(role: str, outcome: "Outcome") -> str:
    names = {
        "child": f"child ({outcome.subjects['child']})",
        "random": "best of random search, same budget",
        **{name: f"best of {name}, same budget" for name in ("cma", "genetic", "m2n2", "nsga2")},
        "grid": "best of a plain grid, same budget",
        "uniform": "uniform merge",
        "base": "base",
    }
    return names.get(role, f"parent {role}")


def _free_folder(name: str) -> Path:
    """runs/NAME, or runs/NAME-2 and so on when that is taken."""
    folder, number = Path("runs") / name, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder
