"""The seven industrial datasets of the paper, one entry each."""

from bayes_pfl.datasets.description import Category, Counts, Dataset, PaperSubset
from bayes_pfl.datasets.folders import FolderLayout, FolderTemplate, LabelFrom
from bayes_pfl.datasets.tables import TableLayout

_MVTEC_FOLDERS = FolderTemplate("{category}/{split}/{kind}/", "{category}/ground_truth/{kind}/")

# category, test normal, test anomalous, train normal
_MVTEC = (
    ("bottle", 20, 63, 209),
    ("cable", 58, 92, 224),
    ("capsule", 23, 109, 219),
    ("carpet", 28, 89, 280),
    ("grid", 21, 57, 264),
    ("hazelnut", 40, 70, 391),
    ("leather", 32, 92, 245),
    ("metal_nut", 22, 93, 220),
    ("pill", 26, 141, 267),
    ("screw", 41, 119, 320),
    ("tile", 33, 84, 230),
    ("toothbrush", 12, 30, 60),
    ("transistor", 60, 40, 213),
    ("wood", 19, 60, 247),
    ("zipper", 32, 119, 240),
)

MVTEC = Dataset(
    name="mvtec",
    title="MVTec-AD",
    categories=tuple(Category(name, name.replace("_", " "), Counts(*counts)) for name, *counts in _MVTEC),
    published=(FolderLayout((_MVTEC_FOLDERS,)),),
    lists=("mvtec",),
    licence="CC BY-NC-SA 4.0",
    url="https://www.mvtec.com/company/research/datasets/mvtec-ad",
)

# category, class name, test normal, test anomalous, train normal
_VISA = (
    ("candle", "candle", 100, 100, 900),
    ("capsules", "capsules", 60, 100, 542),
    ("cashew", "cashew", 50, 100, 450),
    ("chewinggum", "chewing gum", 50, 100, 453),
    ("fryum", "fryum", 50, 100, 450),
    ("macaroni1", "macaroni", 100, 100, 900),
    ("macaroni2", "macaroni", 100, 100, 900),
    ("pcb1", "printed circuit board", 100, 100, 904),
    ("pcb2", "printed circuit board", 100, 100, 901),
    ("pcb3", "printed circuit board", 101, 100, 905),
    ("pcb4", "printed circuit board", 101, 100, 904),
    ("pipe_fryum", "pipe fryum", 50, 100, 450),
)

VISA = Dataset(
    name="visa",
    title="VisA",
    categories=tuple(Category(name, class_name, Counts(*counts)) for name, class_name, *counts in _VISA),
    published=(
        TableLayout(
            "split_csv/1cls.csv",
            path="image",
            label="label",
            mask="mask",
            category="object",
            split="split",
        ),
    ),
    mask_above=0,
    defect="anomaly",
    lists=("visa",),
    licence="CC BY 4.0",
    url="https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",
    notes="Masks hold the numbers 1 to 9 of kinds of defects, so they look black.",
)

BTAD = Dataset(
    name="btad",
    title="BTAD",
    categories=(
        Category("01", "metal1", Counts(21, 49, 400)),
        Category("02", "wood", Counts(30, 200, 399)),
        Category("03", "metal2", Counts(400, 41, 1000)),
    ),
    published=(FolderLayout((_MVTEC_FOLDERS,), mask_stems=("{stem}",)),),
    defect="ko",
    lists=("BTAD",),
    licence="unclear; do not redistribute",
    url="https://avires.dimi.uniud.it/papers/btad/btad.zip",
    notes="Some defective images may have an empty mask; the folder decides.",
)

