"""Sweep settings -> combinations: all of a grid, random ones, or those that Optuna proposes."""

import hashlib
import itertools
import json
from typing import Any

import numpy as np

from bayes_pfl.errors import ConfigError
from pipelines.options.tune import SweepSettings

Overrides = dict[str, Any]
"""Dotted setting -> value: one combination."""


def combine(sweep: SweepSettings) -> list[Overrides]:
    """All combinations of the grid, or `random_trials` different ones of grid and ranges; not for a Bayesian sweep.

    Args:
        sweep: what is varied.

    Returns:
        The combinations, the same for the same settings.

    Raises:
        ConfigError: the choices contradict each other.
    """
    drawn = {**sweep.ranges, **sweep.log_ranges}
    if sweep.random_trials and sweep.bayesian_trials:
        raise ConfigError("Set sweep.random_trials or sweep.bayesian_trials, not both.")
    every = [dict(zip(sweep.grid, values, strict=True)) for values in itertools.product(*sweep.grid.values())]
    if sweep.random_trials is None:
        if drawn:
            raise ConfigError(
                f"{', '.join(drawn)} is a range: a full grid has no end; set sweep.random_trials or "
                "sweep.bayesian_trials."
            )
        return every
    random = np.random.default_rng(sweep.seed)
    if not drawn:
        count = min(sweep.random_trials, len(every))
        return [every[index] for index in sorted(random.choice(len(every), count, replace=False))]
    return [
        {**every[random.integers(len(every))], **{key: _draw(sweep, key, random) for key in drawn}}
        for _ in range(sweep.random_trials)
    ]


def _draw(sweep: SweepSettings, key: str, random: np.random.Generator) -> float | int:
    low, high = sweep.log_ranges[key] if key in sweep.log_ranges else sweep.ranges[key]
    whole = _whole(low, high)
    value = (
        float(np.exp(random.uniform(np.log(low), np.log(high))))
        if key in sweep.log_ranges
        else float(random.uniform(low, high))
    )
    return round(value) if whole else value


def space(sweep: SweepSettings) -> dict[str, Any]:
    """The same choices as Ray Tune's domains, for a search library.

    Args:
        sweep: what is varied.

    Returns:
        Tune's parameter space.
    """
    from ray import tune

    domains: dict[str, Any] = {key: tune.choice(list(values)) for key, values in sweep.grid.items()}
    for key, (low, high) in sweep.ranges.items():
        domains[key] = tune.randint(round(low), round(high) + 1) if _whole(low, high) else tune.uniform(low, high)
    for key, (low, high) in sweep.log_ranges.items():
        domains[key] = tune.lograndint(round(low), round(high) + 1) if _whole(low, high) else tune.loguniform(low, high)
    return {"overrides": domains}


def optuna_search(sweep: SweepSettings, metric: str, measured: list[tuple[Overrides, float]]) -> Any:
    """Optuna's tree of Parzen estimators, told what earlier trials measured.

    Its seed moves on with them: a sweep that goes on would else be proposed the very combinations it began with.

    Args:
        sweep: what is varied.
        metric: name of the figure that is maximised.
        measured: combinations with a figure.

    Returns:
        A search algorithm of Ray Tune.
    """
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    points = [{f"overrides/{key}": value for key, value in overrides.items()} for overrides, _ in measured]
    rewards = [value for _, value in measured]
    return OptunaSearch(
        metric=metric,
        mode="max",
        seed=sweep.seed + len(measured),
        points_to_evaluate=points or None,
        evaluated_rewards=rewards or None,
    )


def trial_name(overrides: Overrides) -> str:
    """A readable name of a combination, whatever the order of its settings, and a short hash that tells any two apart.

    Args:
        overrides: the combination.

    Returns:
        A name that files may have.
    """
    readable = (
        "-".join(f"{key.split('.')[-1]}_{value}" for key, value in sorted(overrides.items()))[:80]
        .replace("/", "_")
        .replace(" ", "")
    )
    return f"{readable}-{hashlib.sha256(json.dumps(overrides, sort_keys=True).encode()).hexdigest()[:6]}"


def _whole(low: float, high: float) -> bool:
    return float(low).is_integer() and float(high).is_integer() and high - low >= 1
