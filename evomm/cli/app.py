"""The typer app: verbs, exit codes, and how errors are shown."""

import gc
import os
import sys
from typing import Annotated

import typer

from evomm.cli import batch, evaluate, evolve, export, extract, inspect, merge, plan, report, resume, schema, watch, zoo
from evomm.cli.show import error
from evomm.errors import EvommError

app = typer.Typer(
    name="evomm",
    help="Evolutionary model merging: search for the blend of existing models that can do what each of them does.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich is not imported for it
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("merge")(merge.merge)
app.command("evolve")(evolve.evolve)
app.command("resume")(resume.resume)
app.command("eval")(evaluate.evaluate)
app.command("export")(export.export)
app.command("extract-lora")(extract.extract_lora)
app.command("batch")(batch.batch)
app.command("report")(report.report)
app.command("watch")(watch.watch)
app.command("plan")(plan.plan)
app.command("inspect")(inspect.inspect)
app.command("schema")(schema.schema)
app.add_typer(zoo.app, name="zoo")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"evomm {version('evomm')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Evolutionary model merging: search for the blend of existing models that can do what each of them does."""


def main() -> None:
    """Entry point: turns errors into one message and their exit code; typer itself ends an interrupted verb with 130."""
    gc.set_threshold(100_000, 50, 50)  # importing makes many objects that stay; looking for garbage among them is lost time
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # of this process only: no fork warnings on a user's screen
    try:
        app()
    except EvommError as problem:
        error(str(problem))
        sys.exit(problem.exit_code)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        sys.exit(0)
    finally:
        if "triton" not in sys.modules:  # it complains of what is left when a process ends
            gc.freeze()  # looking once more through all that was imported is lost time, too
