"""One generation, raced: candidates answer examples block by block, and stop when it is known whether they are good."""

import time
from collections.abc import Sequence

import numpy as np

from evomm.errors import EvaluationError
from evomm.fitness.racing import Racing, abilities, decide, levelled
from evomm.fitness.score import Score
from evomm.genome.space import Vector
from evomm.run.evaluate import Evaluator
from evomm.run.setup import Setup
from evomm.run.store import Trial


def race(
    setup: Setup, evaluator: Evaluator, racing: Racing, name: str, first: int, vectors: Sequence[Vector], limit: int
) -> list[Trial]:
    """A trial for every vector, numbered from ``first``; none answers more than ``limit`` examples."""
    order = _order(setup.config.seed, first, len(evaluator.examples("search")))[:limit]
    recipes = [setup.codec.decode(vector) for vector in vectors]
    scores: list[Score | None] = [None] * len(vectors)
    failures: list[str | None] = [None] * len(vectors)
    seconds = [0.0] * len(vectors)
    running = list(range(len(vectors)))
    for start in range(0, limit, racing.block):
        for i in running:
            started = time.monotonic()
            try:
                more = evaluator.score(recipes[i], "search", order[start : start + racing.block])[0]
                scores[i] = more if (before := scores[i]) is None else before.joined(more)
            except EvaluationError as error:
                scores[i], failures[i] = None, str(error)
            seconds[i] += time.monotonic() - started
        alive = {i: score.values for i, score in enumerate(scores) if score is not None}
        verdicts = dict(zip(alive, decide([*alive.values()], len(vectors) // 2, racing.z), strict=True)) if alive else {}
        running = [i for i in running if verdicts.get(i) == "open"]
        if not running:
            break
    alive = {i: score.values for i, score in enumerate(scores) if score is not None}
    levels = dict(zip(alive, levelled([*alive.values()]), strict=True)) if alive else {}
    return [
        Trial(
            search=name,
            number=first + i,
            vector=tuple(map(float, vector)),
            score=scores[i],
            failure=failures[i],
            seconds=seconds[i],
            level=levels.get(i),
        )
        for i, vector in enumerate(vectors)
    ]


def promises(trials: Sequence[Trial], population: int, seed: int, examples: int) -> dict[int, float]:
    """Number of each scored trial of raced generations -> what it promises to score on all examples (see `abilities`)."""
    answers = {}
    for trial in trials:
        if trial.score is not None:
            order = _order(seed, trial.number - trial.number % population, examples)
            answers[trial.number] = dict(zip(order, trial.score.values, strict=False))
    return dict(zip(answers, abilities([*answers.values()]), strict=True)) if answers else {}


def _order(seed: int, first: int, examples: int) -> list[int]:
    """Places of the examples as a generation, by the number of its first trial, looks at them; files are often sorted."""
    found: list[int] = np.random.default_rng([seed, first]).permutation(examples).tolist()
    return found
