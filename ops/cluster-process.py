#!/usr/bin/env python3
"""Finds and restarts the processes of a local platform, as `make cluster` runs it.

    ops/cluster-process.py pid NAME        print the process id of a process
    ops/cluster-process.py restart NAME    start an ended process again on its data
    ops/cluster-process.py command NAME    print the command that starts a process

The platform's folder is tierkv-cluster, or that of CLUSTER_DIR.
"""

import json
import os
import pathlib
import shlex
import subprocess
import sys


def command_of(pid):
    """The command line of a living process, as bytes; empty for a zombie."""
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def living(process):
    """The process ids that run the command of a process; its program may be a path."""
    arguments = b"".join(word.encode() + b"\0" for word in process["argv"][1:])
    program = os.path.basename(process["argv"][0]).encode()
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            first, _, rest = command_of(entry.name).partition(b"\0")
            if os.path.basename(first) == program and rest == arguments:
                found.append(int(entry.name))
    return found


def restart(process):
    """Starts a process; its output is appended to its log."""
    pids = living(process)
    if pids:
        sys.exit(f"{process['name']} still runs, pid {pids[0]}")
    with open(process["log"], "ab") as log:
        child = subprocess.Popen(
            process["argv"],
            env={**os.environ, **process["env"]},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    print(f"{process['name']} started, pid {child.pid}")


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in ("pid", "restart", "command"):
        sys.exit(__doc__)
    folder = pathlib.Path(os.environ.get("CLUSTER_DIR", "tierkv-cluster"))
    path = folder / "cluster.json"
    try:
        processes = json.loads(path.read_text())["processes"]
    except OSError as error:
        sys.exit(f"{path} can't be read ({error.strerror}): run `make cluster`, or set CLUSTER_DIR")
    by_name = {process["name"]: process for process in processes}
    if sys.argv[2] not in by_name:
        sys.exit(f"there is no process {sys.argv[2]}; there are {', '.join(by_name)}")
    process = by_name[sys.argv[2]]
    if sys.argv[1] == "restart":
        restart(process)
        return
    if sys.argv[1] == "command":
        print(shlex.join(process["argv"]))
        return
    pids = living(process)
    if not pids:
        sys.exit(f"{process['name']} does not run")
    print(pids[0])


if __name__ == "__main__":
    main()
