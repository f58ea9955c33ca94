"""Small models, and the whole application around them without Ray; one Ray Serve for what needs it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from local_endpoint import LIMITS, LocalHandle, listening, local_app, write_bundle
from starlette.testclient import TestClient

from bayes_pfl import Detector
from serve.settings import ModelSettings, ServeSettings


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`first`, `second` (other weights), `larger` (other input size), `known` (with a threshold)."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "first": write_bundle(folder / "first", 1),
        "second": write_bundle(folder / "second", 2),
        "larger": write_bundle(folder / "larger", 3, image_size=84),
        "known": write_bundle(folder / "known", 1, threshold=0.4),
    }


@pytest.fixture(scope="session")
def detector(bundles: dict[str, Path]) -> Detector:
    """The library's own way to the first model: the oracle for every score."""
    return Detector.load(bundles["first"])


@pytest.fixture(scope="session")
def settings() -> ServeSettings:
    """Two models side by side, small limits, no tokens."""
    models = (ModelSettings(name="first"), ModelSettings(name="known"))
    return ServeSettings(models=models, require_token=False, limits=LIMITS)


@pytest.fixture(scope="session")
def client(bundles: dict[str, Path], settings: ServeSettings) -> Iterator[TestClient]:
    """An HTTP client of the application in this process."""
    handles = {name: LocalHandle(bundles[name]) for name in ("first", "known")}
    with TestClient(local_app(settings, handles, {}), base_url="http://127.0.0.1") as session:
        yield session


@pytest.fixture(scope="session")
def url(bundles: dict[str, Path], settings: ServeSettings) -> Iterator[str]:
    """The address of the application, listening on this machine."""
    handles = {name: LocalHandle(bundles[name]) for name in ("first", "known")}
    with listening(local_app(settings, handles, {})) as address:
        yield address


@pytest.fixture(scope="module")
def roomy(bundles: dict[str, Path]) -> Iterator[str]:
    """An endpoint with the limits that are the default."""
    settings = ServeSettings(models=(ModelSettings(name="first"),), require_token=False)
    with listening(local_app(settings, {"first": LocalHandle(bundles["first"])}, {})) as address:
        yield address
