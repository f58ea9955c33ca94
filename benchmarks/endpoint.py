"""`bayes-pfl serve` on a free port, as its users start it, and the processes that it consists of."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

COMMAND = Path(sys.executable).with_name("bayes-pfl")
"""The command of this environment."""
STOP_S = 120


class Endpoint(NamedTuple):
    """A running endpoint."""

    url: str
    command: "subprocess.Popen[str]"
    """What the user has started."""
    main: int
    """Process id of the program that leads Ray, which is below the command and prints its number."""

    def processes(self, *parts: str) -> dict[str, int]:
        """Processes below the command whose command line holds one of these parts.

        Args:
            parts: of command lines.

        Returns:
            Process id by the first word of the command line.

        Raises:
            SystemExit: there is none.
        """
        titles = {pid: command_line(pid) for pid in below(self.command.pid)}
        found = {title.split()[0]: pid for pid, title in titles.items() if any(part in title for part in parts)}
        if not found:
            raise SystemExit(f"Below {self.command.pid} is no process of {', '.join(parts)}.")
        return found

    def process(self, part: str) -> int:
        """The one process whose command line holds this.

        Args:
            part: of a command line.

        Returns:
            Process id.
        """
        (pid,) = self.processes(part).values()
        return pid


@contextlib.contextmanager
def running(*options: object) -> Iterator[Endpoint]:
    """Start `bayes-pfl serve`, wait until it answers, and stop it in the end.

    Args:
        options: of the command line, besides --port and --json.

    Yields:
        The endpoint.

    Raises:
        SystemExit: it does not start.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(COMMAND), "serve", "--port", str(port), "--json", *map(str, options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"The endpoint did not start: exit code {process.wait(STOP_S)}")
        started = json.loads(line)
        yield Endpoint(started["url"], process, started["pid"])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_S)


def below(pid: int) -> list[int]:
    """Descendants of a process.

    Args:
        pid: process id.

    Returns:
        Process ids.
    """
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
                children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found = list(children.get(pid, []))
    for child in found:
        found.extend(children.get(child, []))
    return found


def command_line(pid: int) -> str:
    """What a process calls itself.

    Args:
        pid: process id.

    Returns:
        Words with spaces between them; empty for one that has ended.
    """
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def memory(pid: int, key: str) -> int:
    """Memory of a process.

    Args:
        pid: process id.
        key: of /proc/PID/status, such as RssAnon (what it shares with nobody) or VmHWM (the most since the last reset).

    Returns:
        Bytes.
    """
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    return int(status.split(f"{key}:")[1].split()[0]) * 1024
