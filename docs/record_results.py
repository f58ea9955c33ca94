"""The tables of `bayes-pfl reproduce all --embedded` -> the recorded figures that its verdicts compare with, RESULTS.md.

    bayes-pfl reproduce all --embedded --output runs/reproduce
    python docs/record_results.py runs/reproduce

Every later run with the same settings is compared with what is recorded here.
"""

import csv
import json
import sys
from pathlib import Path
from typing import Any

from pipelines.reproduction.cells import EMBEDDED, FIGURES, Cell
from pipelines.reproduction.plan import TARGETS
from pipelines.reproduction.writing import MACHINE_NOTE, results_lines

ROOT = Path(__file__).parents[1]

HEAD = """\
# Results

A row a claim: the command that measures it again, what is expected, how far off is still within, what was found here, on which machine
and commit. `docs/reproduce.md` says what each command does and how long it takes. {note}

## The embedded CLIP, on painted images

The paper's statements, measured with a CLIP of 4 million parameters. That one "does not hold" says that it does not hold *here*: it is
no statement about ViT-L-14-336. The first row of each table says whether a run gives the recorded figures again.

"""

FULL_SIZE = """
## ViT-L-14-336, on the paper's datasets

Not run: there was no GPU, and the datasets were not at hand. The commands are the same but for `--data`; with a stand-in for the CLIP and
miniatures of the datasets the tests run them.

| claim | command | expected | tolerance | found here | machine | commit |
|---|---|---|---|---|---|---|
"""


def record(folder: Path) -> None:
    """Write the recorded figures and RESULTS.md.

    Args:
        folder: output of `bayes-pfl reproduce all --embedded`.
    """
    result: dict[str, Any] = {"embedded": True, "protocol": "image", "targets": []}
    for name in TARGETS:
        result["targets"].append(json.loads((folder / "tables" / f"{name}.json").read_text(encoding="utf-8")))
    with (FIGURES / EMBEDDED).open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["target", "row", "column", "metric", "value", "std"])
        for target in result["targets"]:
            for cell in (Cell(**each) for each in target["figures"]):
                std = "" if cell.std is None else f"{cell.std:.4f}"
                rows.writerow([target["target"], *cell.key, f"{cell.ours:.4f}", std])
    lines = [HEAD.format(note=MACHINE_NOTE), results_lines(result), FULL_SIZE]
    for target in result["targets"]:
        command = f"`bayes-pfl reproduce {target['target']} --data DIR`"
        row = f"{target['title']}: figures are the paper's | {command} | within | 2 points or 2 std"
        lines.append(f"| {row} | not run | - | - |\n")
    (ROOT / "RESULTS.md").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
