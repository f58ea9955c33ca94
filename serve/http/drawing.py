"""From an anomaly map to what people look at: coloured or 16-bit PNG, npy, mask, region boxes."""

import io

import numpy as np
from PIL import Image
from scipy import ndimage

from bayes_pfl.data.preprocess import encode_mask, encode_png
from serve.http.schema import MapKind, Region

MOST_REGIONS = 50

RAMP = np.array(
    [(0, 0, 0, 40), (0.25, 60, 20, 130), (0.5, 190, 50, 110), (0.75, 250, 140, 40), (1, 255, 245, 170)], float
)
"""Position and red, green, blue of the heat map's colours: each lighter than the one before, also for the colour-blind."""

MEDIA_TYPES = {"png": "image/png", "png16": "image/png", "npy": "application/octet-stream"}


def encode_map(anomaly_map: np.ndarray, kind: MapKind) -> bytes:
    """A (height, width) float32 map in [0, 1] as a file of the asked kind."""
    if kind == "npy":
        sink = io.BytesIO()
        np.save(sink, anomaly_map, allow_pickle=False)
        return sink.getvalue()
    if kind == "png16":
        return encode_png(Image.fromarray(np.rint(anomaly_map.clip(0, 1) * 65535).astype(np.uint16)))
    return encode_png(Image.fromarray(coloured(anomaly_map)))


def coloured(anomaly_map: np.ndarray) -> np.ndarray:
    """(height, width, 3) uint8: the map on the colour ramp, 0 dark, 1 light; never stretched to the image's own range."""
    channels = [np.interp(anomaly_map, RAMP[:, 0], RAMP[:, channel]) for channel in (1, 2, 3)]
    return np.rint(np.stack(channels, -1)).astype(np.uint8)


def encode_pred_mask(anomaly_map: np.ndarray, threshold: float) -> bytes:
    """A gray PNG with 255 where the map reaches the threshold."""
    return encode_mask(anomaly_map >= threshold)


def find_regions(anomaly_map: np.ndarray, threshold: float, width: int, height: int) -> list[Region]:
    """The strongest connected (by edges or corners) parts at or above the threshold, boxes in a width x height picture."""
    labels, count = ndimage.label(anomaly_map >= threshold, structure=np.ones((3, 3), int))
    if not count:
        return []
    numbers = np.arange(1, count + 1)
    peaks = ndimage.maximum(anomaly_map, labels, numbers)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    boxes = ndimage.find_objects(labels)
    rows, columns = anomaly_map.shape
    found = []
    for index in np.argsort(-peaks, kind="stable")[:MOST_REGIONS]:
        down, across = boxes[index]
        left, top = across.start * width // columns, down.start * height // rows
        right, bottom = -(-across.stop * width // columns), -(-down.stop * height // rows)
        found.append(
            Region(
                x=left,
                y=top,
                width=right - left,
                height=bottom - top,
                pred_score=float(peaks[index]),
                area=float(sizes[index] / anomaly_map.size),
            )
        )
    return found
