"""Procedural images of surfaces, objects and medical-like scans with pixel-exact defect masks."""

from bayes_pfl.synthetic.dataset import write_dataset
from bayes_pfl.synthetic.scene import Scene, defects_of, render, render_composite

__all__ = ["Scene", "defects_of", "render", "render_composite", "write_dataset"]
