"""A model and how it is asked -> what its scores depend on besides the image, to be compared with a calibration."""

import hashlib

from bayes_pfl.config import Precision
from bayes_pfl.decisions.records import HowScored
from bayes_pfl.inference.bundle import Bundle


def how_scored(
    bundle: Bundle, looked_at: str, num_samples: int, precision: Precision, bits: int | None, seed: int = 0
) -> HowScored:
    """How scores are made.

    Args:
        bundle: the model.
        looked_at: way of looking at images, as of `View.name`.
        num_samples: R.
        precision: of CLIP's matrix products.
        bits: of gray images with more than 8; None: as each file says.
        seed: of the samples.

    Returns:
        What a calibration keeps.
    """
    scoring = bundle.config.scoring.model_copy(update={"threshold": None, "threshold_for": None})
    settings = bundle.config.model_copy(update={"scoring": scoring}).model_dump_json()
    return HowScored(
        model_version=bundle.version,
        settings_sha256=hashlib.sha256(settings.encode()).hexdigest(),
        looked_at=looked_at,
        num_samples=num_samples,
        precision=precision,
        bits=bits,
        seed=seed,
    )
