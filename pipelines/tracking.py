"""MLflow, and nothing else here speaks it: runs, metrics, artifacts, and models by name and alias.

Models are folders (see `bayes_pfl.bundle`), never pickles: MLflow stores and versions files, and hands them back.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bayes_pfl.errors import BundleError, TrainingError
from pipelines.settings import TrackingSettings, home

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

BUNDLE_ARTIFACT = "bundle"


def tracking_uri(settings: TrackingSettings) -> str:
    """The configured URI, MLFLOW_TRACKING_URI, or an SQLite file under `home()`, always absolute."""
    return settings.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"


def resolved(settings: TrackingSettings) -> TrackingSettings:
    """The same with the URI written out, for processes that run in another folder."""
    return settings.model_copy(update={"uri": tracking_uri(settings)})


class Run:
    """One MLflow run, by its id; several processes may hold the same one."""

    def __init__(self, settings: TrackingSettings, run_id: str) -> None:
        self.settings = settings
        self.run_id = run_id
        self._client = _client(settings)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record numbers at a step."""
        for name, value in metrics.items():
            self._client.log_metric(self.run_id, name, float(value), step=step)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings once."""
        for name, value in params.items():
            self._client.log_param(self.run_id, name, str(value)[:5000])

    def log_folder(self, folder: Path, name: str) -> None:
        """Keep a folder's files under a name."""
        self._client.log_artifacts(self.run_id, str(folder), name)

    def log_file(self, file: Path) -> None:
        """Keep one file."""
        self._client.log_artifact(self.run_id, str(file))

    def finish(self, succeeded: bool = True) -> None:
        """Close the run."""
        self._client.set_terminated(self.run_id, "FINISHED" if succeeded else "FAILED")


def start_run(settings: TrackingSettings, name: str, tags: Mapping[str, str], parent: str | None = None) -> Run:
    """Open a new run, in a new experiment if need be; a child of `parent` if one is given."""
    client = _client(settings)
    experiment = client.get_experiment_by_name(settings.experiment)
    if experiment is None:
        location = f"file://{home() / 'artifacts'}" if tracking_uri(settings).startswith("sqlite:") else None
        experiment_id = client.create_experiment(settings.experiment, artifact_location=location)
    else:
        experiment_id = experiment.experiment_id
    all_tags = dict(tags) | ({"mlflow.parentRunId": parent} if parent else {})
    run = client.create_run(experiment_id, run_name=name, tags=all_tags)
    return Run(resolved(settings), run.info.run_id)


@contextlib.contextmanager
def closing(run: Run) -> Iterator[Run]:
    """Mark the run finished at the end of a block, or failed if the block raised."""
    try:
        yield run
    except BaseException:
        run.finish(succeeded=False)
        raise
    run.finish()


def register_bundle(settings: TrackingSettings, run_id: str, alias: str) -> int:
    """Make the bundle of a run a new version of the registered model and point `alias` at it; returns the version.

    Raises BundleError if there is no such run or it kept no bundle.
    """
    from mlflow.exceptions import MlflowException

    client = _client(settings)
    try:
        if not client.list_artifacts(run_id, BUNDLE_ARTIFACT):
            raise BundleError(f"Run {run_id} kept no bundle; register a finished training run.")
        source = f"{client.get_run(run_id).info.artifact_uri}/{BUNDLE_ARTIFACT}"
    except MlflowException as error:
        raise BundleError(f"There is no run {run_id} at {tracking_uri(settings)}; see `bayes-pfl ui`, or give another id.") from error
    with contextlib.suppress(MlflowException):  # it may exist
        client.create_registered_model(settings.model_name)
    version = client.create_model_version(settings.model_name, source, run_id)
    client.set_registered_model_alias(settings.model_name, alias, version.version)
    return int(version.version)


def download_model(uri: str) -> Path:
    """Local folder of a registered model: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises BundleError for another form, an unknown name, alias or version, or an unreachable store.
    """
    from mlflow import artifacts
    from mlflow.exceptions import MlflowException

    match = re.fullmatch(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))", uri)
    if match is None:
        raise BundleError(f"'{uri}' is no model; write models:/NAME@ALIAS or models:/NAME/VERSION.")
    settings = TrackingSettings()
    client = _client(settings)
    try:
        if match["alias"]:
            version = client.get_model_version_by_alias(match["name"], match["alias"])
        else:
            version = client.get_model_version(match["name"], match["version"])
        return Path(artifacts.download_artifacts(artifact_uri=version.source, tracking_uri=tracking_uri(settings)))
    except MlflowException as error:
        raise BundleError(
            f"{uri} is not in the registry at {tracking_uri(settings)} ({error.message}). Register a model with "
            "`bayes-pfl register`, or set MLFLOW_TRACKING_URI."
        ) from error


def _client(settings: TrackingSettings) -> Any:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(settings)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    try:
        return MlflowClient(uri)
    except MlflowException as error:
        raise TrainingError(f"The tracking store {uri} does not answer: {error.message}. Check tracking.uri.") from error
