"""Example by example: what the child and its rival answered, and what candidates drew as the search went on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evomm.adapters.generation import ImageGeneration
from evomm.errors import EvommError
from evomm.fitness.examples import Example
from evomm.report.embed import stored, uri
from evomm.report.story import CHILD, Story
from evomm.run.looks import PICTURES
from evomm.run.store import Final, Trial

_SAME = 1e-9  # scores nearer than this are equal
_ACROSS = 6  # prompts, and improvements, that are shown of a search


@dataclass(frozen=True)
class Answer:
    """text, or pictures as data; what it scored."""

    value: float
    text: str | None
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """One example, answered by two. question and expected are None where the task is not here any more."""

    number: int
    question: str | None
    expected: str | None
    shown: str | None
    child: Answer
    rival: Answer

    @property
    def gain(self) -> float:
        """What the child scored more."""
        return self.child.value - self.rival.value


@dataclass(frozen=True)
class Compared:
    """All examples by how the child fared: the most different first, of each kind at most so many as asked for."""

    rival: str
    wins: tuple[Pair, ...]
    losses: tuple[Pair, ...]
    ties: tuple[Pair, ...]
    counts: tuple[int, int, int]
    language: str
    missing: str


@dataclass(frozen=True)
class Improvement:
    """A candidate that was the best so far, and what it drew."""

    trial: Trial
    pictures: tuple[str | None, ...]


def compared(story: Story, most: int) -> Compared:
    """The child beside its rival on the test split, at most so many wins, losses and ties."""
    role = story.rival
    ours, theirs = (story.test[story.subjects[who]] for who in (CHILD, role))
    examples = story.examples("test")
    gains = [a - b for a, b in zip(ours.score.values, theirs.score.values, strict=True)]
    order = sorted(range(len(gains)), key=lambda i: (-abs(gains[i]), i))
    kinds = (
        [i for i in order if gains[i] > _SAME],
        [i for i in order if gains[i] < -_SAME],
        [i for i in sorted(order) if abs(gains[i]) <= _SAME],
    )
    drawn = story.folder / PICTURES if story.task and issubclass(story.task.Asks, ImageGeneration) else None
    wins, losses, ties = (tuple(_pair(i, examples, ours, theirs, drawn) for i in kind[:most]) for kind in kinds)
    counts = (len(kinds[0]), len(kinds[1]), len(kinds[2]))
    language = str(getattr(story.task and story.task.spec, "language", None) or "")
    return Compared(role, wins, losses, ties, counts, language, story.lost)


def improvements(story: Story) -> tuple[Sequence[str], Sequence[Improvement]]:
    """Prompts, and what the search's improvements drew to them; a few of each, the first and the last among them."""
    folder = story.folder / PICTURES
    found = [trial for trial in story.searches[story.config.search.method] if (folder / trial.id).is_dir()]
    if not found:
        return (), ()
    chosen = [found[round(i * (len(found) - 1) / max(1, min(_ACROSS, len(found)) - 1))] for i in range(min(_ACROSS, len(found)))]
    examples = story.examples("search")
    names = sorted(path.name for path in (folder / chosen[-1].id).glob("*.png"))
    every = max(1, len(names) // max(1, len(examples)))  # samples per prompt
    names = names[::every][:_ACROSS]
    prompts = [example.question for example in examples[: len(names)]] or [f"prompt {i + 1}" for i in range(len(names))]
    return prompts, [Improvement(trial, tuple(stored(folder, f"{trial.id}/{name}") for name in names)) for trial in chosen]


def _pair(number: int, examples: Sequence[Example], ours: Final, theirs: Final, drawn: Path | None) -> Pair:
    example = examples[number] if number < len(examples) else None
    shown = None
    if example is not None and example.picture is not None:
        try:
            shown = uri(example.picture.open())
        except EvommError:  # said by the missing picture itself
            shown = None
    return Pair(
        number=number + 1,
        question=example.question if example else None,
        expected=example.answer if example else None,
        shown=shown,
        child=_answer(ours, number, drawn),
        rival=_answer(theirs, number, drawn),
    )


def _answer(final: Final, number: int, drawn: Path | None) -> Answer:
    """One or several answers to an example: they come one example after the other."""
    every = len(final.answers) // len(final.score.values)
    mine = final.answers[number * every : (number + 1) * every]
    value = final.score.values[number]
    if drawn is None:
        return Answer(value, "\n".join(mine))
    return Answer(value, None, tuple(found for name in mine if (found := stored(drawn, name)) is not None))
