"""configs/serve.yaml and the dashboard: what Ray Serve and Grafana would make of them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.schema import ServeDeploySchema

from bayes_pfl.config import parse_config
from bayes_pfl.errors import ConfigError
from serve.app import build
from serve.settings import ServeSettings

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def deployment() -> ServeDeploySchema:
    return ServeDeploySchema.model_validate(yaml.safe_load((CONFIGS / "serve.yaml").read_text(encoding="utf-8")))


def test_the_file_deploys_this_endpoint(deployment: ServeDeploySchema) -> None:
    (application,) = deployment.applications
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    built = call_user_app_builder_with_args_if_necessary(build, application.args)
    assert built._bound_deployment.name == "endpoint"
    settings, models, challengers = built._bound_deployment.init_args
    assert isinstance(settings, ServeSettings)
    assert [model.name for model in settings.models] == list(models)
    assert challengers == {}
    (model,) = models.values()
    assert model._bound_deployment.user_config["source"] == "models:/bayes-pfl@champion"


def test_it_is_guarded_and_every_wait_ends_inside_the_next(deployment: ServeDeploySchema) -> None:
    settings = parse_config(ServeSettings, deployment.applications[0].args, "configs/serve.yaml")
    assert settings.require_token
    assert settings.models[0].max_queued > 0
    limits = settings.limits
    assert deployment.http_options.request_timeout_s >= limits.answer_timeout_s + limits.body_timeout_s


def test_a_misspelt_key_is_an_error_that_names_the_nearest(deployment: ServeDeploySchema) -> None:
    args = json.loads(json.dumps(deployment.applications[0].args))
    args["burts"] = args.pop("burst")
    with pytest.raises(ConfigError, match="did you mean 'burst'"):
        parse_config(ServeSettings, args, "configs/serve.yaml")


def test_the_dashboard_asks_for_what_is_measured() -> None:
    dashboard = json.loads((CONFIGS / "grafana-dashboard.json").read_text(encoding="utf-8"))
    queried = {
        name
        for panel in dashboard["panels"]
        for query in queries(panel)
        for name in re.findall(r"\bray_[a-z_]+", query)
    }
    source = "".join(path.read_text(encoding="utf-8") for path in (CONFIGS.parent / "serve").glob("*.py"))
    measured = set(re.findall(r'"(bayes_pfl_[a-z_]+)"', source))
    own = {name.removeprefix("ray_") for name in queried if name.startswith("ray_bayes_pfl_")}
    assert {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in own} == measured
    corners = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(corners)) == len(corners)


def queries(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]
