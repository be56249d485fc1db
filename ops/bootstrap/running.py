"""`tierkv-ops start`, `stop` and `restart`."""

import time

from .founding import found
from .host import Remote, State
from .inventory import DATA_NODE, ETCD, Inventory
from .output import say
from .problem import Problem, Problems
from .processes import Process, processes_of
from .replication import masters, wait_in_sync

UNCHANGED = "unchanged: "


def start(inventory: Inventory, processes: list[Process]) -> None:
    """Starts what does not run, and waits until all of it is ready.

    A host that can't be reached keeps no process of another one from its start.
    """
    etcd = [process for process in processes if process.role == ETCD]
    others = [process for process in processes if process.role != ETCD]
    problems = Problems()
    # The first members of etcd wait for each other.
    is_changed = start_together(inventory, etcd, problems)
    if others:
        with problems.noted():
            is_changed |= found(inventory)
            # A coordinator is ready once it has a data node to ask.
            is_changed |= start_together(inventory, others, problems)
    problems.end()
    if not is_changed:
        say("start", f"nothing to do: {ready_words(len(processes))} already")


def ready_words(count: int) -> str:
    return "the process is ready" if count == 1 else f"all {count} processes are ready"


def start_together(inventory: Inventory, processes: list[Process], problems: Problems) -> bool:
    """Starts processes, then waits for all of them; returns whether one was started."""
    is_started: dict[str, bool] = {}
    since = time.monotonic()
    for process in processes:
        with problems.noted():
            line = Remote(process.host, inventory).start(process)
            is_started[process.name] = report(process, line)
    for process in processes:
        if process.name in is_started:
            with problems.noted():
                Remote(process.host, inventory).wait_for(process, since)
                if is_started[process.name]:
                    say(process.name, "ready")
    return any(is_started.values())


def stop(inventory: Inventory, processes: list[Process]) -> None:
    """Stops what runs, the upper tiers first; also where a host can't be reached."""
    is_changed = False
    problems = Problems()
    for process in reversed(processes):
        with problems.noted():
            is_changed |= report(process, Remote(process.host, inventory).stop(process))
    problems.end()
    if not is_changed:
        say("stop", "nothing to do: no process runs")


def restart(inventory: Inventory, processes: list[Process], is_forced: bool) -> None:
    """Restarts processes one after the other; each is ready before the next one is stopped, and a
    data node in sync.

    A data node that is master hands over to another member when it gets SIGTERM, and clients use
    another coordinator while one is away, so that no request is lost where each group has several.
    """
    for process in in_order(inventory, processes):
        if not is_forced:
            check_group(inventory, process)
        remote = Remote(process.host, inventory)
        report(process, remote.stop(process))
        report(process, remote.start(process))
        remote.wait_for(process)
        if process.role == DATA_NODE:
            wait_in_sync(inventory, process)
            say(process.name, "ready and in sync")
        else:
            say(process.name, "ready")


def in_order(inventory: Inventory, processes: list[Process]) -> list[Process]:
    """The processes in the order of their restart: from the lowest tier up, and in each group first
    those that are not ready, so that the others can do without one another.

    The master of a cluster is the last one of it: so it changes once.
    """
    if len(processes) == 1:
        return processes
    ready = {name for name, state in states_of(inventory, processes).items() if state.is_ready}
    last = masters(inventory) if any(it.role == DATA_NODE for it in processes) else set()
    # Of the first of each; the sort keeps the order of equal ones.
    groups = list(dict.fromkeys(process.group() for process in processes))
    return sorted(
        processes,
        key=lambda it: (
            groups.index(it.group()),
            it.name in ready,
            it.role == DATA_NODE and it.name in last,
        ),
    )


def check_group(inventory: Inventory, process: Process) -> None:
    """Refuses to stop a process while others that stand in for it are not ready."""
    group = [
        other
        for other in processes_of(inventory)
        if other.group() == process.group() and other.name != process.name
    ]
    missing = [name for name, state in states_of(inventory, group).items() if not state.is_ready]
    if missing:
        names = ", ".join(missing)
        raise Problem(
            f"{process.name} is not restarted: {names} would have to stand in for it and "
            f"{'is' if len(missing) == 1 else 'are'} not ready; see `tierkv-ops status`, start "
            "or repair what is missing, and run the restart again (--force restarts regardless)"
        )


def states_of(inventory: Inventory, processes: list[Process]) -> dict[str, State]:
    """The states of processes on any hosts."""
    states: dict[str, State] = {}
    for host in inventory.hosts:
        own = [process for process in processes if process.host is host]
        if own:
            states |= Remote(host, inventory).states(own)
    return states


def report(process: Process, line: str) -> bool:
    """Prints what was done; returns whether that changed anything."""
    if line.startswith(UNCHANGED):
        return False
    say(process.name, f"{line.removeprefix('changed: ')} (host {process.host.name})")
    return True
