"""``evomm merge``: a recipe becomes a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from evomm.cli.show import out, print_json, size


def merge(
    recipe: Annotated[Path, typer.Argument(help="A recipe (YAML); `evomm schema recipe` describes it.")],
    output: Annotated[Path, typer.Option("-o", "--out", help="The folder to make.")],
    shard_gb: Annotated[float, typer.Option(min=0.001, help="Largest shard, in GB.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print {out, tensors, bytes, seconds}.")] = False,
) -> None:
    """Make the model that a recipe describes; memory of one tensor."""
    import time

    from evomm.cli.progress import bytes_bar
    from evomm.merge.recipe import Recipe
    from evomm.plain import read_text
    from evomm.run.make import make, source_bytes

    started = time.monotonic()
    plan = Recipe.from_yaml(read_text(recipe), str(recipe))
    total = source_bytes(plan, recipe.parent)
    with bytes_bar("merging", total) as advance:
        written = make(plan, output, beside=recipe.parent, advance=advance, shard_bytes=int(shard_gb * 1e9))
    seconds = time.monotonic() - started
    if as_json:
        document = {
            "out": str(output),
            "tensors": written.tensors,
            "bytes": written.bytes,
            "seconds": round(seconds, 3),
        }
        print_json(document)
    else:
        out.print(f"{output}: {written.tensors} tensors, {size(written.bytes)}, {seconds:.1f} s")
