"""``evomm plan``: a dry run."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomm.cli.evolve import config_path
from evomm.cli.show import out, print_json, size

if TYPE_CHECKING:
    from evomm.run.estimate import Estimate


def plan(
    file: Annotated[Path, typer.Argument(help="A config, a recipe, or any mergekit YAML.")],
    output: Annotated[Path, typer.Option("-o", "--out", help="Where the result would go: whose disk is asked.")] = Path(),
    settings: Annotated[list[str] | None, typer.Option("--set", help="Override a key of a config, in every stage.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print {fits, memory_bytes, disk_bytes, genes, missing}.")] = False,
) -> None:
    """Say from headers alone whether a run or merge fits, and what is missing. Fetches nothing."""
    from rich.markup import escape

    from evomm.merge.mergekit.read import is_mergekit, read_documents
    from evomm.merge.mergekit.stages import stages
    from evomm.merge.recipe import Recipe
    from evomm.plain import load_yaml_all, read_text
    from evomm.run.estimate import estimate_documents, estimate_merge
    from evomm.run.estimate_stages import estimate_stages
    from evomm.run.stages import load_stages

    path = config_path(file)
    text = read_text(path)
    first = load_yaml_all(text, str(path))[0]
    if first.keys() & {"genes", "flow"}:
        found = estimate_stages(load_stages(path, settings or ()), path.parent, output)
    elif is_mergekit(first):
        found = estimate_documents(stages(read_documents(text, str(path))), path.parent, output)
    else:
        found = estimate_merge(Recipe.from_yaml(text, str(path)), path.parent, output)
    if as_json:
        keys = ("memory_bytes", "disk_bytes", "genes", "missing", "evaluations", "notes", "licences")
        print_json({"fits": found.fits, **{key: asdict(found)[key] for key in keys}})
        return
    if found.missing:
        out.print(f"[red]missing[/]   {escape('; '.join(found.missing))}")
    for name, part in found.stages.items():
        takes = f"memory {size(part.memory_bytes)}, disk {size(part.disk_bytes)}"
        out.print(f"stage     {escape(name)}: genes {_genes(part)}, {part.evaluations} evaluations, {takes}")
    out.print(f"memory    {size(found.memory_bytes)} of {size(found.memory_free)} free")
    children = "the stages' children" if found.stages else "the child"
    out.print(f"disk      {size(found.disk_bytes)} for {children}, of {size(found.disk_free)} free")
    if found.evaluations:
        out.print(f"genes     {_genes(found)}, {found.evaluations} evaluations (baseline included)")
    for label, licence in found.licences.items():
        out.print(f"licence   {label}: {escape(licence)}")
    for text in found.notes:
        out.print(f"note      {escape(text)}")
    out.print("[green]ready[/]" if found.fits else "[red]not ready[/]")


def _genes(found: "Estimate") -> str:
    return "unknown until a parent is here" if found.genes is None else str(found.genes)
