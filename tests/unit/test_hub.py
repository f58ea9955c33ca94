"""Weights by tag: from the cache without a question, from a hub in one go, and one sentence in seconds where neither is.

The hub is on loopback, and the weights are those of the embedded CLIP under an invented tag.
"""

import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bayes_pfl.clip.hub import cure as cure_of_tag
from bayes_pfl.clip.hub import hub_of
from bayes_pfl.config import BackboneConfig

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "bayes_pfl" / "embedded" / "bayes-pfl-embedded.safetensors"
COMMIT = "0" * 40
PROGRAM = """
import open_clip
from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import BackboneConfig
from bayes_pfl.errors import BackboneError
open_clip.pretrained._PRETRAINED["bayes-pfl-embedded"] = {"invented": {"hf_hub": "somebody/invented/"}}
try:
    print(Backbone(BackboneConfig(name="package:embedded/bayes-pfl-embedded.json", pretrained="invented")).digest)
except BackboneError as error:
    print(error)
"""


class Hub(BaseHTTPRequestHandler):
    """Answers as a hub does that holds one file, or with a status."""

    status = 200
    asked: list[str]

    def do_HEAD(self):
        self.answer(b"")

    def do_GET(self):
        self.answer(WEIGHTS.read_bytes())

    def answer(self, body):
        self.asked.append(f"{self.command} {self.path}")
        self.send_response(self.status)
        if self.status == 200:
            self.send_header("ETag", '"invented"')
            self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(WEIGHTS.stat().st_size if self.status == 200 else 0))
        self.end_headers()
        self.wfile.write(body if self.status == 200 else b"")

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    kind = type("OneHub", (Hub,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def load(home, endpoint, **more):
    """What a fresh process prints, what it says on standard error, and the seconds."""
    environment = os.environ | {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", **more}
    environment |= {"PYTHONPATH": str(ROOT), "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "BAYES_PFL_CACHE": str(home / "digests")}
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip(), done.stderr, time.monotonic() - began


def cure(text):
    return (
        "download open_clip_model.safetensors from https://huggingface.co/somebody/invented" in text
        and "--set backbone.pretrained=FILE" in text
        and "--weights FILE" in text
        and 'in Python BackboneConfig(name="package:embedded/bayes-pfl-embedded.json", pretrained=FILE)' in text
        and "Detector.load(FOLDER, weights=FILE)" in text
    )


def test_a_hub_that_does_not_answer_is_one_sentence_at_once(tmp_path):
    text, errors, seconds = load(tmp_path, "http://127.0.0.1:9")
    assert "invented' of package:embedded/bayes-pfl-embedded.json are not in the cache" in text
    assert "http://127.0.0.1:9 does not answer" in text
    assert cure(text)
    assert (text.count("\n"), errors) == (0, "")
    assert seconds < 40  # asked again and again it takes a minute, beside the seconds of importing


def test_without_leave_to_ask_the_reason_is_that(tmp_path):
    text, errors, _ = load(tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert "(HF_HUB_OFFLINE is set)" in text
    assert cure(text)
    assert errors == ""


def test_a_hub_in_trouble_is_asked_once(tmp_path, hub):
    hub.RequestHandlerClass.status = 503
    text, errors, _ = load(tmp_path, f"http://127.0.0.1:{hub.server_port}")
    assert "answers 503" in text
    assert cure(text)
    assert errors == ""
    assert hub.RequestHandlerClass.asked == ["HEAD /somebody/invented/resolve/main/open_clip_model.safetensors"]


def test_weights_are_downloaded_once_and_the_cache_asks_nobody(tmp_path, hub):
    digest, errors, _ = load(tmp_path, f"http://127.0.0.1:{hub.server_port}")
    assert (len(digest), errors) == (64, "")
    fetched = [line for line in hub.RequestHandlerClass.asked if line.startswith("GET /somebody")]
    assert fetched == ["GET /somebody/invented/resolve/main/open_clip_model.safetensors"]
    asked = sum("/somebody" in line for line in hub.RequestHandlerClass.asked)
    assert load(tmp_path, f"http://127.0.0.1:{hub.server_port}")[:2] == (digest, "")
    assert sum("/somebody" in line for line in hub.RequestHandlerClass.asked) == asked
    assert load(tmp_path, "http://127.0.0.1:9")[:2] == (digest, "")  # nor without a network


def test_the_file_of_a_tag_with_quickgelu_needs_it_too():
    config = BackboneConfig(name="ViT-B-16", pretrained="metaclip_400m", quick_gelu=True)
    advice = cure_of_tag(config, "open_clip_model.safetensors", "https://example.org")
    assert "--set backbone.pretrained=FILE --set backbone.quick_gelu=true" in advice
    assert 'BackboneConfig(name="ViT-B-16", pretrained=FILE, quick_gelu=True)' in advice


def test_a_tag_with_a_file_of_its_own_is_looked_for_by_that_name():
    assert hub_of({"hf_hub": "a/b/"}) == ("a/b", ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"))
    assert hub_of({"hf_hub": "a/b/c.pt"}) == ("a/b", ("c.safetensors", "c.pt"))
    assert hub_of({"url": "https://example.org/c.pt"}) == ("", ())
