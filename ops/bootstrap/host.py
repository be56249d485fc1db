"""What is done on one host: each step is a script of `scripts`, run there by bash."""

import base64
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import reach
from .inventory import NONE, Host, Inventory
from .problem import Problem
from .processes import Process, layout_of
from .rendering import START_SECONDS, STOP_SECONDS

SCRIPTS = Path(__file__).resolve().parent / "scripts"
# Timeout of a step that waits for nothing, and what a waiting one may take in addition.
STEP_SECONDS = 60.0
# Installing a package, and copying the binary over a slow line.
SLOW_STEP_SECONDS = 600.0


@dataclass(frozen=True)
class Entry:
    """A folder, a file or a link that is to be on a host."""

    kind: str
    path: str
    mode: str
    owner: str
    content: str = ""

    def line(self) -> str:
        content = base64.b64encode(self.content.encode()).decode()
        return f"{self.kind} {self.mode} {self.owner} {self.path} {content}".rstrip() + "\n"


@dataclass(frozen=True)
class State:
    """What a process does."""

    word: str
    pid: int | None
    seconds: int | None
    is_ready: bool
    is_outdated: bool


class Remote:
    """A host under control."""

    def __init__(self, host: Host, inventory: Inventory) -> None:
        self.host = host
        self.inventory = inventory
        self.layout = layout_of(inventory)

    def script(
        self,
        name: str,
        words: Sequence[object] = (),
        given: bytes = b"",
        seconds: float = STEP_SECONDS,
        about: str = "",
    ) -> list[str]:
        """Runs a script; returns the lines that it printed."""
        texts = [(SCRIPTS / f"{part}.sh").read_text(encoding="utf-8") for part in ("all", name)]
        line = ["bash", "-c", "\n".join(texts), f"{name}.sh", *map(str, words)]
        ended = reach.run(self.host.name, self.host.reach, line, given, seconds)
        if ended.status != 0:
            where = f"host {self.host.name}" + (f", {about}" if about else "")
            raise Problem(f"{where}: {ended.error or f'{name}.sh ended with {ended.status}'}")
        return ended.output.splitlines()

    def is_reachable(self) -> bool:
        try:
            return (
                reach.run(self.host.name, self.host.reach, ["true"], b"", STEP_SECONDS).status == 0
            )
        except Problem:
            return False

    def prepare(self, needs_etcd: bool) -> list[str]:
        words = [self.inventory.user, self.host.supervisor, "yes" if needs_etcd else "no"]
        return changes(self.script("prepare", words, seconds=SLOW_STEP_SECONDS))

    def place(self, entries: list[Entry]) -> list[str]:
        given = "".join(entry.line() for entry in entries).encode()
        return changes(self.script("place", given=given))

    def place_program(self, path: str, program: bytes) -> list[str]:
        words = [path, hashlib.sha256(program).hexdigest()]
        if not self.script("program", words):
            return []
        words.append("receive")
        return changes(self.script("program", words, program, SLOW_STEP_SECONDS))

    def use_units(self, are_changed: bool, units: list[str]) -> list[str]:
        words = ["yes" if are_changed else "no", *units]
        return changes(self.script("units", words))

    def start(self, process: Process) -> str:
        layout = self.layout
        words = [
            *self.handle(process),
            layout.log(process.name),
            self.inventory.user,
            self.inventory.log,
            f"{layout.run}/lock",
            process.data_dir or "-",
            *process.command(layout.current_program),
        ]
        return self.said("start", words, process)

    def wait_for(self, process: Process, since: float | None = None) -> None:
        """Waits until a process is ready, for as long as one that was started `since` may take.

        `since` is by the monotonic clock; without it, the process was started now.
        """
        health = process.health
        passed = 0 if since is None else int(time.monotonic() - since)
        words = [
            max(START_SECONDS - passed, 1),
            START_SECONDS,
            *self.handle(process),
            self.layout.log(process.name),
            health.address,
            health.port,
            health.path,
        ]
        seconds = START_SECONDS + STEP_SECONDS
        self.script("await", words, seconds=seconds, about=process.name)

    def stop(self, process: Process) -> str:
        words = [STOP_SECONDS, *self.handle(process)]
        return self.said("stop", words, process, STOP_SECONDS + STEP_SECONDS)

    def states(self, processes: list[Process]) -> dict[str, State]:
        lines = [
            [
                process.name,
                *self.handle(process),
                process.configuration,
                process.command(self.layout.current_program)[0],
                process.health.address,
                str(process.health.port),
                process.health.path,
            ]
            for process in processes
        ]
        given = "".join(" ".join(line) + "\n" for line in lines).encode()
        states = {}
        for line in self.script("state", given=given):
            name, word, pid, seconds, ready, outdated = line.split()
            states[name] = State(
                word=word,
                pid=None if pid == "-" else int(pid),
                seconds=None if seconds == "-" else int(seconds),
                is_ready=ready == "yes",
                is_outdated=outdated == "yes",
            )
        return states

    def tierkv(self, words: list[str], seconds: float = STEP_SECONDS) -> reach.Result:
        """Runs a command of the installed binary on this host."""
        line = ["env", "--ignore-environment", self.layout.current_program, *words]
        return reach.run(self.host.name, self.host.reach, line, b"", seconds)

    def handle(self, process: Process) -> list[str]:
        """The supervisor, and the name by which it knows a process."""
        if self.host.supervisor == NONE:
            return [NONE, f"{self.layout.run}/{process.name}.pid"]
        return [self.host.supervisor, self.layout.unit(process.name)]

    def said(
        self, name: str, words: Sequence[object], process: Process, seconds: float = STEP_SECONDS
    ) -> str:
        """Runs a script whose last line says what it did."""
        lines = self.script(name, words, seconds=seconds, about=process.name)
        return lines[-1] if lines else "unchanged: nothing to do"


def changes(lines: list[str]) -> list[str]:
    """What a script changed."""
    return [line.removeprefix("changed: ") for line in lines if line.startswith("changed: ")]
