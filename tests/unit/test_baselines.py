"""Baselines against scikit-learn, against open_clip by hand, and on pictures whose answer is known."""

import numpy as np
import open_clip
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from small import BACKBONE
from torch.nn import functional as F

from bayes_pfl.clip.backbone import Backbone, Features, package_path
from bayes_pfl.data.pixels import image_tensor
from bayes_pfl.errors import DataError
from bayes_pfl.methods.baselines import (
    HandWrittenPrompts,
    LinearProbe,
    mean_darkness,
    median_deviation,
    projected_patches,
)
from bayes_pfl.synthetic.captions import DAMAGED, FLAWLESS, TEMPLATES


@pytest.fixture(scope="module")
def backbone():
    return Backbone(BACKBONE)


def flat_picture(size=32):
    from PIL import Image

    pixels = np.full((size, size, 3), (200, 40, 90), np.uint8)
    pixels[8:14, 20:26] = (20, 220, 90)
    return pixels, Image.fromarray(pixels)


def test_the_rule_finds_what_differs_from_the_median_and_nothing_on_a_plain_image():
    pixels, picture = flat_picture()
    prediction = median_deviation(image_tensor(picture, 32), 0)
    odd = (pixels != (200, 40, 90)).any(-1)
    expected = np.sqrt(180**2 + 180**2) / 255 / np.sqrt(3)
    assert np.allclose(prediction.anomaly_map[odd], expected, atol=1e-5)
    assert np.allclose(prediction.anomaly_map[~odd], 0, atol=1e-5)
    assert prediction.image_score == pytest.approx(expected, abs=1e-5)


def test_darkness_is_one_minus_brightness():
    pixels, picture = flat_picture()
    assert mean_darkness(image_tensor(picture, 32)) == pytest.approx(1 - pixels.mean() / 255, abs=1e-5)


def test_the_probe_is_scikit_learns_balanced_logistic_regression():
    random = torch.Generator().manual_seed(0)
    samples, rows, labels = [], [], []
    for _ in range(6):
        patches = torch.randn(2, 1, 16, 3, generator=random)
        truth = (patches[0, 0, :, 0] + torch.randn(16, generator=random) > 0.8).float()
        mask = truth.view(4, 4).repeat_interleave(2, 0).repeat_interleave(2, 1)[None]
        samples.append((Features(torch.zeros(1, 4), patches), mask))
        rows.append(patches[:, 0].transpose(0, 1).flatten(1).half().float())
        labels.append(truth)
    x, y = torch.cat(rows), torch.cat(labels)
    probe = LinearProbe.fit(samples, 0, penalty=0.01)
    standard = (x - x.mean(0)) / x.std(0)
    judge = LogisticRegression(class_weight="balanced", C=1 / (0.01 * len(x)), tol=1e-8, max_iter=1000)
    judge.fit(standard.numpy(), y.numpy())
    decision = x @ probe.weight + probe.bias
    assert np.allclose(decision.numpy(), judge.decision_function(standard.numpy()), atol=2e-3)
    prediction = probe.predict(samples[0][0])
    assert prediction.anomaly_map.shape == (8, 8)
    assert prediction.image_score == pytest.approx(prediction.anomaly_map.max())


def test_a_probe_needs_images():
    with pytest.raises(DataError, match="no image"):
        LinearProbe.fit([], 0)


def test_hand_written_prompts_are_clips_own_zero_shot_classifier(backbone):
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    features = backbone.encode_image(image)
    prediction = HandWrittenPrompts(backbone, 0).predict(features, "gear")
    merges = str(package_path("package:embedded/merges.txt.gz"))
    tokenizer = open_clip.SimpleTokenizer(bpe_path=merges, context_length=32)
    with torch.no_grad():
        sides = []
        for states in (FLAWLESS, DAMAGED):
            texts = tokenizer([t.format(s.format("gear")) for t in TEMPLATES for s in states])
            sides.append(F.normalize(F.normalize(backbone.clip.encode_text(texts), dim=-1).mean(0), dim=-1))
        seen = F.normalize(backbone.clip.encode_image(image), dim=-1)[0]
        logits = backbone.clip.logit_scale.exp() * (torch.stack(sides) @ seen)
    assert prediction.text_score == pytest.approx(float(logits.softmax(0)[1]), abs=1e-5)
    assert prediction.image_score == pytest.approx((prediction.text_score + prediction.map_score) / 2)
    assert prediction.map_score == pytest.approx(float(prediction.anomaly_map.max()))


def test_patches_go_through_the_towers_own_norm_and_head(backbone):
    patches = torch.randn(64, backbone.patch_width, generator=torch.Generator().manual_seed(2))
    trunk = backbone.clip.visual
    assert torch.equal(projected_patches(backbone, patches), trunk.head(trunk.trunk.norm(patches)))
