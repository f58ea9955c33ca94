"""This machine -> what it has, whether everything works, and for what does not a sentence on what to do.

Nothing is downloaded, and nothing is written but the home folder and MLflow's new database, where there are none yet.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import torch

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.hub import cached_file
from bayes_pfl.clip.placement import multiplies_bfloat16
from bayes_pfl.datasets.checks import counted
from bayes_pfl.errors import BayesPFLError, OutputError
from bayes_pfl.inference.bundle import EMBEDDED, load_bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.machine import usable_cpus
from bayes_pfl.temporary_folder import check_temporary_folder, temporary_folder
from pipelines.platform.cluster import check_address, cluster_machines
from pipelines.platform.mlflow_store import require_store, tracking_uri
from pipelines.platform.resources import cluster_has
from pipelines.platform.settings import TrackingSettings, home

PACKAGES = ("bayes-pfl", "torch", "open_clip_torch", "ray", "mlflow", "pyarrow", "numpy", "scikit-learn")
GIB = 2**30
LEAST_ROOM_BYTES = 5 * GIB
LEAST_SHARED_MEMORY_BYTES = GIB // 2
TOLERANCE = 1e-4
"""By which scores on a GPU may differ from those on the CPU, which are in [0, 1]."""
IMAGES = 16
LISTED = 3
"""Models that a line names."""


class Finding(NamedTuple):
    """Something that was looked at."""

    name: str
    value: str
    problem: str = ""
    """What is wrong and what to do; empty if nothing is."""


def run(args: argparse.Namespace) -> int:
    """Look at everything and print it.

    Args:
        args: parsed options.

    Returns:
        Exit code: 1 if something is wrong.
    """
    findings = []
    for look in LOOKS:
        for finding in look():
            findings.append(finding)
            if not args.json:
                print(f"{'!!' if finding.problem else 'ok'}  {finding.name:<18}  {finding.value}", flush=True)
    problems = [finding.problem for finding in findings if finding.problem]
    if args.json:
        print(json.dumps({"ok": not problems, "findings": [finding._asdict() for finding in findings]}))
    else:
        print("\n".join(["", *problems]) if problems else "\nNothing is wrong.")
    return 1 if problems else 0


def software() -> Iterator[Finding]:
    """Versions.

    Returns:
        A finding for Python and one for each package.
    """
    yield Finding("Python", platform.python_version())
    for package in PACKAGES:
        try:
            yield Finding(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(package, "not installed", f"{package} is not installed: pip install {package}.")


def processor() -> Iterator[Finding]:
    """CPUs and memory that this process may use.

    Returns:
        A finding for each.
    """
    from ray._common.utils import get_system_memory

    faster = "bfloat16" if multiplies_bfloat16() else "float32"
    yield Finding("CPUs", f"{usable_cpus()} of {os.cpu_count()}; {faster} is the faster precision on them")
    yield Finding("memory", f"{get_system_memory() / GIB:.1f} GiB")


def gpus() -> Iterator[Finding]:
    """GPUs, and why torch cannot use one that seems to be there.

    Returns:
        A finding for each GPU, or one that there is none.
    """
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(number)
            yield Finding(f"GPU {number}", f"{properties.name}, {properties.total_memory / GIB:.0f} GiB")
        return
    build = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
    problem = ""
    if Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi"):
        problem = (
            f"There seems to be an NVIDIA GPU, but torch cannot use it ({build}): install a driver and a build "
            "of torch for the same CUDA, and start a container with --gpus all."
        )
    yield Finding("GPU", f"none; {build}", problem)


def cluster() -> Iterator[Finding]:
    """Where Ray would run, and whether it could.

    Returns:
        Findings on the cluster and each of its machines; of a local Ray on its temporary folder and the shared memory.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if address not in ("", "local"):
        finding = _tried("Ray", f"the cluster at {address}", lambda: check_address(address))
        yield finding
        if not finding.problem:
            yield from _machines_of_cluster()
        return
    yield Finding("Ray", "local, started when it is needed")
    folder = temporary_folder()
    yield _tried("temporary folder", str(folder), lambda: check_temporary_folder(folder))
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total
        problem = f"/dev/shm has {size / 2**20:.0f} MiB, where Ray keeps its objects: start the container with "
        too_small = size < LEAST_SHARED_MEMORY_BYTES
        yield Finding("shared memory", f"{size / GIB:.1f} GiB", f"{problem}--shm-size=2g." if too_small else "")


def _machines_of_cluster() -> Iterator[Finding]:
    """How many machines there are, and a finding for each that has other versions than this one."""
    here = {finding.name: finding.value for finding in software()}
    try:
        machines = cluster_machines(PACKAGES)
    except BayesPFLError as error:
        yield Finding("machines", "unknown", str(error))
        return
    present = cluster_has()
    yield Finding("machines", f"{len(machines)}, with {present['CPU']:g} CPUs and {present['GPU']:g} GPUs")
    for machine in machines:
        if machine.silence:
            problem = (
                f"{machine.address}: {machine.silence}. Run doctor again when it is less busy; else look into Ray's "
                "logs on it."
            )
            yield Finding(machine.address, machine.silence, problem)
            continue
        problems = [
            f"{machine.address} has {name} {version}, and this machine {here[name]}: install the same versions on both."
            for name, version in machine.versions.items()
            if version != here[name]
        ]
        yield Finding(machine.address, "other versions" if problems else "the same versions", " ".join(problems))


