"""How commands are run on a host: here, through ssh, or in a network namespace of this machine."""

import shlex
import subprocess
from dataclasses import dataclass

from .inventory import REACH
from .problem import Problem

# A connection that is not made by then counts as impossible.
SSH_CONNECT_SECONDS = 10
# A dead connection is noticed after so many silent intervals.
SSH_ALIVE_SECONDS = 5
SSH_ALIVE_COUNT = 3
SSH_OPTIONS = [
    # Never asks for a password: nobody would see the question.
    "-o", "BatchMode=yes",
    "-o", f"ConnectTimeout={SSH_CONNECT_SECONDS}",
    "-o", f"ServerAliveInterval={SSH_ALIVE_SECONDS}",
    "-o", f"ServerAliveCountMax={SSH_ALIVE_COUNT}",
]  # fmt: skip
# ssh's own failures; a command's statuses are lower.
SSH_FAILED = 255


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    status: int
    output: str
    error: str


def command_line(reach: str, words: list[str]) -> list[str]:
    """The command that runs `words` at a host that is reached so."""
    found = REACH.fullmatch(reach)
    if found is None:
        raise ValueError(f"not checked by the inventory: {reach}")
    user, host, namespace = found.groups()
    if host is not None:
        # Only root may install and start: another user becomes root, without a password.
        sudo = [] if user == "root" else ["sudo", "-n", "--"]
        return ["ssh", *SSH_OPTIONS, f"{user}@{host}", "--", shlex.join([*sudo, *words])]
    if namespace is not None:
        return ["ip", "netns", "exec", namespace, *words]
    return list(words)


def run(host: str, reach: str, words: list[str], given: bytes, seconds: float) -> Result:
    """Runs a command at a host with `given` as its input, for at most so long."""
    line = command_line(reach, words)
    try:
        ended = subprocess.run(line, input=given, capture_output=True, timeout=seconds)
    except FileNotFoundError:
        remedy = {
            "ssh": "install the Debian package openssh-client",
            "ip": "install the Debian package iproute2, and run this as root (its PATH has /sbin)",
        }.get(line[0], "install it")
        raise Problem(f"host {host}: {line[0]} is not on the PATH: {remedy}") from None
    except subprocess.TimeoutExpired:
        raise Problem(
            f"host {host} ({reach}): no answer for {seconds:.0f} s; see that it is up"
        ) from None
    error = ended.stderr.decode(errors="replace").strip()
    if ended.returncode == SSH_FAILED and line[0] == "ssh":
        target = reach.removeprefix("ssh:")
        raise Problem(
            f"host {host}: ssh failed: {error or 'no reason given'}; see that "
            f"`ssh -o BatchMode=yes {target} true` works, with a key and a known host"
        )
    return Result(ended.returncode, ended.stdout.decode(errors="replace"), error)
