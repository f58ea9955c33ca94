"""A command that works in a session of its own: signals reach the work as one SIGTERM, and nothing outlives either of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import descendants

WORK = """
import os, signal, subprocess, sys, time
from serve.supervision import supervised

def work():
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    # What the work starts ignores signals, and one of its processes has left its group.
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    for group in (None, 0):
        helper = subprocess.Popen([sys.executable, "-c", stubborn], process_group=group, stdout=subprocess.PIPE)
        helper.stdout.readline()
    print("ready", flush=True)
    while not stop:
        time.sleep(0.02)
    print("stopped", flush=True)
    return 7

sys.exit(supervised(work))
"""


@pytest.fixture
def command() -> Iterator["subprocess.Popen[str]"]:
    """The command, at work, in a group of its own."""
    process = subprocess.Popen([sys.executable, "-c", WORK], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    started = descendants(process.pid)
    yield process
    for pid in filter(is_running, (process.pid, *started)):
        os.kill(pid, signal.SIGKILL)
    process.stdout.close()
    process.wait()


def wait_until_gone(pids: list[int]) -> None:
    """Until none of them runs; zombies do not."""
    until = time.monotonic() + 60
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < until, "they are still there"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return status.rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("whole_group", [False, True], ids=["command", "group"])
def test_a_signal_stops_the_work_and_what_it_started(
    command: "subprocess.Popen[str]", number: signal.Signals, whole_group: bool
) -> None:
    started = descendants(command.pid)
    assert len(started) == 3
    (os.killpg if whole_group else os.kill)(command.pid, number)
    assert command.wait(60) == 7
    assert command.stdout is not None
    assert command.stdout.read() == "stopped\n"
    assert not any(map(is_running, started))


def test_a_killed_command_stops_the_work(command: "subprocess.Popen[str]") -> None:
    worker = next(pid for pid in descendants(command.pid) if os.getsid(pid) == pid)
    command.kill()
    assert command.stdout is not None
    assert command.stdout.readline() == "stopped\n"
    wait_until_gone([worker])


def test_killed_work_takes_all_that_it_started_along(command: "subprocess.Popen[str]") -> None:
    started = descendants(command.pid)
    worker = next(pid for pid in started if os.getsid(pid) == pid)
    os.kill(worker, signal.SIGKILL)
    assert command.wait(60) == 128 + signal.SIGKILL
    assert not any(map(is_running, started))
