"""metrics.json, run.json, scores and images -> report.html: one page to judge a model from, which loads nothing."""

import datetime
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.platform.html import ReportImage, ReportTable, facts_html, galleries_html, table_html, write_page
from pipelines.scoring.decided import decision_tables
from pipelines.scoring.evaluation import ScoredSamples
from pipelines.scoring.evaluation_tables import TITLES, report_tables, with_interval
from pipelines.scoring.figures import EvaluatedDataset
from pipelines.scoring.reliability import reliability
from pipelines.scoring.report_charts import PICKER, LabelledScores, charts
from pipelines.scoring.run_record import NO_BENCHMARK

SUMMARY = ("image_auroc", "image_f1_max", "image_ap", "pixel_auroc", "pixel_pro", "pixel_ap")
"""Figures at the top of the page."""
ROWS_SHOWN = 25
"""Of a table; one with more opens by a click."""
SECTIONS = {
    "summary": "Summary",
    "figures": "Figures",
    "thresholds": "Scores and thresholds",
    "calibration": "Calibration",
    "images": "Images",
    "latency": "Latency",
    "model": "Model",
    "made": "How it was made",
}
"""Id and heading of every section, in order."""


class ReportContent:
    """All that a report shows.

    Args:
        result: content of metrics.json.
        record: content of run.json.
        settings: content of settings.yaml.
        datasets: with the images.
        scored: their scores, in the same order.
        images: predictions to show, by heading.
    """

    def __init__(
        self,
        result: Mapping[str, Any],
        record: Mapping[str, Any],
        settings: str,
        datasets: Sequence[EvaluatedDataset],
        scored: ScoredSamples,
        images: Mapping[str, Sequence[ReportImage]],
    ) -> None:
        self.result, self.record, self.settings = result, record, settings
        self.datasets, self.scored, self.images = datasets, scored, images

    def write(self, path: Path) -> None:
        """Write the page.

        Args:
            path: the file.

        Raises:
            OutputError: it cannot be written; nothing is left behind.
        """
        content = {
            "summary": self._summary(),
            "model": [facts_html(self.record["model_card"])],
            "figures": [_table(each) for each in report_tables(self.result)],
            "thresholds": self._thresholds(),
            "calibration": self._calibration(),
            "images": self._images(),
            "latency": self._latency(),
            "made": self._made(),
        }
        source, names = self.result["model"]["source"], ", ".join(dataset.name for dataset in self.datasets)
        count = sum(len(dataset.refs) for dataset in self.datasets)
        links = "".join(f'<a href="#{name}">{escape(title)}</a>' for name, title in SECTIONS.items())
        body = [
            f"<h1>{escape(source)} on {escape(names)}</h1>",
            f'<p class="note">Evaluation of {count:,} images, {escape(_minute(self.record["date"]))}</p>',
            f'<nav aria-label="Sections">{links}</nav>',
        ]
        for name, title in SECTIONS.items():
            lines = "\n".join(content[name])
            body.append(f'<section id="{name}"><h2>{escape(title)}</h2>\n{lines}\n</section>')
        write_page(path, f"Evaluation of {source} on {names}", body, script=PICKER)

    def _summary(self) -> list[str]:
        """Warnings, then the means of every dataset as cards."""
        result, lines = self.result, []
        warnings = []
        if trained_on := result["trained_on_images_evaluated"]:
            warnings.append(f"{trained_on:,} of these images were trained on: not a zero-shot result.")
        if lost := len(result["not_scored"]):
            warnings.append(f"{lost:,} {'image has' if lost == 1 else 'images have'} no score and count in no figure.")
        if vanished := len(result["vanished"]):
            warnings.append(f"The defects of {vanished:,} images vanish at the size at which pixels are measured.")
        for name, dataset in result["datasets"].items():
            mean, categories = dataset["mean"], dataset["categories"]
            level = mean["image_auroc_is"]
            lines.append(f"<h3>{escape(name)}, mean over {_counted(len(categories), 'category', 'categories')}</h3>")
            lines.append(f'<dl class="figures">{"".join(_card(metric, mean) for metric in SUMMARY)}</dl>')
            if level is not None:
                lines.append(f"<p>Image scores are {level}: {_WHY[level]}.</p>")
            at_chance = [each for each, entry in categories.items() if entry["image_auroc_is"] == "at chance"]
            if at_chance:
                warnings.append(f"{name}: image scores are at chance in {', '.join(at_chance)}.")
        notes = [
            "Figures are in percent. Brackets are 95 % intervals over the choice of images.",
            f"Looked at: {result['looked_at']}; R = {result['num_samples']}; pixels at {result['pixels_at']}.",
        ]
        return [
            *(f'<p class="warning">{escape(warning)}</p>' for warning in warnings),
            *lines,
            *(f'<p class="note">{escape(note)}</p>' for note in notes),
        ]

    def _thresholds(self) -> list[str]:
        lines = [line for dataset in self.datasets for line in self._charts(dataset)]
        if not lines:
            return ["<p>These datasets have images of one kind alone: there is no threshold to choose.</p>"]
        note = (
            "A threshold that is chosen here is chosen on the images that it is measured on, which flatters a model. "
            "Dashed lines are what scores by chance give."
        )
        return [f'<p class="note">{note}</p>', *lines]

    def _charts(self, dataset: EvaluatedDataset) -> list[str]:
        """Curves and a threshold picker of a dataset whose image scores are measured."""
        if "image" not in dataset.manifest["metrics"]:
            return []
        categories = np.array([ref.category for ref in dataset.refs])
        scores, labels = self._scores(dataset)
        usable = np.isfinite(scores)
        groups = {
            str(category): LabelledScores(scores[chosen], labels[chosen])
            for category in np.unique(categories)
            for chosen in [usable & (categories == category)]
        }
        return charts(f"{dataset.name}: image scores", groups)

    def _scores(self, dataset: EvaluatedDataset) -> LabelledScores:
        return LabelledScores(self.scored.scores[dataset.positions], np.array([ref.label for ref in dataset.refs]))

    def _calibration(self) -> list[str]:
        """Promised and found rates where there are verdicts, else what scores are worth as probabilities."""
        made = self.result["decisions"]
        tables = decision_tables(self.result)
        if tables:
            return [table_html(each, "h3") for each in tables]
        lines = [f"<p>The model gives no verdict: {escape(str(made['no_label_because']))}.</p>"]
        for dataset in self.datasets:
            scores, labels = self._scores(dataset)
            usable = np.isfinite(scores)
            lines += reliability(dataset.name, LabelledScores(scores[usable], labels[usable]))
        return lines

    def _images(self) -> list[str]:
        unscored = [f"Not scored: {each['sample_id']}: {each['error']}" for each in self.result["not_scored"]]
        lines = galleries_html(self.images, "h3")
        if not lines:
            lines = ["<p>No images are shown: the evaluation asked for none (<code>cases</code>).</p>"]
        return lines + [f"<p>{escape(line)}</p>" for line in unscored]

    def _latency(self) -> list[str]:
        times = self.record["latency"]
        if times is None:
            return ["<p>No image was scored.</p>"]
        machines = "; ".join(f"{machine}: {images:,} images" for machine, images in times["machines"].items())
        facts = {
            "median": f"{times['median_milliseconds']:.1f} ms an image",
            "95th percentile": f"{times['percentile_95_milliseconds']:.1f} ms an image",
            "images": f"{times['images']:,}, R = {self.result['num_samples']}",
            "machine": f"{machines}; {_counted(times['workers'], 'worker', 'workers')} at once",
            "what was measured": times["measured"],
        }
        return [facts_html(facts), f'<p class="note">{escape(NO_BENCHMARK)}</p>']

    def _made(self) -> list[str]:
        """Date, versions, images, MLflow run, and the settings that make it again."""
        record, tracked = self.record, self.record["mlflow"]
        interval = self.result["interval"]
        versions = {name: text for name, text in record["software"].items() if name != "commit"}
        facts = {"date": _minute(record["date"]), "commit": record["software"]["commit"]}
        facts["versions"] = ", ".join(f"{name} {text}" for name, text in versions.items())
        for name, dataset in record["datasets"].items():
            facts[f"images of {name}"] = (
                f"{dataset['images']:,}, digest {dataset['digest']}; licence: {dataset['licence']}"
            )
        facts["digest of images and masks"] = self.result["images_digest"]
        facts["intervals"] = f"{interval['method']}; {interval['resamples']:,} resamples, seed {interval['seed']}"
        lines = [facts_html(facts), "<h3>MLflow</h3>"]
        if tracked["run_id"] is None:
            lines.append(f"<p>Not recorded: {escape(tracked['problem'] or 'the store gave no run')}.</p>")
        elif tracked["page"]:
            page = escape(tracked["page"])
            lines.append(f'<p>Run <a href="{page}" rel="noreferrer">{escape(tracked["run_id"])}</a></p>')
        else:
            lines.append(
                f"<p>Run {escape(tracked['run_id'])}, which this command shows:</p>\n"
                f"<pre>{escape(tracked['command'])}</pre>"
            )
        lines.append(
            f"<h3>To make it again</h3>\n<pre>{escape(record['command'])}</pre>\n"
            "<p>The file is beside this report, and holds:</p>\n"
            f"<details><summary>settings.yaml</summary><pre>{escape(self.settings)}</pre></details>"
        )
        return lines


