"""``evomm export``: a run's child, or any candidate of it, as a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from evomm.cli.show import note, out, print_json, show_weights, size


def export(
    run: Annotated[Path, typer.Argument(help="The run's folder; of a run of several stages, RUN (the last) or RUN/STAGE.")],
    output: Annotated[Path, typer.Option("-o", "--out", help="The folder to make, or a file: x.safetensors.")],
    candidate: Annotated[str, typer.Option(help="child, or a trial such as cma/17.")] = "child",
    form: Annotated[
        str | None, typer.Option("--format", help="hf (a folder) or single-file (image models); as OUT ends when absent.")
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload the folder, as a private repository where there is none yet.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push-to-hub: make a public repository.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print {out, tensors, bytes, seconds, ...}.")] = False,
) -> None:
    """Write the winner (or another candidate) to disk, with the recipe that re-makes it and a model card."""
    import time

    from evomm.cli.progress import MergeWatch, working
    from evomm.report.card import Card
    from evomm.report.searched import Searched
    from evomm.report.story import Story
    from evomm.run.export import candidate_recipe, target
    from evomm.run.make import Workshop
    from evomm.run.stages import last_run

    started, output = time.monotonic(), target(output, form)
    if push_to_hub is not None:
        _refuse_push(push_to_hub, output)
    with working("checking the parents"):
        recipe = candidate_recipe(last_run(run), candidate)
        story = Story.read(last_run(run))
    card = Card(found=Searched(story, candidate if candidate in story.subjects else None))
    with MergeWatch() as watch:
        written = Workshop(watch=watch, card=card.write).make(recipe, output)
    pushed = {} if push_to_hub is None else {"pushed": _push(output, push_to_hub, private=not public)}
    seconds = round(time.monotonic() - started, 3)
    if as_json:
        document = {"out": str(output), "tensors": written.tensors, "bytes": written.bytes, "seconds": seconds}
        print_json({**document, **pushed, **({"block_weights": written.block_weights} if written.block_weights else {})})
        return
    where = "its header" if output.is_file() else "evomm_recipe.yaml, card in README.md"
    out.print(f"{output}: {written.tensors} tensors, {size(written.bytes)}; recipe in {where}")
    show_weights(written.block_weights)
    for address in pushed.values():
        out.print(address)


def _refuse_push(repo: str, output: Path) -> None:
    """Before any work: a name that is none, or a single file, which has no card."""
    from evomm.errors import UsageError
    from evomm.run.push import refuse_no_id

    refuse_no_id(repo)
    if output.suffix == ".safetensors":
        raise UsageError(f"{output}: --push-to-hub uploads a folder with its card; name one with -o")


def _push(folder: Path, repo: str, private: bool) -> str:
    from huggingface_hub import HfApi

    from evomm.cli.progress import working
    from evomm.run.push import push

    if "model: /" in (folder / "evomm_recipe.yaml").read_text(encoding="utf-8"):
        note("evomm_recipe.yaml names folders of this machine")
    with working(f"uploading to {repo}"):
        return push(folder, repo, HfApi(), private)
