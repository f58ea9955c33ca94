"""Configurations load, and what clusters are told is checked by Ray's own parsers."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from bayes_pfl.config import published_variant, read_config
from pipelines.options.tune import TuneSettings
from pipelines.platform.settings import TrainSettings
from pipelines.sweep.search import combine
from pipelines.sweep.trial import trial_settings
from serve.http.proxy import CALLBACK, CALLBACK_VARIABLE

CONFIGS = Path(__file__).parents[2] / "configs"
CLUSTER = CONFIGS / "cluster"
JOBS = ("rayjob-train.yaml", "rayjob-tune.yaml")
RAY_VERSION = "2.60.0"


def load(name: str) -> dict:
    return yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("train_*.yaml")), ids=lambda path: path.stem)
def test_training_configurations_load_and_say_how_they_are_run(path):
    settings = read_config(TrainSettings, path, [])
    header = path.read_text(encoding="utf-8")
    assert f"bayes-pfl train --config configs/{path.name}" in header
    assert settings.training.epochs >= 1


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("tune_*.yaml")), ids=lambda path: path.stem)
def test_sweep_configurations_load_with_every_combination(path):
    settings = read_config(TuneSettings, path, [])
    assert f"bayes-pfl tune --config configs/{path.name}" in path.read_text(encoding="utf-8")
    assert settings.data.validation_categories or settings.data.validation_share
    for overrides in combine(settings.sweep):
        trial_settings(settings, overrides)


def test_the_papers_sweep_is_25_trainings_for_200_combinations():
    sweep = read_config(TuneSettings, CONFIGS / "tune_bkr.yaml", []).sweep
    assert len(combine(sweep)) == 25
    assert len(combine(sweep)) * len(sweep.num_samples) == 200


def test_the_released_recipe_is_the_published_variant():
    settings = read_config(TrainSettings, CONFIGS / "train_released.yaml", [])
    assert settings.model == published_variant(settings.model)
    paper = read_config(TrainSettings, CONFIGS / "train_visa.yaml", [])
    assert paper.model == TrainSettings().model
    assert (paper.training.batch_size, paper.training.learning_rate, paper.training.epochs) == (32, 1e-4, 20)


@pytest.mark.parametrize("name", JOBS)
def test_a_job_runs_a_command_that_parses(name):
    entrypoint = shlex.split(load(name)["spec"]["entrypoint"])
    program, command, *arguments = entrypoint
    assert program == "bayes-pfl"
    assert arguments[0] == "--config"
    kind = {"train": TrainSettings, "tune": TuneSettings}[command]
    overrides = [arguments[index + 1] for index, each in enumerate(arguments) if each == "--set"]
    settings = read_config(kind, CONFIGS.parent / arguments[1], overrides)
    assert settings.data.train == "/data/shards/visa"


@pytest.mark.parametrize(
    ("name", "spec"), [*((job, "rayClusterSpec") for job in JOBS), ("rayservice.yaml", "rayClusterConfig")]
)
def test_rays_own_autoscaler_reads_the_cluster(name, spec):
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler._private.util import validate_config

    content = load(name)
    cluster = content["spec"][spec]
    assert cluster["rayVersion"] == RAY_VERSION
    assert cluster["authOptions"] == {"mode": "token"}
    config = _derive_autoscaling_config_from_ray_cr(
        {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "c", "namespace": "n"}, "spec": cluster}
    )
    validate_config(config)
    group = cluster["workerGroupSpecs"][0]
    found = config["available_node_types"][group["groupName"]]
    assert (found["min_workers"], found["max_workers"]) == (group["minReplicas"], group["maxReplicas"])
    assert found["resources"]["CPU"] == 8


@pytest.mark.parametrize("name", JOBS)
def test_a_jobs_runtime_environment_is_rays(name):
    from ray.runtime_env import RuntimeEnv

    environment = RuntimeEnv(**yaml.safe_load(load(name)["spec"]["runtimeEnvYAML"]))
    assert environment.env_vars()["MLFLOW_TRACKING_URI"].startswith("http://")


def test_the_services_configuration_is_rays_and_its_arguments_are_ours():
    from ray.serve.schema import ServeDeploySchema

    from serve.settings import ServeSettings

    parsed = ServeDeploySchema.model_validate(yaml.safe_load(load("rayservice.yaml")["spec"]["serveConfigV2"]))
    application = parsed.applications[0]
    settings = ServeSettings.model_validate(application.args)
    assert settings.require_token
    assert settings.models[0].replica.source == "models:/bayes-pfl@champion"
    module, _, attribute = application.import_path.partition(":")
    source = CONFIGS.parent / Path(*module.split(".")).with_suffix(".py")
    assert f"def {attribute}(" in source.read_text(encoding="utf-8")


def test_the_image_is_of_the_ray_that_is_pinned():
    text = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    assert f"rayproject/ray:{RAY_VERSION}-py311-cpu" in text
    for copied in ("bayes_pfl", "pipelines", "serve", "configs"):
        assert f"COPY --chown=ray:users {copied} {copied}" in text


def test_the_pods_of_the_endpoint_have_the_variables_that_the_documents_demand():
    """SECURITY.md relies on the middleware in front of Ray's proxies; docs/serving.md says what is exported on every machine."""
    text = (CONFIGS.parent / "docs" / "serving.md").read_text(encoding="utf-8")
    demanded = dict(re.findall(r"^export (RAY_SERVE_\w+)=(\S+)", text, re.M))
    assert demanded[CALLBACK_VARIABLE] == CALLBACK
    assert "dropped in front of Ray's proxy" in (CONFIGS.parent / "SECURITY.md").read_text(encoding="utf-8")
    cluster = load("rayservice.yaml")["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    containers = [container for group in groups for container in group["template"]["spec"]["containers"]]
    assert len(containers) == 2
    for container in containers:
        variables = {entry["name"]: entry["value"] for entry in container["env"]}
        assert demanded.items() <= variables.items()
        assert "MLFLOW_TRACKING_URI" in variables
