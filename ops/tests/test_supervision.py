"""Starting, watching and stopping a process without systemd: a small server in its place."""

import dataclasses
import os
import pwd
import signal
import socket
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

from bootstrap import host, running
from bootstrap.host import Entry, Remote
from bootstrap.inventory import CLIENT_COORDINATOR, Host, Inventory
from bootstrap.problem import Problem
from bootstrap.processes import Process, chosen, layout_of, processes_of

from .samples import OPS, replicated

# Serves health checks at the configured address. It ends at once if its configuration lacks an
# address, is never ready with TIERKV_LOG=debug, and ignores SIGTERM with TIERKV_LOG=info.
SERVER = f"""#!{sys.executable}
import http.server, os, signal, sys, tomllib

with open(sys.argv[3], "rb") as file:
    listen = tomllib.load(file).get("rest_listen")
if listen is None:
    sys.exit("no address")
level = os.environ["TIERKV_LOG"]
signal.signal(signal.SIGTERM, lambda *_: level == "info" or os._exit(0))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if level == "debug" else 200)
        self.end_headers()

    def log_message(self, *_):
        pass


host, port = listen.rsplit(":", 1)
http.server.HTTPServer((host, int(port)), Handler).serve_forever()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


class Supervision(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="tierkv-ops-")
        self.addCleanup(folder.cleanup)
        inventory = replicated(
            ('name = "beta"', f'ports = {{ rest = {free_port()} }}\nname = "beta"'),
            ('reach = "netns:beta"', ""),
            ('address = "10.0.0.2"', 'address = "127.0.0.1"'),
        )
        user = pwd.getpwuid(os.geteuid()).pw_name
        self.use(dataclasses.replace(inventory, prefix=folder.name, user=user))
        server = Path(layout_of(self.inventory).current_program)
        server.parent.mkdir(parents=True)
        server.write_text(SERVER)
        server.chmod(0o755)
        configuration = Path(self.process.configuration)
        configuration.parent.mkdir(parents=True)
        configuration.write_text(f'rest_listen = "127.0.0.1:{self.process.health.port}"\n')
        Path(self.log).parent.mkdir(parents=True)
        self.addCleanup(self.kill)

    def use(self, inventory: Inventory) -> None:
        self.inventory = inventory
        processes = processes_of(inventory)
        self.process: Process = chosen(processes, "beta", CLIENT_COORDINATOR, None)[0]
        self.remote = Remote(self.process.host, inventory)
        self.log = layout_of(inventory).log(self.process.name)

    def use_level(self, log: str) -> None:
        """From now on, processes are started with this level."""
        self.use(dataclasses.replace(self.inventory, log=log))

    def kill(self) -> None:
        pid = self.state().pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)

    def state(self) -> host.State:
        return self.remote.states([self.process])[self.process.name]

    def pid_file(self) -> Path:
        return Path(self.remote.handle(self.process)[1])

    def test_a_process_is_started_once_and_stopped_once(self) -> None:
        self.assertEqual(self.state().word, "stopped")
        self.assertIn("started, pid", self.remote.start(self.process))
        self.remote.wait_for(self.process)
        state = self.state()
        self.assertEqual((state.word, state.is_ready), ("running", True))
        self.assertIn(f"unchanged: runs already, pid {state.pid}", self.remote.start(self.process))
        self.assertEqual(self.remote.stop(self.process), "changed: stopped")
        self.assertEqual(self.remote.stop(self.process), "unchanged: does not run")
        self.assertEqual(self.state().word, "stopped")
        self.assertFalse(self.pid_file().exists())

    def test_it_does_not_inherit_this_shell(self) -> None:
        with mock.patch.dict(os.environ, {"TIERKV_NODE": "other"}):
            self.remote.start(self.process)
        self.remote.wait_for(self.process)
        pid = self.state().pid
        names = Path(f"/proc/{pid}/environ").read_bytes()
        self.assertIn(b"TIERKV_LOG=warn\0", names)
        self.assertNotIn(b"TIERKV_NODE", names)
        # A session of its own: Ctrl-C of an operator does not reach it.
        self.assertEqual(os.getsid(pid or 0), pid)

    def test_a_process_that_took_over_a_number_is_left_alone(self) -> None:
        self.remote.start(self.process)
        self.remote.wait_for(self.process)
        pid, start, boot = self.pid_file().read_text().split()
        for other in (f"{pid} {int(start) + 1} {boot}", f"{pid} {start} another-boot", "", "x"):
            self.pid_file().write_text(f"{other}\n")
            self.assertEqual(self.remote.stop(self.process), "unchanged: does not run")
        os.kill(int(pid), 0)
        self.pid_file().write_text(f"{pid} {start} {boot}\n")
        self.assertEqual(self.remote.stop(self.process), "changed: stopped")

    def test_a_process_that_ends_is_reported_with_its_last_words(self) -> None:
        Path(self.process.configuration).write_text("")
        with self.assertRaisesRegex(Problem, r"(?s)host beta, cc-beta: it ended.*no address"):
            self.remote.start(self.process)
            self.remote.wait_for(self.process)

    def test_a_process_that_does_not_become_ready_is_reported(self) -> None:
        self.use_level("debug")
        self.remote.start(self.process)
        with (
            mock.patch.object(host, "START_SECONDS", 1),
            self.assertRaisesRegex(Problem, "cc-beta: it is not ready after 1 s"),
        ):
            self.remote.wait_for(self.process)
        # Those that were started together are waited for together.
        long_ago = time.monotonic() - host.START_SECONDS
        text = f"cc-beta: it is not ready after {host.START_SECONDS} s"
        with self.assertRaisesRegex(Problem, text):
            self.remote.wait_for(self.process, long_ago)

    def test_a_process_that_does_not_stop_is_killed(self) -> None:
        self.use_level("info")
        self.remote.start(self.process)
        self.remote.wait_for(self.process)
        with mock.patch.object(host, "STOP_SECONDS", 1):
            self.assertIn("killed, because it still ran 1 s", self.remote.stop(self.process))
        self.assertEqual(self.state().word, "stopped")

    def test_what_is_not_installed_is_not_started(self) -> None:
        Path(layout_of(self.inventory).current_program).unlink()
        with self.assertRaisesRegex(Problem, "run `tierkv-ops install` first"):
            self.remote.start(self.process)

    def test_a_data_folder_is_not_made_by_a_start(self) -> None:
        # Its disk may not be mounted.
        missing = dataclasses.replace(self.process, data_dir=f"{self.inventory.prefix}/data")
        with self.assertRaisesRegex(Problem, "data is missing: mount its disk.*tierkv-ops install"):
            self.remote.start(missing)
        Path(missing.data_dir).mkdir()
        self.assertIn("started, pid", self.remote.start(missing))


class Restart(unittest.TestCase):
    def restart(self, inventory: Inventory, name: str, is_ready: bool, is_forced: bool) -> str:
        """Restarts one process while the others of its group have this state; what was done."""
        processes = chosen(processes_of(inventory), None, None, name)
        state = host.State("running", 1, 1, is_ready, is_outdated=False)
        done: list[str] = []

        class Recorder:
            def __init__(self, *_: object) -> None:
                pass

            def states(self, some: list[Process]) -> dict[str, host.State]:
                return {process.name: state for process in some}

            def stop(self, process: Process) -> str:
                done.append(f"stop {process.name}")
                return "changed: stopped"

            def start(self, process: Process) -> str:
                done.append(f"start {process.name}")
                return "changed: started"

            def wait_for(self, process: Process) -> None:
                done.append(f"wait {process.name}")

        def in_sync(_: Inventory, process: Process) -> None:
            done.append(f"sync {process.name}")

        with (
            mock.patch.object(running, "Remote", Recorder),
            mock.patch.object(running, "wait_in_sync", in_sync),
            mock.patch("builtins.print"),
        ):
            running.restart(inventory, processes, is_forced)
        return ", ".join(done)

    def test_a_process_is_ready_before_the_next_one_stops(self) -> None:
        done = self.restart(replicated(), "n1", is_ready=True, is_forced=False)
        self.assertEqual(done, "stop n1, start n1, wait n1, sync n1")
        done = self.restart(replicated(), "cc-beta", is_ready=True, is_forced=False)
        self.assertEqual(done, "stop cc-beta, start cc-beta, wait cc-beta")

    def test_it_waits_for_those_that_stand_in(self) -> None:
        with self.assertRaisesRegex(Problem, "n1 is not restarted: n2, n3 would have"):
            self.restart(replicated(), "n1", is_ready=False, is_forced=False)
        done = self.restart(replicated(), "n1", is_ready=False, is_forced=True)
        self.assertIn("stop n1", done)
        # Nobody stands in for the only one.
        done = self.restart(replicated(), "s-alpha", is_ready=False, is_forced=False)
        self.assertIn("stop s-alpha", done)


class Order(unittest.TestCase):
    """The order of a restart of all processes."""

    def order(self, unready: set[str], master: str) -> list[str]:
        inventory = replicated()

        class Seen:
            def __init__(self, *_: object) -> None:
                pass

            def states(self, some: list[Process]) -> dict[str, host.State]:
                return {
                    process.name: host.State("running", 1, 1, process.name not in unready, False)
                    for process in some
                }

        with (
            mock.patch.object(running, "Remote", Seen),
            mock.patch.object(running, "masters", lambda _: {master}),
        ):
            return [it.name for it in running.in_order(inventory, processes_of(inventory))]

    def test_the_master_of_a_cluster_is_its_last_one(self) -> None:
        plain = [process.name for process in processes_of(replicated())]
        self.assertEqual(self.order(set(), "n3"), plain)
        expected = ["etcd-gamma", "n2", "n3", "n1", "s-alpha"]
        self.assertEqual(self.order(set(), "n1")[2:7], expected)

    def test_what_is_not_ready_is_restarted_before_those_that_stand_in_for_it(self) -> None:
        order = self.order({"n3", "cc-gamma", "etcd-beta"}, "n1")
        expected = ["etcd-beta", "etcd-alpha", "etcd-gamma", "n3", "n2", "n1", "s-alpha"]
        self.assertEqual(order, [*expected, "cc-gamma", "cc-beta"])
        # Also a master by the record that has just died.
        self.assertEqual(self.order({"n1"}, "n1")[3:6], ["n1", "n2", "n3"])


class Unreachable(unittest.TestCase):
    """One host of three can't be reached."""

    def setUp(self) -> None:
        self.done: list[str] = []
        done = self.done

        class Recorder:
            def __init__(self, at: Host, _: Inventory) -> None:
                self.at = at

            def act(self, what: str, process: Process) -> str:
                if self.at.name == "beta":
                    raise Problem("host beta: no answer")
                done.append(f"{what} {process.name}")
                return f"changed: {what}"

            def start(self, process: Process) -> str:
                return self.act("start", process)

            def stop(self, process: Process) -> str:
                return self.act("stop", process)

            def wait_for(self, process: Process, _: float) -> None:
                self.act("wait", process)

        self.enterContext(mock.patch.object(running, "Remote", Recorder))
        self.enterContext(mock.patch.object(running, "found", self.found))
        self.enterContext(mock.patch("builtins.print"))
        self.inventory = replicated()

    def found(self, _: Inventory) -> bool:
        self.done.append("found")
        return True

    def test_the_others_are_started_and_stopped_and_it_is_reported(self) -> None:
        processes = processes_of(self.inventory)
        reachable = [process.name for process in processes if process.host.name != "beta"]
        with self.assertRaises(Problem) as caught:
            running.start(self.inventory, processes)
        self.assertEqual(str(caught.exception), "host beta: no answer")
        expected = [f"{what} {name}" for name in reachable[:2] for what in ("start", "wait")]
        expected += ["found"]
        expected += [f"{what} {name}" for name in reachable[2:] for what in ("start", "wait")]
        self.assertEqual(sorted(self.done), sorted(expected))
        self.assertLess(self.done.index("wait etcd-gamma"), self.done.index("found"))
        self.assertLess(self.done.index("found"), self.done.index("start n1"))
        self.done.clear()
        with self.assertRaisesRegex(Problem, "host beta: no answer"):
            running.stop(self.inventory, processes)
        self.assertEqual(self.done, [f"stop {name}" for name in reversed(reachable)])

    def test_without_a_founding_nothing_else_is_started(self) -> None:
        def refuse(_: Inventory) -> bool:
            raise Problem("no etcd")

        processes = processes_of(self.inventory)
        with (
            mock.patch.object(running, "found", refuse),
            self.assertRaisesRegex(Problem, "host beta: no answer\nno etcd"),
        ):
            running.start(self.inventory, processes)
        self.assertNotIn("start n1", self.done)


