"""Images of one's own: any folder in one of the usual forms, or a CSV."""

from bayes_pfl.datasets.description import Dataset
from bayes_pfl.datasets.folders import GOOD, FolderLayout, FolderTemplate
from bayes_pfl.datasets.tables import TableLayout

_PLAIN_KINDS = GOOD | {"bad", "ko", "yes", "defect", "defective", "anomaly", "anomalous"}

FOLDER = Dataset(
    name="folder",
    title="your own images",
    categories=(),
    published=(
        TableLayout(
            "*.csv",
            path="path",
            label="label",
            mask="mask",
            category="category",
            split="split",
            defect="defect",
            class_name="class_name",
            masks_optional=True,
        ),
        FolderLayout(
            (FolderTemplate("{category}/{split}/{kind}/", "{category}/ground_truth/{kind}/"),),
            masks_optional=True,
        ),
        FolderLayout((FolderTemplate("{split}/{kind}/", "ground_truth/{kind}/"),), masks_optional=True),
        FolderLayout(
            (
                FolderTemplate("{category}/{kind}/", "{category}/ground_truth/{kind}/"),
                FolderTemplate("{kind}/", "ground_truth/{kind}/"),
            ),
            kinds=_PLAIN_KINDS,
            masks_optional=True,
        ),
    ),
    mask_above=127,
    notes="Folders: [<category>/][train|test/]<good or a kind of defect>/*, masks in "
    "ground_truth/<kind>/<name>[_mask].*. CSV: path,label[,mask,category,split,...].",
)
