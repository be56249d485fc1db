"""Typed access to the tables of an inventory, which collects all problems instead of the first."""

import re
from typing import Any

# Names are parts of paths, unit names and etcd keys, and those of processes are node names.
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
NAME_FORM = "1 to 63 of a-z, 0-9, _ and -, a letter or digit first"
# No space and no '%' or '$': paths stand in units and in command lines.
PATH = re.compile(r"/[A-Za-z0-9/._-]*")
PATH_FORM = "an absolute path of letters, digits, '.', '_', '-' and '/'"


class Table:
    """A table of the file, whose keys are taken one by one; what is left over is a problem."""

    def __init__(self, values: Any, where: str, problems: list[str]) -> None:
        self.where = where
        self.problems = problems
        self.values: dict[str, Any] = {}
        self.known: list[str] = []
        if isinstance(values, dict):
            self.values = dict(values)
        elif values is not None:
            problems.append(f"{where}: it is a table of keys, as in the sample ops/inventory.toml")

    def problem(self, key: str, what: str) -> None:
        self.problems.append(f"{self.where}: {key}: {what}")

    def take(self, key: str) -> Any:
        self.known.append(key)
        return self.values.pop(key, None)

    def text(self, key: str, default: str | None = None) -> str:
        """A text; without a default it is required."""
        value = self.take(key)
        if value is None and default is None:
            self.problem(key, "it is missing")
        if value is None:
            return default or ""
        if not isinstance(value, str) or not value:
            self.problem(key, f"{value!r} is not a text (in quotes, not empty)")
            return default or ""
        return value

    def name(self, key: str) -> str:
        value = self.text(key)
        if value and not NAME.fullmatch(value):
            self.problem(key, f"{value!r} can't be a name; use {NAME_FORM}")
        return value

    def path(self, key: str) -> str:
        """A path without its last slash; absent, and for the root, empty."""
        value = self.text(key, "")
        if value and (not PATH.fullmatch(value) or ".." in value.split("/")):
            self.problem(key, f"{value!r} can't be used; write {PATH_FORM}")
        return value.rstrip("/")

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        value = self.text(key, default)
        if value not in choices:
            self.problem(key, f"{value!r} is none of {', '.join(choices)}")
        return value

    def port(self, key: str, default: int) -> int:
        value = self.take(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
            self.problem(key, f"{value!r} is not a port from 1 to 65535")
            return default
        return value

    def texts(self, key: str) -> list[str]:
        """A list of texts; absent is empty."""
        value = self.take(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.problem(key, 'it is a list of texts, as in ["n1"]')
            return []
        return list(value)

    def flag(self, key: str) -> bool:
        value = self.take(key)
        if value is not None and not isinstance(value, bool):
            self.problem(key, f"{value!r} is neither true nor false")
            return False
        return bool(value)

    def end(self) -> None:
        """Reports the keys that nothing has taken."""
        for key in self.values:
            self.problem(key, f"there is no such key; there are {', '.join(self.known)}")
