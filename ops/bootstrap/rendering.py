"""The files of a process: its configuration and its unit."""

import json
from pathlib import Path
from string import Template
from typing import Any

from .inventory import CLIENT_COORDINATOR, ETCD, Inventory
from .layout import UNITS
from .problem import Problem
from .processes import Process, configured, coordination_keys, layout_of

TEMPLATES = Path(__file__).resolve().parent / "templates"
WARNING = (
    "# Written by tierkv-ops from the inventory of {platform}; changes here are lost at the next\n"
    "# `tierkv-ops install`.\n"
)

# A data node answers requests in progress (2 s), hands its clusters over and writes a last
# checkpoint (5 s). What is not done by then is done by the next start, from the log.
STOP_SECONDS = 60
# Half a minute for a synchronised wall clock after a boot, the rest to read the log.
START_SECONDS = 180
# A client coordinator holds 10,000 connections, and takes a fifth for files.
DESCRIPTORS = 65_536


def configuration(process: Process, platform: str) -> str:
    """The text of a process's configuration file."""
    warning = WARNING.format(platform=platform)
    if process.role == ETCD:
        lines = [f"{key}: {json.dumps(value)}" for key, value in process.keys.items()]
        return warning + "\n".join(lines) + "\n"
    return warning + toml(process.keys)


def admin_configuration(inventory: Inventory) -> str:
    """The text of the configuration for `tierkv admin`."""
    keys = {"coordination": coordination_keys(inventory)}
    # A failover time is checked against the bound of reads, which the client coordinators have.
    reads = configured(inventory, CLIENT_COORDINATOR, {}).get("reads")
    if reads is not None:
        keys["reads"] = reads
    return WARNING.format(platform=inventory.name) + toml(keys)


def toml(keys: dict[str, Any]) -> str:
    """Keys and their sections as TOML: texts, numbers, flags and lists of them."""
    single = {key: value for key, value in keys.items() if not isinstance(value, dict)}
    text = "".join(f"{key} = {literal(key, value)}\n" for key, value in single.items())
    for section, values in keys.items():
        if isinstance(values, dict):
            lines = [f"{key} = {literal(f'{section}.{key}', it)}\n" for key, it in values.items()]
            text += f"\n[{section}]\n" + "".join(lines)
    return text


def literal(key: str, value: Any) -> str:
    # The literals of JSON are those of TOML, but for characters beyond the basic plane.
    if isinstance(value, (str, bool, int, float)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return "[" + ", ".join(literal(key, item) for item in value) + "]"
    raise Problem(f"[settings]: {key}: {value!r} is not a text, number, flag or list of them")


def unit(process: Process, inventory: Inventory, version: str) -> str:
    """The text of a process's systemd unit."""
    layout = layout_of(inventory)
    template = "etcd.service" if process.role == ETCD else "tierkv.service"
    words = {
        "platform": inventory.name,
        "name": process.name,
        "role": process.role.replace("-", " "),
        "user": inventory.user,
        "command": " ".join(process.command(layout.program(version))),
        "log": inventory.log,
        "stop_seconds": STOP_SECONDS,
        "descriptors": DESCRIPTORS,
        # Without it, the process may write nowhere.
        "writes": f"ReadWritePaths={process.data_dir}\n" if process.data_dir else "",
    }
    text = Template((TEMPLATES / template).read_text(encoding="utf-8"))
    return WARNING.format(platform=inventory.name) + text.substitute(words)


def unit_path(process: Process, inventory: Inventory) -> str:
    return f"{UNITS}/{layout_of(inventory).unit(process.name)}"
