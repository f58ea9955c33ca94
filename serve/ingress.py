"""The HTTP layer as a Ray Serve deployment. Importing it brings no torch: its replicas stay small."""

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from serve.http.application import create_app
from serve.http.decision_log import decision_log
from serve.http.gate import Gate
from serve.http.service import Service
from serve.measures import Measures
from serve.models.client import ModelClient
from serve.models.images import Decoder
from serve.settings import ServeSettings


@serve.ingress()
class Endpoint:
    """The HTTP layer as a deployment.

    Args:
        settings: of the endpoint.
        models: by name, the handle of each model's deployment.
        challengers: by name of a model, the handle of its challenger's deployment.
    """

    def __init__(
        self, settings: ServeSettings, models: dict[str, DeploymentHandle], challengers: dict[str, DeploymentHandle]
    ) -> None:
        self.settings = settings
        self.models = models
        self.challengers = challengers
        self.gate: Gate | None = None

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Ray Serve in the replica: the application around this replica's handles."""
        limits, measures = self.settings.limits, Measures()
        decoder = Decoder(limits)
        clients = {
            model.name: ModelClient(
                model,
                decoder,
                measures,
                self.models[model.name],
                self.challengers.get(model.name),
                self.settings.ingress_replicas,
            )
            for model in self.settings.models
        }
        log = decision_log(self.settings)
        self.gate = create_app(Service(clients, limits, measures, log), self.settings, measures)
        return self.gate

    async def drain(self) -> None:
        """Take no more requests, and wait for those under way."""
        if self.gate is not None:
            await self.gate.drain()
