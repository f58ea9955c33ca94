"""Checkpoints of a run in its folder: which are whole, what they hold, and the newest that a run goes on from.

Which checkpoint is the newest is read from the folder, not from Ray Train's own list: that list is written in place,
and a kill or a full disk can cut it, or a checkpoint, short.
"""

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
from torch import Tensor

from bayes_pfl.data.remote import Store
from bayes_pfl.errors import TrainingError

Content = TypeVar("Content")

STATE_FILE = "state.safetensors"
BEST_FILE = "best.safetensors"
PROGRESS_FILE = "progress.json"
PREFIX = "epoch_"
RAY_LIST = "checkpoint_manager_snapshot.json"
KEPT = 2
"""Checkpoints that are kept: the newest, and the one before in case it is damaged."""
DAMAGED = (OSError, ValueError, KeyError, RuntimeError, EOFError, safetensors.SafetensorError)
"""Errors of reading a checkpoint that is not whole."""


def checkpoint_names(store: Store, prefix: str = PREFIX) -> list[str]:
    """The checkpoints of a run.

    Args:
        store: the run's folder.
        prefix: what their names begin with.

    Returns:
        Names of the folders, the newest first.
    """
    return sorted((name for name in store.names() if name.startswith(prefix)), reverse=True)


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Read a checkpoint of `bayes-pfl train`.

    Args:
        folder: a local copy of the checkpoint.

    Returns:
        Progress, the trainer's tensors, and the best head so far, which is empty where none is kept.

    Raises:
        OSError, ValueError, KeyError, SafetensorError: a file is missing or damaged (`DAMAGED`).
    """
    progress = json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8"))
    for key in ("steps", "second_stage_start", "history"):
        progress[key]
    best = folder / BEST_FILE
    tensors = safetensors.torch.load_file(folder / STATE_FILE)
    return progress, tensors, safetensors.torch.load_file(best) if best.is_file() else {}


def load_newest(store: Store, read: Callable[[Path], Content], prefix: str = PREFIX) -> tuple[str, Content] | None:
    """Read the newest checkpoint that is whole: a full disk or a crash may have cut the last one.

    Args:
        store: the run's folder.
        read: reads a local copy of a checkpoint; raises one of `DAMAGED` if that is not whole.
        prefix: what the names of checkpoints begin with.

    Returns:
        Its name and content; None if there is none.
    """
    for name in checkpoint_names(store, prefix):
        with tempfile.TemporaryDirectory() as temporary, contextlib.suppress(*DAMAGED):
            return name, read(store.download(name, Path(temporary)))
    return None


def settle(store: Store, read: Callable[[Path], Any], prefix: str = PREFIX) -> None:
    """Before a run begins or goes on: name damaged checkpoints, and leave Ray Train and the disk without stale ones.

    Args:
        store: the run's folder.
        read: as for `load_newest`.
        prefix: what the names of checkpoints begin with.

    Raises:
        TrainingError: there are checkpoints, and none can be read.
    """
    store.remove(RAY_LIST)
    names = checkpoint_names(store, prefix)
    if not names:
        return
    newest = load_newest(store, read, prefix)
    if newest is None:
        raise TrainingError(
            f"No checkpoint in {store.root} can be read ({', '.join(names)}): delete these folders, or add --fresh."
        )
    position = names.index(newest[0])
    for name in names[:position]:
        print(f"{store.root}/{name} is damaged; going on from {newest[0]}.", file=sys.stderr)
    store.clear(*names[position + KEPT :])
