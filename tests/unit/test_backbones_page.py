"""docs/backbones.md says of every architecture of open_clip what it is, or why it is refused."""

import json
import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
WORKS = {"ViT-B-16", "ViT-L-14-336", "ViT-H-14", "EVA02-L-14", "PE-Core-L-14-336", "ViTamin-L"}
REFUSED = {"ViT-B-16-SigLIP2", "RN50", "coca_ViT-B-32", "roberta-ViT-B-32"}
PROGRAM = """
import json, sys, warnings
sys.path.insert(0, sys.argv[1])
import list_backbones, open_clip
warnings.simplefilter("ignore")
names = open_clip.list_models()
built = sorted({*names[::8], *sys.argv[2:]})
rows = [list_backbones.row(list_backbones.ask(name)) for name in built]
print(json.dumps({"names": names, "head": list_backbones.head(), "rows": rows}))
"""
"""In a process of its own: other tests teach open_clip architectures. `make backbones` builds them all."""


def test_the_page_of_backbones_is_that_of_the_code():
    command = [sys.executable, "-c", PROGRAM, str(DOCS), *WORKS, *REFUSED]
    made = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    page = (DOCS / "backbones.md").read_text(encoding="utf-8")
    advice = "run `make backbones` and commit docs/backbones.md"
    assert page.startswith(made["head"]), advice
    assert [row for row in made["rows"] if row not in page.splitlines()] == [], advice
    works, refused = (re.findall(r"^\| ([\w-]+) \|", part, re.MULTILINE) for part in _tables(page))
    assert sorted([*works, *refused]) == sorted(made["names"]), advice
    assert set(works) >= WORKS
    assert set(refused) >= REFUSED


def _tables(page: str) -> list[str]:
    """The table of those that work, and of those that are refused."""
    works, refused = re.split(r"^## \d+ are refused$", page, flags=re.MULTILINE)
    return [works[works.index("| architecture |") :].partition("\n")[2], refused.partition("|---|---|")[2]]
