"""Patch features -> a feature of the most anomalous patches' clusters: AdaCLIP's semantic fusion as released.

Departs from the paper, which takes the cluster with the highest mean score among all patches: the released code takes
the unweighted mean of all clusters of the 5 K most anomalous patches. Departs from the released code, whose k-means
uses numpy's global random state: here it is seeded by image and seed, so that a prediction depends on nothing else.
"""

import hashlib
import warnings
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from bayes_pfl.config import AdaClipConfig


class Partition(NamedTuple):
    """The most anomalous patches of an image, and which cluster each of them belongs to."""

    patches: Int[Tensor, "chosen"]
    labels: Int[Tensor, "chosen"]


def partition(
    model: AdaClipConfig,
    patches: Float[Tensor, "layers patches dim"],
    logits: Float[Tensor, "layers patches"],
    random_state: int,
) -> Partition:
    """Choose the most anomalous patches and cluster them by their features of all layers side by side.

    Args:
        model: K, and how many patches a cluster.
        patches: F_l of an image.
        logits: differences abnormal - normal.
        random_state: seed of k-means.

    Returns:
        Patches in descending order, and their clusters.
    """
    from sklearn.cluster import KMeans  # here: scikit-learn takes most of a second to import, other methods need none
    from sklearn.exceptions import ConvergenceWarning

    count = min(logits.shape[1], model.clusters * model.patches_per_cluster)
    chosen = logits.detach().mean(0).sigmoid().topk(count).indices
    rows = patches.detach()[:, chosen].transpose(0, 1).flatten(1).float().cpu().numpy()
    search = KMeans(min(model.clusters, count), n_init="auto", random_state=random_state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different patches than clusters
        labels = search.fit_predict(rows)
    return Partition(chosen, torch.from_numpy(labels.astype(np.int64)).to(chosen.device))


def cluster_feature(patches: Float[Tensor, "layers patches dim"], parts: Partition) -> Float[Tensor, "dim"]:
    """Unweighted mean of the clusters' centres, normalised; a cluster without patches is left out.

    Args:
        patches: F_l of an image; gradients flow into them, not through the choice.
        parts: of `partition`.

    Returns:
        r.
    """
    rows = patches[:, parts.patches].mean(0)
    members = F.one_hot(parts.labels).to(rows.dtype)
    members = members[:, members.sum(0) > 0]
    centres = (members / members.sum(0)).T @ rows
    return F.normalize(centres.mean(0), dim=0)


def cluster_seed(key: bytes, seed: int) -> int:
    """Seed of an image's k-means.

    Args:
        key: the image's.
        seed: of the prediction or training.

    Returns:
        32 bits.
    """
    return int.from_bytes(hashlib.sha256(f"clusters/{seed}/".encode() + key).digest()[:4], "little")
