"""A drawn mask -> the run lengths in which `Shape` holds it."""

import numpy as np

from bayes_pfl.datasets.record import Shape


def runs_of(mask: np.ndarray) -> Shape:
    """Run lengths of a mask, down its columns.

    Args:
        mask: (height, width) of 0 and 1.

    Returns:
        The region.
    """
    height, width = mask.shape
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *changes, flat.size])
    first = [0] if flat.size and flat[0] else []
    return Shape("runs", (height, width, *first, *(int(run) for run in runs)), size=(width, height))
