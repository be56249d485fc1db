"""The one error of this program."""

from collections.abc import Iterable


class Problem(Exception):
    """What went wrong, where, and what to do about it; shown to the operator as it is."""


def all_of(problems: Iterable[str]) -> Problem:
    """One error for several problems, a line each."""
    return Problem("\n".join(problems))
