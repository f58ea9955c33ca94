"""Settings -> Ray Serve application: one deployment for HTTP, and one for each model and each challenger."""

from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig

from serve.ingress import Endpoint
from serve.models.batching import CALLS_PER_REPLICA
from serve.models.replica import ModelReplica
from serve.settings import ModelSettings, ReplicaSettings, ServeSettings

INGRESS_CPUS = 0.1
"""The ingress mostly waits; decoding is bounded by Limits.decoders."""

LOGGING = LoggingConfig(encoding="JSON", enable_access_log=False)
"""One JSON object a line; the gate writes the access log, without anything of image or token."""


def build(args: ServeSettings) -> Application:
    """The application of these settings: what `serve deploy` calls with the `args` of its YAML file.

    Args:
        args: of the endpoint; Ray Serve makes it of the YAML's `args`, by its type.

    Returns:
        The application, not yet running.
    """
    models = {
        model.name: _deployment(model, f"model-{model.name}", model.replica, args.ingress_replicas)
        for model in args.models
    }
    challengers = {
        model.name: _deployment(
            model,
            f"challenger-{model.name}",
            model.replica.model_copy(update={"source": model.challenger}),
            args.ingress_replicas,
        )
        for model in args.models
        if model.challenger is not None
    }
    ingress = serve.deployment(
        name="endpoint",
        num_replicas=args.ingress_replicas,
        # Every request under way counts here, also those whose bodies are still coming in.
        max_ongoing_requests=1000,
        graceful_shutdown_timeout_s=args.limits.answer_timeout_s,
        ray_actor_options={"num_cpus": INGRESS_CPUS},
        logging_config=LOGGING,
    )(Endpoint)
    return ingress.bind(args, models, challengers)


def _deployment(model: ModelSettings, name: str, replica: ReplicaSettings, ingress_replicas: int) -> Application:
    """One model's deployment; BatchingHandle is what bounds its queue."""
    scaling: dict[str, Any] = {"num_replicas": model.replicas}
    if model.max_replicas is not None:
        autoscaling = {
            "min_replicas": model.replicas,
            "max_replicas": model.max_replicas,
            "target_ongoing_requests": 1,  # batches: more for each replica means that images wait
        }
        scaling = {"autoscaling_config": autoscaling}
    deployment = serve.deployment(
        name=name,
        user_config=replica.model_dump(mode="json"),
        # What BatchingHandle sends from every ingress replica, and room to say which model it is.
        max_ongoing_requests=CALLS_PER_REPLICA * ingress_replicas + 1,
        health_check_period_s=5,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=60,
        max_constructor_retry_count=2,
        ray_actor_options={"num_cpus": model.cpus, "num_gpus": model.gpus},
        logging_config=LOGGING,
        **scaling,
    )(ModelReplica)
    return deployment.bind(name)
