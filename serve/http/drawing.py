"""Anomaly map -> files and boxes: coloured or 16-bit PNG, npy, mask, regions."""

import io

import numpy as np
from PIL import Image
from scipy import ndimage

from bayes_pfl.data.preprocess import encode_mask, encode_png
from bayes_pfl.inference.heatmap import heat_map
from serve.http.schema import MapKind, Region

MOST_REGIONS = 50
MEDIA_TYPES = {"png": "image/png", "png16": "image/png", "npy": "application/octet-stream"}


def encode_map(anomaly_map: np.ndarray, kind: MapKind) -> bytes:
    """Write a map as a file.

    Args:
        anomaly_map: (height, width) float32 in [0, 1]; never stretched to the image's own range.
        kind: coloured PNG, 16-bit gray PNG (value x 65535), or float32 npy.

    Returns:
        The file's bytes.
    """
    if kind == "npy":
        sink = io.BytesIO()
        np.save(sink, anomaly_map, allow_pickle=False)
        return sink.getvalue()
    if kind == "png16":
        return encode_png(Image.fromarray(np.rint(anomaly_map.clip(0, 1) * 65535).astype(np.uint16)))
    return encode_png(heat_map(anomaly_map))


def encode_pred_mask(anomaly_map: np.ndarray, threshold: float) -> bytes:
    """Write where a map reaches a threshold.

    Args:
        anomaly_map: (height, width).
        threshold: lowest value inside the mask.

    Returns:
        A gray PNG of 0 and 255.
    """
    return encode_mask(anomaly_map >= threshold)


def find_regions(anomaly_map: np.ndarray, threshold: float, width: int, height: int) -> list[Region]:
    """The connected (by edges or corners) parts of a map at or above a threshold.

    Args:
        anomaly_map: (rows, columns).
        threshold: lowest value inside a region.
        width: of the image, pixels; boxes are in its pixels.
        height: of the image, pixels.

    Returns:
        The `MOST_REGIONS` strongest, the strongest first.
    """
    labels, count = ndimage.label(anomaly_map >= threshold, structure=np.ones((3, 3), int))
    if not count:
        return []
    numbers = np.arange(1, count + 1)
    peaks = ndimage.maximum(anomaly_map, labels, numbers)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    boxes = ndimage.find_objects(labels)
    rows, columns = anomaly_map.shape
    regions = []
    for index in np.argsort(-peaks, kind="stable")[:MOST_REGIONS]:
        down, across = boxes[index]
        left, top = across.start * width // columns, down.start * height // rows
        right, bottom = -(-across.stop * width // columns), -(-down.stop * height // rows)
        regions.append(
            Region(
                x=left,
                y=top,
                width=right - left,
                height=bottom - top,
                score=float(peaks[index]),
                area=float(sizes[index] / anomaly_map.size),
            )
        )
    return regions
