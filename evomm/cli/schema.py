"""``evomm schema``: JSON schemas, for editors and checkers."""

from typing import Annotated

import typer

from evomm.cli.show import print_json


def schema(what: Annotated[str, typer.Argument(help="recipe, evolve, batch or task.")]) -> None:
    """Print the JSON schema of a kind of file."""
    from evomm.errors import UsageError, nearest
    from evomm.fitness.table import task_schema
    from evomm.merge.recipe import Recipe
    from evomm.run.batch import Batch
    from evomm.run.config import EvolveConfig

    schemas = {
        "recipe": Recipe.model_json_schema,
        "evolve": EvolveConfig.model_json_schema,
        "batch": Batch.model_json_schema,
        "task": task_schema,
    }
    if what not in schemas:
        raise UsageError(f"no schema '{what}'{nearest(what, schemas)}")
    print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **schemas[what]()})
