"""Many images through one model: a Ray Data actor pool that holds the detector, fed with references to shard rows."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from bayes_pfl import errors
from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.data.preprocess import decode_mask, mask_tensor
from bayes_pfl.data.remote import local_copy
from bayes_pfl.data.samples import SampleRef
from bayes_pfl.data.shards import read_shard
from bayes_pfl.inference.bundle import Bundle
from bayes_pfl.inference.detector import Detector, Prediction
from bayes_pfl.metrics import PixelHistogram

CHUNK = 16
"""Images of one category that go through an actor as one piece of work."""


def chunks(refs: Sequence[SampleRef]) -> list[list[int]]:
    """Positions of the references cut into pieces of one category."""
    by_category: dict[str, list[int]] = {}
    for position, ref in enumerate(refs):
        by_category.setdefault(ref.category, []).append(position)
    return [
        positions[start : start + CHUNK]
        for positions in by_category.values()
        for start in range(0, len(positions), CHUNK)
    ]


class Scorer:
    """One actor's detector; a call scores one chunk for several numbers of samples at once."""

    def __init__(self, bundle: Bundle, num_samples: list[int], seed: int, threads: int, device: str) -> None:
        self._detector = load_detector(bundle, threads, device)
        self._num_samples, self._seed = num_samples, seed
        self._opened: dict[str, pa.Table] = {}

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        """Scores, uncertainties and pixel histograms (bins in use) of the chunk, one output row for each R."""
        columns = ("shards", "rows", "class_names", "labels")
        shards, numbers, names, labels = (rows[name][0].tolist() for name in columns)
        histograms = {number: PixelHistogram() for number in self._num_samples}
        scores: dict[int, list[float]] = {number: [] for number in self._num_samples}
        uncertainties: dict[int, list[float]] = {number: [] for number in self._num_samples}
        for shard, row, name, label in zip(shards, numbers, names, labels, strict=True):
            image, mask = read_row(shard, row, self._opened)
            nested = self._detector.predict_nested([image], [name], self._num_samples, self._seed)[0]
            for number, prediction in nested.items():
                scores[number].append(prediction.image_score)
                uncertainties[number].append(prediction.uncertainty)
                truth = truth_mask(mask, label, prediction)
                if truth is not None:
                    histograms[number].update([prediction.anomaly_map], [truth])
        output: dict[str, list[Any]] = {"positions": [], "num_samples": [], "scores": [], "uncertainties": []}
        for number, histogram in histograms.items():
            output["positions"].append(np.asarray(rows["positions"][0]))
            output["num_samples"].append(number)
            output["scores"].append(np.array(scores[number]))
            output["uncertainties"].append(np.array(uncertainties[number]))
            for name, values in histogram.to_arrays().items():
                output.setdefault(f"histogram_{name}", []).append(values)
        return output


def read_row(shard: str, row: int, opened: dict[str, pa.Table] | None = None) -> tuple[bytes, bytes | None]:
    """Encoded image and mask of one row; a shard named by URI is copied to this machine once, and kept open in `opened`."""
    opened = {} if opened is None else opened
    if shard not in opened:
        opened[shard] = read_shard(local_copy(shard))
    return opened[shard]["image"][row].as_py(), opened[shard]["mask"][row].as_py()


def truth_mask(mask: bytes | None, label: int, prediction: Prediction) -> np.ndarray | None:
    """The ground truth at the prediction's size: empty for a normal image, None for an anomalous one without a mask."""
    size = len(prediction.anomaly_map)
    if mask is not None:
        return mask_tensor(decode_mask(mask), size).numpy()
    return np.zeros((size, size), np.float32) if label == 0 else None


def score_rows(
    bundle: Bundle, refs: Sequence[SampleRef], num_samples: list[int], seed: int, workers: int, threads: int, gpu: bool
) -> Iterator[dict[str, Any]]:
    """Results of all chunks as they come: `Scorer`'s rows, split up again."""
    work = [
        {
            "positions": positions,
            "shards": [refs[position].shard for position in positions],
            "rows": [refs[position].row for position in positions],
            "class_names": [refs[position].class_name for position in positions],
            "labels": [refs[position].label for position in positions],
        }
        for positions in chunks(refs)
    ]
    options = {
        "bundle": bundle,
        "num_samples": num_samples,
        "seed": seed,
        "threads": threads,
        "device": "cuda" if gpu else "cpu",
    }
    yield from through_actors(work, Scorer, options, workers, gpu)


def load_detector(bundle: Bundle, threads: int, device: str) -> Detector:
    """A detector for this process, and the number of threads that it predicts with."""
    torch.set_num_threads(threads)
    return Detector(bundle, Backbone(bundle.config.backbone), torch.device(device))


def through_actors(
    work: list[dict[str, Any]], scorer: type, options: dict[str, Any], workers: int, gpu: bool
) -> Iterator[dict[str, Any]]:
    """Every piece of work through a pool of actors, each a `scorer` made with `options`; its rows as they come.

    Raises BayesPFLError if an actor cannot be made, with the sentence that it died of.
    """
    import ray
    from ray.data import ActorPoolStrategy

    dataset = ray.data.from_items(work, override_num_blocks=len(work)).map_batches(
        scorer,
        batch_size=1,
        compute=ActorPoolStrategy(size=min(workers, len(work))),
        num_cpus=1 if not gpu else None,
        num_gpus=1 if gpu else None,
        fn_constructor_kwargs=options,
    )
    dataset.context.enable_progress_bars = False
    try:
        yield from dataset.iter_rows()
    except ray.exceptions.RayError as error:
        said = re.findall(r"bayes_pfl\.errors\.(\w+): (.+)", str(error))
        if not said:
            raise
        kind, sentence = said[-1]
        raise getattr(errors, kind)(sentence) from error
