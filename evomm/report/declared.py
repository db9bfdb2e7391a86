"""What parents say of themselves: licence and languages, from their cards or the zoo's. Nothing is fetched or guessed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from evomm.checkpoints.locate import hub_parts, locate
from evomm.errors import EvommError
from evomm.merge.recipe import Recipe, Source
from evomm.report.licences import OTHER, UNKNOWN, Licence, for_child
from evomm.run.cards import Card, cards
from evomm.run.zoo import families

CARD = "README.md"
_RECIPE = "evomm_recipe.yaml"  # beside a child without a card, such as that of a stage
_MOST = 1 << 16  # characters of a card that are looked at
_FRONT = re.compile(r"\A\ufeff?---\r?\n(.*?)^---\s*$", re.DOTALL | re.MULTILINE)
_DEEP = 4  # children of children of ...


@dataclass(frozen=True)
class Declared:
    """licence: of a parent, or of the LoRA on top of it. languages: as its card lists them. bases: the hub ids that it is, or is
    made of where it is a child of evomm's.
    """

    licence: Licence
    languages: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()


def declared(sources: Mapping[str, Source], beside: Path | None = None) -> dict[str, Declared]:
    """Label -> what a parent declares; a LoRA has a line of its own, ``LABEL (LoRA)``."""
    found = {label: _of(source.model, beside, _DEEP) for label, source in sources.items()}
    return found | {f"{label} (LoRA)": _of(source.lora, beside, _DEEP) for label, source in sources.items() if source.lora}


def front_matter(path: Path) -> Mapping[str, Any]:
    """The YAML at the beginning of a card; empty where there is none, or none that can be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            match = _FRONT.match(file.read(_MOST))
        content = yaml.safe_load(match[1]) if match else None
    except (OSError, yaml.YAMLError, RecursionError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _of(model: str, beside: Path | None, deep: int) -> Declared:
    parts = hub_parts(model)
    known = Declared(_from_zoo(model), bases=parts[:1] if parts else ())
    try:
        path = locate(model, beside, download=False)
    except EvommError:
        return known
    folder = path if path.is_dir() else path.parent
    if deep and not parts and (folder / _RECIPE).is_file():
        known = _of_child(folder, deep)
    own = front_matter(folder / CARD)
    licence, languages = _licence(own), _texts(own.get("language"))
    found = replace(licence, source="its own card") if licence else known.licence
    return Declared(found, languages or known.languages, known.bases)


def _of_child(folder: Path, deep: int) -> Declared:
    """Of a child of evomm's: what follows from its own parents."""
    try:
        recipe = Recipe.from_yaml((folder / _RECIPE).read_text(encoding="utf-8"))
    except (EvommError, OSError, UnicodeDecodeError):
        return Declared(Licence(UNKNOWN))
    parents = {label: _of(name, folder, deep - 1) for label, name in _models(recipe)}
    follows = for_child({label: one.licence for label, one in parents.items()}).licence
    languages = dict.fromkeys(language for one in parents.values() for language in one.languages)
    bases = dict.fromkeys(base for one in parents.values() for base in one.bases)
    return Declared(replace(follows, source="its parents' cards"), tuple(languages), tuple(bases))


def _models(recipe: Recipe) -> list[tuple[str, str]]:
    pairs = [(label, source.model) for label, source in recipe.parents.items()]
    return pairs + [(f"{label} (LoRA)", source.lora) for label, source in recipe.parents.items() if source.lora]


def _licence(front: Mapping[str, Any]) -> Licence | None:
    ids = _texts(front.get("license"))
    if not ids:
        return None
    name, link = (_text(front.get(key)) for key in ("license_name", "license_link"))
    if len(ids) > 1:
        return Licence(OTHER, name=" or ".join(ids), link=link)
    return Licence(ids[0].lower(), name=name, link=link)


def _from_zoo(model: str) -> Licence:
    """From the zoo's cards of public models, or a shipped family's description."""
    if model.startswith("zoo:tiny/"):
        family = families().get(model.split("/")[1])
        return Licence(family[1].licence, source="the zoo's family.yaml") if family else Licence(UNKNOWN)
    parts = hub_parts(model)
    card = cards().get(parts[0]) if parts else None
    return _from_card(card) if card else Licence(UNKNOWN)


def _from_card(card: Card) -> Licence:
    """``cc-by-4.0 (a remark)`` names a licence; other words are those of a licence of its own, to be read at the model's page."""
    first, known = card.licence.split()[0], Licence(card.licence.split()[0])
    if "custom" not in known.asks:
        return replace(known, source="the zoo's card")
    name = first if len(card.licence.split()) == 1 else card.licence
    return Licence(OTHER, name=name, link=f"https://huggingface.co/{card.repo}", source="the zoo's card")


def _texts(value: Any) -> tuple[str, ...]:
    values: Sequence[Any] = value if isinstance(value, list) else [value]
    return tuple(text for one in values[:20] if (text := _text(one)))


def _text(value: Any) -> str:
    """One line, and not a long one."""
    return " ".join(value.split())[:200] if isinstance(value, str) else ""
