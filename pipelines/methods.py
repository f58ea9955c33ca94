"""`bayes-pfl methods`: the methods there are, what each needs, and a model of one that needs no training."""

import argparse
import json
from pathlib import Path
from typing import Any

from bayes_pfl.config import BackboneConfig, DetectorConfig
from bayes_pfl.errors import ConfigError
from bayes_pfl.inference.bundle import UNTRAINED, save_bundle
from bayes_pfl.inference.untrained import untrained_config
from bayes_pfl.methods.builder import METHODS

COLUMNS = {
    "method": "method",
    "paper": "paper",
    "needs": "needs",
    "backbone": "backbone",
    "image_size": "px",
    "licence": "licence of its authors",
}
"""Keys of a row, and their headings."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `bayes-pfl methods`.

    Args:
        parser: gets the options.
    """
    parser.add_argument("method", nargs="?", help="one that needs no training: write a model of it to --output")
    parser.add_argument("--output", type=Path, help="folder of the model to write")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one of its settings, such as backbone.name"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


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
        print(json.dumps(rows, indent=1) if args.json else _table(rows))
        return 0
    if args.output is None:
        raise ConfigError(
            f"Say where to write the model: bayes-pfl methods {args.method} --output FOLDER. Without a model, "
            f"--method {args.method} scores at once."
        )
    config = untrained_config(args.method, None, args.set)
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
        if row.needs_training
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


def _table(rows: list[dict[str, Any]]) -> str:
    """Aligned columns under their headings."""
    lines = [COLUMNS, *({key: str(value) for key, value in row.items()} for row in rows)]
    widths = {key: max(len(line[key]) for line in lines) for key in COLUMNS}
    return "\n".join("  ".join(line[key].ljust(widths[key]) for key in COLUMNS).rstrip() for line in lines)
