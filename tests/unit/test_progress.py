"""Progress of long work: a bar on a terminal, a line now and then elsewhere, also while nothing advances."""

import io
import re
import time

import pytest

from pipelines.platform import progress as module
from pipelines.platform.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_come_while_nothing_advances_and_say_what_is_left(monkeypatch, capsys):
    monkeypatch.setattr(module, "LINE_EVERY_S", 0.05)
    with progress(10, "image", done=2) as advance:
        time.sleep(0.2)
        advance(4)
        time.sleep(0.2)
        advance(4)
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "2 of 10 images, 0 s so far"
    assert re.fullmatch(r"6 of 10 images, about \d+ s left", lines[-1])  # nothing is left to say once all are done


def test_a_bar_moves_on_a_terminal_while_nothing_advances(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with progress(10, "image"):
        time.sleep(2.3)
    assert "0/10 [00:02" in terminal.getvalue()


def test_an_error_in_the_work_ends_the_lines(monkeypatch, capsys):
    monkeypatch.setattr(module, "LINE_EVERY_S", 0.05)
    with pytest.raises(RuntimeError), progress(10, "image"):
        raise RuntimeError
    time.sleep(0.2)
    assert capsys.readouterr().err == ""
