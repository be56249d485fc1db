"""The binary that is installed, as it is on this machine."""

import hashlib
import json
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .inventory import ETCD, Inventory
from .problem import Problem, all_of
from .processes import Process
from .rendering import configuration

# Timeout of the commands that it answers by itself.
LIMIT_SECONDS = 30.0


@dataclass(frozen=True)
class Build:
    """A binary; its version tells it from every other one."""

    path: Path
    content: bytes
    version: str


def look_at(inventory: Inventory) -> Build:
    """Reads the binary of the inventory."""
    path = inventory.binary
    remedy = "build it (`make build`), or set binary under [platform]"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Problem(f"the binary {path} can't be read ({error.strerror}): {remedy}") from None
    printed = answer(path, ["--version"])
    found = re.fullmatch(r"tierkv ([0-9A-Za-z.+-]+)", printed.stdout.strip())
    if found is None:
        raise Problem(f"{path} is not the tierkv binary (`--version` printed no version): {remedy}")
    # Two builds of one version are different folders, so that a running one is never overwritten.
    sum_of_it = hashlib.sha256(content).hexdigest()[:12]
    return Build(path, content, f"{found.group(1)}-{sum_of_it}")


def answer(path: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command of the binary here, without settings of this shell."""
    others = {key: value for key, value in os.environ.items() if not key.startswith("TIERKV_")}
    line = [str(path.resolve()), *words]
    try:
        return subprocess.run(
            line, env=others, capture_output=True, text=True, timeout=LIMIT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Problem(
            f"{path} can't be run here ({error}); it must be a binary for this machine, too"
        ) from None


def check_configurations(build: Build, inventory: Inventory, processes: list[Process]) -> None:
    """Lets the binary check the configuration of each of its processes."""
    problems = []
    with tempfile.TemporaryDirectory(prefix="tierkv-ops-") as folder:
        for process in processes:
            if process.role == ETCD:
                continue
            file = Path(folder) / f"{process.name}.toml"
            file.write_text(configuration(process, inventory.name), encoding="utf-8")
            words = ["config", "check", "--config", str(file), "--output", "json"]
            printed = answer(build.path, words)
            try:
                report = json.loads(printed.stdout)
            except json.JSONDecodeError:
                problems.append(f"{process.name}: {printed.stderr.strip()}")
                continue
            # A key that the binary does not know would be ignored.
            for problem in report.get("errors", []) + report.get("warnings", []):
                text = problem if isinstance(problem, str) else json.dumps(problem)
                problems.append(f"{process.name}: {text.replace(str(file), 'its configuration')}")
    if problems:
        raise all_of(f"[settings]: {problem}" for problem in problems)
