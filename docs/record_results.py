"""The tables of `bayes-pfl reproduce all --embedded` -> recorded figures that its verdicts compare with, and RESULTS.md.

bayes-pfl reproduce all --embedded --output runs/recorded
python docs/record_results.py figures runs/recorded          # pipelines/reproduction/embedded.csv
bayes-pfl reproduce all --embedded --output runs/again       # a second run, compared with them
python docs/record_results.py page runs/again                # RESULTS.md
"""

import csv
import json
import sys
from pathlib import Path
from typing import Any

from bayes_pfl.machine import describe_machine
from pipelines.reproduction.cells import EMBEDDED, FIGURES, Cell
from pipelines.reproduction.plan import TARGETS
from pipelines.reproduction.settings import ReproduceSettings
from pipelines.reproduction.writing import results_lines
from pipelines.training.provenance import git_revision

ROOT = Path(__file__).parents[1]

HEAD = """\
# Results

A row a claim: the command that measures it again, what is expected, how far off is still within, what was found here, on which machine
and commit. [docs/reproduce.md](docs/reproduce.md) says what each command does and how verdicts are made. Figures are in percent; std is the standard
deviation over trainings.

## The embedded CLIP, on painted images

The paper's statements, measured with a CLIP of 4 million parameters. "Does not hold" says that a statement does not hold *here*: it is no
statement about ViT-L-14-336. The first row of each table says whether a second run gives the recorded figures again.

"""

FULL_SIZE = """
## ViT-L-14-336, on the paper's datasets

Not run: there was no GPU, and the datasets were not at hand. The commands are the same but for `--data`; the tests run them with the small CLIP
on miniatures of the datasets.

| claim | command | expected | tolerance | found here |
|---|---|---|---|---|
"""


def record_figures(folder: Path) -> None:
    """Write the figures that later runs are compared with.

    Args:
        folder: output of `bayes-pfl reproduce all --embedded`.
    """
    rows = []
    for target in _result(folder)["targets"]:
        for cell in (Cell(**each) for each in target["figures"]):
            if cell.ours is None:
                sys.exit(f"{target['target']}: {cell.key} was not run ({cell.why}).")
            std = "" if cell.std is None else f"{cell.std:.4f}"
            rows.append([target["target"], *cell.key, f"{cell.ours:.4f}", std])
    with (FIGURES / EMBEDDED).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([["target", "row", "column", "metric", "value", "std"], *rows])


def write_page(folder: Path) -> None:
    """Write RESULTS.md.

    Args:
        folder: output of another `bayes-pfl reproduce all --embedded`.
    """
    result = _result(folder)
    lines = [HEAD, results_lines(result, describe_machine("cpu", 1), git_revision()[:12]), FULL_SIZE]
    for target in result["targets"]:
        command = f"`bayes-pfl reproduce {target['target']} --data DIR`"
        lines.append(
            f"| {target['title']}: figures are the paper's | {command} | within | 2 points or 2 std | not run |\n"
        )
    (ROOT / "RESULTS.md").write_text("".join(lines), encoding="utf-8")


def _result(folder: Path) -> dict[str, Any]:
    """All targets as `reproduce` returned them; refuses those of other settings than the default ones."""
    targets = [json.loads((folder / "tables" / f"{name}.json").read_text(encoding="utf-8")) for name in TARGETS]
    if any(each["conditions"] != ReproduceSettings(embedded=True).conditions for each in targets):
        sys.exit(f"{folder} was not measured with the default settings of --embedded.")
    return {"embedded": True, "tolerance": targets[0]["tolerance"], "targets": targets}


if __name__ == "__main__":
    {"figures": record_figures, "page": write_page}[sys.argv[1]](Path(sys.argv[2]))
