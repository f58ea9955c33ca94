"""A model and how it was evaluated -> facts for people: what it is, what it was trained on, under which licences."""

from collections.abc import Mapping, Sequence
from typing import Any

from bayes_pfl.config import ModelConfig
from bayes_pfl.datasets.catalogue import DATASETS
from bayes_pfl.inference.bundle import UNTRAINED, Bundle, training_images
from bayes_pfl.methods.builder import METHODS
from pipelines.scoring.task import ScoringTask
from pipelines.scoring.thresholds import Labelling

PACKAGED = "package:"
"""What the names of files begin with that are part of this software."""
OWN_LICENCE = "Apache-2.0"
UNRECORDED = "not recorded in the model"


def model_card(source: str, task: ScoringTask, labelling: Labelling) -> dict[str, str]:
    """What a model is and how it was asked.

    Args:
        source: what the user named the model.
        task: the model as it was loaded, and how it predicted.
        labelling: what its labels were made by.

    Returns:
        Words by fact, in the order in which people read them.
    """
    bundle = task.bundle
    backbone, row = bundle.config.backbone, METHODS[bundle.config.model.method]
    blocks = ", ".join(map(str, backbone.feature_layers))
    protocol = "released: scores depend on all images of a category" if task.released else "image: each image alone"
    facts = {
        "model": f"{source}, version {bundle.version}" + (f" ({bundle.kind})" if bundle.kind else ""),
        "method": f"{row.paper}{_sizes(bundle)}",
        "backbone": f"{backbone.name}, {backbone.image_size} px, vision blocks {blocks}",
        "weights of the backbone": f"{backbone.pretrained}, SHA-256 {backbone.weights_sha256 or UNRECORDED}",
        "weights of the head": f"SHA-256 {bundle.record['head_sha256']}",
        **_training(bundle),
        "samples": f"R = {task.num_samples}, seed {task.seed}",
        "images looked at as": task.looked_at,
        "protocol": protocol,
        "computed in": ", ".join([task.options.precision, *_switches(task)]),
        "labels by": _labels(labelling),
        "licence of this software": OWN_LICENCE,
        "licence of the method's authors": row.licence,
        "licence of the backbone": f"{OWN_LICENCE}, part of this software"
        if backbone.pretrained.startswith(PACKAGED)
        else f"that of its publisher, {UNRECORDED}",
    }
    return {name: value for name, value in facts.items() if value}


def dataset_licences(manifests: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Under which licences the evaluated images are.

    Args:
        manifests: of their ingests.

    Returns:
        Words by dataset.
    """
    licences = {}
    for manifest in manifests:
        description = DATASETS.get(str(manifest.get("description")))
        licence = None if description is None else description.licence or None
        licences[str(manifest["dataset"])] = licence or "not known to this software"
    return licences


def _sizes(bundle: Bundle) -> str:
    model = bundle.config.model
    if not isinstance(model, ModelConfig):
        return f" ({model.method})"
    return (
        f": B = {model.num_prompts} prompts, P = {model.context_tokens} context and Q = {model.state_tokens} state "
        f"tokens, K = {model.flow_length} flow steps"
    )


def _switches(task: ScoringTask) -> list[str]:
    return [name for name, value in task.options.model_dump().items() if value is True]


def _training(bundle: Bundle) -> dict[str, str]:
    """Which images the head learned from, when, in which run; what the model does not say is listed."""
    record = bundle.record["training"]
    if record == UNTRAINED:
        return {"trained on": "nothing: the method needs no training"}
    settings, images = record.get("settings", {}), len(training_images(bundle))
    training = settings.get("training", {}) if isinstance(settings, dict) else {}
    epochs, second = training.get("epochs"), training.get("second_stage_epochs")
    values = {
        "weights from": ", ".join(str(record[key]) for key in ("kind", "file") if record.get(key)),
        "trained on": f"{images:,} images" if images else "",
        "dataset trained on": record.get("dataset") and f"{record['dataset']}, digest {record.get('dataset_digest')}",
        "epochs": epochs and f"{epochs}" + (f", {second} of a second stage" if second else ""),
        "end of training": record.get("made"),
        "training run": record.get("run"),
        "MLflow run of the training": record.get("run_id"),
    }
    facts = {name: str(value) for name, value in values.items() if value}
    missing = [name for name, value in values.items() if not value and name != "weights from"]
    return facts | ({UNRECORDED: ", ".join(missing)} if missing else {})


def _labels(labelling: Labelling) -> str:
    if labelling.because is not None:
        return f"nothing: {labelling.because}"
    if labelling.calibration is not None:
        record = labelling.calibration.record
        return f"calibration {labelling.calibration.version}, made {record.made}"
    return f"threshold {labelling.threshold:g}" if labelling.threshold is not None else "nothing"
