"""Which tokens the child has, and where the embedding of a token comes from that a parent lacks.

source: union                                     # or intersection, or the label of the parent whose tokenizer it gets
tokens:
  <|im_start|>: {model: chat}                     # parents that lack it take chat's row ...
  <|ja|>: {model: ja, token: 日本}                # ... or that of another of its tokens
  <|new|>: {zero: true, force: true}              # zeros, also for parents that have it
pad_to_multiple_of: 64
"""

from collections.abc import Mapping
from typing import Self

from pydantic import Field, field_validator, model_validator

from evomm.plain import Plain

UNION = "union"
INTERSECTION = "intersection"


class Token(Plain):
    """Where a token's embedding comes from for parents that lack the token.

    model: label of a parent. token, token_id: which of its tokens; the same token when neither is given.
    zero: zeros instead. force: also for parents that have the token.
    """

    model: str | None = None
    token: str | None = None
    token_id: int | None = Field(default=None, ge=0)
    zero: bool = False
    force: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.zero == (self.model is not None):
            raise ValueError(f"expected either `model: LABEL` or `zero: true`, got {'both' if self.zero else 'neither'}")
        if self.token is not None and self.token_id is not None:
            raise ValueError("token and token_id name the same thing twice; give one of them")
        if self.zero and (self.token is not None or self.token_id is not None):
            raise ValueError("zeros come from no token; leave token and token_id out")
        return self


class Vocabulary(Plain):
    """The child's tokens.

    source: "union", "intersection", or the label of the parent whose tokenizer the child gets. tokens: token -> where its
    embedding comes from; those that the tokenizer lacks are added to it. pad_to_multiple_of: of the rows of embedding and head.
    """

    source: str
    tokens: Mapping[str, Token] = Field(default_factory=dict)
    pad_to_multiple_of: int | None = Field(default=None, ge=1)

    @field_validator("tokens")
    @classmethod
    def _spelled(cls, tokens: Mapping[str, Token]) -> Mapping[str, Token]:
        if "" in tokens:
            raise ValueError("a token of no characters cannot be added")
        return tokens
