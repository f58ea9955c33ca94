"""Image scores and labels -> curves, histogram and threshold picker of a report, as HTML that needs nothing else."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT, MARGIN = 260, 200, 34
"""Of a drawing, pixels."""

POINTS = 300
"""Of a curve, at most."""

BINS = 24

NORMAL, ANOMALOUS = "var(--normal)", "var(--anomalous)"
"""Colours of the two kinds of image, on a light and on a dark page."""
OPEN = 4
"""Categories of a dataset whose drawings are seen at once; those of more open by a click."""

PICKER = """
for (const picker of document.querySelectorAll(".picker")) {
  const images = JSON.parse(picker.querySelector("script").textContent);
  const group = picker.querySelector("select"), slider = picker.querySelector("input");
  const count = (rows, threshold) => {
    const counts = {hits: 0, alarms: 0, misses: 0, passes: 0};
    for (const [score, label] of rows)
      counts[score >= threshold ? (label ? "hits" : "alarms") : (label ? "misses" : "passes")] += 1;
    return counts;
  };
  const f1 = counts => 2 * counts.hits / (2 * counts.hits + counts.alarms + counts.misses || 1);
  const percent = (part, whole) => whole ? (100 * part / whole).toFixed(1) + " %" : "-";
  const levels = () => [...new Set(images[group.value].map(row => row[0]))].sort((a, b) => a - b);
  const show = () => {
    const rows = images[group.value], threshold = levels()[slider.value], c = count(rows, threshold);
    const values = {
      threshold: threshold.toPrecision(6), hits: c.hits, misses: c.misses, alarms: c.alarms, passes: c.passes,
      recall: percent(c.hits, c.hits + c.misses), rate: percent(c.alarms, c.alarms + c.passes),
      precision: percent(c.hits, c.hits + c.alarms), f1: percent(f1(c), 1), all: percent(f1(count(rows, -Infinity)), 1),
    };
    for (const output of picker.querySelectorAll("output")) output.textContent = values[output.dataset.name];
  };
  const choose = () => {
    const rows = images[group.value], all = levels(), figures = all.map(level => f1(count(rows, level)));
    slider.max = all.length - 1;
    slider.value = figures.indexOf(Math.max(...figures));
    show();
  };
  group.addEventListener("change", choose);
  slider.addEventListener("input", show);
  choose();
}
"""
"""The script of all pickers of a page; a group begins at the threshold of its highest F1."""

_OUTPUTS = {
    "threshold": "threshold",
    "hits": "anomalous, reported",
    "misses": "anomalous, missed",
    "alarms": "normal, reported",
    "passes": "normal, passed",
    "recall": "recall",
    "rate": "false-positive rate",
    "precision": "precision",
    "f1": "F1",
    "all": "F1 of reporting all",
}


class LabelledScores(NamedTuple):
    """Image scores of a category, none of them NaN, and labels, 0 or 1."""

    scores: np.ndarray
    labels: np.ndarray


def charts(title: str, groups: Mapping[str, LabelledScores]) -> list[str]:
    """A section with the drawings of every category, and one picker for all.

    Args:
        title: heading of the section.
        groups: by category; those without a score are left out.

    Returns:
        Lines of HTML.
    """
    groups = {name: group for name, group in groups.items() if group.scores.size}
    if not groups:
        return []
    lines = [f"<h3>{escape(title)}</h3>", _picker(groups)]
    for name, group in groups.items():
        drawings = "\n".join([*_curves(group), _histogram(group)])
        state = " open" if len(groups) <= OPEN else ""
        lines.append(
            f'<details{state}><summary>{escape(name)}</summary>\n<div class="charts">\n{drawings}\n</div></details>'
        )
    return lines


def _picker(groups: Mapping[str, LabelledScores]) -> str:
    """Controls and numbers; the script fills them."""
    data = {name: [[float(s), int(y)] for s, y in zip(*group, strict=True)] for name, group in groups.items()}
    options = "".join(f"<option>{escape(name)}</option>" for name in groups)
    cells = "".join(f'<div>{text} <output data-name="{name}"></output></div>' for name, text in _OUTPUTS.items())
    return (
        '<div class="picker"><p>An image is reported from the threshold on.</p>\n'
        f"<label>category <select>{options}</select></label>\n"
        '<label>threshold <input type="range" min="0" max="0" value="0"></label>\n'
        f'<div class="cells">{cells}</div>\n'
        # A name may hold "</script>".
        f'<script type="application/json">{json.dumps(data).replace("<", chr(92) + "u003c")}</script></div>'
    )


def _curves(group: LabelledScores) -> list[str]:
    """ROC and precision-recall curve; none where a kind of image is missing."""
    order = np.argsort(-group.scores, kind="stable")
    scores, labels = group.scores[order], group.labels[order]
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    hits, alarms = np.cumsum(labels)[last], np.cumsum(1 - labels)[last]
    if not hits[-1] or not alarms[-1]:
        return ['<p class="note">No curves: images of one kind alone.</p>']
    recall, rate = np.append(0, hits / hits[-1]), np.append(0, alarms / alarms[-1])
    precision = hits / (hits + alarms)
    everything = hits[-1] / (hits[-1] + alarms[-1])
    curve = path(recall, np.append(precision[0], precision))
    return [
        drawing("ROC curve", "false-positive rate", "recall", [line((0, 1), (0, 1)), path(rate, recall)]),
        drawing("Precision and recall", "recall", "precision", [line((0, 1), (everything, everything)), curve]),
    ]


def _histogram(group: LabelledScores) -> str:
    """Share of the images of either kind in each range of the score."""
    low, high = float(group.scores.min()), float(group.scores.max())
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    counts = [np.histogram(group.scores[group.labels == label], edges)[0] for label in (0, 1)]
    shares = [count / max(int(count.sum()), 1) for count in counts]
    top, width = max(float(share.max()) for share in shares), (WIDTH - 2 * MARGIN) / BINS
    bars = []
    for share, colour in zip(shares, (NORMAL, ANOMALOUS), strict=True):
        for index, value in enumerate(share):
            height = value / top * (HEIGHT - 2 * MARGIN)
            bars.append(
                f'<rect x="{MARGIN + index * width:.1f}" y="{HEIGHT - MARGIN - height:.1f}" width="{width:.1f}" '
                f'height="{height:.1f}" fill="{colour}" fill-opacity="0.6"/>'
            )
    ends = (f"{low:.3g}", f"{edges[-1]:.3g}")
    names = ((MARGIN, NORMAL, "normal"), (MARGIN + 60, ANOMALOUS, "anomalous"))
    legend = "".join(f'<text x="{x}" y="14" fill="{colour}">{name}</text>' for x, colour, name in names)
    return drawing("Scores", "image score", "share", [*bars, legend], ends, titled=False)


def line(x: Sequence[float], y: Sequence[float], colour: str = "currentColor", dashed: bool = True) -> str:
    """A straight line between two points of a unit square, such as what scores by chance give.

    Args:
        x: of both ends, 0 to 1.
        y: of both ends, 0 to 1.
        colour: of the line.
        dashed: whether it is drawn in parts.

    Returns:
        SVG.
    """
    ends = [(_across(x[end]), _up(y[end])) for end in (0, 1)]
    style = 'stroke-opacity="0.5" stroke-dasharray="4 4"' if dashed else 'stroke-width="2"'
    return (
        f'<line x1="{ends[0][0]:.1f}" y1="{ends[0][1]:.1f}" x2="{ends[1][0]:.1f}" y2="{ends[1][1]:.1f}" '
        f'stroke="{colour}" {style}/>'
    )


def _across(share: float) -> float:
    return MARGIN + (WIDTH - 2 * MARGIN) * share


def _up(share: float) -> float:
    return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * share


def path(x: np.ndarray, y: np.ndarray) -> str:
    """A curve in the unit square.

    Args:
        x: 0 to 1, from left to right.
        y: 0 to 1.

    Returns:
        SVG.
    """
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).round().astype(int))
    points = " ".join(f"{_across(x[at]):.1f},{_up(y[at]):.1f}" for at in chosen)
    return f'<polyline points="{points}" fill="none" stroke="{ANOMALOUS}" stroke-width="2"/>'


def _ends_of_height() -> str:
    return "".join(f'<text x="{MARGIN - 5}" y="{_up(end) + 4:.1f}" text-anchor="end">{end}</text>' for end in (0, 1))


def drawing(
    title: str, x: str, y: str, content: Sequence[str], ends: tuple[str, str] = ("0", "1"), titled: bool = True
) -> str:
    """An SVG with a frame, names of the axes, and the numbers at the ends of the horizontal one.

    Args:
        title: above it.
        x: name of the horizontal axis.
        y: name of the vertical axis.
        content: what is drawn in it.
        ends: numbers at the ends of the horizontal axis.
        titled: whether the title is written, or only told to a screen reader.

    Returns:
        SVG.
    """
    right, bottom = WIDTH - MARGIN, HEIGHT - MARGIN
    heading = f'<text x="{WIDTH / 2}" y="14" text-anchor="middle">{title}</text>' if titled else ""
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}" font-size="11" fill="currentColor">'
        f'<rect x="{MARGIN}" y="{MARGIN}" width="{right - MARGIN}" height="{bottom - MARGIN}" fill="none" '
        f'stroke="currentColor" stroke-opacity="0.3"/>{heading}'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">{x}</text>'
        f'<text x="{MARGIN}" y="{bottom + 13}" text-anchor="middle">{ends[0]}</text>'
        f'<text x="{right}" y="{bottom + 13}" text-anchor="middle">{ends[1]}</text>'
        f'<text transform="translate(14 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">{y}</text>'
        + (_ends_of_height() if ends == ("0", "1") else "")
        + "".join(content)
        + "</svg>"
    )
