"""Claim: on a GPU one image costs at most 900 kernel launches and 1 synchronisation, in batches of 16 at most 100 an image,
and a training step of 32 images at R = 1 at most 2,000 and 1 synchronisation.

    python benchmarks/launches.py [--backbone ViT-L-14-336] [--image-size 518]

Counts operators and reads that wait for the device under torch's FakeTensorMode: no GPU, no driver, no weights, exact. Views are not
counted; an operator that torch composes of several kernels counts once, so that a card launches somewhat more. Prints one JSON object.
"""

import argparse
import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch._subclasses import fake_tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import BackboneConfig, DetectorConfig, ModelConfig, RunConfig, ScoringConfig
from bayes_pfl.data.samples import SampleRef
from bayes_pfl.inference import detector as detectors
from bayes_pfl.inference.bundle import Bundle
from bayes_pfl.inference.prediction import Prediction
from bayes_pfl.methods.maps import PromptScores
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Widths
from bayes_pfl.training.trainer import Trainer

VIEWS = [
    "view",
    "expand",
    "t",
    "transpose",
    "permute",
    "slice",
    "select",
    "unsqueeze",
    "squeeze",
    "reshape",
    "alias",
    "detach",
    "unbind",
    "split",
    "chunk",
    "as_strided",
    "_unsafe_view",
    "unflatten",
    "flatten",
    "movedim",
]
MOST_ALONE, MOST_IN_A_BATCH, MOST_IN_A_STEP = 900, 100, 2000


class Launches(TorchDispatchMode):
    """Counts the operators whose result lies on a device, and the copies from it to the CPU, which wait for it.

    Args:
        device: type of the device.
    """

    def __init__(self, device: str = "cuda") -> None:
        super().__init__()
        self.device = device
        self.operators: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        sources = [value for value in torch.utils._pytree.tree_leaves(args) if isinstance(value, torch.Tensor)]
        results = [value for value in torch.utils._pytree.tree_leaves(result) if isinstance(value, torch.Tensor)]
        came_from = any(value.device.type == self.device for value in sources)
        if came_from and any(value.device.type == "cpu" for value in results):
            self.waits[name] += 1
        elif name not in VIEWS and any(
            value.device.type == self.device and not any(value is one for one in sources) for value in results
        ):
            self.operators[name] += 1
        return result


@contextlib.contextmanager
def fake_device() -> Iterator[None]:
    """Tensors without data on devices that are not there; mixing devices raises.

    Left out is what reads values: initial weights that are drawn again, the key of an image's noise, pinned memory.

    Returns:
        A context manager.
    """
    with (
        fake_tensor.FakeTensorMode(allow_non_fake_inputs=True),
        mock.patch.object(torch.nn.Module, "_apply", replace_parameters),
        mock.patch.object(torch.nn.init, "trunc_normal_", lambda tensor, **_: tensor),
        mock.patch("bayes_pfl.inference.images.noise_key", return_value=b"key"),
        mock.patch.object(torch.Tensor, "pin_memory", lambda tensor: tensor),
        mock.patch.object(fake_tensor, "CONSTANT_NUMEL_LIMIT", 0),  # else single numbers are computed for real
        mock.patch.object(detectors, "batch_predictions", copied_at_once),
        mock.patch.object(detectors, "prediction", without_values),
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),  # for autocast
        mock.patch.object(torch.cuda, "is_bf16_supported", return_value=True),
    ):
        yield


def replace_parameters(module: torch.nn.Module, change: Any, recurse: bool = True) -> torch.nn.Module:
    """`Module._apply` with new parameters: torch's own swaps the insides of tensors, which a fake tensor does not allow.

    Args:
        module: whose parameters and buffers are moved.
        change: moves one.
        recurse: to the children too.

    Returns:
        The module.
    """
    for child in module.children() if recurse else ():
        replace_parameters(child, change)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            moved = change(parameter.detach())
            module._parameters[name] = torch.nn.Parameter(moved, parameter.requires_grad)
    for name, buffer in module._buffers.items():
        module._buffers[name] = None if buffer is None else change(buffer)
    return module


_batch_predictions = detectors.batch_predictions


def without_values(scores: PromptScores, _: ScoringConfig, num_samples: int) -> Prediction:
    """`prediction` of scores whose values nobody knows.

    Args:
        scores: in the CPU's memory.
        num_samples: R.

    Returns:
        Zeros.
    """
    if any(part is not None and part.device.type != "cpu" for part in scores):
        raise RuntimeError("scores of one image were left on their device")
    maps = np.zeros(tuple(scores.anomaly_map.shape), np.float32)
    return Prediction(0.0, 0.0, maps, maps, 0.0, 0.0, num_samples)


