"""Cards of public models, model_zoo/parents.yaml: what is known of a parent before it is on this machine."""

import yaml

from evomm.plain import Plain, parse
from evomm.resources import resource


class Card(Plain):
    """What the zoo knows of a public model. parameters: their number. layers: of the decoder."""

    repo: str
    licence: str
    adapter: str
    role: str
    parameters: int | None = None
    layers: int | None = None


def cards() -> dict[str, Card]:
    """The cards of public models, by repo."""
    path = resource("model_zoo", "parents.yaml")
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {card.repo: card for card in (parse(Card, entry, str(path)) for entry in entries)}
