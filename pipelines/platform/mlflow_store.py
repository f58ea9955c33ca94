"""MLflow's store: a URI -> a client, or one sentence that says why there is none.

Two kinds of trouble are told apart. A store that refuses (a folder, an old database, a foreign Host, a deleted
experiment) refuses until
somebody mends it: ConfigError, before any work. A store that does not answer may do so later: TrainingError.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from bayes_pfl.errors import BayesPFLError, ConfigError, TrainingError
from pipelines.platform.settings import TrackingSettings, home

for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # it announces new tables, and each start of system metrics
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # a server that is down must not hold up an epoch for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}.items():
    os.environ.setdefault(_name, _value)

SQLITE = "sqlite:///"
ATTEMPTS = 5
"""How often a database that other processes are making at the same moment is asked."""


def tracking_uri(settings: TrackingSettings) -> str:
    """The configured URI, MLFLOW_TRACKING_URI, or an SQLite file under `home()`.

    Args:
        settings: where runs are recorded.

    Returns:
        A URI, that of a file with its absolute path; `%` and `?`, which mean something in URIs, are written as escapes.
    """
    uri = settings.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None or uri == "":
        return _sqlite_uri(home() / "mlflow.db")
    file = _database_file(uri)
    return uri if file is None or "?" in uri else _sqlite_uri(file)


def artifact_location(settings: TrackingSettings) -> str | None:
    """Where a new experiment keeps files.

    Args:
        settings: where runs are recorded.

    Returns:
        URI of a folder under `home()` for a database file; None lets a server decide.
    """
    return (home() / "artifacts").as_uri() if tracking_uri(settings).startswith("sqlite:") else None


def open_store(settings: TrackingSettings, create: bool = True) -> Any:
    """Open the store, and make an SQLite database where there is none.

    Args:
        settings: where runs are recorded.
        create: whether a database file may be made; off where one must be there, as on another machine than the
        driver's.

    Returns:
        MLflow's client.

    Raises:
        ConfigError: the store refuses.
        TrainingError: the store does not answer.
    """
    from mlflow import MlflowClient

    uri = tracking_uri(settings)
    file = _database_file(uri)
    if file is None:
        return _opened(uri, lambda: MlflowClient(uri))
    if not create and not file.is_file():
        raise TrainingError(
            f"{file} is not on this machine, or not there any more: set BAYES_PFL_HOME or MLFLOW_TRACKING_URI to where "
            "runs and models are recorded. On a cluster name a server that every machine reaches."
        )

    def open_file() -> Any:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(file):
            client = MlflowClient(uri)
            client.search_registered_models(max_results=1)  # opens the registry's side too
        raw = Path(uri.removeprefix(SQLITE).partition("?")[0]).parent
        if raw != file.parent:  # MLflow also makes a folder by the name with escapes
            with contextlib.suppress(OSError):
                raw.rmdir()
        return client

    return _opened(uri, open_file)


def experiment_id(client: Any, settings: TrackingSettings) -> str:
    """The experiment of these settings, made if there is none.

    Args:
        client: MLflow's client.
        settings: the experiment's name.

    Returns:
        Its id.

    Raises:
        ConfigError: the experiment is deleted.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(settings.experiment)
    if experiment is None:
        try:
            return str(client.create_experiment(settings.experiment, artifact_location=artifact_location(settings)))
        except MlflowException:  # another process was faster
            experiment = client.get_experiment_by_name(settings.experiment)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        number = experiment.experiment_id
        raise ConfigError(
            f"The MLflow experiment '{settings.experiment}' at {tracking_uri(settings)} is deleted. Bring it back with "
            f"`MLFLOW_TRACKING_URI='{tracking_uri(settings)}' mlflow experiments restore --experiment-id "
            f"{number}`, or set "
            "tracking.experiment to another name."
        )
    return str(experiment.experiment_id)


def check_store(settings: TrackingSettings) -> None:
    """Find out before a long work whether its record will be refused.

    Args:
        settings: where runs are recorded.

    Raises:
        ConfigError: the store refuses. A store that does not answer now is no error here.
    """
    with contextlib.suppress(TrainingError):
        require_store(settings)


