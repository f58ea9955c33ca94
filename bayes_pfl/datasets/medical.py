"""The eight medical datasets of the paper, one entry each."""

from bayes_pfl.datasets.description import Category, Counts, Dataset, PaperSubset
from bayes_pfl.datasets.folders import FolderLayout, FolderTemplate, LabelFrom
from bayes_pfl.datasets.tables import TableLayout

_YES_NO = FolderLayout((FolderTemplate("{kind}/"),), kinds=frozenset({"yes", "no"}))


def _pairs(images: str, masks: str, suffix: str = "") -> FolderLayout:
    """All images are defective; the mask has the same name, or one with a suffix, elsewhere."""
    places = (FolderTemplate(images, masks),)
    return FolderLayout(places, mask_stems=("{stem}" + suffix,), label=LabelFrom.DATASET)


_IMAGES_MASKS = _pairs("images/", "masks/")

HEADCT = Dataset(
    name="headct",
    title="HeadCT",
    categories=(Category("head_ct", "head ct", Counts(100, 100), aliases=("brain",)),),
    published=(
        TableLayout(
            "labels.csv",
            path="id",
            label="hemorrhage",
            path_forms=("head_ct/head_ct/{:0>3}.png", "head_ct/{:0>3}.png", "{:0>3}.png"),
        ),
    ),
    has_masks=False,
    defect="hemorrhage",
    lists=("HeadCT",),
    licence="unverified",
    url="https://www.kaggle.com/datasets/felipekitamura/head-ct-hemorrhage",
)

BRAINMRI = Dataset(
    name="brainmri",
    title="BrainMRI",
    categories=(
        Category(
            "brain_ct",
            "brain ct",
            Counts(98, 155),
            paper=Counts(85, 68),
            aliases=("brain_mri", "brain"),
        ),
    ),
    published=(_YES_NO,),
    has_masks=False,
    defect="tumor",
    lists=("BrainMRI",),
    paper=PaperSubset(names=("no/*.jpg", "yes/*.JPG")),
    licence="unverified",
    url="https://www.kaggle.com/datasets/navoneel/brain-mri-images-for-brain-tumor-detection",
    notes="The authors' file pattern is case-sensitive and so takes 153 of the 253 images.",
)

BR35H = Dataset(
    name="br35h",
    title="Br35H",
    categories=(Category("brain", "brain", Counts(1500, 1500), aliases=("br35h",)),),
    published=(_YES_NO,),
    has_masks=False,
    defect="tumor",
    lists=("Br35H",),
    licence="unverified",
    url="https://www.kaggle.com/datasets/ahmedhamada0/brain-tumor-detection",
)

ISIC = Dataset(
    name="isic",
    title="ISIC 2016",
    categories=(Category("skin", "skin", Counts(0, 379, 0, 900), paper=Counts(0, 379), aliases=("isic",)),),
    published=(
        _pairs(
            "ISBI2016_ISIC_Part1_{split}_Data/",
            "ISBI2016_ISIC_Part1_{split}_GroundTruth/",
            "_Segmentation",
        ),
    ),
    has_normals=False,
    defect="lesion",
    lists=("ISIC",),
    paper=PaperSubset(test_only=True),
    licence="CC-0",
    url="https://challenge.isic-archive.com/data/",
    notes="The paper cites ISBI 2017; its 379 images are the test part of 2016, task 1.",
)

COLONDB = Dataset(
    name="colondb",
    title="CVC-ColonDB",
    categories=(Category("colon", "colon", Counts(0, 380), aliases=("ColonDB",)),),
    published=(
        _IMAGES_MASKS,
        FolderLayout(
            (FolderTemplate("", ""),),
            mask_stems=("p{stem}",),
            label=LabelFrom.DATASET,
            image_stem=r"\d+",
        ),
    ),
    has_normals=False,
    defect="polyp",
    lists=("ColonDB",),
    licence="no licence text; research only",
    url="http://mv.cvc.uab.es/projects/colon-qa/cvccolondb",
    notes="The owner's page describes 300 frames, the copies in use hold 380.",
)

CLINICDB = Dataset(
    name="clinicdb",
    title="CVC-ClinicDB",
    categories=(Category("colon", "colon", Counts(0, 612), aliases=("ClinicDB",)),),
    published=(_pairs("Original/", "Ground Truth/"), _IMAGES_MASKS),
    has_normals=False,
    defect="polyp",
    lists=("ClinicDB",),
    licence="research and education only",
    url="https://polyp.grand-challenge.org/CVCClinicDB/",
)

ENDO = Dataset(
    name="endo",
    title="EndoTect 2020",
    categories=(Category("colon", "colon", Counts(0, 200), aliases=("endo", "endotect")),),
    published=(_IMAGES_MASKS,),
    has_normals=False,
    defect="polyp",
    lists=("Endo",),
    licence="unverified",
    url="https://endotect.com",
)

KVASIR = Dataset(
    name="kvasir",
    title="Kvasir-SEG",
    categories=(Category("colon", "colon", Counts(0, 1000), aliases=("kvasir",)),),
    published=(_IMAGES_MASKS,),
    has_normals=False,
    defect="polyp",
    lists=("Kvasir",),
    licence="research and education only",
    url="https://datasets.simula.no/kvasir-seg/",
    notes="Masks are JPEG: gray values between 0 and 255 surround every outline.",
)

MEDICAL = (HEADCT, BRAINMRI, BR35H, ISIC, COLONDB, CLINICDB, ENDO, KVASIR)
