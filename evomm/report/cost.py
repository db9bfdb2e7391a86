"""What a run cost: what the store knows, and what follows from rates that the reader gives. No rate is made up."""

from dataclasses import dataclass

from evomm.report.story import Story


@dataclass(frozen=True)
class Rates:
    """watts: that the machine draws while it evaluates. price: of an hour of it, in any currency."""

    watts: float | None = None
    price: float | None = None


@dataclass(frozen=True)
class Cost:
    """seconds, evaluations, answers: per search and in all, of searches alone. kwh and money: where a rate was given."""

    seconds: float
    searches: dict[str, tuple[int, int, float]]
    kwh: float | None
    money: float | None
    rates: Rates


def cost(story: Story, rates: Rates) -> Cost:
    """Add up what the searches took."""
    searches = {}
    for name, trials in story.searches.items():
        answers = sum(len(trial.score.values) for trial in trials if trial.score and trial.seconds > 0)
        searches[name] = (len(trials), answers, sum(trial.seconds for trial in trials))
    hours = story.seconds / 3600
    return Cost(
        seconds=story.seconds,
        searches=searches,
        kwh=None if rates.watts is None else hours * rates.watts / 1000,
        money=None if rates.price is None else hours * rates.price,
        rates=rates,
    )
