"""``evomm schema``: JSON schemas, for editors and checkers."""

from typing import Annotated

import typer

from evomm.cli.show import print_json


def schema(what: Annotated[str, typer.Argument(help="recipe, evolve or task.")]) -> None:
    """Print the JSON schema of a kind of file."""
    from evomm.errors import UsageError, nearest
    from evomm.fitness.task import TaskSpec
    from evomm.merge.recipe import Recipe
    from evomm.plain import Plain
    from evomm.run.config import EvolveConfig

    models: dict[str, type[Plain]] = {"recipe": Recipe, "evolve": EvolveConfig, "task": TaskSpec}
    if what not in models:
        raise UsageError(f"no schema '{what}'{nearest(what, models)}")
    print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **models[what].model_json_schema()})
