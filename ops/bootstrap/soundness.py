"""Whether the parts of an inventory fit together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .inventory import Host, Inventory

# With its prefix, it is the name of a node, which has at most 63 characters.
MAX_HOST_NAME = 58
# What ProtectHome and PrivateTmp of the units hide.
HIDDEN = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")


def problems(inventory: Inventory) -> Iterator[str]:
    """What can't work."""
    yield from names(inventory)
    yield from data_nodes(inventory)
    yield from addresses(inventory.hosts)
    yield from hidden_paths(inventory)
    with_etcd = [host.name for host in inventory.hosts if "etcd" in host.roles]
    if inventory.external_etcd and with_etcd:
        yield (
            f"[etcd]: it names an etcd of others, but the host {with_etcd[0]} has the role etcd; "
            "remove one of the two"
        )
    if not inventory.external_etcd and not with_etcd:
        yield (
            "[[host]]: no host has the role etcd; give it to one or three hosts, or name the "
            "endpoints of an existing etcd under [etcd]"
        )
    for role in ("server-coordinator", "client-coordinator"):
        if not any(role in host.roles for host in inventory.hosts):
            yield f"[[host]]: no host has the role {role}; give it to at least one"


def names(inventory: Inventory) -> Iterator[str]:
    for name, count in Counter(host.name for host in inventory.hosts).items():
        if count > 1 and name:
            yield f"[[host]] {name}: {count} hosts have this name; give each its own"
    taken = Counter(node for nodes in inventory.clusters.values() for node in nodes)
    for node, count in taken.items():
        if count > 1:
            yield f"[clusters]: the node {node} is named {count} times; it belongs to one cluster"
    for host in inventory.hosts:
        if len(host.name) > MAX_HOST_NAME:
            yield f"[[host]] {host.name}: name: use at most {MAX_HOST_NAME} characters"
    # Files and units are named after processes.
    for host in inventory.hosts:
        for prefix in ("etcd", "s", "cc"):
            if f"{prefix}-{host.name}" in taken:
                name = f"{prefix}-{host.name}"
                yield f"[clusters]: {name} is also the name of a process of the host {host.name}"


def data_nodes(inventory: Inventory) -> Iterator[str]:
    of_clusters = {node for nodes in inventory.clusters.values() for node in nodes}
    placed = Counter(node.name for host in inventory.hosts for node in host.data_nodes)
    for node in sorted(of_clusters - placed.keys()):
        yield f"[clusters]: no host has the data node {node}; list it in data_nodes of one"
    for node, count in placed.items():
        if node not in of_clusters:
            yield f"[[host]]: the data node {node} is in no cluster; list it under [clusters]"
        if count > 1:
            yield f"[[host]]: {count} hosts have the data node {node}; it runs on one"
    folders = Counter(
        (host.reach, node.data_dir)
        for host in inventory.hosts
        for node in host.data_nodes
        if node.data_dir
    )
    for (reach, folder), count in folders.items():
        if count > 1:
            yield f"[[host]]: {count} data nodes share the data_dir {folder} at {reach}"


def hidden_paths(inventory: Inventory) -> Iterator[str]:
    """The units don't see these folders (ProtectHome, PrivateTmp)."""
    for host in inventory.hosts:
        if host.supervisor != "systemd":
            continue
        folders = {node.data_dir for node in host.data_nodes} | {inventory.prefix}
        for folder in sorted(folders):
            if f"{folder}/".startswith(HIDDEN):
                yield (
                    f"[[host]] {host.name}: the units of systemd can't use {folder}; choose a "
                    "folder elsewhere, as under /srv, for data_dir and prefix"
                )


def addresses(hosts: Sequence[Host]) -> Iterator[str]:
    """Two processes must not listen on one address."""
    doors: dict[tuple[str, int], list[str]] = {}
    for host in hosts:
        for name, port in listeners(host):
            doors.setdefault((host.address, port), []).append(name)
    for (address, port), users in doors.items():
        if len(users) > 1:
            yield (
                f"[[host]]: {' and '.join(users)} would all listen on {address}:{port}; give them "
                "other ports (`port` and `metrics_port` of a data node, `ports` of a host)"
            )


def listeners(host: Host) -> Iterator[tuple[str, int]]:
    """What listens on a host, and where."""
    kinds = {
        "etcd": ("etcd_client", "etcd_peer"),
        "server-coordinator": ("server_coordinator", "server_coordinator_metrics"),
        "client-coordinator": ("grpc", "rest"),
    }
    for role in host.roles:
        for door in kinds.get(role, ()):
            yield f"{door} of {host.name}", host.ports[door]
    for node in host.data_nodes:
        yield f"the data node {node.name}", node.port
        yield f"the metrics of {node.name}", node.metrics_port


def notes(clusters: dict[str, tuple[str, ...]], hosts: Sequence[Host]) -> Iterator[str]:
    """What works, but not as well as it could."""
    members = sum("etcd" in host.roles for host in hosts)
    if members and members % 2 == 0:
        yield f"etcd has {members} members; an odd number survives as many losses with one less"
    for role in ("server-coordinator", "client-coordinator"):
        count = sum(role in host.roles for host in hosts)
        if count == 1:
            yield f"there is one {role}; while it restarts, requests wait or fail"
    place = {node.name: host.name for host in hosts for node in host.data_nodes}
    for cluster, nodes in clusters.items():
        if len(nodes) == 1:
            yield (
                f"{cluster} has one data node: while it restarts, its keys wait, and they are lost "
                "with its disk"
            )
        if len(nodes) == 2:
            yield f"{cluster} has two data nodes: while one is away, it takes no writes; use three"
        on = Counter(place.get(node, node) for node in nodes)
        for host, count in on.items():
            if count > 1:
                yield f"{count} data nodes of {cluster} are on the host {host} and fail with it"
