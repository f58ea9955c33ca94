"""A program and all that it starts, in a session of its own: signals reach it as one SIGTERM, and nothing outlives it.

Ray's processes must not get the signal that asks the endpoint to stop: a terminal sends Ctrl+C, and systemd sends
SIGTERM, to all processes of a group at once, and an endpoint whose Ray has ended cannot answer what is under way. The
command forks: the child leads a session of its own and does the work, the parent waits and hands signals on. Where the
parent is killed, the kernel sends the child SIGTERM; where the child is killed, the parent ends what is left of its
session.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PR_SET_PDEATHSIG = 1
"""Of Linux's prctl(2): the signal that a process gets when its parent ends."""
KILLED = 128
"""A shell's exit code for a program that a signal ended: this plus the signal's number."""
GONE_S = 10.0


def supervised(work: Callable[[], int]) -> int:
    """Do some work in a child process that leads a session of its own.

    The child gets SIGTERM for any of `SIGNALS` that this process gets, and when this process ends; how it ends then is
    up to the work. When the child has ended, whatever it started is ended too.

    Args:
        work: runs in the child; returns its exit code.

    Returns:
        The child's exit code; 128 plus the number of the signal that ended it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        os._exit(_lead_session(parent, work))
    for number in SIGNALS:
        signal.signal(number, lambda *_: _ask_to_stop(child))
    status = _wait(child)
    end_session(child)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else KILLED - code


def end_session(leader: int) -> None:
    """Kill every process of a session, and wait until they are gone.

    Args:
        leader: process id of the session's leader, which has ended.
    """
    until = time.monotonic() + GONE_S
    while (members := session_members(leader)) and time.monotonic() < until:
        for member in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        time.sleep(0.05)
        _reap()


def session_members(leader: int) -> list[int]:
    """Processes of a session.

    Args:
        leader: process id of its leader.

    Returns:
        Process ids, without zombies.
    """
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError):
                state, _, _, session = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:4]
                if int(session) == leader and state != "Z":
                    members.append(int(entry.name))
    return members


def _lead_session(parent: int, work: Callable[[], int]) -> int:
    """In the child: the work, and its exit code."""
    try:
        os.setsid()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended in the meantime
            return KILLED + signal.SIGTERM
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        return work()
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()


def _ask_to_stop(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGTERM)


def _wait(child: int) -> int:
    """The child's status; as process 1 of a container this process also buries what others leave."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == child:
            return status


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
