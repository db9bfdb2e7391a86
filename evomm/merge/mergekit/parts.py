"""The parts of mergekit's documents: models, slices, modules, and what becomes of the tokens."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from evomm.errors import nearest
from evomm.merge.mergekit.references import ModelReference, Reference, read_reference
from evomm.merge.mergekit.settings import Settings
from evomm.merge.vocabulary import Token
from evomm.plain import Plain, cut


class Input(Plain):
    """One model that is mixed, with parameters of its own."""

    model: ModelReference
    parameters: Settings = Field(default_factory=dict)


class LayerInput(Input):
    """One model's share of a slice: layers first to last + 1."""

    layer_range: tuple[int, int]

    @model_validator(mode="after")
    def _forward(self) -> Self:
        first, stop = self.layer_range
        if not 0 <= first < stop:
            raise ValueError(f"layer_range is [{first}, {stop}], expected [first, last + 1] with 0 <= first < last + 1")
        return self


class OutputSlice(Plain):
    """Consecutive layers of the child."""

    sources: tuple[LayerInput, ...] = Field(min_length=1)
    base_model: ModelReference | None = None
    parameters: Settings = Field(default_factory=dict)
    residual_weight: None = None

    @model_validator(mode="before")
    @classmethod
    def _no_residual(cls, content: Any) -> Any:
        if isinstance(content, Mapping) and content.get("residual_weight") is not None:
            raise ValueError("residual_weight is not supported; mergekit reads it and makes no use of it, so it can be removed")
        return content

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        lengths = {str(source.model): source.layer_range[1] - source.layer_range[0] for source in self.sources}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the sources of a slice must give equally many layers, got {lengths}")
        return self


class Module(Plain):
    """Whole models, or slices of them."""

    models: tuple[Input, ...] | None = None
    slices: tuple[OutputSlice, ...] | None = None
    parameters: Settings = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if bool(self.models) == bool(self.slices):
            raise ValueError(f"expected either models or slices, got {'both' if self.models else 'neither'}")
        return self

    def inputs(self) -> Iterator[Input]:
        """Every model in it, in order; one may come up again and again."""
        yield from self.models or ()
        for part in self.slices or ():
            yield from part.sources


def _read_source(value: Any) -> Any:
    return value if value in ("union", "base") else read_reference(value)


TokenizerSource = Annotated[Literal["union", "base"] | Reference, BeforeValidator(_read_source)]


class TokenSource(Plain):
    """Where a token's embedding comes from: a model's row of the same token, of another token, or zeros."""

    model: ModelReference | None = None
    token: str | None = None
    token_id: int | None = None

    def recipe(self, label: str | None, force: bool) -> Token:
        """As recipes say it, with the model's label."""
        return Token(model=label, token=self.token, token_id=self.token_id, zero=label is None, force=force)


_FORMS: Mapping[str, tuple[str, ...]] = {"zero": ("kind",), "model_token": ("kind", "model", "token", "token_id")}


def _read_token_source(value: Any) -> Any:
    """Mergekit's three forms: {kind: zero}, {kind: model_token, model, token | token_id}, or a model."""
    if value is None:
        raise ValueError("expected {kind: zero}, {kind: model_token, ...} or a model, got nothing")
    if not isinstance(value, Mapping) or "kind" not in value:
        return value if isinstance(value, TokenSource) else {"model": read_reference(value)}
    kind = str(value["kind"])
    if kind not in _FORMS:
        raise ValueError(f"unknown kind '{cut(kind)}'{nearest(kind, _FORMS)}")
    for key in value:
        if key not in _FORMS[kind]:
            raise ValueError(f"unknown key '{key}'{nearest(str(key), _FORMS[kind])}")
    if kind == "model_token":
        if "model" not in value:
            raise ValueError("key 'model' is missing")
        if (value.get("token") is None) == (value.get("token_id") is None):
            raise ValueError("expected either token or token_id beside the model")
    return {key: inner for key, inner in value.items() if key != "kind"}


class TokenRule(Plain):
    """What becomes of one token. force: also in models that have it."""

    source: Annotated[TokenSource, BeforeValidator(_read_token_source)]
    force: bool = False


class Tokenizer(Plain):
    """The child's tokens."""

    source: TokenizerSource = "union"
    tokens: Mapping[str, TokenRule] | None = None
    pad_to_multiple_of: int | None = Field(default=None, ge=1)
