"""docs/backbones.md says of every architecture of open_clip what it is, or why it is refused."""

import warnings
from pathlib import Path

import open_clip

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_backbones_is_that_of_the_code(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    list_backbones = __import__("list_backbones")
    warnings.simplefilter("ignore")
    answers = [list_backbones.ask(name) for name in open_clip.list_models()]
    page = (DOCS / "backbones.md").read_text(encoding="utf-8")
    assert list_backbones.page(answers) == page, "run `make backbones` and commit docs/backbones.md"
    works = {answer.name for answer in answers if not answer.refusal}
    assert {"ViT-B-16", "ViT-L-14-336", "ViT-H-14", "EVA02-L-14", "PE-Core-L-14-336", "ViTamin-L"} <= works
    assert not {"ViT-B-16-SigLIP2", "RN50", "coca_ViT-B-32", "roberta-ViT-B-32"} & works
