"""``evomm merge``: a recipe becomes a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from evomm.cli.show import out, print_json, show_weights, size


def merge(
    recipe: Annotated[Path, typer.Argument(help="A recipe (`evomm schema recipe` describes it), or any mergekit YAML.")],
    output: Annotated[Path, typer.Option("-o", "--out", help="The folder to make; of image models also a file: x.safetensors.")],
    shard_gb: Annotated[float, typer.Option(min=0.001, help="Largest shard, in GB.")] = 5.0,
    threads: Annotated[int | None, typer.Option(min=1, help="Tensors merged at a time; one per core by default.")] = None,
    device: Annotated[str, typer.Option(help="Where the arithmetic is done: cpu, cuda or cuda:1, ...")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print {out, tensors, bytes, seconds}.")] = False,
) -> None:
    """Make the model that a recipe describes; memory of a few pieces of tensors."""
    import time

    from evomm.cli.progress import MergeWatch
    from evomm.report.card import Card
    from evomm.run.make import Workshop, make_file

    started = time.monotonic()
    with MergeWatch() as watch:
        card = Card(recipe.parent).write
        workshop = Workshop(
            recipe.parent, threads=threads, device=device, shard_bytes=int(shard_gb * 1e9), watch=watch, card=card
        )
        written = make_file(recipe, output, workshop)
    seconds = time.monotonic() - started
    if as_json:
        document = {
            "out": str(output),
            "tensors": written.tensors,
            "bytes": written.bytes,
            "seconds": round(seconds, 3),
        }
        print_json({**document, **({"block_weights": written.block_weights} if written.block_weights else {})})
    else:
        out.print(f"{output}: {written.tensors} tensors, {size(written.bytes)}, {seconds:.1f} s")
        show_weights(written.block_weights)
