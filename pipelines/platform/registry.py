"""MLflow's registry: a run's bundle -> a version of a named model; `models:/NAME@ALIAS` -> a local folder.

Models are folders (see `bayes_pfl.inference.bundle`), never pickles: MLflow stores and versions files, and hands them
back.
"""

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bayes_pfl.data.cache import cache_folder
from bayes_pfl.decisions.calibration import read_calibration
from bayes_pfl.errors import BundleError, ConfigError, TrainingError
from pipelines.platform.mlflow_store import first_line, open_store, refusals, tracking_uri
from pipelines.platform.settings import TrackingSettings

BUNDLE_ARTIFACT = "bundle"


class PresentModel(NamedTuple):
    """The model version that an alias names, and the last metrics of its run."""

    version: int
    tags: dict[str, str]
    metrics: dict[str, float]


def run_bundle(settings: TrackingSettings, run_id: str) -> tuple[Path, dict[str, float]]:
    """Fetch what a training run kept.

    Args:
        settings: where runs are recorded.
        run_id: the run.

    Returns:
        A local copy of its bundle, and its last metrics.

    Raises:
        BundleError: there is no such run or it kept no bundle.
    """
    from mlflow import artifacts

    client = open_store(settings)
    source = _bundle_source(client, settings, run_id)
    metrics: dict[str, float] = client.get_run(run_id).data.metrics
    return Path(artifacts.download_artifacts(artifact_uri=source, tracking_uri=tracking_uri(settings))), metrics


def present_model(settings: TrackingSettings, alias: str) -> PresentModel | None:
    """Look up what an alias of the registered model names now.

    Args:
        settings: the registry and the model's name.
        alias: such as `champion`.

    Returns:
        The version; None if the alias names none.
    """
    from mlflow.exceptions import MlflowException

    client = open_store(settings)
    try:
        version = client.get_model_version_by_alias(settings.model_name, alias)
    except MlflowException:
        return None
    return _present(client, version)


def registered_version(settings: TrackingSettings, version: int) -> PresentModel:
    """Look up a version of the registered model.

    Args:
        settings: the registry and the model's name.
        version: its number.

    Returns:
        The version.

    Raises:
        BundleError: there is no such version.
    """
    from mlflow.exceptions import MlflowException

    client = open_store(settings)
    try:
        return _present(client, client.get_model_version(settings.model_name, str(version)))
    except MlflowException as error:
        numbers = sorted(int(entry.version) for entry in client.search_model_versions(f"name='{settings.model_name}'"))
        listed = ", ".join(map(str, numbers)) or "none"
        raise BundleError(
            f"{settings.model_name} has no version {version} at {tracking_uri(settings)}; it has {listed}."
        ) from error


def add_version(
    settings: TrackingSettings, run_id: str, tags: Mapping[str, str], calibrated: Path | None = None
) -> int:
    """Make the bundle of a run a new version of the registered model; no alias names it yet.

    Args:
        settings: the registry and the model's name.
        run_id: the run that kept the bundle.
        tags: what is kept with the version.
        calibrated: folder with that bundle and a calibration; it is kept with the run, and becomes the version.

    Returns:
        The version's number.

    Raises:
        BundleError: there is no such run or it kept no bundle.
    """
    from mlflow.exceptions import MlflowException

    client = open_store(settings)
    source = _bundle_source(client, settings, run_id)
    if calibrated is not None:
        calibration = read_calibration(calibrated)
        assert calibration is not None
        name = f"calibrated-{calibration.version}"
        client.log_artifacts(run_id, str(calibrated), name)
        source = f"{source.rpartition('/')[0]}/{name}"
    with contextlib.suppress(MlflowException):  # it may exist
        client.create_registered_model(settings.model_name)
    return int(client.create_model_version(settings.model_name, source, run_id, tags=dict(tags)).version)


def point_alias(settings: TrackingSettings, alias: str, version: int, tags: Mapping[str, str] | None = None) -> None:
    """Let an alias of the registered model name a version. `register` alone does so, once its gates are passed.

    Args:
        settings: the registry and the model's name.
        alias: such as `champion`.
        version: the version's number.
        tags: what is added to the version's tags.
    """
    client = open_store(settings)
    for key, value in (tags or {}).items():
        client.set_model_version_tag(settings.model_name, str(version), key, value)
    client.set_registered_model_alias(settings.model_name, alias, str(version))


def download_model(uri: str) -> Path:
    """Fetch a registered model; a version is downloaded once.

    Args:
        uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Returns:
        Its local folder.

    Raises:
        BundleError: another form, an unknown name, alias or version, or an unreachable store.
    """
    from mlflow import artifacts
    from mlflow.exceptions import MlflowException

    settings = TrackingSettings()
    store = tracking_uri(settings)
    try:
        with refusals(settings):
            version = model_version(open_store(settings, create=False), uri)
        identity = (store, version.name, version.version, version.source, version.creation_timestamp)
        digest = hashlib.sha256("\0".join(map(str, identity)).encode()).hexdigest()
        target = cache_folder() / "models" / digest[:24]
        if not target.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
                copy = artifacts.download_artifacts(artifact_uri=version.source, dst_path=temporary, tracking_uri=store)
                with contextlib.suppress(OSError):  # another process was faster, with the same content
                    Path(copy).rename(target)
        return target
    except (ConfigError, TrainingError) as error:
        raise BundleError(f"{uri} cannot be looked up. {error}") from error
    except (MlflowException, OSError) as error:
        raise BundleError(
            f"{uri} is not in the registry at {store} ({first_line(error)}). Register a model with "
            "`bayes-pfl register`, or set MLFLOW_TRACKING_URI."
        ) from error


def model_version(client: Any, uri: str) -> Any:
    """Look up the registered version that a URI names.

    Args:
        client: MLflow's client.
        uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Returns:
        MLflow's record of the version.

    Raises:
        BundleError: the URI has another form.
        MlflowException: there is no such version.
    """
    match = re.fullmatch(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))", uri)
    if match is None:
        raise BundleError(f"'{uri}' is no model; write models:/NAME@ALIAS or models:/NAME/VERSION.")
    if match["alias"]:
        return client.get_model_version_by_alias(match["name"], match["alias"])
    return client.get_model_version(match["name"], match["version"])


def _present(client: Any, version: Any) -> PresentModel:
    metrics = dict(client.get_run(version.run_id).data.metrics) if version.run_id else {}
    return PresentModel(int(version.version), dict(version.tags), metrics)


def _bundle_source(client: Any, settings: TrackingSettings, run_id: str) -> str:
    """The URI of the bundle that a run kept."""
    from mlflow.exceptions import MlflowException

    if not run_id:
        raise BundleError(
            "This training was not recorded in MLflow, so there is no run to register: train again with a "
            "store that answers."
        )
    try:
        if not client.list_artifacts(run_id, BUNDLE_ARTIFACT):
            raise BundleError(f"Run {run_id} kept no bundle; register a finished training run.")
        return f"{client.get_run(run_id).info.artifact_uri}/{BUNDLE_ARTIFACT}"
    except MlflowException as error:
        raise BundleError(
            f"There is no run {run_id} at {tracking_uri(settings)}; `make ui` shows the runs; give the id that "
            "training or "
            "evaluation printed."
        ) from error
