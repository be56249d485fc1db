"""Founds the platform once, and adds the clusters that the inventory has got since."""

import json
from collections.abc import Sequence
from typing import Any

from .host import Remote
from .inventory import DATA_NODE, Inventory
from .output import say
from .problem import Problem


def founding_words(inventory: Inventory) -> list[str]:
    """The clusters, as `tierkv admin init` takes them."""
    words = []
    for cluster, nodes in inventory.clusters.items():
        words += ["--cluster", f"{cluster}={','.join(nodes)}"]
    return [*words, *failover_words(inventory)]


def failover_words(inventory: Inventory) -> list[str]:
    return ["--failover-ms", str(inventory.failover_ms)]


def found(inventory: Inventory) -> bool:
    """Founds the platform if it is not; returns whether anything changed."""
    remote = reachable(inventory)
    words = ["admin", "init", "--config", remote.layout.admin, "--if-absent"]
    answer = run(remote, [*words, "--output", "json", *founding_words(inventory)])
    is_changed = bool(answer["founded"])
    if is_changed:
        say("platform", f"founded {inventory.name} with {', '.join(inventory.clusters)}")
    existing = {cluster["id"]: list(cluster["nodes"]) for cluster in answer["clusters"]}
    for cluster, nodes in inventory.clusters.items():
        if cluster not in existing:
            words = ["admin", "add-cluster", "--config", remote.layout.admin, "--output", "json"]
            run(remote, [*words, *failover_words(inventory), f"{cluster}={','.join(nodes)}"])
            say("platform", f"added the cluster {cluster}; it owns no slots yet")
            is_changed = True
        elif sorted(existing[cluster]) != sorted(nodes):
            raise Problem(difference(cluster, existing[cluster], nodes))
    for cluster in existing.keys() - inventory.clusters.keys():
        say("platform", f"it has a cluster {cluster}, which the inventory does not have")
    return is_changed


def difference(cluster: str, existing: Sequence[str], nodes: Sequence[str]) -> str:
    """How the platform and the inventory differ, and the commands that change the platform.

    A change of members is an operator's decision: nothing of it is done by the way.
    """
    command = f"tierkv admin {{}}-node --address HOST:PORT --cluster {cluster} --node {{}}"
    changes = [f"`{command.format('add', it)} --no-wait`" for it in nodes if it not in existing]
    changes += [f"`{command.format('remove', it)}`" for it in existing if it not in nodes]
    return (
        f"the cluster {cluster} of the platform has the nodes {', '.join(existing)}, but the "
        f"inventory lists {', '.join(nodes)}; change the inventory, or the platform with "
        f"{' and '.join(changes)}, and run this again"
    )


def reachable(inventory: Inventory) -> Remote:
    """A host that has the binary, and can be reached."""
    remotes = [Remote(host, inventory) for host in inventory.hosts_with(DATA_NODE)]
    for remote in remotes:
        if remote.is_reachable():
            return remote
    names = ", ".join(remote.host.name for remote in remotes)
    raise Problem(f"no host with a data node can be reached ({names}); see that one is up")


def run(remote: Remote, words: list[str]) -> dict[str, Any]:
    """Runs a command of `tierkv admin` that answers in JSON."""
    ended = remote.tierkv(words)
    if ended.status != 0:
        what = " ".join(words[:2])
        raise Problem(f"host {remote.host.name}: tierkv {what}: {ended.error}")
    answer: dict[str, Any] = json.loads(ended.output)
    return answer
