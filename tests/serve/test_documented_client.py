"""The first client of docs/serving.md, run as it stands there."""

from pathlib import Path

import documented
import pytest
from local_endpoint import encoded, picture

from bayes_pfl import Detector


def test_the_first_client_scores_an_image_and_shows_a_refusal(
    url: str, detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = documented.run_by("tests/serve/test_documented_client.py")
    code = block.text.replace("http://127.0.0.1:8000", url)
    assert code != block.text
    monkeypatch.chdir(tmp_path)
    data = encoded(picture(4))
    (tmp_path / "part.png").write_bytes(data)
    (prediction,) = detector.predict([data], ["metal plate"])
    label = "defective" if prediction.image_score >= 0.6 else "good"
    answer = documented.executed(code, block.page)
    assert answer["_"] == (label, prediction.image_score, None)
    answer["image"].close()
    (tmp_path / "part.png").write_bytes(b"no image")
    refused = documented.executed(code, block.page)
    assert refused["_"][:2] == (None, None)
    assert "no usable image" in refused["_"][2]
    refused["image"].close()
