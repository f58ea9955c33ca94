"""What a process may use of its machine, how it begins Ray quietly, a life no longer than its parent's."""

import contextlib
import ctypes
import math
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
PR_SET_PDEATHSIG = 1
MOST_THREADS = 1024
"""Of a process: more have no machine."""
MOST_WORKERS = 10_000
"""Processes that share a work: more has no cluster."""
CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cpus() -> int:
    """Number of CPUs that this process may use: the smaller of its affinity and its control group's quota, at least 1.

    `os.cpu_count()` counts the machine's CPUs, also those that a container, `taskset` or a batch system keeps from
    this process.

    Returns:
        A number of CPUs; a quota is rounded down.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return affinity if quota is None else max(1, min(affinity, int(quota)))


def describe_machine(device: str, threads: int) -> str:
    """What a model computes on, in words.

    Args:
        device: `cpu`, or torch's name of a GPU.
        threads: torch threads of the process.

    Returns:
        Processor, CPUs that this process may use, threads, and the GPU where there is one.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names and names[0] else platform.processor() or platform.machine()
    words = f"{processor}, {usable_cpus()} CPUs, {threads} torch thread{'' if threads == 1 else 's'}"
    if device == "cpu":
        return words
    import torch

    return f"{torch.cuda.get_device_name(device)}; {words}"


def gpus_here() -> float:
    """Number of GPUs of this machine that torch can use.

    Returns:
        The number; 0.0 also where the driver is missing.
    """
    import torch

    return float(torch.cuda.device_count()) if torch.cuda.is_available() else 0.0


def gpu_share(gpus: float, processes: int) -> float:
    """What each of some processes gets of a few GPUs: each part lies on one of them.

    Args:
        gpus: how many there are.
        processes: that share them.

    Returns:
        1 where there are enough, else a part, in the ten-thousandths that Ray counts in; 0 without any.
    """
    if gpus < 1:
        return 0.0
    return 1.0 if processes <= gpus else math.floor(10_000 / math.ceil(processes / int(gpus))) / 10_000


def cpu_quota(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float | None:
    """CPU time that the control groups of this process allow, versions 1 and 2.

    Args:
        cgroups: where the control groups are mounted.
        membership: the kernel's list of the groups of this process.

    Returns:
        The smallest quota of the group and all above it, in CPUs; None if there is no limit.
    """
    try:
        groups = [line.split(":", 2) for line in membership.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return None
    quotas = []
    for _, controllers, path in (group for group in groups if len(group) == 3):
        if controllers == "":
            mounts, read = [cgroups, cgroups / "unified"], _quota_version_2
        elif "cpu" in controllers.split(","):
            mounts, read = [cgroups / controllers, cgroups / "cpu"], _quota_version_1
        else:
            continue
        for mount in mounts:
            folder = mount / path.lstrip("/")
            while folder.is_relative_to(mount):  # in a container the path may be the host's: then only the mount exists
                quotas.append(read(folder))
                folder = folder.parent
    limits = [quota for quota in quotas if quota is not None]
    return min(limits, default=None)


def _quota_version_2(folder: Path) -> float | None:
    """`cpu.max`: "QUOTA PERIOD" in microseconds, or "max PERIOD"."""
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        return None if quota == "max" else float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_version_1(folder: Path) -> float | None:
    """`cpu.cfs_quota_us` over `cpu.cfs_period_us`; -1 is no limit."""
    try:
        quota, period = (
            int((folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8")) for name in ("quota", "period")
        )
        return None if quota < 0 else quota / period
    except (OSError, ValueError, ZeroDivisionError):
        return None


def end_with_parent() -> None:
    """Let Linux send SIGTERM to this process when its parent ends, however that ends; for `Popen(preexec_fn=...)`."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


@contextlib.contextmanager
def without_log_level_line() -> Iterator[None]:
    """Hold standard error back during a block, and print all of it afterwards but the line with Ray's log level.

    Ray's core writes that line to the file descriptor itself, before any level is in force.

    Yields:
        Nothing.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            os.write(2, b"".join(line for line in held if b"Set ray log level from environment variable" not in line))


class ImportFolders(list[str]):
    """A list of folders that takes in only those from which this process imports.

    Ray extends the list that its workers import from with the current folder, in front of everything else. A
    `numpy.py` or `serve.py`
    that lies there by chance would be executed by every worker.
    """

    def extend(self, folders: Iterable[str]) -> None:
        """Add the folders that are on this process's own import path.

        Args:
            folders: absolute paths.
        """
        own = {os.path.realpath(entry) for entry in sys.path}  # an empty entry is the current folder
        super().extend(folder for folder in folders if os.path.realpath(folder) in own)