class Placing(unittest.TestCase):
    def test_only_what_differs_is_changed(self) -> None:
        inventory = replicated()
        remote = Remote(inventory.hosts[2], inventory)
        user = pwd.getpwuid(os.geteuid()).pw_name
        with tempfile.TemporaryDirectory(prefix="tierkv-ops-") as folder:
            entries = [
                Entry("folder", f"{folder}/a/b", "700", user),
                Entry("file", f"{folder}/a/b/c", "644", user, "x = 'ä'\n"),
                Entry("file", f"{folder}/empty", "600", user, ""),
                Entry("link", f"{folder}/link", "a", "-"),
            ]
            paths = [entry.path for entry in entries]
            self.assertEqual(remote.place(entries), paths)
            self.assertEqual(remote.place(entries), [])
            self.assertEqual(Path(f"{folder}/link/b/c").read_text(), "x = 'ä'\n")
            Path(paths[1]).chmod(0o600)
            entries[3] = Entry("link", f"{folder}/link", "a/b", "-")
            self.assertEqual(remote.place(entries), [paths[1], paths[3]])
            self.assertEqual(os.stat(paths[1]).st_mode & 0o777, 0o644)
            self.assertEqual(sorted(os.listdir(f"{folder}/a/b")), ["c"])


class Scripts(unittest.TestCase):
    def test_every_script_of_a_host_is_used(self) -> None:
        text = (OPS / "bootstrap" / "host.py").read_text()
        names = {path.stem for path in host.SCRIPTS.glob("*.sh")} - {"all"}
        self.assertEqual(names, {name for name in names if f'"{name}"' in text})
