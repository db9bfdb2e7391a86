"""The model card of a child: README.md with the hub's metadata, what it is, what it was made of, how it fared, and its limits.

Workshop(card=Card().write).make(recipe, out)                          a merge by hand
Workshop(card=Card(story=Story.read(run), role="child").write)         a run's child, with its test
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from evomm.adapters.base import Adapter
from evomm.checkpoints.locate import hub_parts
from evomm.errors import UsageError
from evomm.merge.mergekit.write import written
from evomm.merge.recipe import Recipe, Source
from evomm.plain import dump_yaml
from evomm.report import markdown as md
from evomm.report.coefficients import coefficients, path, runs
from evomm.report.declared import Declared, declared
from evomm.report.licences import OTHER, Consequence, for_child
from evomm.run.make import MERGEKIT_FILE

_ALWAYS = (
    "It can have every fault that a parent has; nothing was trained away, and safety was not looked at.",
    "Merging changes abilities that no task here asks for; they were not measured.",
)
_CHILD = "child"  # what the child of a run's stage is called, in a folder with the stage's name
_MOST_ROWS = 120  # of a table of coefficients; beyond, the recipe beside the card has them


class Found(Protocol):
    """How a child was found, for its card; see `searched`, which a merge by hand does without."""

    def about(self) -> str:
        """A sentence on the search."""
        ...

    def evaluation(self) -> str:
        """How it fared, as Markdown."""
        ...

    def limits(self) -> list[str]:
        """What the evaluation does not say."""
        ...

    def metadata(self, name: str) -> dict[str, Any]:
        """What the hub wants to know: ``pipeline_tag``, ``language`` (a list) and ``model-index``, as far as there are some."""
        ...


@dataclass(frozen=True)
class Card:
    """Writes cards.

    beside: the folder that relative paths of the recipe start from. found: of a child of a run, how it was found.
    """

    beside: Path | None = None
    found: Found | None = None

    def write(self, name: str, recipe: Recipe, adapter: Adapter, texts: Mapping[str, str]) -> str:
        """The card of a child of this name; ``texts`` are the files that come to stand beside it."""
        parents = declared(recipe.parents, self.beside)
        follows = for_child({label: one.licence for label, one in parents.items()})
        how = f"This is a merge of {len(recipe.parents)} models by `{recipe.method}`, made with evomm without training."
        unknown = "None: this child was made by hand, and nothing here says how good it is."
        limits = [*(self.found.limits() if self.found else ()), *_ALWAYS]
        parts = [
            f"# {md.text(name)}",
            f"{how} {self.found.about()}" if self.found else how,
            "## Parents\n\n" + _parents(recipe, parents),
            "## Recipe\n\n" + _recipe(recipe),
            "## In mergekit's words\n\n" + _mergekit(recipe, texts),
            "## Evaluation\n\n" + (self.found.evaluation() if self.found else unknown),
            "## Limits\n\n" + _list(limits),
            "## Licence\n\n" + _licence(follows),
        ]
        head = dump_yaml(self._metadata(name, adapter, parents, follows))
        return f"---\n{head}---\n\n" + "\n\n".join(parts) + "\n"

    def _metadata(self, name: str, adapter: Adapter, parents: Mapping[str, Declared], follows: Consequence) -> dict[str, Any]:
        """As https://github.com/huggingface/hub-docs/blob/main/modelcard.md has it."""
        own: dict[str, Any] = self.found.metadata(name) if self.found else {}
        hub = list(dict.fromkeys(base for one in parents.values() for base in one.bases))
        spoken = (language for one in parents.values() for language in one.languages)
        licence = follows.licence
        named_so = {"license_name": _slug(licence.name), "license_link": licence.link} if licence.id == OTHER else {}
        found = {
            "base_model": hub,
            "base_model_relation": "merge" if hub else None,
            "library_name": adapter.library,
            "pipeline_tag": own.get("pipeline_tag"),
            "tags": ["merge", "evomm"],
            "language": list(dict.fromkeys([*own.get("language", ()), *spoken])),
            "license": licence.id,
            **named_so,
            "model-index": own.get("model-index"),
        }
        return {key: value for key, value in found.items() if value}


