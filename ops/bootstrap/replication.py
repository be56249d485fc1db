"""What the platform itself reports of its data clusters: who is master, and who is in sync."""

import json
import time
from typing import Any

from .host import Remote
from .inventory import CLIENT_COORDINATOR, Inventory
from .output import say
from .problem import Problem
from .processes import Process, joined, processes_of
from .rendering import START_SECONDS

# How often the report is asked for while a node is waited for.
PAUSE_SECONDS = 0.5
# For so long, a client coordinator that answers is waited for.
NOBODY_SECONDS = 15.0
# The roles of nodes that do their share.
SETTLED = ("master", "replica")


def address_of(process: Process) -> str:
    """The gRPC address of a client coordinator."""
    return joined(process.host.address, process.host.ports["grpc"])


def reported(inventory: Inventory) -> dict[str, dict[str, Any]] | None:
    """The data clusters by name, from the first client coordinator that answers, if one does."""
    for process in processes_of(inventory):
        if process.role != CLIENT_COORDINATOR:
            continue
        words = ["status", "--output", "json", "--address", address_of(process)]
        try:
            ended = Remote(process.host, inventory).tierkv(words)
        except Problem:
            continue
        if ended.status == 0:
            return {cluster["id"]: cluster for cluster in json.loads(ended.output)["clusters"]}
    return None


def masters(inventory: Inventory) -> set[str]:
    """The names of the data nodes that are master, as far as the platform can be asked."""
    clusters = reported(inventory) or {}
    return {cluster["master"] for cluster in clusters.values()}


def wait_in_sync(inventory: Inventory, process: Process) -> None:
    """Waits until the record of its cluster lists a node in sync, and a master serves.

    The node itself is ready by what it has seen of the record, which may be a moment old; what
    counts for the next one that stops is the record.
    """
    begin = time.monotonic()
    deadline = begin + START_SECONDS
    is_answered = False
    while True:
        clusters = reported(inventory)
        is_answered |= clusters is not None
        if not is_answered and time.monotonic() >= begin + NOBODY_SECONDS:
            say(process.name, "no client coordinator answers, so only the node itself was asked")
            return
        why = shortcoming(clusters, process)
        if why is None:
            return
        if time.monotonic() >= deadline:
            raise Problem(
                f"host {process.host.name}, {process.name}: {why}, for {START_SECONDS} s now; see "
                "`tierkv status` and the log of the node, and don't stop another node of "
                f"{process.cluster} before this one is in sync"
            )
        time.sleep(PAUSE_SECONDS)


def shortcoming(clusters: dict[str, dict[str, Any]] | None, process: Process) -> str | None:
    """Why another node of the process's cluster can't be stopped yet; `None` if it can."""
    if clusters is None:
        return "no client coordinator answers"
    cluster = clusters.get(process.cluster)
    if cluster is None:
        return f"the platform does not report its cluster {process.cluster}"
    if process.name not in cluster["in_sync"]:
        return f"the record of {process.cluster} does not list it in sync"
    roles = {member["node"]: member["role"] for member in cluster["members"]}
    if roles.get(cluster["master"]) != "master":
        return f"no master of {process.cluster} answers"
    if roles.get(process.name) not in SETTLED:
        return f"its role is {roles.get(process.name, 'unknown')}"
    return None
