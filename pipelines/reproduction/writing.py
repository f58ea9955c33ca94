"""Figures and claims of a reproduction -> CSV, JSON, Markdown, LaTeX and plots, and the lines of RESULTS.md."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bayes_pfl.data.shards import replacing
from bayes_pfl.datasets.checks import counted
from pipelines.platform.html import table
from pipelines.reproduction.cells import (
    FAILS,
    HOLDS,
    NO_FIGURE,
    NOT_COMPARED,
    NOT_RUN,
    OUTSIDE,
    SO_FAR,
    UNCLEAR,
    WITHIN,
    Cell,
)
from pipelines.reproduction.plotting import plot
from pipelines.scoring.evaluation_tables import TITLES

OVER_METRICS = ("table2", "table3", "table4")
"""Targets whose columns are the figures; those of the others are methods or models."""

REASONS = 4
"""Why figures were not run, that are printed."""

Table = dict[str, dict[str, Cell]]
"""Cells by row and column."""


def write_all(folder: Path, result: dict[str, Any]) -> list[Path]:
    """Write the files of all targets.

    The bytes of `NAME.csv`, `.json`, `.md` and `.tex` depend on what was measured alone; times, which no two runs
    share, are in files of their own.

    Args:
        folder: of the tables.
        result: what `reproduce` returns.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for target in result["targets"]:
        made = [Cell(**each) for each in target["figures"]]
        name = target["target"] + ("" if result["protocol"] == "image" else f"-{result['protocol']}")
        facts = {key: result[key] for key in ("conditions", "protocol", "embedded", "tolerance", "datasets")}
        without_times = {key: value for key, value in target.items() if key != "times"}
        texts = {
            f"{name}.json": json.dumps(facts | without_times, indent=1) + "\n",
            f"{name}.csv": _csv([cell._asdict() for cell in made]),
            f"{name}.md": _markdown(target, made, result),
            f"{name}.tex": _latex(target, made, result),
        }
        texts |= {f"{name}-times.csv": _csv(target["times"])} if target["times"] else {}
        for file, text in texts.items():
            _write(folder / file, text)
        with replacing(folder / f"{name}.png") as temporary:
            plot(temporary, target["target"], made, TITLES)
        files += [folder / file for file in (*texts, f"{name}.png")]
    return files


def tables(name: str, made: Sequence[Cell]) -> dict[str, Table]:
    """Cells as tables of rows and columns.

    Args:
        name: of the target.
        made: its cells.

    Returns:
        Tables by heading; table 3 has one for each kind of offsets and scatter.
    """
    by_heading: dict[str, Table] = {}
    for cell in made:
        title = TITLES[cell.metric]
        if name in OVER_METRICS:
            by_heading.setdefault(cell.column, {}).setdefault(cell.row, {})[title] = cell
        else:
            by_heading.setdefault("", {}).setdefault(f"{cell.row}, {title}", {})[cell.column] = cell
    return by_heading


def printed(result: dict[str, Any]) -> str:
    """All targets for a terminal: our figures, `*` behind those outside, and the claims.

    Args:
        result: what `reproduce` returns.

    Returns:
        Text of several lines.
    """
    parts = []
    for target in result["targets"]:
        made = [Cell(**each) for each in target["figures"]]
        parts.append(f"{target['title']}: {result['conditions']}")
        for heading, rows in tables(target["target"], made).items():
            lines = [
                {"": row, **{name: _short(cell) for name, cell in columns.items()}} for row, columns in rows.items()
            ]
            parts.append(f"{heading}\n{table(lines)}" if heading else table(lines))
        if target["times"]:
            parts.append("Milliseconds an image, here\n" + table(target["times"], decimals=1))
        parts.append("\n".join([_verdicts(made, result["embedded"]), *_claims(target)]))
        reasons = _not_run(made)
        parts += ["\n".join(reasons)] if reasons else []
    parts.append(f"Files: {result['output']}/tables")
    return "\n\n".join(parts)


def results_lines(result: dict[str, Any], machine: str, commit: str) -> str:
    """Rows for RESULTS.md: each claim and the verdicts of each target, with the command that makes them again.

    Args:
        result: what `reproduce` returns, measured with the default settings.
        machine: where it was measured.
        commit: of the code.

    Returns:
        Lines of a Markdown table, heading included.
    """
    options = "--embedded" if result["embedded"] else "--data DIR"
    allowed = f"{result['tolerance']:g} points or 2 std"
    lines = [
        "| claim | command | expected | tolerance | found here | machine | commit |",
        "|---|---|---|---|---|---|---|",
    ]
    for target in result["targets"]:
        made = [Cell(**each) for each in target["figures"]]
        command, counts = f"`bayes-pfl reproduce {target['target']} {options}`", Counter(cell.verdict for cell in made)
        whose = "those recorded" if result["embedded"] else "the paper's"
        row = f"{target['title']}: figures are {whose} | {command} | {len(made)} within | {allowed}"
        lines.append(f"| {row} | {counts[WITHIN]} within, {counts[OUTSIDE]} outside | {machine} | {commit} |")
        for each in target["claims"]:
            outcome = f"{each['verdict']} ({each['holds']} of {each['comparisons']})"
            lines.append(f"| {each['text']} | {command} | holds | scatter | {outcome} | {machine} | {commit} |")
    return "\n".join(lines) + "\n"