def _parents(recipe: Recipe, parents: Mapping[str, Declared]) -> str:
    rows = []
    for label, one in parents.items():
        source = recipe.parents[label.removesuffix(" (LoRA)")]
        model = source.lora if label.endswith(" (LoRA)") else source.model
        role = "the common ancestor" if label == recipe.base else ""
        said = f"{one.licence.called}{f', from {one.licence.source}' if one.licence.source else ''}"
        rows.append((label, named(model or ""), role, said))
    whole = [f"`{name}` is {md.text(label)}'s, as it is" for name, label in recipe.components.items()]
    return md.table(("label", "model", "role", "licence"), rows, left=4) + (f"\n\n{'; '.join(whole)}." if whole else "")


def _recipe(recipe: Recipe) -> str:
    said = "`evomm_recipe.yaml` beside this card re-makes the weights bit for bit: `evomm merge evomm_recipe.yaml -o again`. "
    said += f"Method `{recipe.method}`, dtype {recipe.dtype or 'of the first parent'}, seed {recipe.seed}."
    if recipe.generation:
        said += " It is meant to be asked with " + ", ".join(f"{key}: {value}" for key, value in recipe.generation.items()) + "."
    steps = path(recipe)
    if steps:
        walk = ", then ".join(f"{label} {first}" + (f" to {last}" if last > first else "") for label, first, last in runs(steps))
        return f"{said}\n\nA path through {len(steps)} layers: {md.text(walk)}. Scales are folded into what layers write."
    table = coefficients(recipe)
    if not table.columns or len(table.rows) > _MOST_ROWS:
        return said
    heads = ["block", *(f"{parameter} {label or ''}".strip() for parameter, label in table.columns)]
    rows = [(block, *("" if value is None else f"{value:.3f}" for value in row)) for block, row in table.rows.items()]
    return f"{said}\n\n{md.table(heads, rows)}"


def _mergekit(recipe: Recipe, texts: Mapping[str, str]) -> str:
    if MERGEKIT_FILE in texts:
        return f"It was made from a mergekit YAML, `{MERGEKIT_FILE}` beside this card:\n\n" + md.code(
            texts[MERGEKIT_FILE], "yaml"
        )
    try:
        document = written(recipe, _reference)
    except UsageError as error:
        return f"Not expressible: {md.text(error)}."
    return (
        "For mergekit, and for `evomm merge`. mergekit itself rounds on the way and draws other random masks, so "
        "its child differs in the last bits, or by more where a method drops at random.\n\n" + md.code(document, "yaml")
    )


def _licence(follows: Consequence) -> str:
    licence = follows.licence
    said = [f"**{md.text(licence.called)}**", *([md.link(licence.link)] if licence.link else [])]
    return (
        " ".join(said)
        + "\n\n"
        + _list(follows.sentences)
        + "\n\nThis follows from what the parents' cards say. It is no legal advice."
    )


def _list(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {md.text(sentence)}" for sentence in sentences)


def named(model: str) -> str:
    """A parent as others know it: a hub id or a zoo name; of a folder here, only its name, and of a stage's child the stage's."""
    if model.startswith("zoo:") or hub_parts(model):
        return model
    return "/".join(Path(model).parts[-2:]) if Path(model).name == _CHILD else Path(model).name


def _reference(source: Source) -> str:
    """As mergekit's YAML names it."""
    models = [model for model in (source.model, source.lora) if model]
    return "+".join(found if (found := named(model)) == model else f"./{found}" for model in models)


def _slug(name: str) -> str:
    """A licence's name as the hub wants it: lower case, without blanks."""
    kept = "".join(c if (c.isalnum() and c.isascii()) or c in ".-" else "-" for c in name.lower())
    return "-".join(part for part in kept.split("-") if part) or "other"
