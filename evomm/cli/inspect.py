"""``evomm inspect``: what models are made of, and how far apart they are."""

from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Annotated

import typer

from evomm.cli.show import out, print_json, size


def inspect(
    models: Annotated[list[str], typer.Argument(help="Folders, zoo: names or hub ids; the first is the reference.")],
    by: Annotated[str, typer.Option(help="all, layer, component or layer+component.")] = "layer",
    group_size: Annotated[int, typer.Option("--size", min=1, help="Layers per block.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of blocks.")] = False,
) -> None:
    """Show blocks, their sizes, and how far models are from the first, block by block."""
    from evomm.checkpoints.locate import locate
    from evomm.cli.progress import working
    from evomm.genome.blocks import Grouping
    from evomm.plain import parse
    from evomm.run.look import look

    grouping = parse(Grouping, {"by": by, "apart": True, **({"size": group_size} if group_size > 1 else {})}, "--by")
    with working("reading"):
        rows = look([locate(model, Path.cwd()) for model in models], grouping)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    names = [Path(model).name for model in models]
    from rich.table import Table

    table = Table(
        title=f"{names[0]}" + (f", and the distance of others to it (‖x - {names[0]}‖ / ‖{names[0]}‖)" if names[1:] else "")
    )
    table.add_column("block")
    for column in (
        "tensors",
        "parameters",
        "size",
        *names[1:],
        *(f"cos {a}·{b}" for a, b in combinations(names[1:], 2)),
    ):
        table.add_column(column, justify="right")
    for row in rows:
        cells = [f"{row.tensors}", f"{row.parameters:,}", size(row.nbytes)]
        table.add_row(row.block, *cells, *(f"{d:.4f}" for d in row.distances), *(f"{c:+.3f}" for c in row.cosines))
    total = sum(row.parameters for row in rows)
    table.add_section()
    table.add_row("total", f"{sum(r.tensors for r in rows)}", f"{total:,}", size(sum(r.nbytes for r in rows)))
    out.print(table)
