"""Every choice of the endpoint, as frozen pydantic models: a sentence and a unit each; unknown keys are errors."""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from bayes_pfl.config import DetectorOptions, Settings
from bayes_pfl.machine import MOST_THREADS


def host_name(name: str) -> str:
    """The form in which the names of hosts are compared.

    Args:
        name: a host's name or address, IPv6 in brackets.

    Returns:
        The name in small letters, without a dot at its end.

    Raises:
        ValueError: it has a scheme, a port, a path or a pattern, and no Host could ever be equal to it.

    >>> host_name("Inspect.Example.com.")
    'inspect.example.com'
    """
    if re.fullmatch(r"\[[0-9A-Fa-f:.]+\]|[^:/@*,\s\[\]]+", name) is None:
        raise ValueError("give the name alone, such as inspect.example.com or [::1]: no scheme, port, path or *")
    return name.lower().removesuffix(".")


HostName = Annotated[str, AfterValidator(host_name)]


class Limits(Settings):
    """What a single request may ask for; beyond it the answer is 4xx, before any pixel is decoded where possible."""

    max_body_bytes: int = Field(32 * 2**20, ge=1, description="largest request body, bytes")
    max_pixels: int = Field(32_000_000, ge=1, description="largest width x height of an image, pixels")
    max_webp_pixels: int = Field(
        8_000_000, ge=1, description="largest WebP, pixels: while it is decoded, 12 ms a megapixel, nothing is answered"
    )
    max_side_px: int = Field(16_384, ge=1, description="longest side of an image, pixels")
    max_class_name: int = Field(100, ge=1, description="longest class name, characters")
    max_samples: int = Field(50, ge=1, description="largest num_samples")
    max_tiles: int = Field(512, ge=1, description="most tiles that one image is looked at in")
    max_view_pixels: int = Field(
        16_000_000, ge=1, description="largest image looked at in tiles or a region, pixels: its map is as large"
    )
    max_images: int = Field(16, ge=1, description="most images in one request")
    max_held_bytes: int = Field(
        512 * 2**20, ge=1, description="bodies of all requests under way in one ingress replica, bytes"
    )
    body_timeout_s: float = Field(15.0, gt=0, description="time a client has to send its body, seconds")
    answer_timeout_s: float = Field(60.0, gt=0, description="time an accepted request may take, seconds")
    decoders: int = Field(2, ge=1, description="images decoded at once by one ingress replica")


class ReplicaSettings(Settings):
    """What one model replica runs: the `user_config` of its deployment, so a change is applied in place."""

    source: str = Field("embedded", description="bundle folder, models:/NAME@ALIAS, or embedded")
    weights: str | None = Field(None, description="file of CLIP's weights; none: where the bundle says")
    revision: str = Field("", description="free text; changing it makes every replica look at its source again")
    threads: int = Field(1, ge=1, le=MOST_THREADS, description="CPU threads of one replica")
    options: DetectorOptions = DetectorOptions()
    device: str = Field("cpu", description="torch device: cpu, or cuda where the deployment has num_gpus")
    refresh_s: float = Field(
        30.0, ge=0, description="how often the source is looked at for a new model, seconds; 0: never"
    )


class DriftSettings(Settings):
    """The alarm that images are no longer like those of the model's calibration, if it has one."""

    false_alarms_one_in: int = Field(
        1000, ge=2, description="N: without a change at most one in N endpoints ever sounds the alarm"
    )
    usual_defects: float = Field(
        0.2, ge=0, lt=1, description="largest usual share of defective images: so many are no reason for an alarm"
    )


class ModelSettings(Settings):
    """One model offered by the endpoint, and the deployment that runs it."""

    name: str = Field("bayes-pfl", pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="name in URLs and answers")
    replica: ReplicaSettings = ReplicaSettings()
    challenger: str | None = Field(None, description="source of a model scored in its shadow: logged, never answered")
    shadow_fraction: float = Field(1.0, ge=0, le=1, description="share of the requests that the challenger sees too")
    replicas: int = Field(1, ge=1, description="replicas; the fewest, if max_replicas allows more")
    max_replicas: int | None = Field(None, ge=1, description="most replicas under load; none: no autoscaling")
    max_batch: int = Field(4, ge=1, description="most images that go to a replica together")
    batch_wait_ms: float = Field(
        20.0, ge=0, description="time a batch waits for company while all replicas have work, milliseconds"
    )
    max_queued: int = Field(32, ge=0, description="images that wait in one ingress replica; more are answered 503")
    drift: DriftSettings = DriftSettings()
    cpus: float = Field(1.0, gt=0, description="CPUs that Ray reserves for a replica")
    gpus: float = Field(0.0, ge=0, description="GPUs, or a fraction of one, that Ray reserves for a replica")

    @model_validator(mode="after")
    def _more_is_not_less(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError("max_replicas is smaller than replicas; raise it or leave it out")
        return self


class ServeSettings(Settings):
    """The whole endpoint: the `args` of configs/serve.yaml, or what `bayes-pfl serve` makes of its options."""

    models: tuple[ModelSettings, ...] = Field((ModelSettings(),), min_length=1, description="the first is the default")
    ingress_replicas: int = Field(1, ge=1, description="replicas of the HTTP layer")
    require_token: bool = Field(True, description="refuse requests without a bearer token; off only behind loopback")
    tokens_file: str | None = Field(None, description="file with one token a line, read again when it changes")
    allowed_hosts: tuple[HostName, ...] = Field(
        (), description="names (Host, without port) that are answered; empty: any"
    )
    requests_per_second: float = Field(
        0.0, ge=0, description="sustained rate of one token over all ingress replicas; 0: no limit"
    )
    burst: int = Field(20, ge=1, description="requests of one token above the rate, at once, over all ingress replicas")
    limits: Limits = Limits()
    decision_log: str | None = Field(
        None, description="file of one JSON line an answered image, appended to; none: no such file"
    )
    decision_log_bytes: int = Field(
        64 * 2**20, ge=4096, description="size from which on that file is renamed to FILE.<UTC time>, bytes"
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if self.requests_per_second and self.burst < self.ingress_replicas:
            raise ValueError("burst is smaller than ingress_replicas, which share it; raise it")
        names = [model.name for model in self.models]
        if len(set(names)) != len(names):
            raise ValueError("two models have the same name; name each differently")
        return self
