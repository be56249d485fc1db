"""Drives `tierkv shell` in a pseudoterminal, as a user does.

    shell_terminal.py BINARY HOST:PORT

Prints "done" and exits with 0 if the shell works as documented.
"""

import os
import pty
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import termios
import time

PATIENCE = 30
UP = "\x1b[A"
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

binary, address = sys.argv[1:]
environment = {
    **{name: text for name, text in os.environ.items() if not name.startswith("TIERKV_")},
    "TIERKV_ADDRESS": address,
    "TERM": "xterm",
}


class Terminal:
    """A shell and its output."""

    def __init__(self, state, *arguments):
        self.seen = ""
        self.pid, self.end = pty.fork()
        if self.pid == 0:
            own = {**environment, "XDG_STATE_HOME": state}
            os.execve(binary, [binary, "shell", *arguments], own)
        self.sees(r"connected to ")
        self.prompt()

    def sees(self, pattern):
        """Waits until the output since the last match has the pattern; returns the match."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found = re.search(pattern, CONTROL.sub("", self.seen))
            if found:
                self.seen = CONTROL.sub("", self.seen)[found.end() :]
                return found
            left = deadline - time.monotonic()
            assert left > 0, f"{pattern!r} is not in {self.seen!r}"
            if select.select([self.end], [], [], left)[0]:
                self.seen += os.read(self.end, 65536).decode(errors="replace")

    def prompt(self, namespace="default"):
        self.sees(f"tierkv:{namespace}> ")

    def types(self, text):
        os.write(self.end, text.encode())

    def ends(self):
        """Waits for the end of the shell; returns the exit status."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if select.select([self.end], [], [], 0.05)[0]:
                try:
                    os.read(self.end, 65536)
                except OSError:
                    pass
        raise AssertionError("the shell does not end")

    def is_plain(self):
        """Whether the terminal echoes and edits lines, as before the shell."""
        flags = termios.tcgetattr(self.end)[3]
        return bool(flags & termios.ECHO) and bool(flags & termios.ICANON)


def tierkv(*arguments):
    command = [binary, *arguments, "--address", address]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


def completion(state):
    terminal = Terminal(state)
    terminal.types("put user:1 'good evening'\r")
    terminal.sees(r"\r\n\d+\r\n")
    terminal.prompt()
    # The command, an option's value and the key are completed.
    terminal.types("ge\t--consistency la\tus\t\r")
    terminal.sees(r"get --consistency latest user:1 \r*\n")
    terminal.sees(r"good evening\r\n")
    terminal.prompt()
    terminal.types("use other\r")
    terminal.prompt("other")
    # Neither a failed command nor a discarded line ends the shell.
    terminal.types("get nothing\r")
    terminal.sees("the key 'nothing' is absent")
    terminal.prompt("other")
    terminal.types("never run\x03")
    terminal.sees(r"never run\r*\n")
    terminal.prompt("other")
    return terminal


def interrupts(terminal):
    terminal.types("watch\r")
    terminal.sees(r"watch\r*\n")
    deadline = time.monotonic() + PATIENCE
    while "written" not in terminal.seen:
        # The script cannot see when the watch has begun, so it writes again and again.
        assert time.monotonic() < deadline, terminal.seen
        tierkv("put", "--namespace", "other", "k", "v")
        if select.select([terminal.end], [], [], 0.1)[0]:
            terminal.seen += os.read(terminal.end, 65536).decode()
    terminal.types("\x03")
    terminal.sees(r"go on with --resume-token \S+\r\n")
    terminal.prompt("other")
    terminal.types("get --consistency latest k\r")
    terminal.sees(r"\nv\r\n")
    terminal.prompt("other")
    # Ctrl-C also interrupts a command that waits for an answer; this server never answers.
    with socket.create_server(("127.0.0.1", 0)) as mute:
        elsewhere = f"--timeout 60s --address 127.0.0.1:{mute.getsockname()[1]}"
        for line, words in [
            ("get k", r"tierkv: interrupted\r\n"),
            ("put k v", r"tierkv: interrupted, and it is unknown whether the write happened"),
        ]:
            terminal.types(f"{line} {elsewhere}\r")
            connection, _ = mute.accept()
            with connection:
                terminal.types("\x03")
                terminal.sees(words)
                terminal.prompt("other")
    terminal.types("\x04")
    assert terminal.ends() == 0


def history(state):
    path = os.path.join(state, "tierkv", "history")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    with open(path, encoding="utf-8") as lines:
        kept = lines.read()
    assert "put user:1 'good evening'\n" in kept, kept
    assert "never run" not in kept, kept

    terminal = Terminal(state)
    terminal.types(UP)
    terminal.sees("put k v --timeout 60s")
    terminal.types("\x03")
    terminal.prompt()
    terminal.types(" put secret 1\r")
    terminal.sees(r"\r\n\d+\r\n")
    terminal.prompt()
    terminal.types("exit\r")
    assert terminal.ends() == 0
    with open(path, encoding="utf-8") as lines:
        kept = lines.read()
    assert "secret" not in kept and "\nexit\n" in kept, kept

    terminal = Terminal(state, "--no-history")
    terminal.types(UP + "get unremembered\r")
    terminal.sees("the key 'unremembered' is absent")
    terminal.types("quit\r")
    assert terminal.ends() == 0
    with open(path, encoding="utf-8") as lines:
        assert lines.read() == kept


def termination(state):
    terminal = Terminal(state, "--no-history")
    deadline = time.monotonic() + PATIENCE
    while terminal.is_plain():
        assert time.monotonic() < deadline, "the shell does not edit lines"
        time.sleep(0.01)
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.ends() == 128 + signal.SIGTERM
    assert terminal.is_plain(), "the shell did not restore the terminal"


def confirmation(state):
    """A command's question is ended by Ctrl-C and SIGTERM, and its answer is no line."""
    terminal = Terminal(state)
    terminal.types("put doomed:1 v\r")
    terminal.sees(r"\r\n\d+\r\n")
    terminal.prompt()

    def asks():
        terminal.types("delete --prefix doomed:\r")
        terminal.sees(r"delete 1 key of .* 'doomed:'\? \[y/N\] ")

    for answer, words in [
        ("\x03", r"tierkv: interrupted\r\n"),
        ("n\r", "nothing was deleted"),
        ("\x04", "no confirmation, so nothing was deleted"),
    ]:
        asks()
        terminal.types(answer)
        terminal.sees(words)
        terminal.prompt()
    # A signal from elsewhere.
    asks()
    os.kill(terminal.pid, signal.SIGINT)
    terminal.sees(r"tierkv: interrupted\r*\n")
    terminal.prompt()
    asks()
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.ends() == 128 + signal.SIGTERM
    assert terminal.is_plain(), "the shell did not restore the terminal"

    terminal = Terminal(state)
    asks()
    terminal.types("y\r")
    terminal.sees("1 deleted")
    terminal.prompt()
    terminal.types("exit\r")
    assert terminal.ends() == 0
    with open(os.path.join(state, "tierkv", "history"), encoding="utf-8") as lines:
        kept = lines.read().splitlines()
    assert "y" not in kept and "n" not in kept, kept


with tempfile.TemporaryDirectory() as folder:
    interrupts(completion(folder))
    history(folder)
    confirmation(folder)
    termination(folder)
print("done")
