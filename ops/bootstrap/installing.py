"""`tierkv-ops install`: everything that a host needs before its processes start."""

from .build import Build
from .host import Entry, Remote
from .inventory import ETCD, NONE, SYSTEMD, Inventory
from .output import say
from .problem import Problems
from .processes import Process, layout_of
from .rendering import admin_configuration, configuration, unit, unit_path

ROOT = "root"


def install(inventory: Inventory, build: Build, processes: list[Process]) -> None:
    """Installs the processes on their hosts; says what it changed."""
    is_changed = False
    problems = Problems()
    for host in inventory.hosts:
        own = [process for process in processes if process.host is host]
        if not own:
            continue
        # The other hosts are installed all the same.
        with problems.noted():
            remote = Remote(host, inventory)
            done = install_on(remote, build, own)
            is_changed |= bool(done)
            for line in done:
                say(host.name, line)
            for name, state in remote.states(own).items():
                if state.is_outdated:
                    say(
                        host.name, f"{name} still runs as before; `tierkv-ops restart` applies this"
                    )
    problems.end()
    if not is_changed:
        say("install", "nothing to change")


def install_on(remote: Remote, build: Build, processes: list[Process]) -> list[str]:
    """Installs the processes of one host; returns what it changed."""
    inventory = remote.inventory
    needs_etcd = any(process.role == ETCD for process in processes)
    done = remote.prepare(needs_etcd)
    if any(process.role != ETCD for process in processes):
        done += remote.place_program(remote.layout.program(build.version), build.content)
    placed = remote.place(list(entries(inventory, build, processes)))
    done += placed
    if remote.host.supervisor == SYSTEMD:
        units = [remote.layout.unit(process.name) for process in processes]
        paths = {unit_path(process, inventory) for process in processes}
        done += remote.use_units(not paths.isdisjoint(placed), units)
    return done


def entries(inventory: Inventory, build: Build, processes: list[Process]) -> list[Entry]:
    """The folders, files and links of a host with these processes."""
    layout = layout_of(inventory)
    supervisor = processes[0].host.supervisor
    placed = [
        Entry("folder", layout.configuration, "755", ROOT),
        Entry("folder", layout.data, "755", ROOT),
    ]
    if supervisor == NONE:
        placed.append(Entry("folder", layout.logs, "755", ROOT))
    if any(process.role != ETCD for process in processes):
        # The target of a link stands where others have a mode.
        placed.append(Entry("link", layout.current, build.version, "-"))
        placed.append(Entry("file", layout.admin, "644", ROOT, admin_configuration(inventory)))
    for process in processes:
        if process.data_dir:
            placed.append(Entry("folder", process.data_dir, "700", inventory.user))
        text = configuration(process, inventory.name)
        placed.append(Entry("file", process.configuration, "644", ROOT, text))
        if supervisor == SYSTEMD:
            text = unit(process, inventory, build.version)
            placed.append(Entry("file", unit_path(process, inventory), "644", ROOT, text))
    return placed
