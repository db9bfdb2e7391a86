"""The model card of a child: README.md with the hub's metadata, what it is, what it was made of, how it fared, and its limits.

Workshop(card=Card().write).make(recipe, out)                          a merge by hand
Workshop(card=Card(story=Story.read(run), role="child").write)         a run's child, with its test
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomm.adapters.base import Adapter
from evomm.checkpoints.locate import hub_parts
from evomm.errors import UsageError
from evomm.fitness.task import HUB, Task
from evomm.merge.mergekit.write import written
from evomm.merge.recipe import Recipe, Source
from evomm.plain import dump_yaml
from evomm.report import markdown as md
from evomm.report.coefficients import coefficients, path, runs
from evomm.report.declared import Declared, declared
from evomm.report.licences import OTHER, Consequence, for_child
from evomm.report.story import CHILD, Story
from evomm.report.words import called, lead, percent, searched_by, unit, verdict
from evomm.run.make import MERGEKIT_FILE

_MOST_ROWS = 120  # of a table of coefficients; beyond, the recipe beside the card has them


@dataclass(frozen=True)
class Card:
    """Writes cards.

    beside: the folder that relative paths of the recipe start from. story: of the run that the child comes from. role: which of
    the run's roles it is; None for a candidate that was not tested.
    """

    beside: Path | None = None
    story: Story | None = None
    role: str | None = None

    def write(self, name: str, recipe: Recipe, adapter: Adapter, texts: Mapping[str, str]) -> str:
        """The card of a child of this name; ``texts`` are the files that come to stand beside it."""
        parents = declared(recipe.parents, self.beside)
        follows = for_child({label: one.licence for label, one in parents.items()})
        task = self.story.task if self.story else None
        parts = [
            f"# {md.text(name)}",
            self._about(recipe),
            "## Parents\n\n" + _parents(recipe, parents),
            "## Recipe\n\n" + _recipe(recipe),
            "## In mergekit's words\n\n" + _mergekit(recipe, texts),
            "## Evaluation\n\n" + self._evaluation(task),
            "## Limits\n\n" + _list(self._limits(task)),
            "## Licence\n\n" + _licence(follows),
        ]
        head = dump_yaml(self._metadata(name, recipe, adapter, parents, follows, task))
        return f"---\n{head}---\n\n" + "\n\n".join(parts) + "\n"

    def _about(self, recipe: Recipe) -> str:
        how = f"a merge of {len(recipe.parents)} models by `{recipe.method}`, made with evomm without training"
        if self.story is None:
            return f"This is {how}."
        search, config = self.story.searches[self.story.config.search.method], self.story.config
        return (
            f"This is {how}. Its coefficients were found by evolutionary model merging (arXiv 2403.13187): "
            f"{searched_by(config.search.method)} tried {len(search)} candidates on the search split of the task "
            f"{md.text(Path(config.task).stem)}."
        )

    def _metadata(
        self,
        name: str,
        recipe: Recipe,
        adapter: Adapter,
        parents: Mapping[str, Declared],
        follows: Consequence,
        task: Task | None,
    ) -> dict[str, Any]:
        """As https://github.com/huggingface/hub-docs/blob/main/modelcard.md has it."""
        hub = list(dict.fromkeys(base for one in parents.values() for base in one.bases))
        spoken = [language] if (language := getattr(task and task.spec, "language", None)) else []
        languages = list(dict.fromkeys([*spoken, *(language for one in parents.values() for language in one.languages)]))
        licence = follows.licence
        own = {"license_name": _slug(licence.name), "license_link": licence.link} if licence.id == OTHER else {}
        found = {
            "base_model": hub,
            "base_model_relation": "merge" if hub else None,
            "library_name": adapter.library,
            "pipeline_tag": task.pipeline if task else None,
            "tags": ["merge", "evomm"],
            "language": languages,
            "license": licence.id,
            **own,
            "model-index": self._index(name, task),
        }
        return {key: value for key, value in found.items() if value}

    def _index(self, name: str, task: Task | None) -> list[dict[str, Any]] | None:
        """The test in the hub's form."""
        if self.story is None or self.role is None:
            return None
        score = self.story.scores[self.role]
        whole = score.interval
        kind = "accuracy" if unit(score) == "%" else "score"
        told = f"mean of {whole.n} examples, 95% interval {whole.low:.4f} to {whole.high:.4f}"
        columns = [{"type": kind, "name": told, "value": round(whole.score, 6)}]
        columns += [{"type": part, "name": part, "value": round(score.part(part).score, 6)} for part in score.parts]
        dataset = {"name": Path(self.story.config.task).stem, "type": _dataset(task, self.story), "split": "test"}
        results = [{"task": {"type": task.pipeline if task else Task.pipeline}, "dataset": dataset, "metrics": columns}]
        return [{"name": name, "results": results}]

    def _evaluation(self, task: Task | None) -> str:
        if self.story is None:
            return "None: this child was made by hand, and nothing here says how good it is."
        if self.role is None:
            return "None on the test split: this is a candidate of a run that was not its winner."
        scores = self.story.scores
        parts = list(scores[self.role].parts)
        rows = [
            (
                f"{called(role)}{' (this model)' if role == self.role else ''}",
                percent(score.interval),
                *(f"{100 * score.part(part).score:.1f}" for part in parts),
                "" if role == CHILD else lead(self.story.against(role)),
            )
            for role, score in scores.items()
        ]
        heads = ("model", f"{unit(scores[self.role])} (95% interval)", *parts, "child's lead (paired, 95%)")
        said = verdict(self.story).text
        prompt = getattr(task and task.spec, "prompt", None)
        asked = "\n\nAsked with this prompt:\n\n" + md.code(prompt) if prompt else ""
        return f"{md.text(said)}\n\n{md.table(heads, rows, bold=list(scores).index(self.role))}{asked}"

    def _limits(self, task: Task | None) -> list[str]:
        found = [
            "It can have every fault that a parent has; nothing was trained away, and safety was not looked at.",
            "Merging changes abilities that no task here asks for; they were not measured.",
        ]
        if self.story is None:
            return [*found, "It was not evaluated."]
        about = f" ({task.spec.about})" if task else ""
        return [
            f"It was chosen for one task, {Path(self.story.config.task).stem}{about}; what it does elsewhere is not known.",
            "Intervals are for the sampling of examples alone; another seed of the search gives another child.",
            *found,
        ]


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
    return "/".join(Path(model).parts[-2:]) if Path(model).name == CHILD else Path(model).name


def _reference(source: Source) -> str:
    """As mergekit's YAML names it."""
    models = [model for model in (source.model, source.lora) if model]
    return "+".join(found if (found := named(model)) == model else f"./{found}" for model in models)


def _dataset(task: Task | None, story: Story) -> str:
    """The hub's id of the data, where it lies there; the task's name otherwise."""
    data = task.spec.data if task else ""
    where = data if isinstance(data, str) else data.get("test", "")
    return where.removeprefix(HUB).partition("@")[0] if where.startswith(HUB) else Path(story.config.task).stem


def _slug(name: str) -> str:
    """A licence's name as the hub wants it: lower case, without blanks."""
    kept = "".join(c if (c.isalnum() and c.isascii()) or c in ".-" else "-" for c in name.lower())
    return "-".join(part for part in kept.split("-") if part) or "other"
