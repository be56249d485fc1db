"""`tierkv-ops status` and `tierkv-ops check`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .build import Build
from .founding import founding_words
from .host import Remote, State
from .installing import entries
from .inventory import CLIENT_COORDINATOR, DATA_NODE, Host, Inventory
from .problem import Problem
from .processes import Process, joined
from .replication import address_of

UNREACHABLE = State(word="unreachable", pid=None, seconds=None, is_ready=False, is_outdated=False)


def status(inventory: Inventory, processes: list[Process], is_json: bool) -> bool:
    """Prints the state of every process; returns whether all are ready."""
    states: dict[str, State] = {}
    problems = []
    for host in inventory.hosts:
        own = [process for process in processes if process.host is host]
        if not own:
            continue
        try:
            states |= Remote(host, inventory).states(own)
        except Problem as problem:
            # The other hosts are of interest now.
            problems.append(str(problem))
            states |= {process.name: UNREACHABLE for process in own}
    is_good = all(state.is_ready for state in states.values())
    if is_json:
        rows = [row_of(process, states[process.name]) for process in processes]
        print(json.dumps({"ready": is_good, "processes": rows, "problems": problems}, indent=2))
        return is_good
    print_table([words_of(process, states[process.name]) for process in processes])
    for line in problems:
        print(line)
    ready = [process for process in processes if states[process.name].is_ready]
    print_platform(inventory, ready)
    return is_good


def row_of(process: Process, state: State) -> dict[str, Any]:
    row = asdict(state)
    return {
        "name": process.name,
        "role": process.role,
        "host": process.host.name,
        "cluster": process.cluster or None,
        "state": row.pop("word"),
        "ready": row.pop("is_ready"),
        "outdated": row.pop("is_outdated"),
        **row,
    }


def words_of(process: Process, state: State) -> list[str]:
    is_running = state.pid is not None
    notes = ["an earlier build or configuration; restart it"] if state.is_outdated else []
    return [
        process.host.name,
        process.name,
        process.role,
        state.word,
        str(state.pid or ""),
        duration(state.seconds),
        ("ready" if state.is_ready else "not ready") if is_running else "",
        *notes,
    ]


def duration(seconds: int | None) -> str:
    """As in 3d, 5h, 7m or 20s: the largest unit."""
    if seconds is None:
        return ""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def print_table(rows: list[list[str]]) -> None:
    heads = ["host", "process", "role", "state", "pid", "for", "health", ""]
    table = [heads, *(row + [""] * (len(heads) - len(row)) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def print_platform(inventory: Inventory, ready: list[Process]) -> None:
    """What the platform itself reports, if a client coordinator of those can be asked."""
    for process in ready:
        if process.role == CLIENT_COORDINATOR:
            words = ["status", "--address", address_of(process)]
            ended = Remote(process.host, inventory).tierkv(words)
            print()
            print(ended.output.rstrip() if ended.status == 0 else ended.error)
            return


def describe(inventory: Inventory, processes: list[Process], build: Build) -> None:
    """Prints what the inventory means."""
    parts = {"data cluster": inventory.clusters, "host": inventory.hosts, "process": processes}
    counts = ", ".join(counted(len(all_of_them), what) for what, all_of_them in parts.items())
    print(f"platform {inventory.name}: {counts}; build {build.version}")
    print(f"founded by: tierkv admin init {' '.join(founding_words(inventory))}")
    for host in inventory.hosts:
        print(f"host {host.name}: {host.address}, reach {host.reach}, supervisor {host.supervisor}")
        for process in processes:
            if process.host is host:
                print(f"  {process.name}: {what_it_is(process)}, {doors(process, host)}")
    for note in inventory.notes:
        print(f"note: {note}")


def counted(count: int, what: str) -> str:
    if count == 1:
        return f"1 {what}"
    return f"{count} {what}es" if what.endswith("s") else f"{count} {what}s"


def what_it_is(process: Process) -> str:
    if process.role == DATA_NODE:
        return f"data node of {process.cluster}, data in {process.data_dir}"
    return process.role.replace("-", " ")


def doors(process: Process, host: Host) -> str:
    """The addresses of a process."""
    if process.role == CLIENT_COORDINATOR:
        return f"gRPC {process.keys['grpc_listen']}, REST {process.keys['rest_listen']}"
    health = joined(host.address, process.health.port)
    own = process.keys.get("listen", health)
    return f"at {own}" if own == health else f"at {own}, metrics at {health}"


def render(inventory: Inventory, processes: list[Process], build: Build, folder: Path) -> None:
    """Writes the files of every host under `folder`, to look at them."""
    for host in inventory.hosts:
        own = [process for process in processes if process.host is host]
        for entry in entries(inventory, build, own):
            if entry.kind == "file":
                path = folder / host.name / entry.path.lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(entry.content, encoding="utf-8")
                print(path)
