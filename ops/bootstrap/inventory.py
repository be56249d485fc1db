"""The inventory: one TOML file that describes a whole platform."""

import ipaddress
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import soundness
from .fields import NAME, NAME_FORM, Table
from .problem import Problem, all_of

ETCD = "etcd"
SERVER_COORDINATOR = "server-coordinator"
DATA_NODE = "data-node"
CLIENT_COORDINATOR = "client-coordinator"
# The roles that a host may list; its data nodes have a key of their own.
HOST_ROLES = (ETCD, SERVER_COORDINATOR, CLIENT_COORDINATOR)
# From the lowest tier up: the order of a start.
ROLES = (ETCD, DATA_NODE, SERVER_COORDINATOR, CLIENT_COORDINATOR)
SYSTEMD = "systemd"
NONE = "none"
SUPERVISORS = (SYSTEMD, NONE)

DEFAULT_PORTS = {
    "etcd_client": 2379,
    "etcd_peer": 2380,
    "server_coordinator": 7500,
    "server_coordinator_metrics": 7580,
    "grpc": 7400,
    "rest": 7480,
}
DATA_NODE_PORT = 7600
DATA_NODE_METRICS_PORT = 7680

REACH = re.compile(r"local|ssh:([A-Za-z0-9._-]+)@([A-Za-z0-9.:_-]+)|netns:([A-Za-z0-9._-]+)")
REACH_FORMS = "local, ssh:USER@HOST or netns:NAME"
# What a cluster may have for the silence after which its master is suspected, in milliseconds.
FAILOVER_MS = (200, 30_000)
DEFAULT_FAILOVER_MS = 1_000


@dataclass(frozen=True)
class DataNode:
    """A data node of a host."""

    name: str
    port: int
    metrics_port: int
    # Where its data are, if not in the usual place.
    data_dir: str


@dataclass(frozen=True)
class Host:
    """A machine, or a network namespace of this one."""

    name: str
    address: str
    reach: str
    supervisor: str
    roles: tuple[str, ...]
    data_nodes: tuple[DataNode, ...]
    ports: dict[str, int]


@dataclass(frozen=True)
class Etcd:
    """An etcd cluster that others run."""

    endpoints: tuple[str, ...]
    is_tls: bool
    # Further keys of `coordination`, as `user` and `password_file`.
    keys: dict[str, str]


@dataclass(frozen=True)
class Inventory:
    """A platform: its hosts, clusters and settings, checked."""

    name: str
    binary: Path
    user: str
    prefix: str
    log: str
    failover_ms: int
    clusters: dict[str, tuple[str, ...]]
    external_etcd: Etcd | None
    # By role, and "all": keys of the configuration, as in its file.
    settings: dict[str, dict[str, Any]]
    hosts: tuple[Host, ...]
    # What may be meant, but is unusual.
    notes: tuple[str, ...] = field(default=())

    def cluster_of(self, node: str) -> str:
        found = [cluster for cluster, nodes in self.clusters.items() if node in nodes]
        return found[0]

    def hosts_with(self, role: str) -> list[Host]:
        if role == DATA_NODE:
            return [host for host in self.hosts if host.data_nodes]
        return [host for host in self.hosts if role in host.roles]


