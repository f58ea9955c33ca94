"""Regions drawn with labelling tools -> `Shape`s by image: COCO, LabelMe, CVAT and YOLO files beside the images."""

from bayes_pfl.datasets.annotations.find import Annotations, find_annotations

__all__ = ["Annotations", "find_annotations"]
