"""How commands reach a host."""

import os
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from bootstrap import reach
from bootstrap.host import Remote
from bootstrap.problem import Problem
from bootstrap.reach import command_line

from .samples import replicated

# In the place of ssh: checks its options, and runs the command as the shell of a host does.
SSH = """#!/bin/sh
while [ "$1" = -o ]; do
    printf '%s\\n' "$2" >>"$0.options"
    shift 2
done
printf '%s\\n' "$1" >"$0.target"
[ "$2" = -- ] && [ $# -eq 3 ] || exit 9
exec sh -c "$3"
"""


class CommandLines(unittest.TestCase):
    def test_a_local_command_stays_as_it_is(self) -> None:
        self.assertEqual(command_line("local", ["a", "b c"]), ["a", "b c"])

    def test_a_namespace_is_entered(self) -> None:
        line = command_line("netns:trial-a", ["a", "b c"])
        self.assertEqual(line, ["ip", "netns", "exec", "trial-a", "a", "b c"])

    def test_ssh_asks_nothing_and_gives_up(self) -> None:
        line = command_line("ssh:root@alpha.example", ["bash", "-c", "echo $1; exit 3", "a b"])
        self.assertEqual(line[0], "ssh")
        for option in ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5"):
            self.assertEqual(line[line.index(option) - 1], "-o")
        command = "bash -c 'echo $1; exit 3' 'a b'"
        self.assertEqual(line[-3:], ["root@alpha.example", "--", command])

    def test_another_user_becomes_root(self) -> None:
        line = command_line("ssh:ops@alpha.example", ["id"])
        self.assertEqual(line[-3:], ["ops@alpha.example", "--", "sudo -n -- id"])


class ThroughSsh(unittest.TestCase):
    """With a program in the place of ssh, which runs the commands here."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="tierkv-ssh-")
        self.addCleanup(folder.cleanup)
        self.ssh = Path(folder.name) / "ssh"
        self.ssh.write_text(SSH)
        self.ssh.chmod(0o755)
        path = f"{folder.name}:{os.environ['PATH']}"
        self.enterContext(mock.patch.dict(os.environ, {"PATH": path}))

    def test_scripts_words_and_input_arrive_unchanged(self) -> None:
        words = ["bash", "-c", 'printf "%s|" "$@"; cat', "x", "a b", "'\"$HOME*", ""]
        ended = reach.run("alpha", "ssh:root@alpha.example", words, b"\0in\nput", 20)
        self.assertEqual((ended.status, ended.error), (0, ""))
        self.assertEqual(ended.output, "a b|'\"$HOME*||\0in\nput")
        target = Path(f"{self.ssh}.target").read_text()
        self.assertEqual(target, "root@alpha.example\n")
        self.assertIn("BatchMode=yes\n", Path(f"{self.ssh}.options").read_text())

    def test_a_script_of_a_host_runs(self) -> None:
        inventory = replicated(("ssh:ops@alpha.example", "ssh:root@alpha.example"))
        remote = Remote(inventory.hosts[0], inventory)
        program = self.ssh.parent / "opt" / "tierkv"
        placed = remote.place_program(str(program), b"#!/bin/sh\n")
        self.assertEqual(placed, [str(program)])
        self.assertEqual(program.read_bytes(), b"#!/bin/sh\n")
        self.assertTrue(os.access(program, os.X_OK))
        self.assertEqual(remote.place_program(str(program), b"#!/bin/sh\n"), [])

    def test_a_failure_of_ssh_is_told_from_one_of_the_command(self) -> None:
        ended = reach.run("alpha", "ssh:root@a", ["sh", "-c", "echo no >&2; exit 3"], b"", 20)
        self.assertEqual((ended.status, ended.error), (3, "no"))
        self.ssh.write_text("#!/bin/sh\necho 'Permission denied (publickey).' >&2\nexit 255\n")
        with self.assertRaises(Problem) as caught:
            reach.run("alpha", "ssh:root@a", ["id"], b"", 20)
        words = str(caught.exception)
        self.assertIn("host alpha: ssh failed: Permission denied (publickey).", words)
        self.assertIn("`ssh -o BatchMode=yes root@a true` works", words)

    def test_a_silent_host_is_given_up(self) -> None:
        with self.assertRaisesRegex(Problem, r"host alpha \(ssh:root@a\): no answer for 0 s"):
            reach.run("alpha", "ssh:root@a", ["sleep", "60"], b"", 0.2)
