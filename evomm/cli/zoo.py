"""``evomm zoo``: the small models that ship, and the cards of public ones."""

from pathlib import Path
from typing import Annotated

import typer

from evomm.cli.show import note, out, print_json

app = typer.Typer(
    help="The small models that ship with evomm, and cards of public ones.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("list")
def list_models(as_json: Annotated[bool, typer.Option("--json", help="Print a list.")] = False) -> None:
    """List the models that configs can name."""
    from rich.markup import escape

    from evomm.run.cards import cards
    from evomm.run.zoo import families

    rows = [
        (f"zoo:tiny/{name}/{model}", family.adapter, family.licence, about)
        for name, (_, family) in families().items()
        for model, about in family.models.items()
    ]
    rows += [(card.repo, card.adapter, card.licence, card.role) for card in cards().values()]
    if as_json:
        print_json([dict(zip(("model", "adapter", "licence", "about"), row, strict=True)) for row in rows])
        return
    from rich.table import Table

    table = Table("model", "adapter", "licence", "what it is")
    for row in rows:
        table.add_row(*map(escape, row))
    out.print(table)


@app.command()
def show(model: Annotated[str, typer.Argument(help="A family such as llm, or a public model's id.")]) -> None:
    """Show what is known of a family or a public model."""
    from evomm.run.cards import cards
    from evomm.run.zoo import family

    card = cards().get(model)
    if card is None:
        folder, described = family(model)
        print_json({"folder": str(folder), **described.model_dump(mode="json")})
    else:
        print_json(card.model_dump(mode="json"))


@app.command()
def verify(family: Annotated[str | None, typer.Argument(help="A family; all when absent.")] = None) -> None:
    """Check the shipped files' digests."""
    from evomm.run.zoo import families
    from evomm.run.zoo import verify as check

    for name in [family] if family else families():
        out.print(f"{name}: {check(name)} files are what they should be")


@app.command()
def build(
    family: Annotated[str, typer.Argument(help="A family such as llm.")],
    output: Annotated[Path, typer.Option("-o", "--out", help="The folder to fill.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the whole training.")] = 0,
) -> None:
    """Train a family from scratch, with the script that made the shipped one."""
    from evomm.run.zoo import build as run

    run(family, seed, output)


@app.command()
def pull(model: Annotated[str, typer.Argument(help="A hub id, optionally with @revision.")]) -> None:
    """Fetch a public model into the hub's cache (safetensors and configs only)."""
    from evomm.checkpoints.locate import locate

    note(f"fetching {model}")
    out.print(str(locate(model)))