def read(path: Path) -> Inventory:
    """Reads and checks an inventory; a `Problem` has all that is wrong."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        sample = "copy ops/inventory.toml and adapt it"
        raise Problem(f"{path} can't be read ({error.strerror}): {sample}") from None
    except UnicodeDecodeError:
        raise Problem(f"{path}: it is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise Problem(f"{path}: it is not TOML: {error}") from None
    return parse(values, path)


def parse(values: dict[str, Any], path: Path) -> Inventory:
    """Checks the values of an inventory that was read from `path`."""
    problems: list[str] = []
    top = Table(values, str(path), problems)
    platform = Table(top.take("platform"), "[platform]", problems)
    name = platform.name("name")
    binary = platform.text("binary")
    user = platform.text("user", "tierkv")
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", user):
        platform.problem("user", f"{user!r} can't be the name of a user")
    prefix = platform.path("prefix")
    log = platform.text("log", "warn")
    if not re.fullmatch(r"[A-Za-z0-9_=,:]+", log):
        platform.problem("log", f"{log!r} is not a list of levels, as warn or info")
    supervisor = platform.choice("supervisor", SUPERVISORS, SYSTEMD)
    failover_ms = failover(platform)
    platform.end()
    clusters = clusters_of(Table(top.take("clusters"), "[clusters]", problems))
    etcd = external_etcd(top.take("etcd"), problems)
    settings = settings_of(Table(top.take("settings"), "[settings]", problems))
    ports = ports_of(Table(top.take("ports"), "[ports]", problems), DEFAULT_PORTS)
    hosts = tuple(
        host_of(values, number, supervisor, ports, problems)
        for number, values in enumerate(listed(top, "host"), 1)
    )
    top.end()
    inventory = Inventory(
        name=name,
        # Relative to the inventory, so that it can be used from any folder.
        binary=path.parent / binary,
        user=user,
        prefix=prefix,
        log=log,
        failover_ms=failover_ms,
        clusters=clusters,
        external_etcd=etcd,
        settings=settings,
        hosts=hosts,
        notes=tuple(soundness.notes(clusters, hosts)),
    )
    problems.extend(soundness.problems(inventory))
    if problems:
        raise all_of(f"{path}: {problem}" if problem[0] == "[" else problem for problem in problems)
    return inventory


def failover(platform: Table) -> int:
    value = platform.take("failover_ms")
    if value is None:
        return DEFAULT_FAILOVER_MS
    low, high = FAILOVER_MS
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        platform.problem("failover_ms", f"{value!r} is not a number from {low} to {high}")
        return DEFAULT_FAILOVER_MS
    return value


def listed(table: Table, key: str) -> list[Any]:
    """The tables `[[key]]`."""
    value = table.take(key)
    if isinstance(value, list) and value:
        return value
    table.problem(key, f"there is none; describe each with a [[{key}]]")
    return []


def clusters_of(table: Table) -> dict[str, tuple[str, ...]]:
    """The data clusters, each with its data nodes."""
    clusters = {}
    if not table.values:
        table.problems.append('[clusters]: there is none; write one, as in c1 = ["n1"]')
    for cluster in list(table.values):
        if not NAME.fullmatch(cluster):
            table.problem(cluster, f"it can't be the name of a cluster; use {NAME_FORM}")
        nodes = table.texts(cluster)
        if not nodes:
            table.problem(cluster, 'it has no data node; list them, as in ["n1"]')
        for node in nodes:
            if not NAME.fullmatch(node):
                table.problem(cluster, f"{node!r} can't be the name of a node; use {NAME_FORM}")
        clusters[cluster] = tuple(nodes)
    return clusters


def external_etcd(values: Any, problems: list[str]) -> Etcd | None:
    if values is None:
        return None
    table = Table(values, "[etcd]", problems)
    endpoints = table.texts("endpoints")
    if not endpoints:
        table.problem("endpoints", 'list those of the etcd cluster, as in ["10.0.0.9:2379"]')
    for endpoint in endpoints:
        if not re.fullmatch(r"[A-Za-z0-9.:\[\]_-]+:[0-9]+", endpoint):
            table.problem("endpoints", f"{endpoint!r} is not HOST:PORT")
    is_tls = table.flag("tls")
    keys = {"user": table.text("user", "")}
    for key in ("password_file", "ca_file", "cert_file", "key_file"):
        # Paths on the hosts: the operator places secrets there, this program never copies them.
        keys[key] = table.path(key)
    keys = {key: value for key, value in keys.items() if value}
    table.end()
    return Etcd(tuple(endpoints), is_tls, keys)


def settings_of(table: Table) -> dict[str, dict[str, Any]]:
    """Keys of the configuration by role; the binary itself checks them."""
    settings = {}
    for role in ("all", DATA_NODE, SERVER_COORDINATOR, CLIENT_COORDINATOR):
        own = Table(table.take(role), f"[settings.{role}]", table.problems)
        for key, value in own.values.items():
            if not isinstance(value, dict) or key == "coordination":
                own.problem(key, "the inventory's other tables set it; remove it here")
        settings[role] = own.values
    table.end()
    return settings


def ports_of(table: Table, defaults: dict[str, int]) -> dict[str, int]:
    ports = {key: table.port(key, default) for key, default in defaults.items()}
    table.end()
    return ports


def host_of(
    values: Any, number: int, supervisor: str, ports: dict[str, int], problems: list[str]
) -> Host:
    name = values.get("name") if isinstance(values, dict) else None
    table = Table(values, f"[[host]] {name or number}", problems)
    name = table.name("name")
    address = table.text("address")
    try:
        if address and ipaddress.ip_address(address).is_unspecified:
            table.problem(
                "address",
                f"{address} is not the address of one host; write the one that others connect to",
            )
    except ValueError:
        table.problem("address", f"{address!r} is not an IP address, as 10.0.0.11")
    reach = table.text("reach", "local")
    if not REACH.fullmatch(reach):
        table.problem("reach", f"{reach!r} is none of {REACH_FORMS}")
    roles = table.texts("roles")
    for role in roles:
        if role not in HOST_ROLES:
            known = ", ".join(HOST_ROLES)
            table.problem("roles", f"{role!r} is none of {known}; data nodes have data_nodes")
    host = Host(
        name=name,
        address=address,
        reach=reach,
        supervisor=table.choice("supervisor", SUPERVISORS, supervisor),
        roles=tuple(dict.fromkeys(roles)),
        data_nodes=tuple(data_nodes_of(table)),
        ports=ports_of(Table(table.take("ports"), f"{table.where}: ports", problems), ports),
    )
    table.end()
    if not host.roles and not host.data_nodes:
        table.problems.append(f"{table.where}: it has neither roles nor data_nodes; remove it")
    return host


def data_nodes_of(host: Table) -> list[DataNode]:
    """Each is a name, or a table with a name, ports and a folder."""
    value = host.take("data_nodes")
    if value is None:
        return []
    if not isinstance(value, list):
        host.problem("data_nodes", 'it is a list, as in ["n1"]')
        return []
    nodes = []
    for item in value:
        values = {"name": item} if isinstance(item, str) else item
        table = Table(values, f"{host.where}: data_nodes", host.problems)
        name = table.name("name")
        nodes.append(
            DataNode(
                name=name,
                port=table.port("port", DATA_NODE_PORT),
                metrics_port=table.port("metrics_port", DATA_NODE_METRICS_PORT),
                data_dir=table.path("data_dir"),
            )
        )
        table.end()
    return nodes
