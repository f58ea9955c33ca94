"""Three machines for test_cluster_walk: Linux namespaces, each with its own network address, processes, files and shared memory.

They have the folder /srv/shared in common, as three machines that mount the same one. HOME and TMPDIR are local. Ray's files on
one machine are out of sight of the others, and `ray stop` on one of them ends no process of the others.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

NAMES = ("machine-a", "machine-b", "machine-c")
LOCAL = {"HOME": "/srv/home", "TMPDIR": "/srv/tmp"}

SWITCH = """
ip link add switch type bridge
ip link set switch up
ip link set lo up
ip address add 10.77.0.254/24 dev switch
echo ready
exec cat >/dev/null
"""
MACHINE = """
hostname {name}
mount -t tmpfs tmpfs /srv
mkdir /srv/shared /srv/home /srv/tmp
ln -s {installed} /srv/home/bayes-pfl
mount --bind {folder} /srv/shared
mount --bind {folder}/hosts /etc/hosts
mount --bind /dev/null /etc/resolv.conf
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
echo ready
read -r plugged_in
ip link set eth0 up
ip address add {address}/24 dev eth0
ip route add default via 10.77.0.254
echo ready
exec cat >/dev/null
"""
"""Both end when their standard input does: nothing outlives the test."""


def can_simulate() -> bool:
    """Whether this computer has the tools, and this user the right.

    Returns:
        Whether `Machines` work here.
    """
    if any(shutil.which(program) is None for program in ("unshare", "nsenter", "ip", "ss")):
        return False
    return subprocess.run(["unshare", *own_users(), "--net", "--mount", "true"], check=False).returncode == 0


def own_users() -> list[str]:
    """Options of `unshare`: root needs none, others become root of what they make."""
    return [] if os.geteuid() == 0 else ["--user", "--map-root-user"]


class Machines:
    """Simulated machines on one network.

    Args:
        folder: what they share; its file `hosts` gets their addresses.
        environment: of every command.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = {**environment, **LOCAL}
        self.addresses = {name: f"10.77.0.{number}" for number, name in enumerate(NAMES, 1)}
        hosts = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self.addresses.items())]
        (folder / "hosts").write_text("\n".join(hosts) + "\n", encoding="utf-8")
        self.switch = begun(["unshare", *own_users(), "--net", "bash", "-ec", SWITCH])
        self.first: dict[str, int] = {}
        self.started: list[subprocess.Popen] = [self.switch]

    def power_on(self, name: str) -> None:
        """Start a machine and plug it in.

        Args:
            name: of `NAMES`.
        """
        script = MACHINE.format(name=name, folder=self.folder, address=self.addresses[name], installed=sys.prefix)
        apart = ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
        process = begun([*inside(self.switch.pid, "--net"), *apart, "bash", "-ec", script])
        self.started.append(process)
        (self.first[name],) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
        self._wire(f"ip link add {name} type veth peer name eth0 netns {self.first[name]}")
        self._wire(f"ip link set {name} master switch up")
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"

    def power_off(self, name: str) -> None:
        """Lose a machine: its cable first, so that no process can say goodbye to the other machines.

        Args:
            name: of `NAMES`.
        """
        self._wire(f"ip link delete {name}")
        os.kill(self.first.pop(name), 9)

    def _wire(self, command: str) -> None:
        subprocess.run([*inside(self.switch.pid, "--net"), *command.split()], check=True)

    def start(self, name: str, script: str, output: Path) -> subprocess.Popen:
        """Type lines into a shell of a machine, and do not wait for their end.

        Args:
            name: of the machine.
            script: the lines; the first that fails ends the shell.
            output: gets what they print.

        Returns:
            The shell.
        """
        apart = inside(self.first[name], "--net", "--mount", "--uts", "--ipc", "--pid")
        with output.open("ab") as stream:
            return subprocess.Popen(
                [*apart, "bash", "-ec", f"cd /srv/shared\n{script}"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self, name: str, command: str) -> str:
        """What a command prints.

        Args:
            name: of the machine.
            command: one line of bash.

        Returns:
            Its standard output.
        """
        apart = inside(self.first[name], "--net", "--mount", "--uts", "--ipc", "--pid")
        return subprocess.check_output([*apart, "bash", "-ec", command], env=self.environment, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        for process in reversed(self.started):
            process.stdin.close()
            process.stdout.close()
        for process in reversed(self.started):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)


def begun(command: list[str]) -> subprocess.Popen:
    """A process that has said that it is ready."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n", command
    return process


def inside(process: int, *namespaces: str) -> list[str]:
    """The beginning of a command that runs in namespaces of another process."""
    user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
    return ["nsenter", f"--target={process}", *user, *namespaces]
