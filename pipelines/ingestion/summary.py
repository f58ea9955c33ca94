"""The summary of an ingest -> text for people."""

from typing import Any

from bayes_pfl.data.walk import printable
from bayes_pfl.datasets.checks import counted
from bayes_pfl.datasets.own import FOLDER

LISTED = 10
"""Files set aside that the summary names; the manifest has all."""


def summary_text(summary: dict[str, Any]) -> str:
    """A summary as a table and sentences.

    Args:
        summary: of `ingest`.

    Returns:
        The text.
    """
    title = summary["dataset"] if summary["description"] == FOLDER.name else summary["title"]
    lines = [f"{title} ({summary['layout']} layout) -> {summary['output']}", ""]
    lines += _counts_table(summary["counts"])
    size = f"{summary['size_bytes'] / 2**20:,.1f} MB in {counted(summary['shards'], 'shard')}"
    lines += ["", f"{counted(summary['rows'], 'image')}, {size}"]
    if summary["shards_written"] < summary["shards"]:
        lines[-1] += f", {summary['shards'] - summary['shards_written']} of them there before"
    if summary["shards_written"]:
        lines.append(
            f"{summary['seconds']:.1f} s, of which {summary['startup_seconds']:.1f} s start-up"
            f"; {summary['images_per_second']:,.0f} images/s"
        )
    if copies := summary["identical_images"]:
        lines.append(f"{counted(copies, 'image')} {'is' if copies == 1 else 'are'} byte for byte a copy of another")
    for title, reasons in (("left out", summary["left_out"]), ("ignored", summary["ignored"])):
        lines += [f"{title}: {counted(count, 'file')}, {reason}" for reason, count in reasons.items()]
    lines += [f"read as: {line}" for line in summary["read_as"]]
    published = summary["published_categories"]
    if len(summary["counts"]) < published and not summary["selected_categories"]:
        lines.append(
            f"incomplete: {len(summary['counts'])} of the {published} categories of {summary['title']}. Its published "
            "figures are means over all of them."
        )
    aside = summary["set_aside"]
    lines.append(f"set aside: {counted(len(aside), 'image')}")
    lines += [f"  {printable(path)}: {reason}" for path, reason in aside[:LISTED]]
    if len(aside) > LISTED:
        lines.append(f"  ... and {len(aside) - LISTED:,} more, all in _manifest/manifest.json")
    lines += [f"look at this: {remark}" for remark in summary["remarks"]]
    return "\n".join(lines)


def _counts_table(counts: dict[str, dict[str, dict[str, int]]]) -> list[str]:
    table = [("category", "split", "normal", "anomalous")]
    for category, splits in counts.items():
        for split, labels in splits.items():
            table.append((printable(category), split, f"{labels['normal']:,}", f"{labels['anomalous']:,}"))
    width = max(len(row[0]) for row in table)
    return [f"{row[0]:<{width}}  {row[1]:<5}  {row[2]:>8}  {row[3]:>9}" for row in table]
