"""`bayes-pfl methods`: the methods there are, what each needs, and a model of one that needs no training."""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bayes_pfl.clip.activation import warn_of_file
from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import BackboneConfig, DetectorConfig, RunConfig, parse_config
from bayes_pfl.config.untrained import WITHOUT_TRAINING, untrained_config
from bayes_pfl.errors import ConfigError
from bayes_pfl.inference.bundle import UNTRAINED, Bundle, refuse_other_model, save_bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.methods.builder import METHODS, build_trainable_method
from pipelines.reproduction.recipes import COMPARED, recipe
from pipelines.reproduction.settings import Scale

TIMED = 5

COLUMNS = {
    "method": "method",
    "paper": "paper",
    "needs": "needs",
    "backbone": "backbone",
    "image_size": "px",
    "milliseconds": "ms an image here",
    "licence": "licence of its authors",
}
"""Keys of a row, and their headings."""


def run(args: argparse.Namespace) -> int:
    """List the methods, or write a model.

    Args:
        args: parsed options.

    Returns:
        Exit code.

    Raises:
        ConfigError: there is no such method, or it must be trained.
        BundleError: the folder cannot be written.
    """
    if args.method is None:
        rows = [describe(name) for name in METHODS]
        if not args.no_times:
            print("Measuring on the embedded CLIP, one thread: some 20 seconds.", file=sys.stderr)
            clip = Backbone(BackboneConfig(name="embedded"))
            rows = [{**row, "milliseconds": round(milliseconds(row["method"], clip))} for row in rows]
        print(json.dumps(rows, indent=1) if args.json else _table(rows))
        return 0
    if args.output is None:
        raise ConfigError(
            f"Say where to write the model: bayes-pfl methods {args.method} --output FOLDER. Without a model, "
            f"--method {args.method} scores at once."
        )
    config = untrained_config(args.method, None, args.set)
    refuse_other_model(args.output, config, {})
    warn_of_file(config.backbone)
    save_bundle(args.output, config, {}, UNTRAINED, [])
    backbone = config.backbone
    if args.json:
        print(json.dumps({"model": str(args.output), "method": args.method, "backbone": backbone.name}))
    else:
        print(f"Wrote {args.output}, {args.method} on CLIP {backbone.name} ({backbone.pretrained}).")
    return 0


def describe(method: str) -> dict[str, Any]:
    """What the list says of a method.

    Args:
        method: its name.

    Returns:
        Values by the keys of `COLUMNS`.
    """
    row = METHODS[method]
    backbone: BackboneConfig = DetectorConfig.model_validate({"model": {"method": method}}).backbone
    trained = "training, or a published checkpoint"
    needs = (
        trained
        if method not in WITHOUT_TRAINING
        else "nothing"
        if row.objective is None
        else f"nothing; its variant SDP+: {trained}"
    )
    return {
        "method": method,
        "paper": row.paper,
        "needs": needs,
        "backbone": f"{backbone.name} ({backbone.pretrained})",
        "image_size": backbone.image_size,
        "licence": row.licence,
    }


def milliseconds(method: str, backbone: Backbone) -> float:
    """Time of one image with a method: on a small CLIP it tells methods apart, not what they take on a large one.

    Args:
        method: its name.
        backbone: the embedded CLIP.

    Returns:
        Median of a few predictions behind the first one, with initial weights where the method learns some, R = 10.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        compared = [recipe(title, 0, Scale(embedded=True), "auxiliary").model for title in COMPARED]
        scaled: dict[str, Any] = {
            model.method: model.model_dump() for model in compared if model.method not in WITHOUT_TRAINING
        }
        values = {"model": scaled.get(method, {"method": method}), "backbone": {"name": "embedded"}}
        run, cpu = parse_config(RunConfig, values, f"method {method}"), torch.device("cpu")
        weights = {} if method in WITHOUT_TRAINING else build_trainable_method(run, backbone, cpu).head.state_dict()
        detector = Detector(Bundle(Path(), run.detector(), weights, {}), backbone, cpu)
        image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
        times = []
        for _ in range(1 + TIMED):
            began = time.perf_counter()
            detector.predict([image], ["metal plate"])
            times.append(1000 * (time.perf_counter() - began))
        return statistics.median(times[1:])
    finally:
        torch.set_num_threads(threads)


def _table(rows: list[dict[str, Any]]) -> str:
    """Aligned columns under their headings."""
    headings = {key: heading for key, heading in COLUMNS.items() if key in rows[0]}
    lines = [headings, *({key: str(row[key]) for key in headings} for row in rows)]
    widths = {key: max(len(line[key]) for line in lines) for key in headings}
    return "\n".join("  ".join(line[key].ljust(widths[key]) for key in headings).rstrip() for line in lines)
