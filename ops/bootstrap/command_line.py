"""The command line."""

import argparse
import os
import sys
from pathlib import Path

from . import build, installing, inventory, reporting, running
from .inventory import ROLES
from .problem import Problem
from .processes import chosen, processes_of

# Exit statuses: a negative answer (something is not ready), and an error.
NEGATIVE = 1
FAILED = 2

COMMANDS = {
    "check": "check the inventory and say what it describes; no host is contacted",
    "install": "user, folders, binary, configuration and units, wherever they differ",
    "start": "start what does not run, found the platform once, and wait until all is ready",
    "status": "every process, and what the platform reports; status 1 if one is not ready",
    "stop": "stop in order: requests are answered, and the last checkpoint is written",
    "restart": "one process after the other, each ready, a data node in sync, before the next one",
}


def parser() -> argparse.ArgumentParser:
    """Its options."""
    top = argparse.ArgumentParser(
        prog="tierkv-ops",
        description="Runs a TierKV platform on one or several hosts, described by one inventory.",
        epilog="docs/operations.md is the guide; ops/inventory.toml is a commented sample. Every "
        "command can be repeated: what is as it should be is left alone.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, about in COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("inventory", type=Path, help="the inventory, a TOML file")
        if name == "check":
            text = "write the files of all hosts under this folder, to look at them"
            command.add_argument("--render", type=Path, metavar="DIR", help=text)
            continue
        command.add_argument("--host", metavar="NAME", help="only the processes of this host")
        command.add_argument("--role", choices=ROLES, help="only the processes of this role")
        command.add_argument("--process", metavar="NAME", help="only this process")
        if name == "status":
            text = "for people or for programs (table)"
            command.add_argument(
                "--output", "-o", choices=("table", "json"), default="table", help=text
            )
        if name == "restart":
            text = "also while another process that stands in for one is not ready"
            command.add_argument("--force", action="store_true", help=text)
    return top


def run(arguments: argparse.Namespace) -> int:
    """Runs a command; returns the exit status."""
    described = inventory.read(arguments.inventory)
    processes = processes_of(described)
    if arguments.command == "check":
        built = build.look_at(described)
        build.check_configurations(built, described, processes)
        reporting.describe(described, processes, built)
        if arguments.render:
            reporting.render(described, processes, built, arguments.render)
        return 0
    some = chosen(processes, arguments.host, arguments.role, arguments.process)
    match arguments.command:
        case "install":
            built = build.look_at(described)
            build.check_configurations(built, described, some)
            installing.install(described, built, some)
        case "start":
            running.start(described, some)
        case "stop":
            running.stop(described, some)
        case "restart":
            running.restart(described, some, arguments.force)
        case "status":
            if not reporting.status(described, some, arguments.output == "json"):
                return NEGATIVE
    return 0


def main() -> int:
    try:
        status = run(parser().parse_args())
        sys.stdout.flush()
        return status
    except Problem as problem:
        for line in str(problem).splitlines():
            print(f"tierkv-ops: {line}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # The reader has seen enough; nothing more can be printed, not even at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        print("tierkv-ops: interrupted; run it again to complete it", file=sys.stderr)
        return FAILED
