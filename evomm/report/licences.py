"""Licences of parents, and what follows from them for a child.

A child contains its parents' weights, so whatever binds one of them binds the child:

    unknown          the child's is unknown, too; nothing is guessed
    no derivatives   a merge is a derivative, so it may not be shared
    a licence of its own ("other", llama3, gemma, ...)   is kept, with its name and link
    non-commercial   the child is non-commercial
    share-alike      the child has the same licence; two different ones cannot both be kept
    use-based (RAIL) its restrictions travel with the child
    permissive       the most demanding of them, where they are a ladder (cc0, mit, apache-2.0); else all of them by name

This is what the parents' cards declare and what such licences commonly ask for. It is no legal advice.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Flag = Literal["unknown", "no-derivatives", "custom", "non-commercial", "share-alike", "use-based"]
UNKNOWN, OTHER = "unknown", "other"

# Identifiers of https://huggingface.co/docs/hub/repositories-licenses by what they ask for; the first that matches counts.
_ASKS: tuple[tuple[str, frozenset[Flag]], ...] = (
    (r"unknown", frozenset({"unknown"})),
    (r"cc-by-nc-nd-.*", frozenset({"no-derivatives", "non-commercial"})),
    (r"cc-by-nd-.*", frozenset({"no-derivatives"})),
    (r"cc-by-nc-sa-.*", frozenset({"non-commercial", "share-alike"})),
    (r"cc-by-nc-.*", frozenset({"non-commercial"})),
    (r"apple-amlr|intel-research|h-research|deepfloyd-if-license|fair-noncommercial-.*", frozenset({"non-commercial", "custom"})),
    (r"cc-by-sa-.*|a?gpl(-.*)?|lgpl.*|mpl-2.0|eupl-.*|epl-.*|osl-3.0|odbl|gfdl|cdla-sharing-.*", frozenset({"share-alike"})),
    (r"openrail(\+\+)?|creativeml-openrail-m|big(science|code)-.*", frozenset({"use-based"})),
    (r"cc0-1.0|unlicense|wtfpl|pddl|0bsd|mit|isc|zlib|bsd(-.*)?|apache-2.0|bsl-1.0|afl-3.0|artistic-2.0", frozenset()),
    (r"ncsa|postgresql|ecl-2.0|ms-pl|cdla-permissive-.*|cc-by-\d.*|odc-by|etalab-2.0", frozenset()),
)
_LADDER = (
    r"cc0-1.0|unlicense|wtfpl|pddl|0bsd",
    r"mit|isc|zlib|bsd(-2-clause|-3-clause)?",
    r"apache-2.0",
)  # each includes the last


@dataclass(frozen=True)
class Licence:
    """What a parent's card declares.

    id: the hub's identifier; ``other`` for a licence of its own, ``unknown`` where nothing says it. name, link: of a licence of
    its own. source: where that was read.
    """

    id: str
    name: str = ""
    link: str = ""
    source: str = ""

    @property
    def asks(self) -> frozenset[Flag]:
        """What it asks for; nothing for permissive ones. An identifier that is not known here is a licence of its own."""
        return next((flags for pattern, flags in _ASKS if re.fullmatch(pattern, self.id)), frozenset({"custom"}))

    @property
    def called(self) -> str:
        """As people read it."""
        return self.name or self.id if self.id == OTHER else self.id


@dataclass(frozen=True)
class Consequence:
    """What follows for the child: its licence in a card's words, and sentences that say why."""

    licence: Licence
    sentences: tuple[str, ...]


def for_child(parents: Mapping[str, Licence]) -> Consequence:
    """The child's licence.

    >>> for_child({"a": Licence("apache-2.0"), "b": Licence("cc-by-nc-4.0")}).licence.id
    'cc-by-nc-4.0'
    """
    asked: dict[Flag, list[str]] = {}
    for label, licence in parents.items():
        for flag in licence.asks:
            asked.setdefault(flag, []).append(label)
    different = list({(one.id, one.name, one.link): one for one in parents.values()}.values())
    bound = [licence for licence in different if licence.asks]
    sentences = [_SAID[flag].format(who=_who(asked[flag], parents)) for flag in _SAID if flag in asked]
    if "unknown" in asked or not parents:
        return Consequence(Licence(UNKNOWN), tuple(sentences))
    if "no-derivatives" in asked:
        return Consequence(Licence(OTHER, name="no-derivatives"), tuple(sentences))
    if not bound:
        return _permissive(different)
    one = bound[0] if len(bound) == 1 else _strictest(bound)
    if one is not None:
        return Consequence(Licence(one.id, one.name, one.link), tuple(sentences))
    sentences += _clashes(bound)
    return Consequence(_together(bound), tuple(sentences))


_SAID: Mapping[Flag, str] = {
    "unknown": "Nothing says under which licence {who} may be used, so the child's is unknown: ask before sharing it.",
    "no-derivatives": "No derivatives may be shared of {who}, and a merge is one: keep the child to yourself.",
    "custom": "Terms of their own hold for {who}; they hold for the child, too: read them.",
    "non-commercial": "Commercial use is not allowed of {who}, so it is not allowed of the child.",
    "share-alike": "What is made of {who} must be shared under the same licence.",
    "use-based": "Restrictions on use come with {who}; they must be passed on with the child.",
}


def _who(labels: Sequence[str], parents: Mapping[str, Licence]) -> str:
    return ", ".join(f"{label} ({parents[label].called})" for label in labels)


def _permissive(different: Sequence[Licence]) -> Consequence:
    said = ["All parents are under permissive licences: keep their notices with the child."]
    if len(different) == 1:
        return Consequence(Licence(different[0].id), tuple(said))
    steps = [next((step for step, pattern in enumerate(_LADDER) if re.fullmatch(pattern, one.id)), -1) for one in different]
    if min(steps) < 0:
        return Consequence(_together(different), (*said, "None of these licences includes the others, so all of them hold."))
    highest = different[steps.index(max(steps))]
    return Consequence(Licence(highest.id), (*said, f"{highest.id} asks for the most of them."))


def _strictest(bound: Sequence[Licence]) -> Licence | None:
    """The one whose demands include all others', where there is such a one: cc-by-nc-sa beside cc-by-nc."""
    everything = frozenset[Flag]().union(*(licence.asks for licence in bound))
    for licence in sorted(bound, key=lambda one: one.id, reverse=True):
        others = [other for other in bound if other is not licence]
        if licence.asks == everything and all(other.asks == {"non-commercial"} for other in others):
            return licence
    return None


def _clashes(bound: Sequence[Licence]) -> list[str]:
    """What cannot all be kept."""
    alike = [licence for licence in bound if "share-alike" in licence.asks]
    if len(alike) > 1:
        names = " and ".join(licence.called for licence in alike)
        return [f"{names} each want the child under their own terms: both cannot be kept unless one of them allows the other."]
    strict = [licence for licence in bound if licence not in alike and licence.asks & {"non-commercial", "use-based", "custom"}]
    if alike and strict:
        return [f"{alike[0].called} allows no further restrictions, and {strict[0].called} is one: both may not be possible."]
    return ["Several licences hold at once."]


def _together(licences: Iterable[Licence]) -> Licence:
    few = list(licences)
    link = next((one.link for one in few if one.link), "")
    return Licence(OTHER, name=" and ".join(dict.fromkeys(one.called for one in few)), link=link)