def storage() -> Iterator[Finding]:
    """Where runs are kept, and which CLIP weights are there already.

    Returns:
        Findings on the home, MLflow's store, the home's disk and the cache of weights.
    """
    folder = _tried("home", str(home()), check_home)
    yield folder
    if not folder.problem:  # else nothing below it can be looked at
        yield _tried("MLflow", tracking_uri(TrackingSettings()), lambda: require_store(TrackingSettings()))
        free = shutil.disk_usage(home()).free
        problem = f"{home()} has less than {LEAST_ROOM_BYTES / GIB:.0f} GiB free: set BAYES_PFL_HOME to a larger disk."
        yield Finding("disk", f"{free / GIB:.0f} GiB free in {home()}", problem if free < LEAST_ROOM_BYTES else "")
    from huggingface_hub.constants import HF_HUB_CACHE

    yield Finding("CLIP weights", f"{', '.join(cached_weights()) or 'none yet'} in {HF_HUB_CACHE}")


def check_home() -> None:
    """Make the folder of everything where there is none, and write into it.

    Raises:
        OutputError: it cannot be made or written.
    """
    try:
        home().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home()) as file:
            file.write(b"1")
    except OSError as error:
        raise OutputError(
            f"Nothing can be kept in {home()} ({error.strerror}): set BAYES_PFL_HOME to a folder that you may write to."
        ) from error


def models() -> Iterator[Finding]:
    """The models below the home and below `runs/`, and whether the files of CLIP's weights that they name are there.

    Returns:
        One finding.
    """
    folders = dict.fromkeys(folder for folder in (home(), Path("runs").resolve()) if folder.is_dir())
    bundles = sorted({path for folder in folders for path in folder.rglob("bundle.json")})
    lost = [(path.parent, weights) for path in bundles if (weights := _weights_file(path)) and not weights.exists()]
    problem = ""
    if lost:
        names = ", ".join(f"{folder} ({weights})" for folder, weights in lost[:LISTED])
        more = f" and {len(lost) - LISTED:,} more" if len(lost) > LISTED else ""
        problem = (
            f"{counted(len(lost), 'model')} whose weights of CLIP are not there: {names}{more}. Put the file back, or "
            "give --weights FILE with the model."
        )
    places = ", ".join(map(str, folders))
    yield Finding("models", f"{len(bundles):,} in {places}" if bundles else "none yet", problem)


def _weights_file(bundle: Path) -> Path | None:
    """The file of CLIP's weights that a bundle names; None for what is downloaded or comes along."""
    try:
        name = json.loads(bundle.read_bytes())["config"]["backbone"]["pretrained"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the tag that is the default, or no bundle, which whoever loads it says
    return Path(name) if isinstance(name, str) and Path(name).is_absolute() else None


def cached_weights() -> list[str]:
    """Which of open_clip's weights are in the cache of Hugging Face's hub.

    Returns:
        Architecture and tag of each, such as "ViT-L-14-336 openai".
    """
    tags = [
        (name, tag, open_clip.pretrained.get_pretrained_cfg(name, tag)) for name, tag in open_clip.list_pretrained()
    ]
    return [f"{name} {tag}" for name, tag, entry in tags if entry and cached_file(entry) is not None]


def self_test() -> Iterator[Finding]:
    """The embedded model on every device: scores equal to the CPU's, and images a second.

    Returns:
        A finding for each device.
    """
    bundle = load_bundle(EMBEDDED)
    backbone = Backbone(bundle.config.backbone)
    size = bundle.config.backbone.image_size
    images = [np.full((size, size, 3), 8 * number, np.uint8) for number in range(IMAGES)]
    for number, image in enumerate(images):
        image[number : number + 20, 30:50] = 255
    expected: list[float] = []
    for name in ("cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))):
        detector = Detector(bundle, backbone, torch.device(name))
        detector.predict(images, ["plate"] * IMAGES)
        start = time.perf_counter()
        scores = [prediction.image_score for prediction in detector.predict(images, ["plate"] * IMAGES)]
        speed = IMAGES / (time.perf_counter() - start)
        expected = expected or scores
        difference = max(abs(score - wanted) for score, wanted in zip(scores, expected, strict=True))
        problem = f"Scores on {name} differ from those of the CPU by {difference:.1g}: do not use this device."
        wrong = not difference <= TOLERANCE
        yield Finding(f"self-test on {name}", f"{speed:.0f} images/s, R = 10", problem if wrong else "")


LOOKS: tuple[Callable[[], Iterator[Finding]], ...] = (software, processor, gpus, cluster, storage, models, self_test)


def _tried(name: str, value: str, attempt: Callable[[], object]) -> Finding:
    """A finding whose problem is what the attempt raises."""
    try:
        attempt()
    except BayesPFLError as error:
        return Finding(name, value, str(error))
    return Finding(name, value)
