"""The site of docs/: it builds without a warning, its links are whole, and it says what the code says."""

import ast
import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import documented
import pytest

import bayes_pfl
from bayes_pfl import errors
from bayes_pfl.config import BackboneConfig, TrainingConfig
from pipelines.cli import COMMANDS, ENDPOINT
from serve.settings import Limits

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


class Links(HTMLParser):
    """Ids of a page, and where it leads."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.targets: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids.add(values.get("id") or "")
        self.targets |= {values[name] or "" for name in ("href", "src") if name in values}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    line = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("SITE := "))
    options = line.partition("sphinx-build ")[2].split()
    command = [sys.executable, "-m", "sphinx", *options, str(ROOT), str(folder)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "-W" in options
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """Ids and links of every page, by its file."""
    parsed = {}
    for path in site.rglob("*.html"):
        parsed[path.resolve()] = links = Links()
        links.feed(path.read_text(encoding="utf-8"))
    return parsed


def test_every_link_inside_the_site_leads_somewhere(site, pages):
    broken, checked = [], 0
    for path, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            checked += 1
            if not file.is_file() or (anchor and file.suffix == ".html" and anchor not in pages[file].ids):
                broken.append(f"{path.relative_to(site)}: {target}")
    assert broken == []
    assert checked > 500


def test_the_site_loads_nothing_from_elsewhere(site):
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert re.findall(r'<(?:script|img)[^>]* src="(?:https?:)?//[^"]*"', text) == []
        assert re.findall(r'<link[^>]* rel="stylesheet"[^>]* href="(?:https?:)?//[^"]*"', text) == []


def test_every_page_of_docs_is_in_the_site(site):
    assert {path.stem for path in DOCS.glob("*.md")} == {path.stem for path in (site / "docs").glob("*.html")}


def test_links_between_pages_work_in_the_repository():
    broken = []
    for page in [*documented.PAGES, ROOT / "ARCHITECTURE.md", ROOT / "SECURITY.md", ROOT / "benchmarks" / "README.md"]:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if not urlsplit(target).scheme and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def test_the_public_names_and_the_errors_are_described(pages, site):
    ids = pages[(site / "docs" / "python_api.html").resolve()].ids
    names = {f"bayes_pfl.{name}" for name in bayes_pfl.__all__ if name not in ("__version__", "BayesPFLError")}
    names |= {f"bayes_pfl.errors.{name}" for name, value in vars(errors).items() if isinstance(value, type)}
    assert names <= ids
    assert "bayes_pfl.Detector.predict" in ids


def test_every_command_has_its_help(site):
    text = (site / "docs" / "command_line.html").read_text(encoding="utf-8")
    for command in [*COMMANDS, *ENDPOINT]:
        assert f"usage: bayes-pfl {command} " in text
    assert "--num-samples" in text
    assert "--allowed-host" in text


def test_every_setting_has_a_row_with_a_sentence(site, pages):
    file = (site / "docs" / "configuration.html").resolve()
    rows = []
    for row in re.findall(r"<tr[^>]*>(.*?)</tr>", file.read_text(encoding="utf-8"), re.DOTALL):
        cells = re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)
        rows.append([html.unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in cells])
    rows = [row for row in rows if row]  # without the headings
    assert [row for row in rows if len(row) != 4 or not row[3]] == []
    defaults = {row[0]: row[2] for row in rows}
    assert {"model.variant.attention_heads", "models[].replica.threads", "sweep.grid"} <= set(defaults)
    for prefix, kind in {"training.": TrainingConfig, "backbone.": BackboneConfig, "limits.": Limits}.items():
        for name, field in kind.model_fields.items():
            given = defaults[prefix + name]
            assert given == ("none" if field.default is None else json.dumps(field.default)), name
    read = {"TrainSettings", "TuneSettings", "FeatureSettings", "EvaluateSettings", "IngestConfig", "ServeSettings"}
    classes = {f"settings-{name.lower()}" for name in read} | {"settings-winclipconfig"}
    assert classes <= pages[file].ids


def sentences() -> list[str]:
    """The sentences that the page of errors quotes, with `{}` for what differs."""
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^> (`+)(.*?)\1$", text, re.MULTILINE)
    return [re.sub(r"\{[^}]*\}", "{}", sentence) for _, sentence in quoted]


def literals() -> list[str]:
    """Every text of the code, with `{}` for what is put into it."""
    texts = []
    for folder in ("bayes_pfl", "pipelines", "serve"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    texts.append(
                        "".join(
                            getattr(part, "value", "") if isinstance(part, ast.Constant) else "{}"
                            for part in node.values
                        )
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return texts


def test_the_quoted_errors_are_those_of_the_code():
    quoted, texts = sentences(), literals()
    assert len(quoted) == 25
    assert [sentence for sentence in quoted if not any(sentence in text for text in texts)] == []


def test_the_glossary_has_its_seventeen_words(pages, site):
    ids = pages[(site / "docs" / "glossary.html").resolve()].ids
    assert len([name for name in ids if name.startswith("term-")]) == 17


@pytest.mark.parametrize("page", documented.PAGES, ids=lambda page: page.name)
def test_every_block_is_run_or_says_what_it_needs(page):
    for block in documented.blocks(page):
        where = f"{block.page}, line {block.line}"
        assert block.run_by or block.needs, (
            f"{where}: put <!-- run by: tests/... --> or <!-- needs: {', '.join(sorted(documented.NEEDS))} --> (one or "
            "several of these) on the line before the block"
        )
        assert block.needs <= documented.NEEDS, where
        if block.run_by:
            test = ROOT / block.run_by
            assert test.is_file(), where
            text = test.read_text(encoding="utf-8")
            assert Path(block.page).name in text or block.run_by in text, f"{where}: {block.run_by} does not read it"
