"""`bayes-pfl score`: image files -> scores, and heat maps if wanted, in this process."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bayes_pfl.detector import Detector
from bayes_pfl.errors import ConfigError, DataError, ImageError
from bayes_pfl.heatmap import overlay
from bayes_pfl.preprocess import decode_image
from pipelines.report import table

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl score`."""
    parser.add_argument("images", nargs="+", type=Path, help="image files, or folders of them")
    parser.add_argument("--class-name", required=True, help='what the images show, e.g. "metal plate"')
    parser.add_argument("--model", default="embedded", help="bundle folder, embedded (default), or models:/NAME@ALIAS")
    parser.add_argument("--num-samples", type=int, default=10, metavar="R", help="Monte Carlo samples; default 10")
    parser.add_argument("--seed", type=int, default=0, help="of the draws; default 0")
    parser.add_argument("--output", type=Path, help="folder for heat maps over the images")
    parser.add_argument("--fail-above", type=float, metavar="SCORE", help="exit with 1 if an image scores higher")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Score and print; an image that cannot be read is listed and the others are scored."""
    files = image_files(args.images)
    detector = Detector.load(args.model)
    scored: list[dict[str, Any]] = []
    unreadable: list[dict[str, str]] = []
    for file in tqdm(files, unit="image", disable=None):
        try:
            picture = decode_image(file.read_bytes())
        except (ImageError, OSError) as error:
            unreadable.append({"file": str(file), "reason": str(error)})
            continue
        prediction = detector.predict([picture], [args.class_name], args.num_samples, args.seed)[0]
        scored.append({"file": str(file), "image_score": prediction.image_score, "uncertainty": prediction.uncertainty})
        if args.output:
            args.output.mkdir(parents=True, exist_ok=True)
            overlay(picture, prediction.anomaly_map).save(args.output / f"{len(scored):05d}-{file.stem}.png")
    kind = detector.bundle.kind
    if args.json:
        print(json.dumps({"model": detector.bundle.version, "kind": kind, "images": scored, "unreadable": unreadable}))
    else:
        print(
            table(
                [
                    {**row, "image_score": round(row["image_score"], 4), "uncertainty": round(row["uncertainty"], 4)}
                    for row in scored
                ]
            )
        )
        for row in unreadable:
            print(f"not scored: {row['file']}: {row['reason']}", file=sys.stderr)
        if kind:
            print(
                f"Model: {kind}. For real work use a bundle trained on ViT-L-14-336 (see the README).", file=sys.stderr
            )
    if not scored:
        raise DataError("None of the images could be read.")
    return int(args.fail_above is not None and any(row["image_score"] > args.fail_above for row in scored))


def image_files(paths: list[Path]) -> list[Path]:
    """The files themselves, and the images in folders, sorted. Raises ConfigError if a path is missing or nothing is found."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS)
        elif path.is_file():
            files.append(path)
        else:
            raise ConfigError(f"There is no file or folder {path}.")
    if not files:
        raise ConfigError(f"No images found; give files ending in {', '.join(sorted(ENDINGS))}.")
    return files
