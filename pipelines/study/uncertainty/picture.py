"""The study's figures -> one picture: a row a dataset; risk and coverage, reliability, false alarms."""

from pathlib import Path
from typing import Any

from bayes_pfl.data.shards import replacing
from pipelines.study.uncertainty.abstention import BOTH, DISTANCE, SPREAD

COLOURS = {SPREAD: "#c23b22", DISTANCE: "#1f5fa8", BOTH: "#7a4fa3", "oracle": "#2e8b57"}


def draw(path: Path, result: dict[str, Any]) -> None:
    """Draw the figures of each dataset, those of its categories pooled where there are several.

    Args:
        path: SVG file to write.
        result: content of uncertainty.json.
    """
    import matplotlib
    from matplotlib.figure import Figure

    names = list(result["datasets"])
    groups = {row["group"]: None for part in ("abstention", "probabilities", "promises") for row in result[part]}
    with matplotlib.rc_context({"svg.hashsalt": "uncertainty", "font.size": 9}):
        figure = Figure(figsize=(11, 3.4 * len(names)), layout="constrained")
        panels = figure.subplots(len(names), 3, squeeze=False)
        for (risk, reliability, alarms), name in zip(panels, names, strict=True):
            members = [group for group in groups if group.split("/")[0].removesuffix(", pooled") == name]
            group = f"{name}, pooled" if f"{name}, pooled" in members else next(iter(members), name)
            _draw_risk(risk, group, result)
            _draw_reliability(reliability, group, result)
            _draw_alarms(alarms, name, group, result)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


def _draw_risk(axes: Any, group: str, result: dict[str, Any]) -> None:
    """Error rates over coverage."""
    axes.set(title=group, xlabel="coverage: share of verdicts given", ylabel="error rate of these", xlim=(0, 1))
    for row in result["abstention"]:
        if row["group"] == group:
            for name, curve in row["curves"].items():
                axes.plot(row["coverages"], curve, color=COLOURS[name], label=name)
            axes.axhline(row["figures"]["error rate"]["value"], color="#888888", linestyle="--", label="random")
            axes.set_ylim(bottom=0)
            axes.legend(fontsize=7)


def _draw_reliability(axes: Any, group: str, result: dict[str, Any]) -> None:
    """Share of defects over the score."""
    axes.set(title="15 bins of equal mass", xlabel="mean image score", ylabel="share of defects", ylim=(0, 1))
    axes.set_xlim(0, 1)
    axes.plot([0, 1], [0, 1], color="#888888", linestyle="--")
    for row in result["probabilities"]:
        if row["group"] == group and row["reliability"]:
            axes.plot(row["reliability"]["score"], row["reliability"]["defective"], color=COLOURS[DISTANCE], marker="o")


def _draw_alarms(axes: Any, name: str, group: str, result: dict[str, Any]) -> None:
    """Rates found over rates promised: like the calibration, at another brightness, and under others' thresholds."""
    axes.set(title="false alarms", xlabel="promised", ylabel="found")
    rows = [row for row in result["promises"] if row["group"] == group]
    rates = result["settings"]["rates"]
    axes.plot([0, max(rates)], [0, max(rates)], color="#888888", linestyle="--")
    away = [row for row in result["elsewhere"] if row["group"].split("/")[0] == name]
    points = [row["promised"] for row in away], [row["false alarms"] for row in away]
    axes.plot(*points, "x", color=COLOURS[SPREAD], label="threshold of other groups")
    single = [row for row in result["promises"] if row["group"].split("/")[0] == name] or rows
    lit = [row for row in single if "false alarms, other light" in row]
    shown = [row["promised"] for row in lit], [row["false alarms, other light"] for row in lit]
    axes.plot(*shown, "s", color=COLOURS["oracle"], markersize=4, alpha=0.6, label="other light")
    measured = [row["false alarms"] for row in rows]
    reach = [
        [row["false alarms"] - row["lowest"] for row in rows],
        [row["highest"] - row["false alarms"] for row in rows],
    ]
    axes.errorbar(
        [row["promised"] for row in rows], measured, reach, color=COLOURS[DISTANCE], fmt="o", label="other half"
    )
    axes.legend(fontsize=7)
