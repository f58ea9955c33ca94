"""The worked example of docs/methods.md is a method like any other."""

import re
from pathlib import Path

import numpy as np
import torch
from vision import small_clip

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import DetectorConfig, ScoringConfig
from bayes_pfl.inference.bundle import Bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.methods.builder import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def test_a_row_and_a_file_make_a_method(tmp_path, monkeypatch):
    code = next(block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S) if "ROW" in block)
    namespace: dict = {}
    exec(compile(code, str(PAGE), "exec"), namespace)
    monkeypatch.setitem(METHODS, "odd_patch", namespace["ROW"])
    backbone = Backbone(small_clip(tmp_path))
    config = DetectorConfig.model_construct(
        backbone=backbone.config, model=namespace["OddPatchConfig"](gain=0.5), scoring=ScoringConfig()
    )
    detector = Detector(Bundle(Path("odd"), config, {}, {}), backbone, torch.device("cpu"))
    odd = np.full((48, 48, 3), 90, np.uint8)
    odd[8:16, 24:32] = 250
    plain, marked = detector.predict([np.full((48, 48, 3), 90, np.uint8), odd], ["plate", "plate"])
    assert marked.image_score > plain.image_score
    assert marked.anomaly_map[8:16, 24:32].mean() > marked.anomaly_map[32:].mean()
    assert marked.uncertainty is None


def test_the_page_names_every_method():
    assert set(METHODS) <= set(re.findall(r"^\| `(\w+)`", PAGE.read_text("utf-8"), re.M))
