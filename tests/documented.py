"""The code blocks of README.md and docs/, and how each is marked: what runs it, or what it needs that a test has not."""

import ast
import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
PROGRAM = str(Path(sys.executable).with_name("bayes-pfl"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NEEDS = {"a GPU", "a cluster", "a dataset", "a network", "minutes"}
"""What a block may need that a test has not."""
CODE = ("", "sh", "bash", "console", "python")
"""Languages of blocks that a reader runs."""

FENCE = re.compile(r"(?P<mark>[^\n]*)\n```(?P<language>[\w{}-]*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    run_by: str
    needs: frozenset[str]

    @property
    def commands(self) -> list[list[str]]:
        """The words of each line, without comments."""
        return [words for line in self.text.splitlines() if (words := shlex.split(line, comments=True))]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page that a reader runs, in their order.

    Args:
        page: a Markdown file.

    Returns:
        The blocks; `run_by` and `needs` are empty where there is no mark right before the block.
    """
    text = page.read_text(encoding="utf-8")
    result = []
    for fence in FENCE.finditer("\n" + text):
        if fence["language"] not in CODE:
            continue
        mark = re.fullmatch(r"<!-- (.*) -->", fence["mark"])
        parts = dict(part.split(": ", 1) for part in mark[1].split("; ") if ": " in part) if mark else {}
        needs = frozenset(parts.get("needs", "").split(", ")) - {""}
        line = text[: fence.start("text") - 1].count("\n")
        name = str(page.relative_to(ROOT))
        result.append(Block(name, line, fence["language"], fence["text"], parts.get("run by", ""), needs))
    return result


def run_by(test: str) -> list[Block]:
    """The blocks whose mark names a test.

    Args:
        test: its file, from the project's folder.

    Returns:
        The blocks of all pages.
    """
    return [block for page in PAGES for block in blocks(page) if block.run_by == test]


def executed(code: str, page: str) -> dict[str, Any]:
    """Run Python code.

    Args:
        code: a block.
        page: where it stands, for tracebacks.

    Returns:
        The names that it leaves; `_` is the value of its last line, if that is an expression.
    """
    tree = ast.parse(code, page)
    if isinstance(tree.body[-1], ast.Expr):
        tree.body[-1] = ast.Assign([ast.Name("_", ast.Store())], tree.body[-1].value)
    names: dict[str, Any] = {}
    exec(compile(ast.fix_missing_locations(tree), page, "exec"), names)
    return names


@contextlib.contextmanager
def endpoint(words: list[str]) -> Iterator[str]:
    """A `bayes-pfl serve` of a page on a free port; the value is its HOST:PORT."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [PROGRAM, *words[1:], "--port", str(port), "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        try:
            assert process.stdout.readline()
            yield f"127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
