"""One document of mergekit 0.1.5, typed: unknown keys and whatever is not supported are refused by name.

merge_method: slerp
base_model: ./base
models: [{model: ./base}, {model: owner/name}]
parameters: {t: [{filter: mlp, value: [0, 1]}, {value: 0.5}]}
dtype: bfloat16
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from evomm.errors import nearest
from evomm.merge.mergekit.parts import Input, Module, OutputSlice, Tokenizer, TokenizerSource
from evomm.merge.mergekit.references import ModelReference, Reference, label_all
from evomm.merge.mergekit.rules import RULES, check_settings, refuse_count
from evomm.merge.mergekit.settings import Settings
from evomm.merge.recipe import DTYPE_NAMES, DtypeName, Source
from evomm.plain import Plain, cut

_MODULE = "default"
_NAME = 100  # letters; file systems take 255 bytes, and something is put before and behind


def _dtype(value: Any) -> Any:
    name = value.removeprefix("torch.") if isinstance(value, str) else value
    if name is not None and str(name) not in DTYPE_NAMES:
        raise ValueError(f"{cut(repr(value))} is not supported, expected one of {', '.join(DTYPE_NAMES)}")
    return name


Dtype = Annotated[DtypeName | None, BeforeValidator(_dtype)]


@dataclass(frozen=True)
class Group:
    """Models that are mixed with each other: all of them, or those of a slice.

    Attributes:
        where: what errors call it.
        inputs: the models, a base that the document does not list among them.
        base: the method's; None for methods that ignore it.
        parameters: of the slice.
    """

    where: str
    inputs: tuple[Input, ...]
    base: Reference | None
    parameters: Settings


class Document(Plain):
    """What one merge is, in mergekit's words. name: by which other documents of the file use its child."""

    merge_method: str
    models: tuple[Input, ...] | None = None
    slices: tuple[OutputSlice, ...] | None = None
    modules: Mapping[str, Module] | None = None
    base_model: ModelReference | None = None
    parameters: Settings = Field(default_factory=dict)
    dtype: Dtype = None
    out_dtype: Dtype = None
    tokenizer_source: TokenizerSource | None = None
    tokenizer: Tokenizer | None = None
    chat_template: str | None = None
    name: str | None = None

    @field_validator("merge_method")
    @classmethod
    def _known_method(cls, method: str) -> str:
        if method not in RULES:
            raise ValueError(f"unknown method '{method}'{nearest(method, RULES)}")
        return method

    @field_validator("name")
    @classmethod
    def _usable_name(cls, name: str | None) -> str | None:
        # It names a folder, and other documents refer to it where + and @ mean something else.
        if name is None:
            return None
        parts = PurePosixPath(name).parts
        odd = not name.isprintable() or max(map(len, parts), default=0) > _NAME
        if not parts or odd or {"/", ".."} & set(parts) or {"+", "@", "\\"} & set(name):
            raise ValueError(
                f"{cut(repr(name))} cannot name a merge; expected a word without + and @ that stays below its folder"
            )
        return name

    @model_validator(mode="after")
    def _supported(self) -> Self:
        given = [name for name in ("models", "slices", "modules") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"expected exactly one of models, slices and modules, got {' and '.join(given) or 'none'}")
        if self.modules and set(self.modules) != {_MODULE}:
            odd = next(name for name in self.modules if name != _MODULE)
            raise ValueError(f"modules: '{odd}' is not supported, expected '{_MODULE}', the one module of a language model")
        if self.tokenizer_source is not None and self.tokenizer is not None:
            raise ValueError("tokenizer_source and tokenizer say the same thing twice; give one of them")
        self._check_groups()
        self._check_settings()
        self._check_tokens()
        return self

    @property
    def module(self) -> Module:
        """The one module that the document describes."""
        return self.modules[_MODULE] if self.modules else Module(models=self.models, slices=self.slices)

    def groups(self) -> tuple[Group, ...]:
        """What is mixed: one group for whole models, one for each slice."""
        base, module = self.base_model, self.module
        heeded = RULES[self.merge_method].base != "ignored"
        if module.models:
            listed = any(input_.model == base for input_ in module.models)
            added = () if base is None or listed else (Input(model=base),)
            return (Group("models", (*module.models, *added), base if heeded else None, {}),)
        return tuple(
            Group(f"slices.{number}", part.sources, (part.base_model or base) if heeded else None, part.parameters)
            for number, part in enumerate(module.slices or ())
        )

    def labels(self) -> dict[Reference, str]:
        """A short label for each model, the base first, a model that gives nothing but its tokenizer last."""
        source = self.tokenizer.source if self.tokenizer else self.tokenizer_source
        base = [self.base_model] if self.base_model else []
        donor = [source] if isinstance(source, Reference) else []
        return label_all([*base, *(input_.model for input_ in self.module.inputs()), *donor])

    def sources(self) -> dict[str, Source]:
        """Label -> where the model comes from, in the order of `labels`."""
        return {label: reference.source for reference, label in self.labels().items()}

    def _check_groups(self) -> None:
        method, rule = self.merge_method, RULES[self.merge_method].base
        for group in self.groups():
            models = [input_.model for input_ in group.inputs]
            for model in models:
                if models.count(model) > 1:
                    raise ValueError(f"{group.where}: '{model}' stands twice; each model of a group counts once")
            if group.base is None and rule == "required":
                raise ValueError(f"{group.where}: {method} needs a base; name it, as `base_model: MODEL`")
            if group.base is not None and group.base not in models:
                raise ValueError(f"{group.where}: {method} needs the base '{group.base}' among the sources of each slice")
            refuse_count(method, len(models), group.base is not None, group.where)

    def _check_settings(self) -> None:
        for where, settings, own in self.settings():
            check_settings(self.merge_method, settings, where, own)

    def settings(self) -> Iterator[tuple[str, Settings, bool]]:
        """(where, parameters, whether they are one model's own), for every place that has some."""
        yield "parameters", self.parameters, False
        if self.modules:
            yield f"modules.{_MODULE}.parameters", self.module.parameters, False
        for group in self.groups():
            yield f"{group.where}.parameters", group.parameters, False
            for input_ in group.inputs:
                yield f"{group.where}: parameters of '{input_.model}'", input_.parameters, True

    def _check_tokens(self) -> None:
        mixed = {input_.model for group in self.groups() for input_ in group.inputs}
        for token, rule in ((self.tokenizer.tokens if self.tokenizer else None) or {}).items():
            model = rule.source.model
            if model is not None and model not in mixed:
                known = nearest(str(model), map(str, mixed))
                raise ValueError(f"tokenizer.tokens: '{token}' comes from '{model}', which is not mixed{known}")
