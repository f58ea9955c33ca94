"""MLflow, and nothing else here speaks it: runs, metrics, artifacts, and models by name and alias.

Models are folders (see `bayes_pfl.inference.bundle`), never pickles: MLflow stores and versions files, and hands them back.
"""

import contextlib
import hashlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bayes_pfl.data.remote import cache_folder
from bayes_pfl.errors import BundleError, TrainingError
from pipelines.platform.settings import TrackingSettings, home

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # it announces new tables, and each start of system metrics
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault(
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"
)  # a server that is down must not hold up an epoch for minutes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

BUNDLE_ARTIFACT = "bundle"
PARAMS_PER_REQUEST = 100
SYSTEM_INTERVAL_S = 10
RETRY_AFTER_S = 60


def tracking_uri(settings: TrackingSettings) -> str:
    """The configured URI, MLFLOW_TRACKING_URI, or an SQLite file under `home()`, always absolute."""
    return settings.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"


def resolved(settings: TrackingSettings) -> TrackingSettings:
    """The same with the URI written out, for processes that run in another folder."""
    return settings.model_copy(update={"uri": tracking_uri(settings)})


class Run:
    """One MLflow run, by its id; several processes may hold the same one.

    A store that does not answer never stops the work: it is said once, in `problem` and on stderr, and tried again later.
    """

    def __init__(self, settings: TrackingSettings, run_id: str, problem: str = "") -> None:
        self.settings = settings
        self.run_id = run_id
        self.problem = problem
        self._quiet_until = 0.0
        self._known: Any = None

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record numbers at a step, in one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = [Metric(name, float(value), now, step) for name, value in metrics.items()]
        self._attempt(lambda client: client.log_batch(self.run_id, metrics=entries))

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings once."""
        from mlflow.entities import Param

        entries = [Param(name, str(value)[:5000]) for name, value in params.items()]
        for start in range(0, len(entries), PARAMS_PER_REQUEST):
            some = entries[start : start + PARAMS_PER_REQUEST]
            self._attempt(partial(_log_params, self.run_id, some))

    def log_folder(self, folder: Path, name: str) -> None:
        """Keep a folder's files under a name."""
        self._attempt(lambda client: client.log_artifacts(self.run_id, str(folder), name))

    def log_file(self, file: Path, name: str) -> None:
        """Keep one file, in a folder of this name."""
        self._attempt(lambda client: client.log_artifact(self.run_id, str(file), name))

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> None:
        """Close the run."""
        self._attempt(lambda client: client.set_terminated(self.run_id, status))

    @contextlib.contextmanager
    def system_metrics(self) -> Iterator[None]:
        """Record CPU, memory, disk, network and GPU use of this machine during a block."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        if self.problem:
            yield
            return
        uri = tracking_uri(self.settings)
        monitor = SystemMetricsMonitor(self.run_id, SYSTEM_INTERVAL_S, resume_logging=True, tracking_uri=uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def _attempt(self, call: Callable[[Any], Any]) -> None:
        """Ask the store, unless it failed a moment ago; a failure is noted, not raised."""
        if not self.run_id or time.monotonic() < self._quiet_until:
            return
        try:
            self._known = self._known or _client(self.settings)
            call(self._known)
        except _unreachable() as error:
            self._quiet_until = time.monotonic() + RETRY_AFTER_S
            if not self.problem:
                self.problem = f"{tracking_uri(self.settings)} does not answer: {_first_line(error)}"
                print(f"MLflow: {self.problem}. The work goes on; metrics are kept in files.", file=sys.stderr)


def start_run(settings: TrackingSettings, name: str, tags: Mapping[str, str], parent: str | None = None) -> Run:
    """Open a new run, in a new experiment if need be; a child of `parent` if one is given.

    If the store does not answer, the run has no id, records nothing and says why in `problem`.
    """
    try:
        client = _client(settings)
        experiment = client.get_experiment_by_name(settings.experiment)
        if experiment is None:
            location = f"file://{home() / 'artifacts'}" if tracking_uri(settings).startswith("sqlite:") else None
            experiment_id = client.create_experiment(settings.experiment, artifact_location=location)
        else:
            experiment_id = experiment.experiment_id
        all_tags = dict(tags) | ({"mlflow.parentRunId": parent} if parent else {})
        run = client.create_run(experiment_id, run_name=name, tags=all_tags)
    except _unreachable() as error:
        problem = f"{tracking_uri(settings)} does not answer: {_first_line(error)}"
        print(f"MLflow: {problem}. The work goes on; metrics are kept in files.", file=sys.stderr)
        return Run(resolved(settings), "", problem)
    return Run(resolved(settings), run.info.run_id)


def dataset_key(dataset: str) -> str:
    """What a dataset is called in the names of metrics, `key.metric`: in characters that MLflow allows."""
    return re.sub(r"[^\w.-]", "_", dataset, flags=re.ASCII)


def run_of_model(settings: TrackingSettings, source: str, record: Mapping[str, Any]) -> Run | None:
    """The run that trained a model, as its bundle's `record` or its registered version (`models:/...`) names it.

    None if they name none, if the store does not know it, or does not answer.
    """
    try:
        client = _client(settings)
        run_id = record.get("training", {}).get("run_id")
        if not run_id and source.startswith("models:/"):
            run_id = _model_version(client, source).run_id
        if run_id:
            return Run(resolved(settings), client.get_run(run_id).info.run_id)
    except _unreachable():
        pass
    return None


@contextlib.contextmanager
def closing(run: Run) -> Iterator[Run]:
    """Mark the run finished at the end of a block, failed if the block raised, killed if it was told to end."""
    try:
        yield run
    except (KeyboardInterrupt, SystemExit):
        run.finish("KILLED")
        raise
    except BaseException:
        run.finish("FAILED")
        raise
    run.finish()


def run_bundle(settings: TrackingSettings, run_id: str) -> tuple[Path, dict[str, float]]:
    """A local copy of the bundle that a run kept, and the run's last metrics.

    Raises BundleError if there is no such run or it kept no bundle.
    """
    from mlflow import artifacts

    client = _client(settings)
    source = _bundle_source(client, settings, run_id)
    metrics: dict[str, float] = client.get_run(run_id).data.metrics
    return Path(artifacts.download_artifacts(artifact_uri=source, tracking_uri=tracking_uri(settings))), metrics


class PresentModel(NamedTuple):
    """The model version that an alias names, and the last metrics of its run."""

    version: int
    tags: dict[str, str]
    metrics: dict[str, float]


def present_model(settings: TrackingSettings, alias: str) -> PresentModel | None:
    """What an alias names now; None if nothing."""
    from mlflow.exceptions import MlflowException

    client = _client(settings)
    try:
        version = client.get_model_version_by_alias(settings.model_name, alias)
    except MlflowException:
        return None
    metrics = dict(client.get_run(version.run_id).data.metrics) if version.run_id else {}
    return PresentModel(int(version.version), dict(version.tags), metrics)


def register_bundle(settings: TrackingSettings, run_id: str, alias: str, tags: Mapping[str, str] | None = None) -> int:
    """Make the bundle of a run a new version of the registered model and point `alias` at it; returns the version.

    Raises BundleError if there is no such run or it kept no bundle.
    """
    from mlflow.exceptions import MlflowException

    client = _client(settings)
    source = _bundle_source(client, settings, run_id)
    with contextlib.suppress(MlflowException):  # it may exist
        client.create_registered_model(settings.model_name)
    version = client.create_model_version(settings.model_name, source, run_id, tags=dict(tags or {}))
    client.set_registered_model_alias(settings.model_name, alias, version.version)
    return int(version.version)


def download_model(uri: str) -> Path:
    """Local folder of a registered model: `models:/NAME@ALIAS` or `models:/NAME/VERSION`; a version is downloaded once.

    Raises BundleError for another form, an unknown name, alias or version, or an unreachable store.
    """
    from mlflow import artifacts
    from mlflow.exceptions import MlflowException

    settings = TrackingSettings()
    store = tracking_uri(settings)
    try:
        version = _model_version(_client(settings), uri)
        about = (store, version.name, version.version, version.source, version.creation_timestamp)
        digest = hashlib.sha256("\0".join(map(str, about)).encode()).hexdigest()
        target = cache_folder() / "models" / digest[:24]
        if not target.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
                copy = artifacts.download_artifacts(artifact_uri=version.source, dst_path=temporary, tracking_uri=store)
                with contextlib.suppress(OSError):  # another process was faster, with the same content
                    Path(copy).rename(target)
        return target
    except (MlflowException, OSError) as error:
        raise BundleError(
            f"{uri} is not in the registry at {store} ({_first_line(error)}). Register a model with "
            "`bayes-pfl register`, or set MLFLOW_TRACKING_URI."
        ) from error


def _model_version(client: Any, uri: str) -> Any:
    """The registered version that a URI names. Raises BundleError for a URI of another form, MlflowException if there is none."""
    match = re.fullmatch(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))", uri)
    if match is None:
        raise BundleError(f"'{uri}' is no model; write models:/NAME@ALIAS or models:/NAME/VERSION.")
    if match["alias"]:
        return client.get_model_version_by_alias(match["name"], match["alias"])
    return client.get_model_version(match["name"], match["version"])


def _bundle_source(client: Any, settings: TrackingSettings, run_id: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        if not client.list_artifacts(run_id, BUNDLE_ARTIFACT):
            raise BundleError(f"Run {run_id} kept no bundle; register a finished training run.")
        return f"{client.get_run(run_id).info.artifact_uri}/{BUNDLE_ARTIFACT}"
    except MlflowException as error:
        raise BundleError(
            f"There is no run {run_id} at {tracking_uri(settings)}; `make ui` shows the runs; give the id that training or evaluation printed."
        ) from error


def _log_params(run_id: str, params: list[Any], client: Any) -> None:
    client.log_batch(run_id, params=params)


def _unreachable() -> tuple[type[Exception], ...]:
    """What MLflow raises when a store or its artifacts cannot be reached or written."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, RequestException, SQLAlchemyError, OSError, TrainingError


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _client(settings: TrackingSettings) -> Any:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    uri = tracking_uri(settings)
    try:
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        return MlflowClient(uri)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise TrainingError(
            f"The tracking store {uri} does not answer: {_first_line(error)}. Check tracking.uri."
        ) from error