def _markdown(target: dict[str, Any], made: Sequence[Cell], result: dict[str, Any]) -> str:
    lines = [f"# {target['title']}", "", result["conditions"], ""]
    for heading, rows in tables(target["target"], made).items():
        columns = list(dict.fromkeys(name for cells in rows.values() for name in cells))
        lines += [f"## {heading}", ""] if heading else []
        lines += ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        lines += [
            f"| {row} | " + " | ".join(_long(cells[name]) if name in cells else "" for name in columns) + " |"
            for row, cells in rows.items()
        ]
        lines.append("")
    lines += [_verdicts(made, result["embedded"]), "", *[f"- {line}" for line in [*_claims(target), *_not_run(made)]]]
    return "\n".join(lines) + "\n"


def _latex(target: dict[str, Any], made: Sequence[Cell], result: dict[str, Any]) -> str:
    lines = [f"% {target['title']}: {result['conditions']}", "% needs the package booktabs"]
    for heading, rows in tables(target["target"], made).items():
        columns = list(dict.fromkeys(name for cells in rows.values() for name in cells))
        lines += [f"% {heading}"] if heading else []
        lines += [f"\\begin{{tabular}}{{l{'r' * len(columns)}}}", "\\toprule"]
        lines += [" & ".join(["", *map(_escaped, columns)]) + r" \\", "\\midrule"]
        for row, cells in rows.items():
            values = [_in_latex(cells[name]) if name in cells else "" for name in columns]
            lines.append(" & ".join([_escaped(row), *values]) + r" \\")
        lines += ["\\bottomrule", "\\end{tabular}"]
    return "\n".join(lines) + "\n"


def _verdicts(made: Sequence[Cell], embedded: bool) -> str:
    counts = Counter(cell.verdict for cell in made)
    whose = "the recorded figure" if embedded else "the paper's figure"
    counted_verdicts = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
    return f"{counted(len(made), 'figure')} beside {whose}: {counted_verdicts}."


def _claims(target: dict[str, Any]) -> list[str]:
    words = {HOLDS: "holds", FAILS: "does not hold", UNCLEAR: "is within the scatter", NOT_RUN: "was not run"}
    words[SO_FAR] = "holds so far"
    return [
        f"{each['text'][0].upper()}{each['text'][1:]}: {words[each['verdict']]} "
        f"({each['holds']} of {each['measured']} measured, {each['comparisons']} planned)."
        for each in target["claims"]
    ]


def _not_run(made: Sequence[Cell]) -> list[str]:
    """The commonest reasons of figures that were not run or not compared; CSV and JSON have each figure's."""
    reasons = Counter((cell.verdict, cell.why) for cell in made if cell.why not in ("", NO_FIGURE))
    lines = [
        f"{verdict.capitalize()}, {counted(number, 'figure')}: {why}."
        for (verdict, why), number in reasons.most_common(REASONS)
    ]
    others = len(reasons) - len(lines)
    return [*lines, f"For {counted(others, 'other reason')} see the CSV file."] if others > 0 else lines


def _short(cell: Cell) -> str:
    if cell.ours is None:
        return "-"
    return _ours(cell) + ("*" if cell.verdict == OUTSIDE else "")


def _ours(cell: Cell) -> str:
    return f"{cell.ours:.1f}" + (f" ± {cell.std:.1f}" if cell.std is not None else "")


def _long(cell: Cell) -> str:
    """Ours, what is expected, the difference and the verdict."""
    if cell.ours is None:
        beside = "" if cell.paper is None else f" (paper {cell.paper:.1f})"
        return f"not run{beside}"
    parts = [] if cell.paper is None else [f"paper {cell.paper:.1f}"]
    if cell.verdict == NOT_COMPARED and cell.why != NO_FIGURE:
        parts.append(cell.verdict)
    if cell.expected is not None and cell.difference is not None:
        parts += [] if cell.expected == cell.paper else [f"recorded {cell.expected:.1f}"]
        parts += [f"{cell.difference:+.1f}", f"**{cell.verdict}**" if cell.verdict == OUTSIDE else cell.verdict]
    return f"{_ours(cell)} ({', '.join(parts)})" if parts else _ours(cell)


def _in_latex(cell: Cell) -> str:
    if cell.ours is None:
        return "--"
    spread = f" \\pm {cell.std:.1f}" if cell.std is not None else ""
    beside = "" if cell.expected is None else f" \\,({cell.expected:.1f})"
    return f"${cell.ours:.1f}{spread}{beside}$"


def _escaped(text: str) -> str:
    return text.replace("_", r"\_").replace("&", r"\&").replace("%", r"\%")


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")
