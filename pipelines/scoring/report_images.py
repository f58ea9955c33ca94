"""A sample -> what a report shows of it: image, mask, anomaly map, scores."""

from bayes_pfl.data.preprocess import decode_image, decode_mask
from bayes_pfl.data.samples import SampleRef
from bayes_pfl.inference.detector import Detector
from pipelines.platform.html import ReportImage
from pipelines.scoring.actors import read_row


def report_image(
    detector: Detector, ref: SampleRef, num_samples: int, seed: int = 0, max_pixels: int | None = None
) -> ReportImage:
    """Predict one sample; the same noise gives the same map as in an evaluation.

    Args:
        detector: the model.
        ref: the sample.
        num_samples: R.
        seed: of the noise.
        max_pixels: largest image that is decoded, width x height; None: the usual limit.

    Returns:
        The sample with its prediction.

    Raises:
        ImageError: it cannot be decoded.
    """
    limits = {} if max_pixels is None else {"max_pixels": max_pixels}
    data, mask = read_row(ref.shard, ref.row)
    image = decode_image(data, **limits)
    prediction = detector.predict([image], [ref.class_name], num_samples, seed)[0]
    return ReportImage(
        ref.sample_id,
        image,
        prediction.anomaly_map,
        None if mask is None else decode_mask(mask, **limits),
        ref.label,
        prediction.image_score,
        prediction.uncertainty,
    )
