"""Regions drawn with labelling tools -> `Shape`s by image: files of COCO, LabelMe, CVAT, Pascal VOC and YOLO."""

from bayes_pfl.datasets.annotations.find import Annotations, find_annotations

__all__ = ["Annotations", "find_annotations"]
