"""How well scores and maps tell anomalous from normal: AUROC, AP, F1-max and PRO.

`image_metrics` and `pixel_metrics` are exact and hold all scores at once. `PixelHistogram` sees one
map at a time in fixed memory and merges across workers. `metrics_by_category` measures
categories one by one, `dataset_mean` averages them.
`image_auroc_interval` and `pixel_auroc_interval` say how far an AUROC could be off by the choice of images.
"""

from bayes_pfl.metrics.bootstrap import Interval, image_auroc_interval, pixel_auroc_interval
from bayes_pfl.metrics.categories import metrics_by_category
from bayes_pfl.metrics.curve import BestF1
from bayes_pfl.metrics.exact import image_best_f1, image_metrics, pixel_metrics
from bayes_pfl.metrics.result import Metrics, dataset_mean
from bayes_pfl.metrics.streaming import PixelHistogram

__all__ = [
    "BestF1",
    "Interval",
    "Metrics",
    "PixelHistogram",
    "dataset_mean",
    "image_auroc_interval",
    "image_best_f1",
    "image_metrics",
    "metrics_by_category",
    "pixel_auroc_interval",
    "pixel_metrics",
]
