"""Who wants to see a run go on."""

from typing import Protocol


class Watch(Protocol):
    """Is told of stages and steps."""

    def stage(self, name: str, total: int) -> None:
        """A stage of so many steps begins."""

    def step(self, text: str, fitness: float | None = None) -> None:
        """One step is done: what, and the score it got."""

    def warn(self, text: str) -> None:
        """Something odd."""


class Silent:
    """Watches nothing."""

    def stage(self, name: str, total: int) -> None:
        """Ignored."""

    def step(self, text: str, fitness: float | None = None) -> None:
        """Ignored."""

    def warn(self, text: str) -> None:
        """Ignored."""
