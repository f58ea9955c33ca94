"""A model and a calibration -> a copy of the model that decides. Nothing that exists is replaced."""

import shutil
import uuid
from pathlib import Path

from bayes_pfl.decisions.calibration import (
    CALIBRATION,
    CalibrationFile,
    read_calibration,
    write_calibration,
)
from bayes_pfl.decisions.records import HowScored
from bayes_pfl.errors import OutputError
from bayes_pfl.inference.bundle import Bundle

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
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    calibration = read_calibration(output) if (output / "bundle.json").is_file() else None
    if calibration is None:
        raise OutputError(f"{output} is there already and no calibrated model: choose another --output.")
    if different := calibration.differences(how):
        raise OutputError(f"{output} holds another calibration ({different}): choose another --output.")
    return calibration.record


def write_model(
    output: Path, bundle: Bundle, record: CalibrationFile, earlier: CalibrationFile | None, picture: bytes
) -> None:
    """Write the calibrated model, whole or not at all.

    Args:
        output: its folder.
        bundle: the model.
        record: its calibration.
        earlier: what the folder holds already.
        picture: of the scores, PNG.

    Raises:
        OutputError: it cannot be written.
        BundleError: a file of it cannot be written.
    """
    folder = output if earlier is not None else output.with_name(f".{output.name}.{uuid.uuid4().hex}.part")
    try:
        if earlier is None:
            output.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(bundle.folder, folder, ignore=shutil.ignore_patterns(CALIBRATION, PICTURE, ".*"))
        write_calibration(folder, record)
        part = folder / f".{PICTURE}.{uuid.uuid4().hex}.part"
        part.write_bytes(picture)
        part.replace(folder / PICTURE)
        if earlier is None:
            if output.exists():
                output.rmdir()  # empty, or it would have been refused
            folder.rename(output)
    except OSError as error:
        raise OutputError(f"Cannot write {output} ({error.strerror or error}): choose another --output.") from error
    finally:
        if folder != output:
            shutil.rmtree(folder, ignore_errors=True)