def require_store(settings: TrackingSettings) -> None:
    """Find out whether a run could be recorded now.

    Args:
        settings: where runs are recorded.

    Raises:
        ConfigError: the store refuses.
        TrainingError: it does not answer.
    """
    try:
        with refusals(settings):
            experiment_id(open_store(settings), settings)
    except unreachable() as error:
        why = reason(tracking_uri(settings), error)
        raise TrainingError(f"{why}. Start the server, or correct tracking.uri or MLFLOW_TRACKING_URI.") from error


@contextlib.contextmanager
def refusals(settings: TrackingSettings) -> Iterator[None]:
    """Turn what the store refuses inside a block into a ConfigError; other trouble passes as it is.

    Args:
        settings: where runs are recorded.

    Returns:
        A context manager.
    """
    try:
        yield
    except unreachable() as error:
        refusal = _refusal(tracking_uri(settings), str(error))
        if refusal:
            raise ConfigError(refusal) from error
        raise


def unreachable() -> tuple[type[Exception], ...]:
    """What is raised when a store or its artifacts cannot be reached or written.

    Returns:
        Exception types of MLflow, its HTTP client, its database, the file system and `open_store`.
    """
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, RequestException, SQLAlchemyError, OSError, TrainingError


def reason(uri: str, error: Exception) -> str:
    """What went wrong with a store, in a sentence.

    Args:
        uri: the store.
        error: what MLflow raised.

    Returns:
        What it refuses and how to mend that, or that it does not answer.
    """
    if isinstance(error, BayesPFLError):
        return str(error).rstrip(".")
    return _refusal(uri, str(error)).rstrip(".") or f"{uri} does not answer: {first_line(error)}"


def first_line(error: Exception) -> str:
    """The beginning of an error's text.

    Args:
        error: any exception.

    Returns:
        Its first line without a full stop, at most 200 characters.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(". ")


def _opened(uri: str, attempt: Any) -> Any:
    """What `attempt` returns; tried again while other processes are making the same database."""
    from mlflow.exceptions import MlflowException

    for number in range(ATTEMPTS):
        try:
            return attempt()
        except unreachable() as error:
            refusal = _refusal(uri, str(error))
            if refusal:
                raise ConfigError(refusal) from error
            if isinstance(error, MlflowException) and "scheme" in str(error):
                raise ConfigError(
                    f"{uri} is no tracking store of MLflow ({first_line(error)}): check tracking.uri."
                ) from error
            if number + 1 == ATTEMPTS or not any(
                text in str(error) for text in ("already exists", "duplicate column", "locked")
            ):
                raise TrainingError(f"{uri} does not answer: {first_line(error)}. Check tracking.uri.") from error
            time.sleep(0.5 * (number + 1))
    raise AssertionError("not reached")


def _refusal(uri: str, text: str) -> str:
    """The sentence for a store that will refuse until somebody mends it; empty for other trouble."""
    if "filesystem tracking backend" in text:
        return (
            f"MLflow no longer records in folders such as {uri}: set tracking.uri or MLFLOW_TRACKING_URI to a "
            "server or to "
            "sqlite:////FOLDER/mlflow.db (`mlflow migrate-filestore` copies what is there), or set "
            "MLFLOW_ALLOW_FILE_STORE=true."
        )
    if "out-of-date database schema" in text:
        return (
            f"The database {uri} was made by another version of MLflow: copy it, then run `mlflow db upgrade '{uri}'`; "
            "if a newer version made it, install that one."
        )
    if "Invalid Host header" in text:
        return (
            f"The MLflow server refuses the name in {uri}: start it with `mlflow server --allowed-hosts "
            f"{uri.rpartition('//')[2]}`, "
            "or use a name that it accepts."
        )
    if "error code 401" in text or "error code 403" in text:
        return (
            f"The MLflow server {uri} refuses these credentials: set MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN."
        )
    return ""


def _sqlite_uri(file: Path) -> str:
    return SQLITE + str(file).replace("%", "%25").replace("?", "%3F")


def _database_file(uri: str) -> Path | None:
    """The file of an SQLite URI, absolute; None for other URIs."""
    if not uri.startswith(SQLITE) or uri == SQLITE:
        return None
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0])).resolve()


@contextlib.contextmanager
def _one_at_a_time(file: Path) -> Iterator[None]:
    """Let one process after the other open a database: MLflow makes its tables in several steps, and two at once fail.

    Where no file can be written there is nothing to make either.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            lock = stack.enter_context(Path(f"{file}.lock").open("a", encoding="utf-8"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
