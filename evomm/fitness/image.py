"""Tasks on pictures: draw what a prompt says, judged by a model that compares pictures with texts.

kind: image
about: Emoji, asked for in Japanese
scorer: zoo:tiny/sdxl/scorer            # `clip` says what can stand here
prompt: "{prompt}"                      # such as "{prompt}のイラスト"
steps: 2                                # how pictures are drawn, as in `generation.Drawing`
guidance: 1
guards: [{kind: diversity, minimum: 0.1}]
data: data/tiny-emoji/ja.jsonl          # {"split": "search", "prompt": ...} per line; or .txt files, a prompt per line
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from evomm.adapters.generation import Drawing, ImageGeneration
from evomm.errors import UsageError, WriteFailed
from evomm.fitness.clip import ClipScorer
from evomm.fitness.examples import Example
from evomm.fitness.guards import Guard, diversity, drift
from evomm.fitness.pictures import blank, grid, rgb, save
from evomm.fitness.score import Score
from evomm.fitness.task import Task, TaskSpec

_COLUMNS = ("clip", "retrieved", "blank")
_ACROSS = 8  # pictures in a row of a sheet


class ImageSpec(TaskSpec, Drawing):
    """A task file on pictures.

    prompt: what the model is given; holds {prompt}. caption: what the scorer compares with, {prompt} or {answer} in it; the
    model's prompt when absent. scorer: see `clip`. device: where scorers run. samples: pictures per prompt.
    """

    scorer: str = Field(min_length=1)
    prompt: str = "{prompt}"
    caption: str | None = None
    device: str = "auto"
    samples: int = Field(default=1, ge=1, le=1000)
    guards: tuple[Guard, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if "{prompt}" not in self.prompt:
            raise ValueError(f"the prompt must hold {{prompt}}, got {self.prompt!r}")
        for caption in [self.caption, *(guard.caption for guard in self.guards)]:
            if caption is not None and "{prompt}" not in caption and "{answer}" not in caption:
                raise ValueError(f"a caption must hold {{prompt}} or {{answer}}, got {caption!r}")
        columns = [*_COLUMNS, *(guard.column for guard in self.guards)]
        for column in columns:
            if columns.count(column) > 1:
                raise ValueError(f"two columns are called '{column}'; give a guard another name")
        return self


class ImageTask(Task):
    """The fit of pictures with their prompts.

    A picture's fitness is

        clip + sum of the guards' terms (see `guards`);  for a blank picture at most -1

    where clip is the cosine of picture and caption, in [-1, 1]. An example's value is the mean over its samples, and a score
    the mean over examples. Columns: ``clip``; ``retrieved``, whether a picture fits its own caption better than those of all
    other examples; ``blank``, whether it is of one colour (or black, as some pipelines draw numbers that overflowed); and
    each guard's measure. Diversity and retrieval depend on which examples are scored together.
    """

    Spec = ImageSpec
    Asks = ImageGeneration
    pipeline = "text-to-image"
    answered = False
    spec: ImageSpec

    def __init__(self, name: str, spec: TaskSpec, folder: Path) -> None:
        super().__init__(name, spec, folder)
        sources = [self.spec.scorer, *(guard.scorer for guard in self.spec.guards if guard.scorer)]
        self._scorers = {source: ClipScorer(source, folder, self.spec.device) for source in sources}
        self._parents: dict[str, Tensor] = {}

    @property
    def wants_parents(self) -> bool:
        """Whether `reference` must be called before `score`."""
        return any(guard.kind == "parents" for guard in self.spec.guards)

    @property
    def separable(self) -> bool:
        """Not where a guard compares with the pictures of other prompts."""
        return all(guard.kind != "diversity" for guard in self.spec.guards)

    def prompts(self, examples: Sequence[Example]) -> list[str]:
        """``samples`` per example, one example after the other."""
        return [self._prompt(example) for example in examples for _ in range(self.spec.samples)]

    def files(self) -> list[Path]:
        """The data, and scorers that are folders."""
        return [*super().files(), *(file for scorer in self._scorers.values() for file in scorer.files())]

    def missing(self) -> list[Path]:
        """Data files, and folders of scorers, that are not there."""
        return [*super().missing(), *(Path(source) for source, scorer in self._scorers.items() if scorer.missing())]

    def reference(self, examples: Sequence[Example], answers: Mapping[str, Sequence[Any]]) -> None:
        """Take what each parent painted for these examples, label -> one picture per prompt; guards compare with it."""
        features = [self._scorers[self.spec.scorer].pictures(rgb(pictures)) for pictures in answers.values()]
        by_example = torch.stack(features, 1).reshape(len(examples), -1, features[0].shape[-1])  # (E, samples x parents, K)
        self._parents |= dict(zip((example.question for example in examples), by_example, strict=True))

    def score(self, examples: Sequence[Example], answers: Sequence[Any]) -> Score:
        """One value per example; UsageError when answers are no pictures or a guard lacks what it compares with."""
        pictures, samples = rgb(answers), self.spec.samples
        if len(pictures) != len(examples) * samples:
            raise ValueError(f"expected {len(examples)} x {samples} pictures, got {len(pictures)}")
        captions = [self._caption(example, self.spec.caption) for example in examples]
        scorer = self._scorers[self.spec.scorer]
        features = scorer.pictures(pictures)  # (N, K), N = E * samples
        owner = torch.arange(len(examples)).repeat_interleave(samples)  # (N,) example of each picture
        fits = features @ scorer.texts(captions).T  # (N, E)
        clip = fits[torch.arange(len(owner)), owner]
        flat = torch.tensor([blank(picture) for picture in pictures])
        columns = {"clip": clip, "retrieved": (clip >= fits.amax(1)).double(), "blank": flat.double()}
        total = clip
        for guard in self.spec.guards:
            columns[guard.column] = self._measure(guard, examples, answers=pictures, features=features, owner=owner)
            total = total + guard.term(columns[guard.column])
        values = torch.where(flat, total.clamp(max=-1.0), total)
        return Score(values=_means(values, samples), parts={name: _means(c, samples) for name, c in columns.items()})

    def keep(self, answers: Sequence[Any], folder: Path, name: str, examples: Sequence[Example] = ()) -> tuple[str, ...]:
        """``folder/name/000.png`` and so on, and all of them on one sheet, ``folder/name.png``."""
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise WriteFailed(f"'{name}' leads out of {folder}; pictures are kept below it")
        pictures = rgb(answers)
        paths = [f"{name}/{i:03d}.png" for i in range(len(pictures))]
        for path, picture in zip(paths, pictures, strict=True):
            save(picture, folder / path)
        captions = [example.question for example in examples for _ in range(self.spec.samples)]
        rows = range(0, len(pictures), _ACROSS)
        sheet = grid([pictures[i : i + _ACROSS] for i in rows], captions=[captions[i : i + _ACROSS] for i in rows])
        save(sheet, folder / f"{name}.png")
        return tuple(paths)

    def _prompt(self, example: Example) -> str:
        return self.spec.prompt.replace("{prompt}", example.question)

    def _caption(self, example: Example, template: str | None) -> str:
        if template is None:
            return self._prompt(example)
        if "{answer}" in template and not example.answer:
            raise UsageError(f"task '{self.name}', example '{example.id}': the caption asks for an answer, and its row has none")
        texts = {"prompt": example.question, "answer": example.answer}
        return re.sub(r"\{(prompt|answer)\}", lambda found: texts[found[1]], template)

    def _measure(
        self, guard: Guard, examples: Sequence[Example], *, answers: Sequence[Any], features: Tensor, owner: Tensor
    ) -> Tensor:
        """(N,) what a guard measures."""
        if guard.scorer is not None:
            captions = [self._caption(examples[i], guard.caption) for i in owner]
            return self._scorers[guard.scorer].score(answers, captions)
        if guard.kind == "diversity":
            if len(examples) < 2:
                raise UsageError(f"task '{self.name}': the guard 'diversity' needs two prompts at least; raise the limit")
            return diversity(features, owner)
        unknown = [example.id for example in examples if example.question not in self._parents]
        if unknown:
            raise UsageError(
                f"task '{self.name}': the guard 'parents' needs the parents' pictures of example '{unknown[0]}', and got none; "
                "it works where parents are drawn first (ImageTask.reference), not for one model alone"
            )
        return drift(features, torch.stack([self._parents[examples[i].question] for i in owner]))


def _means(values: Tensor, samples: int) -> tuple[float, ...]:
    """(N,) -> (E,) over samples."""
    return tuple(values.reshape(-1, samples).mean(1).tolist())
