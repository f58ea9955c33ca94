"""MLflow runs: a run's settings, metrics and files -> its record in MLflow's store, while the run goes on."""

import contextlib
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from bayes_pfl.errors import ConfigError
from pipelines.platform.mlflow_store import experiment_id, open_store, reason, refusals, tracking_uri, unreachable
from pipelines.platform.registry import BUNDLE_ARTIFACT, download_model, model_version
from pipelines.platform.settings import TrackingSettings

__all__ = [
    "BUNDLE_ARTIFACT",
    "Run",
    "closing",
    "dataset_key",
    "download_model",  # where installations made before look for it
    "resolved",
    "run_of_model",
    "start_run",
    "without_password",
]

PARAMS_PER_REQUEST = 100
SYSTEM_INTERVAL_S = 10
RETRY_AFTER_S = 60
UNRECORDED = 3
"""Exit code of a program whose work is done but is not, or not whole, in MLflow."""


def resolved(settings: TrackingSettings) -> TrackingSettings:
    """Write the URI out, for processes that run in another folder.

    Args:
        settings: where runs are recorded.

    Returns:
        The same with an explicit URI.
    """
    return settings.model_copy(update={"uri": tracking_uri(settings)})


class Run:
    """One MLflow run, by its id; several processes may hold the same one.

    A store that does not answer never stops the work: `problem` and a line on stderr say so, and what was not recorded
    is sent again at
    the end.
    """

    def __init__(self, settings: TrackingSettings, run_id: str, problem: str = "") -> None:
        self.settings = settings
        self.run_id = run_id
        self.problem = problem
        self._quiet_until = 0.0
        self._client: Any = None
        self._missed: list[Callable[[Any], Any]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record numbers at a step, in one request.

        Args:
            metrics: name to value.
            step: such as the number of the epoch.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = [Metric(name, float(value), now, step) for name, value in metrics.items()]
        self._attempt(lambda client: client.log_batch(self.run_id, metrics=entries))

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings once.

        Args:
            params: name to value.
        """
        from mlflow.entities import Param

        entries = [Param(name, str(value)[:5000]) for name, value in params.items()]
        for start in range(0, len(entries), PARAMS_PER_REQUEST):
            self._attempt(partial(_log_params, self.run_id, entries[start : start + PARAMS_PER_REQUEST]))

    def log_folder(self, folder: Path, name: str) -> None:
        """Keep a folder's files under a name.

        Args:
            folder: a local folder.
            name: folder among the run's files.
        """
        self._attempt(lambda client: client.log_artifacts(self.run_id, str(folder), name))

    def log_file(self, file: Path, name: str) -> None:
        """Keep one file in a folder of this name.

        Args:
            file: a local file.
            name: folder among the run's files.
        """
        self._attempt(lambda client: client.log_artifact(self.run_id, str(file), name))

    def page(self) -> str | None:
        """The run's page in MLflow's interface.

        Returns:
            Its address; None where runs are recorded on no HTTP server, or it does not answer.
        """
        uri, experiments = without_password(tracking_uri(self.settings)), list[str]()
        if not uri.startswith(("http://", "https://")):
            return None
        self._attempt(lambda client: experiments.append(client.get_run(self.run_id).info.experiment_id))
        return f"{uri.rstrip('/')}/#/experiments/{experiments[0]}/runs/{self.run_id}" if experiments else None

    def command(self) -> str:
        """What shows the run in a terminal.

        Returns:
            A command; a password in the store's URI is left out.
        """
        uri = without_password(tracking_uri(self.settings))
        return f"MLFLOW_TRACKING_URI={shlex.quote(uri)} mlflow runs describe --run-id {self.run_id}"

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> None:
        """Send what was not recorded once more, and close the run; `problem` is empty afterwards if all is recorded.

        Args:
            status: how it ended.
        """
        self._quiet_until = 0.0
        missed, self._missed = self._missed, []
        for call in missed:
            self._attempt(call)
        self._attempt(lambda client: client.set_terminated(self.run_id, status))
        if self.run_id and not self._missed:
            self.problem = ""

    @contextlib.contextmanager
    def system_metrics(self) -> Iterator[None]:
        """Record CPU, memory, disk, network and GPU use of this machine during a block.

        Returns:
            A context manager.
        """
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
        if not self.run_id:
            return
        if time.monotonic() < self._quiet_until:
            self._missed.append(call)
            return
        noted: tuple[type[Exception], ...] = (ConfigError, *unreachable())
        try:
            self._client = self._client or open_store(self.settings, create=False)
            call(self._client)
        except noted as error:
            self._missed.append(call)
            self._quiet_until = time.monotonic() + RETRY_AFTER_S
            if not self.problem:
                self.problem = reason(tracking_uri(self.settings), error)
                _say_unrecorded(self.problem)


def start_run(settings: TrackingSettings, name: str, tags: Mapping[str, str], parent: str | None = None) -> Run:
    """Open a new run, in a new experiment if need be.

    Args:
        settings: where runs are recorded.
        name: name of the run.
        tags: what the run is marked with.
        parent: id of the run that it belongs to, if any.

    Returns:
        The run. If the store does not answer, it has no id, records nothing and says why in `problem`.

    Raises:
        ConfigError: the store refuses: a folder, an old database, a foreign Host, a deleted experiment.
    """
    all_tags = dict(tags) | ({"mlflow.parentRunId": parent} if parent else {})
    try:
        with refusals(settings):
            client = open_store(settings, create=parent is None)
            run = client.create_run(experiment_id(client, settings), run_name=name, tags=all_tags)
    except unreachable() as error:
        problem = reason(tracking_uri(settings), error)
        _say_unrecorded(problem)
        return Run(resolved(settings), "", problem)
    return Run(resolved(settings), run.info.run_id)


def without_password(text: str) -> str:
    """A text whose URIs lack user name and password.

    Args:
        text: with any number of URIs.

    Returns:
        The text.

    >>> without_password("https://me:secret@host:5000/path")
    'https://host:5000/path'
    """
    return re.sub(r"://[^/@\s]*@", "://", text)


def dataset_key(dataset: str) -> str:
    """The name of a dataset in the names of metrics, `key.metric`, in characters that MLflow allows.

    Args:
        dataset: its name.

    Returns:
        The name with `_` for every other character.
    """
    return re.sub(r"[^\w.-]", "_", dataset, flags=re.ASCII)


def run_of_model(settings: TrackingSettings, source: str, record: Mapping[str, Any]) -> Run | None:
    """Find the run that trained a model, as its bundle's record or its registered version (`models:/...`) names it.

    Args:
        settings: where runs are recorded.
        source: what the user named as the model.
        record: the bundle's record.

    Returns:
        The run; None if neither names one, if the store does not know it, or does not answer.
    """
    try:
        client = open_store(settings)
        run_id = record.get("training", {}).get("run_id")
        if not run_id and source.startswith("models:/"):
            run_id = model_version(client, source).run_id
        if run_id:
            return Run(resolved(settings), client.get_run(run_id).info.run_id)
    except unreachable():
        pass
    return None


@contextlib.contextmanager
def closing(run: Run) -> Iterator[Run]:
    """Mark a run finished at the end of a block, failed if the block raised, killed if it was told to end.

    Args:
        run: an open run.

    Returns:
        A context manager that gives the run.
    """
    try:
        yield run
    except (KeyboardInterrupt, SystemExit):
        run.finish("KILLED")
        raise
    except BaseException:
        run.finish("FAILED")
        raise
    run.finish()


def _say_unrecorded(problem: str) -> None:
    print(f"MLflow: {problem}. The work goes on; metrics are kept in files.".replace("..", "."), file=sys.stderr)


def _log_params(run_id: str, params: list[Any], client: Any) -> None:
    client.log_batch(run_id, params=params)
