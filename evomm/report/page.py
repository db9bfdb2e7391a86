"""The report: one HTML file that needs nothing but a browser. What comes from models, prompts or configs is text in it, always.

Jinja escapes whatever a template inserts; a policy in the page forbids scripts, and addresses other than ``data:``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evomm.errors import WriteFailed
from evomm.fitness.score import Interval
from evomm.plain import dump_yaml, read_text
from evomm.report import words
from evomm.report.apart import apart
from evomm.report.card import named
from evomm.report.charts import Curve, curves, scatter
from evomm.report.coefficients import coefficients, path
from evomm.report.cost import Rates, cost
from evomm.report.declared import declared
from evomm.report.examples import compared, improvements
from evomm.report.licences import for_child
from evomm.report.splits import finalists, in_words
from evomm.report.story import CHILD, Story
from evomm.run.goals import OWN

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Wishes:
    """What a reader wants. examples: of each kind (wins, losses, ties), at most. weights: see `apart`."""

    examples: int = 30
    weights: bool | None = None
    rates: Rates = field(default_factory=Rates)


def page(stories: Sequence[Story], wishes: Wishes | None = None, stages: Sequence[str] = ()) -> str:
    """The HTML of one run in full, or of several side by side.

    Args:
        stages: of the run, where it has several and this story is of the last.
    """
    wishes = wishes or Wishes()
    if len(stories) > 1:
        return _environment().get_template("several.html").render(runs=_side_by_side(stories), curves=_together(stories))
    story = stories[0]
    sections = {"story": story, "stages": stages, "curves": _curves(story), "cost": cost(story, wishes.rates), **_again(story)}
    if story.finished:
        sections |= _finished(story, wishes)
    sections |= {"finalists": finalists(story), "splits_said": in_words(finalists(story))}
    prompts, improved = improvements(story)
    return _environment().get_template("run.html").render(**sections, prompts=prompts, improved=improved)


def save(text: str, out: Path) -> None:
    """Write the page; WriteFailed when that is impossible."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise WriteFailed(f"{out}: the report cannot be written ({error}); choose another -o") from error


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": words.percent,
        "lead": words.lead,
        "called": words.called,
        "searched_by": words.searched_by,
        "hundred": lambda value: f"{100 * value:.1f}",
        "counted": words.counted,
        "clock": words.clock,
        "named": named,
    }
    environment.globals |= {"style": Markup(read_text(_TEMPLATES / "style.css"))}
    return environment


def _finished(story: Story, wishes: Wishes) -> dict[str, Any]:
    recipe = story.recipe
    assert recipe is not None
    parents = declared(recipe.parents, story.beside)
    table = coefficients(recipe)
    return {
        "verdict": words.verdict(story),
        "rows": _rows(story),
        "unit": words.unit(story.scores[CHILD]),
        "front": _front(story),
        "recipe": recipe,
        "steps": path(recipe),
        "table": table,
        "spans": [table.span(i, story.config.genes) for i in range(len(table.columns))],
        "apart": apart(story, recipe, wishes.weights),
        "compared": compared(story, wishes.examples),
        "parents": parents,
        "follows": for_child({label: one.licence for label, one in parents.items()}),
    }


def _rows(story: Story) -> list[dict[str, Any]]:
    """The test table, with where each interval stands on a scale that all of them share, in percent of its width."""
    intervals = {role: score.interval for role, score in story.scores.items()}
    low, high = min(one.low for one in intervals.values()), max(one.high for one in intervals.values())
    span = (high - low) or 1.0

    def at(value: float) -> float:
        return round(2 + 96 * (value - low) / span, 2)

    def drawn(one: Interval) -> dict[str, float]:
        return {"low": at(one.low), "score": at(one.score), "high": at(one.high)}

    return [
        {
            "role": role,
            "subject": story.subjects[role],
            "interval": interval,
            "drawn": drawn(interval),
            "parts": {name: story.scores[role].part(name).score for name in story.scores[role].parts},
            "lead": None if role == CHILD else story.against(role),
        }
        for role, interval in intervals.items()
    ]


def _front(story: Story) -> Markup | None:
    """The first two goals of the front's points."""
    if not story.front:
        return None
    first, second, *_ = (goal.name for goal in story.config.goals)
    points = {candidate: (goals[first].score, goals[second].score) for candidate, goals in story.front.items()}
    return scatter(points, (first, second), story.subjects[CHILD], f"{second} over {first}, validation split")


def _curves(story: Story) -> Markup | None:
    """Of all searches that began; the child's own with its spread."""
    own = story.config.search.method
    found = [
        Curve(words.searched_by(name), _fitness(story, name), spread=name == own, beside=name != own)
        for name, trials in story.searches.items()
        if trials
    ]
    return curves(found, "Fitness over evaluations") if found else None


def _together(stories: Sequence[Story]) -> Markup | None:
    """The children's searches of several runs."""
    found = [Curve(story.name, _fitness(story, name)) for story in stories if story.searches[name := story.config.search.method]]
    return curves(found, "Best fitness over evaluations, run by run") if found else None


def _fitness(story: Story, search: str) -> list[list[float]]:
    return [[trial.fitness for trial in generation] for generation in story.generations(search)]


def _side_by_side(stories: Sequence[Story]) -> list[dict[str, Any]]:
    return [
        {
            "story": story,
            "verdict": words.verdict(story) if story.finished else None,
            "rows": _rows(story) if story.finished else [],
            "unit": words.unit(story.scores[CHILD]) if story.finished else "",
        }
        for story in stories
    ]


def _again(story: Story) -> dict[str, Any]:
    """What it takes to do it again."""
    facts = story.facts
    recipe = story.recipe
    return {
        "config_yaml": dump_yaml(story.config.model_dump(mode="json", exclude_defaults=True)),
        "recipe_yaml": recipe.to_yaml() if recipe else None,
        "digests": {key.removeprefix("digest/"): value for key, value in facts.items() if key.startswith("digest/")},
        "versions": {key.removeprefix("version/"): value for key, value in facts.items() if key.startswith("version/")},
        "task_digest": facts.get(f"task/digest/{OWN}", "unknown"),
    }
