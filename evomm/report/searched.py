"""What a card says of the run that a child comes from: its search, its test, and what these leave open."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomm.fitness.task import HUB, Task
from evomm.report import markdown as md
from evomm.report.story import CHILD, Story
from evomm.report.words import called, lead, percent, searched_by, unit, verdict


@dataclass(frozen=True)
class Searched:
    """A child of a run. role: which of the run's roles it is; None for a candidate that was not tested."""

    story: Story
    role: str | None

    def about(self) -> str:
        """A sentence on the search."""
        name = self.story.config.search.method
        return (
            "Its coefficients were found by evolutionary model merging (arXiv 2403.13187): "
            f"{searched_by(name)} tried {len(self.story.searches[name])} candidates on the search split of the task "
            f"{md.text(self._task_name)}."
        )

    def evaluation(self) -> str:
        """The verdict, the test table, and the prompt."""
        if self.role is None:
            return "None on the test split: this is a candidate of a run that was not its winner."
        scores = self.story.scores
        parts = list(scores[self.role].parts)
        rows = [
            (
                f"{called(role)}{' (this model)' if role == self.role else ''}",
                percent(score.interval),
                *(f"{100 * score.part(part).score:.1f}" for part in parts),
                "" if role == CHILD else lead(self.story.against(role)),
            )
            for role, score in scores.items()
        ]
        heads = ("model", f"{unit(scores[self.role])} (95% interval)", *parts, "child's lead (paired, 95%)")
        table = md.table(heads, rows, bold=list(scores).index(self.role))
        prompt = getattr(self.story.task and self.story.task.spec, "prompt", None)
        asked = "\n\nAsked with this prompt:\n\n" + md.code(prompt) if prompt else ""
        return f"{md.text(verdict(self.story).text)}\n\n{table}{asked}"

    def limits(self) -> list[str]:
        """What one task and one search leave open."""
        about = f" ({self.story.task.spec.about})" if self.story.task else ""
        return [
            f"It was chosen for one task, {self._task_name}{about}; what it does elsewhere is not known.",
            "Intervals are for the sampling of examples alone; another seed of the search gives another child.",
        ]

    def metadata(self, name: str) -> dict[str, Any]:
        """The kind of task, its language, and the test in the hub's form."""
        task = self.story.task
        language = getattr(task and task.spec, "language", None)
        found: dict[str, Any] = {"language": [language] if language else []}
        if task:
            found["pipeline_tag"] = task.pipeline
        if self.role is not None:
            found["model-index"] = [{"name": name, "results": [self._result(self.role)]}]
        return found

    @property
    def _task_name(self) -> str:
        return Path(self.story.config.task).stem

    def _result(self, role: str) -> dict[str, Any]:
        task, score = self.story.task, self.story.scores[role]
        whole = score.interval
        told = f"mean of {whole.n} examples, 95% interval {whole.low:.4f} to {whole.high:.4f}"
        kind = "accuracy" if unit(score) == "%" else "score"
        columns = [{"type": kind, "name": told, "value": round(whole.score, 6)}]
        columns += [{"type": part, "name": part, "value": round(score.part(part).score, 6)} for part in score.parts]
        dataset = {"name": self._task_name, "type": self._dataset(), "split": "test"}
        return {"task": {"type": task.pipeline if task else Task.pipeline}, "dataset": dataset, "metrics": columns}

    def _dataset(self) -> str:
        """The hub's id of the data, where it lies there; the task's name otherwise."""
        data = self.story.task.spec.data if self.story.task else ""
        where = data if isinstance(data, str) else data.get("test", "")
        return where.removeprefix(HUB).partition("@")[0] if where.startswith(HUB) else self._task_name
