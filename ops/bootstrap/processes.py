"""What runs on which host: the processes of a platform, derived from its inventory."""

from dataclasses import dataclass
from typing import Any

from .inventory import (
    CLIENT_COORDINATOR,
    DATA_NODE,
    ETCD,
    ROLES,
    SERVER_COORDINATOR,
    DataNode,
    Host,
    Inventory,
)
from .layout import Layout
from .problem import Problem

# Debian's package etcd-server.
ETCD_PROGRAM = "/usr/bin/etcd"
# The words of `tierkv` that run a role.
COMMANDS = {
    DATA_NODE: "datanode",
    SERVER_COORDINATOR: "server-coordinator",
    CLIENT_COORDINATOR: "client-coordinator",
}


@dataclass(frozen=True)
class Health:
    """The page that answers with the status 200 while a process is ready."""

    address: str
    port: int
    path: str = "/health/ready"


@dataclass(frozen=True)
class Process:
    """A process of the platform."""

    name: str
    role: str
    host: Host
    # For a data node: its cluster.
    cluster: str
    data_dir: str
    # The path of its configuration, and the keys of that, by section.
    configuration: str
    keys: dict[str, Any]
    health: Health

    def command(self, program: str) -> list[str]:
        """Its command line; `program` is the path of the tierkv binary."""
        if self.role == ETCD:
            return [ETCD_PROGRAM, "--config-file", self.configuration]
        return [program, COMMANDS[self.role], "--config", self.configuration]

    def group(self) -> tuple[str, str]:
        """Processes of one group stand in for each other."""
        return (self.role, self.cluster)


def layout_of(inventory: Inventory) -> Layout:
    return Layout(inventory.prefix, inventory.name)


def processes_of(inventory: Inventory) -> list[Process]:
    """All processes, from the lowest tier up, each tier in the order of the hosts."""
    makers = {
        ETCD: etcd,
        SERVER_COORDINATOR: server_coordinator,
        CLIENT_COORDINATOR: client_coordinator,
    }
    processes = []
    for role in ROLES:
        for host in inventory.hosts_with(role):
            if role == DATA_NODE:
                processes += [data_node(inventory, host, node) for node in host.data_nodes]
            else:
                processes.append(makers[role](inventory, host))
    return processes


def chosen(
    processes: list[Process], host: str | None, role: str | None, name: str | None
) -> list[Process]:
    """Those of a host, of a role, or of one name."""
    hosts = sorted({process.host.name for process in processes})
    if host is not None and host not in hosts:
        raise Problem(f"the inventory has no host {host}; it has {', '.join(hosts)}")
    found = [
        process
        for process in processes
        if host in (None, process.host.name)
        and role in (None, process.role)
        and name in (None, process.name)
    ]
    if not found:
        names = ", ".join(process.name for process in processes)
        raise Problem(f"no process has all of these; the inventory's processes are {names}")
    return found


def joined(address: str, port: int) -> str:
    """An address and a port, as in 10.0.0.1:7400 or [fd00::1]:7400."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def coordination_keys(inventory: Inventory) -> dict[str, str]:
    """The section `coordination`, the same for all processes."""
    etcd = inventory.external_etcd
    if etcd is not None:
        scheme = "etcds" if etcd.is_tls else "etcd"
        return {"url": f"{scheme}://{','.join(etcd.endpoints)}/{inventory.name}"} | etcd.keys
    members = inventory.hosts_with(ETCD)
    endpoints = [joined(host.address, host.ports["etcd_client"]) for host in members]
    return {"url": f"etcd://{','.join(endpoints)}/{inventory.name}"}


def configured(inventory: Inventory, role: str, own: dict[str, Any]) -> dict[str, Any]:
    """The keys of a process, with the settings of all processes and of its role."""
    keys = dict(own)
    for table in (inventory.settings["all"], inventory.settings[role]):
        for section, values in table.items():
            keys[section] = keys.get(section, {}) | values
    keys["coordination"] = coordination_keys(inventory)
    return keys


def etcd(inventory: Inventory, host: Host) -> Process:
    layout = layout_of(inventory)
    name = etcd_name(host)
    client = f"http://{joined(host.address, host.ports['etcd_client'])}"
    peer = f"http://{joined(host.address, host.ports['etcd_peer'])}"
    members = [
        f"{etcd_name(member)}=http://{joined(member.address, member.ports['etcd_peer'])}"
        for member in inventory.hosts_with(ETCD)
    ]
    data_dir = f"{layout.data}/{name}"
    keys = {
        "name": name,
        "data-dir": data_dir,
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": ",".join(members),
        "initial-cluster-token": f"tierkv-{inventory.name}",
        "initial-cluster-state": "new",
        # The platform reads the newest values only; older ones would fill etcd's quota.
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": "1h",
        "logger": "zap",
        "log-level": "warn",
    }
    return Process(
        name=name,
        role=ETCD,
        host=host,
        cluster="",
        data_dir=data_dir,
        configuration=f"{layout.configuration}/{name}.yml",
        keys=keys,
        health=Health(host.address, host.ports["etcd_client"], "/health"),
    )


def etcd_name(host: Host) -> str:
    return f"etcd-{host.name}"


def server_coordinator(inventory: Inventory, host: Host) -> Process:
    layout = layout_of(inventory)
    name = f"s-{host.name}"
    metrics = host.ports["server_coordinator_metrics"]
    keys = {
        "node": name,
        "listen": joined(host.address, host.ports["server_coordinator"]),
        "metrics_listen": joined(host.address, metrics),
    }
    return Process(
        name=name,
        role=SERVER_COORDINATOR,
        host=host,
        cluster="",
        data_dir="",
        configuration=f"{layout.configuration}/{name}.toml",
        keys=configured(inventory, SERVER_COORDINATOR, keys),
        health=Health(host.address, metrics),
    )


def client_coordinator(inventory: Inventory, host: Host) -> Process:
    layout = layout_of(inventory)
    name = f"cc-{host.name}"
    keys = {
        "node": name,
        "grpc_listen": joined(host.address, host.ports["grpc"]),
        "rest_listen": joined(host.address, host.ports["rest"]),
    }
    return Process(
        name=name,
        role=CLIENT_COORDINATOR,
        host=host,
        cluster="",
        data_dir="",
        configuration=f"{layout.configuration}/{name}.toml",
        keys=configured(inventory, CLIENT_COORDINATOR, keys),
        health=Health(host.address, host.ports["rest"]),
    )


def data_node(inventory: Inventory, host: Host, node: DataNode) -> Process:
    layout = layout_of(inventory)
    data_dir = node.data_dir or f"{layout.data}/{node.name}"
    cluster = inventory.cluster_of(node.name)
    keys = {
        "node": node.name,
        "cluster": cluster,
        "data_dir": data_dir,
        "listen": joined(host.address, node.port),
        "metrics_listen": joined(host.address, node.metrics_port),
    }
    return Process(
        name=node.name,
        role=DATA_NODE,
        host=host,
        cluster=cluster,
        data_dir=data_dir,
        configuration=f"{layout.configuration}/{node.name}.toml",
        keys=configured(inventory, DATA_NODE, keys),
        health=Health(host.address, node.metrics_port),
    )