def copied_at_once(*given: Any) -> list[Any]:
    """`batch_predictions` up to the one copy to the CPU, whose values nobody knows.

    Args:
        given: its arguments.

    Returns:
        Nothing for each image.
    """

    def shape_of(tensor: torch.Tensor) -> Any:
        return np.zeros(tuple(tensor.shape), np.float32)

    with mock.patch.object(torch.Tensor, "numpy", shape_of):
        return _batch_predictions(*given)


def count(detector: Any, images: int, num_samples: int) -> dict[str, Any]:
    """Operators and waits of one call of `predict`, once what is kept from image to image is there.

    Args:
        detector: on a device that is not there.
        images: how many.
        num_samples: R.

    Returns:
        Counts in all, and the most frequent operators.
    """
    given = [np.zeros((60, 80, 3), np.uint8)] * images, ["metal plate"] * images, num_samples
    detector.predict(*given)
    with Launches() as launches:
        detector.predict(*given)
    return {
        "launches": launches.operators.total(),
        "an_image": round(launches.operators.total() / images, 1),
        "waits": launches.waits.total(),
        "most": dict(launches.operators.most_common(8)),
    }


@contextlib.contextmanager
def fake_training() -> Iterator[None]:
    """A fake device for gradients, "meta": the one read of loss terms and that of Adam's step are left out.

    Attention is counted in its parts there, of which a card has one kernel.

    Returns:
        A context manager.
    """
    autocast = torch.autocast
    with (
        fake_device(),
        mock.patch.object(Trainer, "_checked_terms", return_value={}),
        mock.patch("torch.optim.adam._get_value", return_value=1.0),
        mock.patch.object(torch, "autocast", lambda _, dtype: autocast("cpu", dtype)),
    ):
        yield


def count_step(trainer: Trainer, images: int, size: int) -> dict[str, Any]:
    """Operators and waits of one training step, the encoding of its images included.

    Args:
        trainer: on the device "meta".
        images: of the batch.
        size: their side, pixels.

    Returns:
        Counts in all, the read of the loss terms among the waits, and the most frequent operators.
    """
    refs = [SampleRef("", row, f"{row}.png", "plate", "metal plate", row % 2, f"{row:064}") for row in range(images)]
    given = torch.zeros(images, 3, size, size), torch.zeros(images, size, size), refs
    trainer.step(trainer.batch(*given))
    with Launches("meta") as launches:
        trainer.step(trainer.batch(*given))
    return {
        "launches": launches.operators.total(),
        "waits": launches.waits.total() + 1,
        "most": dict(launches.operators.most_common(8)),
    }


def main() -> int:
    """Count; 0 if the claim holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="ViT-L-14-336")
    parser.add_argument("--image-size", type=int, default=518)
    parser.add_argument("--num-samples", type=int, default=10)
    args = parser.parse_args()
    backbone_config = BackboneConfig(name=args.backbone, pretrained="random:0", image_size=args.image_size)
    config = DetectorConfig(backbone=backbone_config, model=ModelConfig())
    with torch.device("meta"), mock.patch("bayes_pfl.clip.backbone.digest_of", return_value=""):
        backbone = Backbone(backbone_config)
    result: dict[str, Any] = {}
    with fake_device():
        backbone = backbone.to_empty(device="cpu")
        weights = BayesPFL(config.model, Widths.from_backbone(backbone)).state_dict()
        bundle = Bundle(config=config, weights=weights, record={}, folder=Path("bundle"))
        detector = detectors.Detector(bundle, backbone, torch.device("cuda"))
        for images in (1, 16):
            result[f"{images} at once"] = count(detector, images, args.num_samples)
    with fake_training():
        trainer = Trainer(RunConfig(backbone=backbone_config), backbone.to("meta"), torch.device("meta"), 1, 1)
        result["training step"] = count_step(trainer, 32, args.image_size)
    alone, batch, step = result["1 at once"], result["16 at once"], result["training step"]
    few = alone["launches"] <= MOST_ALONE and batch["an_image"] <= MOST_IN_A_BATCH
    result["holds"] = (
        few and step["launches"] <= MOST_IN_A_STEP and alone["waits"] == batch["waits"] == step["waits"] == 1
    )
    settings = {"backbone": args.backbone, "image_size": args.image_size, "num_samples": args.num_samples}
    print(json.dumps({**settings, **result}))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
