"""A model and a calibration -> a copy of the model that decides. Nothing that exists is replaced."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from bayes_pfl.data.shards import MANIFEST_FOLDER, replacing
from bayes_pfl.decisions.calibration import (
    CALIBRATION,
    CalibrationFile,
    read_calibration,
    write_calibration,
)
from bayes_pfl.decisions.records import HowScored
from bayes_pfl.errors import OutputError
from bayes_pfl.inference.bundle import FILES, Bundle

BUNDLE = "bundle.json"
PICTURE = "calibration.png"


def earlier_calibration(output: Path, how: HowScored) -> CalibrationFile | None:
    """What an output holds already, to which further classes can be added.

    Args:
        output: folder of the calibrated model.
        how: the images will be scored.

    Returns:
        Its calibration; None where the folder is not there, or empty.

    Raises:
        OutputError: it holds something else.
        BundleError: its calibration is damaged.
    """
    if not _others(output):
        return None
    calibration = read_calibration(output) if (output / BUNDLE).is_file() else None
    if calibration is None:
        raise OutputError(f"{output} is there already and no calibrated model: choose another --output.")
    if different := calibration.differences(how):
        raise OutputError(f"{output} holds another calibration ({different}): choose another --output.")
    return calibration.record


def _others(output: Path) -> list[Path]:
    """What lies in an output beside the lock of whoever writes it, and what a killed run has left of a new model."""
    if not output.is_dir():
        return [output] if output.exists() else []
    entries = [path for path in output.iterdir() if path.name != MANIFEST_FOLDER and not path.name.endswith(".part")]
    unfinished = (output / MANIFEST_FOLDER / "lock").is_file() and not (output / BUNDLE).exists()
    return [path for path in entries if not (unfinished and path.name in (*FILES, CALIBRATION, PICTURE))]


def check_output(output: Path, sources: Sequence[str]) -> None:
    """Refuse an output that cannot be written, or that would count as images, before anything is scored.

    Args:
        output: folder of the calibrated model.
        sources: of images, as they were typed.

    Raises:
        OutputError: it lies below a file, is not writable, or lies in a folder of images.
    """
    for source in sources:
        folder = Path(source).expanduser()
        if folder.is_dir() and output.is_relative_to(folder.resolve()):
            raise OutputError(f"{output} lies in the folder of images {source}: choose an --output elsewhere.")
    nearest = next(path for path in (output, *output.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise OutputError(f"Cannot write {output}: {nearest} is no folder, or not writable. Choose another --output.")


def write_model(output: Path, bundle: Bundle, record: CalibrationFile, picture: bytes) -> None:
    """Write the calibrated model into a folder that this process holds; its record, which makes it one, comes last.

    Args:
        output: its folder.
        bundle: the model.
        record: its calibration.
        picture: of the scores, PNG.

    Raises:
        OutputError, BundleError: it cannot be written.
    """
    try:
        if not (output / BUNDLE).exists():
            copied = [path for path in bundle.folder.iterdir() if path.is_file() and not path.name.startswith(".")]
            for path in copied:
                if path.name not in (CALIBRATION, PICTURE, BUNDLE):
                    _write(output / path.name, path.read_bytes())
        _write(output / PICTURE, picture)
        write_calibration(output, record)
        if not (output / BUNDLE).exists():
            _write(output / BUNDLE, _settings(bundle))
    except OSError as error:
        raise OutputError(f"Cannot write {output} ({error.strerror or error}): choose another --output.") from error


def _settings(bundle: Bundle) -> bytes:
    """The model's bundle.json; with the place where CLIP's weights lie now, if --weights named one."""
    content = (bundle.folder / BUNDLE).read_bytes()
    if bundle.clip_file is None:
        return content
    record = json.loads(content)
    record["config"]["backbone"]["pretrained"] = str(bundle.clip_file)
    return (json.dumps(record, indent=1, sort_keys=True) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)