KSDD2 = Dataset(
    name="ksdd2",
    title="KolektorSDD2",
    categories=(Category("metal", "metal", Counts(894, 110, 2085, 246), paper=Counts(356, 356)),),
    published=(
        FolderLayout(
            (FolderTemplate("{split}/", "{split}/"),),
            mask_stems=("{stem}_GT",),
            label=LabelFrom.MASK_PIXELS,
            image_stem=r"\d+",
        ),
    ),
    mask_above=0,
    defect="defect",
    lists=("KSDD2",),
    paper=PaperSubset(merge_splits=True, balanced=True),
    licence="CC BY-NC-SA 4.0",
    url="https://www.vicos.si/resources/kolektorsdd2/",
    notes="Not KolektorSDD. The authors picked other normal images, by hand, in the same number.",
)

RSDD = Dataset(
    name="rsdd",
    title="RSDDs",
    categories=(Category("rail", "metal15", Counts(0, 195), paper=Counts(387, 387), aliases=("RSDD", "metal")),),
    published=(
        FolderLayout(
            (FolderTemplate("{part}/Rail surface images/", "{part}/GroundTruth/"),),
            mask_stems=("{stem}",),
            label=LabelFrom.DATASET,
        ),
    ),
    has_normals=True,
    defect="defect",
    lists=("RSDD",),
    paper=PaperSubset(
        unavailable="it consists of the authors' own crops of the published strips; "
        "get their copy with meta_RSDD.json, or ingest the complete set"
    ),
    licence="none found; do not redistribute",
    url="http://icn.bjtu.edu.cn/Visint/resources/RSDDs.aspx",
    notes="The published strips are all defective: image metrics need the authors' crops.",
)

# class number, normal images, defective images, in the paper
_DAGM = (
    *((number, 1000, 150, number != 6) for number in range(1, 7)),
    *((number, 2000, 300, number < 9) for number in range(7, 11)),
)

DAGM = Dataset(
    name="dagm",
    title="DAGM 2007",
    categories=tuple(
        Category(
            f"Class{number}",
            f"fabric{number}",
            Counts(normal, defective),
            paper=Counts(defective, defective) if in_paper else Counts(),
        )
        for number, normal, defective, in_paper in _DAGM
    ),
    published=(
        FolderLayout(
            (FolderTemplate("{category}/{split}/", "{category}/{split}/Label/"),),
            mask_stems=("{stem}_label",),
            label=LabelFrom.MASK_FILE,
        ),
    ),
    mask_above=0,
    defect="defect",
    lists=("DAGM",),
    paper=PaperSubset(
        categories=tuple(f"Class{number}" for number, *_, in_paper in _DAGM if in_paper),
        merge_splits=True,
        balanced=True,
    ),
    splits_counted=False,
    licence="public; no licence text",
    url="https://zenodo.org/records/12750201",
    notes="Published masks are coarse ellipses; the authors drew finer ones by hand.",
)

# category, class name, test normal, test anomalous, train normal
_DTD = (
    ("Blotchy_099", "blotchy", 20, 80, 100),
    ("Fibrous_183", "fibrous", 20, 80, 100),
    ("Marbled_078", "marbled2", 20, 80, 100),
    ("Matted_069", "matted1", 20, 79, 100),
    ("Mesh_114", "mesh", 36, 80, 100),
    ("Perforated_037", "perforated", 20, 80, 100),
    ("Stratified_154", "stratified", 20, 80, 100),
    ("Woven_001", "woven5", 30, 70, 100),
    ("Woven_068", "woven4", 51, 79, 100),
    ("Woven_104", "woven3", 20, 80, 100),
    ("Woven_125", "woven2", 20, 79, 100),
    ("Woven_127", "woven1", 80, 80, 100),
)

DTD = Dataset(
    name="dtd",
    title="DTD-Synthetic",
    categories=tuple(Category(name, class_name, Counts(*counts)) for name, class_name, *counts in _DTD),
    published=(FolderLayout((_MVTEC_FOLDERS,)),),
    defect="bad",
    lists=("DTD",),
    licence="none found; base textures for research",
    url="https://drive.google.com/drive/folders/10OyPzvI3H6llCZBxKxFlKWt1Pw1tkMK1",
)

INDUSTRIAL = (MVTEC, VISA, BTAD, KSDD2, RSDD, DAGM, DTD)
