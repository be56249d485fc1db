"""Inventories for tests."""

import tomllib
from pathlib import Path

from bootstrap.inventory import Inventory, parse, read
from bootstrap.problem import Problem

OPS = Path(__file__).resolve().parent.parent

# Three data nodes of one cluster, on three hosts of different kinds.
REPLICATED = """
[platform]
name = "shop"
binary = "tierkv"

[clusters]
c1 = ["n1", "n2", "n3"]

[settings.all.limits]
connections = 500
[settings.data-node.wal]
max_bytes = "1 GiB"

[[host]]
name = "alpha"
address = "10.0.0.1"
reach = "ssh:ops@alpha.example"
roles = ["etcd", "server-coordinator"]
data_nodes = ["n1"]

[[host]]
name = "beta"
address = "10.0.0.2"
reach = "netns:beta"
supervisor = "none"
roles = ["etcd", "client-coordinator"]
data_nodes = [{ name = "n2", data_dir = "/srv/n2", port = 7700, metrics_port = 7780 }]

[[host]]
name = "gamma"
address = "fd00::3"
roles = ["etcd", "client-coordinator"]
data_nodes = ["n3"]
"""


def replicated(*changes: tuple[str, str]) -> Inventory:
    """The inventory above, with parts of its text replaced."""
    return parse(tomllib.loads(changed(*changes)), Path("/etc/shop.toml"))


def changed(*changes: tuple[str, str]) -> str:
    text = REPLICATED
    for old, new in changes:
        if old not in text:
            raise AssertionError(f"not in the sample: {old}")
        text = text.replace(old, new, 1)
    return text


def refusal(*changes: tuple[str, str]) -> str:
    """Why the inventory above is refused after these changes."""
    try:
        replicated(*changes)
    except Problem as problem:
        return str(problem)
    raise AssertionError(f"it is not refused: {changes}")


def sample(name: str) -> Inventory:
    """An inventory of the repository."""
    return read(OPS / name)
