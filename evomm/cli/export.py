"""``evomm export``: a run's child, or any candidate of it, as a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from evomm.cli.show import out, print_json, show_weights, size


def export(
    run: Annotated[Path, typer.Argument(help="The run's folder; of a run of several stages, RUN (the last) or RUN/STAGE.")],
    output: Annotated[Path, typer.Option("-o", "--out", help="The folder to make, or a file: x.safetensors.")],
    candidate: Annotated[str, typer.Option(help="child, or a trial such as cma/17.")] = "child",
    form: Annotated[
        str | None, typer.Option("--format", help="hf (a folder) or single-file (image models); as OUT ends when absent.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print {out, tensors, bytes, seconds, ...}.")] = False,
) -> None:
    """Write the winner (or another candidate) to disk, with the recipe that re-makes it."""
    import time

    from evomm.cli.progress import MergeWatch, working
    from evomm.run.export import candidate_recipe, target
    from evomm.run.make import Workshop
    from evomm.run.stages import last_run

    started, output = time.monotonic(), target(output, form)
    with working("checking the parents"):
        recipe = candidate_recipe(last_run(run), candidate)
    with MergeWatch() as watch:
        written = Workshop(watch=watch).make(recipe, output)
    seconds = round(time.monotonic() - started, 3)
    if as_json:
        document = {"out": str(output), "tensors": written.tensors, "bytes": written.bytes, "seconds": seconds}
        print_json({**document, **({"block_weights": written.block_weights} if written.block_weights else {})})
        return
    where = "its header" if output.is_file() else "evomm_recipe.yaml"
    out.print(f"{output}: {written.tensors} tensors, {size(written.bytes)}; recipe in {where}")
    show_weights(written.block_weights)
