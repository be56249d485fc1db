"""The one error of this program."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Problem(Exception):
    """What went wrong, where, and what to do about it; shown to the operator as it is."""


def all_of(problems: Iterable[str]) -> Problem:
    """One error for several problems, a line each."""
    return Problem("\n".join(problems))


class Problems:
    """Problems of single hosts or processes, which don't keep the others from their turn."""

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Notes a problem of the block instead of raising it."""
        try:
            yield
        except Problem as problem:
            self.found.append(str(problem))

    def end(self) -> None:
        """Raises what was noted."""
        if self.found:
            # A host that can't be reached is the problem of each of its processes.
            raise all_of(dict.fromkeys(self.found))
