"""Images of one's own: any folder in one of the usual forms, or a CSV."""

from dataclasses import replace

from bayes_pfl.datasets.description import Dataset
from bayes_pfl.datasets.names import NameChoices
from bayes_pfl.datasets.own_folders import OwnFolders
from bayes_pfl.datasets.tables import TableLayout

_TABLE = TableLayout(
    "*.csv",
    path="path",
    label="label",
    mask="mask",
    category="category",
    split="split",
    defect="defect",
    class_name="class_name",
    masks_optional=True,
    aliases={
        **dict.fromkeys(
            ("image", "image_path", "img_path", "img", "file", "filename", "file_name", "filepath", "file_path"), "path"
        ),
        **dict.fromkeys(("class", "target", "anomaly", "is_anomaly", "anomalous", "status", "result"), "label"),
        **dict.fromkeys(("mask_path", "ground_truth", "gt", "gt_path", "segmentation"), "mask"),
        **dict.fromkeys(("object", "product", "cls_name"), "category"),
    },
)

FOLDER = Dataset(
    name="folder",
    title="your own images",
    categories=(),
    published=(_TABLE, OwnFolders()),
    mask_above=None,
    notes="Folders: [<category>/][train|test/]<good or a kind of defect>/*, masks in "
    "ground_truth/<kind>/<name>[_mask].* or beside the images. CSV: path,label[,mask,category,split,...].",
)


def own_images(choices: NameChoices, label_from_masks: bool = False, annotations: str | None = None) -> Dataset:
    """The description of one's own images, with what the user says of them.

    Args:
        choices: of folders' names.
        label_from_masks: where no folder says, an image is anomalous if its mask marks a pixel.
        annotations: file or folder of drawn regions; None looks for them.

    Returns:
        The description.
    """
    layouts = (replace(_TABLE, choices=choices), OwnFolders(choices, label_from_masks, annotations))
    return replace(FOLDER, published=layouts[annotations is not None :])
