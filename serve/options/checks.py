"""Options of `bayes-pfl serve` -> what is wrong with them, as far as it can be seen without torch."""

import argparse
import os
import re
import socket
from pathlib import Path

from bayes_pfl.config.untrained import SCHEME, read_source, untrained_config, with_settings
from bayes_pfl.errors import BundleError, ConfigError
from bayes_pfl.temporary_folder import check_temporary_folder, temporary_folder
from serve.http.access import TOKENS_VARIABLE, read_tokens
from serve.http.decision_file import check_decision_log

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EMBEDDED = "embedded"


def check(args: argparse.Namespace) -> None:
    """Refuse what is wrong with the options and can be seen without torch.

    Args:
        args: parsed options.

    Raises:
        BundleError: there is no such model.
        ConfigError: options exclude each other, a file is missing, the method or one of its settings is unknown,
            nothing can listen at the address, tokens are missing, or the temporary folder cannot be used.
        OutputError: the temporary folder has no room.
    """
    if args.decision_log_mb is not None and args.decision_log is None:
        raise ConfigError("--decision-log-mb is of the decision log: give --decision-log too.")
    if args.precision == "tf32" and args.gpus == 0:
        raise ConfigError("GPUs alone have --precision tf32: leave --gpus 0 out, or choose float32 or bfloat16.")
    check_source(with_settings(args.model, args.set))
    if args.challenger is not None:
        check_source(args.challenger)
    check_weights(args.weights)
    if is_guarded(args):
        read_tokens(None if args.tokens_file is None else Path(args.tokens_file))
    if args.decision_log is not None:
        check_decision_log(Path(args.decision_log).absolute())
    check_address(args.host, args.port)
    if args.address == "local":
        check_temporary_folder(temporary_folder())


def is_guarded(args: argparse.Namespace) -> bool:
    """Whether requests need a token.

    Args:
        args: parsed options.

    Returns:
        True beyond this machine, and where there are tokens.
    """
    return args.host not in LOOPBACK or args.tokens_file is not None or bool(os.environ.get(TOKENS_VARIABLE))


def check_source(source: str) -> None:
    """Refuse a model that is not there, as far as this can be seen without a registry.

    Args:
        source: folder or URI of a model, or embedded.

    Raises:
        BundleError: a folder is no bundle.
        ConfigError: there is no such method, it must be trained, or a setting does not exist.
    """
    if source.startswith(f"{SCHEME}:/"):
        method, overrides = read_source(source)
        untrained_config(method, None, overrides)
    elif source != EMBEDDED and not is_uri(source):
        require_bundle(Path(source))


def is_uri(source: str) -> bool:
    """Whether a model source is a URI.

    Args:
        source: folder or URI.

    Returns:
        True for such as models:/NAME@ALIAS.
    """
    return re.match(r"[a-z][a-z0-9]+:/", source) is not None


def require_bundle(folder: Path) -> None:
    """Refuse a folder that holds no model.

    Args:
        folder: of a bundle.

    Raises:
        BundleError: it is none.
    """
    if not os.path.isfile(folder / "bundle.json"):  # noqa: PTH113 (no error of a name too long)
        raise BundleError(
            f"{folder} is no bundle. Give the folder that training wrote, models:/NAME@ALIAS, or embedded."
        )


def check_weights(file: str | None) -> None:
    """Refuse a file of CLIP's weights that is not there.

    Args:
        file: value of `--weights`.

    Raises:
        ConfigError: there is no such file.
    """
    if file is not None and not os.path.isfile(file):  # noqa: PTH113
        raise ConfigError(f"There is no file {file}: give --weights the file of CLIP's weights.")


def check_address(host: str, port: int) -> None:
    """See to it that something can listen there: Ray's proxy would try, fail and say so only in its log.

    Args:
        host: name or address.
        port: number.

    Raises:
        ConfigError: nothing can listen there.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"Cannot listen on {host} port {port}: {error}. Choose another --port or --host.") from error
