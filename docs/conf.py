"""The site's settings for Sphinx: `make docs`. The source is the whole project, so links between its pages need no change."""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import reference  # noqa: E402

project = "Bayes-PFL on Ray"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["docs/*.md", "*.md", "benchmarks/README.md", "bayes_pfl/embedded/README.md"]
exclude_patterns = [  # folders that are not looked into
    *(path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in ("docs", "benchmarks", "bayes_pfl")),
    "docs/_build",
]

html_theme = "furo"
html_title = project
html_copy_source = False

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4

default_role = "code"  # docstrings write `name`
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_ivar = True
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r".*")]  # types in signatures: torch's, numpy's, and our own that are not public
suppress_warnings = ["misc.highlighting_failure"]  # JSON that is shortened by "..."
linkcheck_timeout = 20
linkcheck_ignore = [r"http://127\.0\.0\.1.*", r"http://localhost.*"]


def insert_generated(app: Any, page: str, source: list[str]) -> None:
    """Replace each `<!-- generated: NAME -->` of a page by the text that the code gives now."""
    for name, text in reference.TEXTS.items():
        mark = f"<!-- generated: {name} -->"
        if mark in source[0]:
            source[0] = source[0].replace(mark, text())


def skip_tuple_fields(app: Any, kind: str, name: str, member: object, skip: bool, options: Any) -> bool | None:
    """Leave out a named tuple's fields, which its docstring describes under `Attributes`."""
    return True if type(member).__name__ == "_tuplegetter" else None


def write_entrance(app: Any, error: Exception | None) -> None:
    """Write an index.html at the top that leads to the first page."""
    if error is None and app.builder.format == "html":
        page = '<!doctype html><meta http-equiv="refresh" content="0; url=docs/index.html"><title>Bayes-PFL</title>\n'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")


def escape_stars(app: Any, kind: str, name: str, member: object, options: Any, lines: list[str]) -> None:
    """Keep `*batch` and `2 * x` of docstrings from being read as emphasis."""
    lines[:] = [line.replace("*", r"\*") if "`" not in line else line for line in lines]


def setup(app: Any) -> None:
    """Connect the functions above."""
    app.connect("source-read", insert_generated)
    app.connect("autodoc-skip-member", skip_tuple_fields)
    app.connect("autodoc-process-docstring", escape_stars)
    app.connect("build-finished", write_entrance)
