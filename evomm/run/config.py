"""What a run is asked to do: one flat YAML, frozen, no inheritance; `configs/demo-llm.yaml` is an example."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from evomm.adapters.table import ADAPTERS
from evomm.errors import UsageError, nearest
from evomm.fitness.racing import Racing
from evomm.genome.blocks import Grouping
from evomm.genome.dataflow import METHOD, Flow
from evomm.genome.space import GeneRule, methods_of
from evomm.merge.recipe import DtypeName, Recipe, Slice, Source, Value, refuse_mixture
from evomm.merge.table import METHODS
from evomm.plain import Plain, load_yaml_all, parse, read_text
from evomm.run.goals import OWN, Constraint, Goal
from evomm.search.base import Settings
from evomm.search.table import SEARCHERS

MIXED = "mixed"  # of a component: not taken whole


class SearchConfig(Settings):
    """The searcher by name, and its settings."""

    method: str = "cma"

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        if method not in SEARCHERS:
            raise ValueError(f"unknown searcher '{method}'{nearest(method, SEARCHERS)}")
        return method


class Limits(Plain):
    """How many examples of each split are used; all when absent."""

    search: int | None = Field(default=None, ge=1)
    validation: int | None = Field(default=None, ge=1)
    test: int | None = Field(default=None, ge=1)


class Given(Plain):
    """A parent with a LoRA: model (the run's base when absent), and the LoRA that is put on it."""

    lora: str
    model: str | None = None
    scale: float = 1.0


class EvolveConfig(Plain):
    """A run.

    stage: the name of this document, where a file holds several; then ``stage:NAME`` as a model is the child of an earlier one.
    parents: label -> model (zoo name, folder, file or hub id), or a LoRA and what it is put on; the weight of a LoRA's task
    vector is its scale. base: the common ancestor, for methods on task vectors. components: part of the model -> label of the
    parent that it is taken from whole, or "mixed". generation: how candidates are asked, where the task's way is not meant.
    objectives: further goals beside the task's score, which make the search one for a front; constraints: what a child must not
    fall below (see run/goals.py for both). racing: how generations race (see fitness/racing.py); every candidate answers every
    example when absent.
    fixed: method parameters that are not searched. genes: those that are. flow: instead of genes, a search for a path through the
    parents' layers (see genome/dataflow.py), which begins as the first parent. baseline: a searcher that gets the same
    budget, or several, for an honest comparison. finalists: how many of the best are re-scored on the validation split.
    dtype: of the child. device and compute: where and in which dtype candidates are run. batch: prompts at a time.
    threads: of this process's CPU work, torch's choice when absent; small models are fastest with one.
    """

    stage: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    adapter: str
    task: str
    method: str
    parents: Mapping[str, str | Given] = Field(min_length=1)
    base: str | None = None
    components: Mapping[str, str] = Field(default_factory=dict)
    generation: Mapping[str, bool | int | float | str] = Field(default_factory=dict)
    genes: tuple[GeneRule, ...] = ()
    flow: Flow | None = None
    fixed: Mapping[str, Value] = Field(default_factory=dict)
    grouping: Grouping = Grouping()
    search: SearchConfig = SearchConfig()
    objectives: tuple[Goal, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    racing: Racing | None = None
    baseline: str | tuple[str, ...] | None = "random"
    limits: Limits = Limits()
    finalists: int = Field(default=4, ge=1)
    dtype: DtypeName = "bfloat16"
    device: str = "auto"
    compute: DtypeName = "float32"
    batch: int = Field(default=64, ge=1)
    threads: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.adapter not in ADAPTERS:
            raise ValueError(f"unknown adapter '{self.adapter}'{nearest(self.adapter, ADAPTERS)}")
        if self.method not in METHODS:
            raise ValueError(f"unknown method '{self.method}'{nearest(self.method, METHODS)}")
        for name in self.baselines:
            if name not in SEARCHERS or name == self.search.method:
                known = [one for one in SEARCHERS if one != self.search.method]
                raise ValueError(f"baseline '{name}' is no other searcher{nearest(name, known)}")
        for label in {"child", "uniform", *SEARCHERS} & set(self.parents):
            raise ValueError(f"parent '{label}': that is what results are called; give it another label")
        if MIXED in self.parents:
            raise ValueError(f"parent '{MIXED}': that is what mixed components are called; give it another label")
        for name, label in self.components.items():
            if label != MIXED and label not in self.models:
                raise ValueError(f"component '{name}': '{label}' is no parent{nearest(label, [*self.models, MIXED])}")
        homeless = next((n for n, p in self.parents.items() if isinstance(p, Given) and p.model is None), None)
        if homeless is not None and self.base is None:
            raise ValueError(f"parent '{homeless}': a LoRA needs the model that it is put on, as `model: ...`, or a base")
        if self.base is not None and "base" in self.parents:
            raise ValueError("'base' is the label of the base; give the parent another label")
        self._refuse_half_a_space()
        self._refuse_goals()
        population = self.search.population
        if population is not None and population > self.search.evaluations:
            raise ValueError(f"search.population ({population}) is larger than search.evaluations")
        self._refuse_choices(self.template())  # which raises what a recipe would
        return self

    def _refuse_half_a_space(self) -> None:
        if bool(self.genes) == (self.flow is not None):
            raise ValueError("a run searches either `genes` (weights) or a `flow` (a path through layers): give one of them")
        if self.flow is not None and (self.method != METHOD or self.base is not None or self.fixed or self.components):
            raise ValueError(f"a flow takes layers as they are: `method: {METHOD}`, without base, fixed and components")

    def _refuse_choices(self, template: Recipe) -> None:
        """Every method that a block may choose must be able to mix what the recipe's does."""
        methods = methods_of(self.method, self.genes)
        refuse_mixture(methods, self.base)
        for method in methods if len(methods) > 1 else ():
            template.refuse_count(template.mixed, "the run", method)
            if METHODS[method].needs_base and self.base is None:
                raise ValueError(f"gene 'method': {method} needs the base; name it, as `base: MODEL`, or leave {method} out")

    def _refuse_goals(self) -> None:
        names = [goal.name for goal in self.goals]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"objective '{twice}' is there already; the first goal is the score of the run's own task")
        for one in self.constraints:
            if one.parent is not None and one.parent not in self.models:
                raise ValueError(f"constraint '{one.name}': '{one.parent}' is no parent{nearest(one.parent, self.models)}")
        for name in (self.search.method, *self.baselines):
            if self.objectives and not SEARCHERS[name].many_goals:
                able = ", ".join(one for one, searcher in SEARCHERS.items() if searcher.many_goals)
                raise ValueError(f"searcher '{name}' looks at one goal, and this run has {len(names)}; choose one of: {able}")
            if self.racing is not None and SEARCHERS[name].wants_values:
                raise ValueError(f"searcher '{name}' looks at every example, and races leave examples out: drop one of them")
        if self.racing is not None and (self.objectives or self.constraints):
            raise ValueError("races are for one goal without constraints; leave out `racing`, or objectives and constraints")

    @property
    def goals(self) -> tuple[Goal, ...]:
        """The score of the run's own task, and the further objectives."""
        return (Goal(), *self.objectives)

    @property
    def tasks(self) -> dict[str, str]:
        """Name that goals use -> task; the run's own first."""
        return {OWN: self.task, **{goal.task: goal.task for goal in (*self.objectives, *self.constraints) if goal.task}}

    @property
    def baselines(self) -> tuple[str, ...]:
        """Searchers that get the same budget."""
        given = (self.baseline,) if isinstance(self.baseline, str) else self.baseline
        return given or ()

    @property
    def models(self) -> dict[str, Source]:
        """Label -> where it comes from, the base first."""
        given = {**({"base": self.base} if self.base else {}), **self.parents}
        return {label: self._source(parent) for label, parent in given.items()}

    def _source(self, parent: str | Given) -> Source:
        if isinstance(parent, str):
            return Source(model=parent)
        return Source(model=parent.model or self.base or "", lora=parent.lora, scale=parent.scale)

    def template(self) -> Recipe:
        """The recipe that genes are written into; components that the adapter does not mix are not in it yet."""
        return Recipe(
            method=self.method,
            parents=self.models,
            base="base" if self.base else None,
            parameters=dict(self.fixed),
            dtype=self.dtype,
            seed=self.seed,
            components={name: label for name, label in self.components.items() if label != MIXED},
            generation=dict(self.generation),
            slices=(Slice(layers={next(iter(self.parents)): (0, 1)}),) if self.flow else (),  # which a path replaces
        )

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str] = ()) -> Self:
        """Read a config file and set ``a.b=value`` overrides on top.

        Raises UsageError that names the key (and the nearest known one), MissingFile when there is no such file.
        """
        found = cls.load_all(path, overrides)
        if len(found) > 1:
            raise UsageError(f"{path}: holds {len(found)} stages where one config is expected")
        return found[0]

    @classmethod
    def load_all(cls, path: Path, overrides: Sequence[str] = ()) -> list[Self]:
        """Read every document of a config file; overrides are for each of them."""
        contents = load_yaml_all(read_text(path), str(path))
        for content in contents:
            for override in overrides:
                _set(content, override)
        where = [f"{path}, document {number}" if len(contents) > 1 else str(path) for number in range(1, len(contents) + 1)]
        return [parse(cls, content, place) for content, place in zip(contents, where, strict=True)]

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""
        try:
            return cls.model_validate(json.loads(text))
        except (ValidationError, ValueError, RecursionError) as error:
            raise UsageError(f"the run's config cannot be read ({error}); was it made by another version?") from error

    def to_json(self) -> str:
        """As one line of JSON."""
        return self.model_dump_json()


def _set(content: dict[str, object], override: str) -> None:
    """Apply one ``a.b=value``; the value is read as YAML, so 3 is a number and [a, b] a list."""
    path, equals, value = override.partition("=")
    if not equals or not path:
        raise UsageError(f"--set {override}: expected KEY=VALUE, such as search.evaluations=40")
    *parents, leaf = path.split(".")
    here: object = content
    for part in parents:
        if not isinstance(here, dict):
            raise UsageError(f"--set {override}: '{part}' is inside of a value, not of a mapping")
        here = here.setdefault(part, {})
    if not isinstance(here, dict):
        raise UsageError(f"--set {override}: '{parents[-1]}' is a value, not a mapping")
    try:
        here[leaf] = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"--set {override}: the value is not valid YAML ({error})") from error
