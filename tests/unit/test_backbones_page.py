"""docs/backbones.md says of every architecture of open_clip what it is, or why it is refused."""

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_backbones_is_that_of_the_code(tmp_path):
    made = tmp_path / "backbones.md"  # in a process of its own: other tests teach open_clip architectures
    subprocess.run([sys.executable, str(DOCS / "list_backbones.py"), str(made)], check=True, capture_output=True)
    page = (DOCS / "backbones.md").read_text(encoding="utf-8")
    assert made.read_text(encoding="utf-8") == page, "run `make backbones` and commit docs/backbones.md"
    works, refused = (set(re.findall(r"^\| ([\w-]+) \|", part, re.MULTILINE)) for part in page.split(" are refused"))
    assert {"ViT-B-16", "ViT-L-14-336", "ViT-H-14", "EVA02-L-14", "PE-Core-L-14-336", "ViTamin-L"} <= works
    assert {"ViT-B-16-SigLIP2", "RN50", "coca_ViT-B-32", "roberta-ViT-B-32"} <= refused