_WHY = {
    "at chance": "the interval of the mean image AUROC contains 50",
    "above chance": "the interval of the mean image AUROC lies above 50",
    "below chance": "the interval of the mean image AUROC lies below 50, so that normal images score higher",
}


def _card(metric: str, mean: Mapping[str, Any]) -> str:
    """A figure of a dataset's mean; nothing where the dataset does not have it."""
    if metric not in mean["values"]:
        return ""
    value, bounds = mean["values"][metric], mean["intervals"].get(metric)
    text, _, interval = with_interval(value, bounds).partition(" ")
    lines = [interval or "no interval"] if value is not None else [mean["undefined"][metric]]
    level = metric.split("_")[0]
    if metric == f"{level}_f1_max" and level in mean["f1_max"]:
        lines.append(f"calling all anomalous: {100 * mean['f1_max'][level]['all_positive']:.1f}")
    if metric == "image_auroc" and mean["image_auroc_is"] is not None:
        lines.append(mean["image_auroc_is"])
    small = "".join(f"<small>{escape(line)}</small>" for line in lines)
    return f"<div><dt>{escape(TITLES[metric])}</dt><dd><b>{text}</b>{small}</dd></div>"


def _minute(date: str) -> str:
    return f"{datetime.datetime.fromisoformat(date):%Y-%m-%d %H:%M} UTC"


def _table(each: ReportTable) -> str:
    """A table; a long one opens by a click."""
    html = table_html(each, "h3")
    if len(each.rows) <= ROWS_SHOWN:
        return html
    return f"<details><summary>{escape(each.title)}: {len(each.rows)} rows</summary>\n{html}\n</details>"


def _counted(count: int, singular: str, plural: str) -> str:
    return f"{count:,} {singular if count == 1 else plural}"
