"""The name of a folder -> what it says of the images in it: split, normal or anomalous, masks, nothing.

People call one thing by many names. A word is in a list here where it has one meaning in this trade; words such as "0"
and "1" mean something only together, and some yield to a clearer one beside them ("benign" beside "normal"). What is in
no list is a category or a kind of defect, by its place; see `own_folders`.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from bayes_pfl.data.walk import composed
from bayes_pfl.datasets.record import ANOMALOUS, NORMAL

VALIDATION = "validation"
"""A split that is neither ``train`` nor ``test`` until someone says which."""

ANY_OBJECT = "object"
"""The category of images of which no folder says what they show; a name that prompts can be made of."""

LEAVE_OUT = "none"
"""What ``--split NAME=none`` makes of a folder."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SPLITS = {
    **dict.fromkeys(_words("train training trainset trainingset traindata trainingdata"), "train"),
    **dict.fromkeys(
        _words("test testing tests testset testingset testdata testpublic publictest eval evaluation evalset"), "test"
    ),
    **dict.fromkeys(_words("val valid validation validate valset validationset validset valdata devset"), VALIDATION),
}
_NORMAL = _words(
    "good ok okay normal normals pass passed healthy nondefective nondefect nondefects nodefect nodefects "
    "defectfree faultfree withoutdefect withoutdefects nonanomalous nonanomaly noanomaly noanomalies "
    "undamaged notdamaged flawless faultless nominal intact perfect gut inordnung fehlerfrei bueno bon buono "
    "conforme conforming accept accepted goodparts goodpart nonfaulty unbroken nolesion diseasefree nofinding "
    "正常 良品 合格 無傷"
)
_ANOMALOUS = _words(
    "bad ko ng nok notok notgood nogood fail failed failure fails defect defects defective defected "
    "defectives anomaly anomalies anomalous abnormal abnormals abnormality abnormalities faulty fault faults "
    "unhealthy reject rejected rejects scrap nonconforming nonconform badpart badparts defekt schlecht fehler "
    "fehlerhaft 异常 異常 不良 不良品 缺陷"
)
"""Anomalous of any kind."""

_DEFECTS = _words(
    "scratch scratches scratched crack cracks cracked crackle dent dents dented hole holes stain stains "
    "stained spot spots cut cuts tear tears torn break breakage broken chip chipped chips burn burnt burned "
    "bend bent corrosion corroded rust rusty contamination contaminated damage damaged deformation deformed "
    "missing misplaced misaligned misalignment foreign glue oil liquid fold folded color colour discoloration "
    "discolouration thread squeeze squeezed poke imprint rough scuff pit pits pitting bubble bubbles blister "
    "inclusion inclusions patches crazing lesion lesions tumor tumors tumour tumours polyp polyps hemorrhage "
    "haemorrhage disease diseased sick malignant cancer fracture fractured pneumonia pathology pathological "
    "mould mold mildew rot rotten wrinkle wrinkles abrasion dirt dirty dust leak spur anomaly anomalies "
    "defect defects defective damages flaw flaws"
)
"""Parts of names that mean a kind of defect, whatever stands beside."""

_YIELDING_NORMAL = _words("benign clean fine reference golden")
"""Normal, unless a folder beside them has a name of the list above: benign tumours stand beside "normal"."""

_PAIRS = (
    *(("0", "1"), ("no", "yes"), ("n", "y"), ("false", "true"), ("neg", "pos"), ("negative", "positive")),
    ("io", "nio"),
)
"""Normal and anomalous, where both names stand side by side."""

_MASKS = _words(
    "mask masks maskdir maskdirs maskimage maskimages maskimg maskimgs gt gts groundtruth groundtruths "
    "groundtruthmask groundtruthmasks gtmask gtmasks segmentation segmentations segmentationmask "
    "segmentationmasks segmask segmasks binarymask binarymasks defectmask defectmasks pixelmask pixelmasks "
    "annotationmask annotationmasks segmentationclass segmentationobject"
)
_PERHAPS_MASKS = _words(
    "label labels labelmask labelmasks annotation annotations ann anns anno annos seg segs target targets "
    "annotated truth"
)
"""Masks where the folder mirrors the images; else a category, such as the label of a bottle."""

_IMAGES = _words(
    "image images img imgs jpegimages jpgimages pngimages rgb data dataset datasets raw original originals "
    "photo photos picture pictures pics input inputs frames source src"
)

_NOUNS = _words(
    "part parts sample samples piece pieces product products item items unit units case cases class set only"
)
"""Words that say nothing beside one for normal or anomalous: "good_parts"."""

MASK_SUFFIX = re.compile(
    r"(?P<stem>.+?)(?P<separator>[ _.\-]*)"
    r"(?P<word>masks?|gts?|ground[ _\-]?truth|labels?|seg|segm|segmentations?|annotations?|anno)"
    r"(?:[ _.\-]?\d{1,4})?",
    re.IGNORECASE | re.DOTALL,
)
"""``x_mask``, ``x-gt``, ``x_label_2``: the file marks the pixels of the image x."""

MASK_PREFIX = re.compile(r"(?:masks?|gt|labels?|seg|segmentation)[ _.\-]*(?P<stem>.+)", re.IGNORECASE | re.DOTALL)
IMAGE_PREFIX = re.compile(r"(?:images?|img|im|rgb)[ _.\-]*(?P<stem>.+)", re.IGNORECASE | re.DOTALL)
CERTAIN_MASK_WORDS = re.compile(r"masks?|gts?|ground[ _\-]?truth", re.IGNORECASE)


@dataclass(frozen=True)
class NameChoices:
    """What the user says of folders by name; it comes before the lists above."""

    normal: frozenset[str] = frozenset()
    """Folders of normal images: names, or paths from the source."""
    anomalous: frozenset[str] = frozenset()
    splits: Mapping[str, str] = field(default_factory=dict)
    """Folder -> "train", "test" or `LEAVE_OUT`."""

    def unmatched(self, folders: Collection[tuple[str, ...]]) -> list[str]:
        """The names that no folder has.

        Args:
            folders: all of them, as paths.

        Returns:
            The names, sorted.
        """
        names = {*self.normal, *self.anomalous, *self.splits}
        return sorted(name for name in names if not any(_is_named(folder, (name,)) for folder in folders))

    def state(self, path: tuple[str, ...]) -> int | None:
        """Whether the user calls a folder normal or anomalous.

        Args:
            path: names of folders from the source down.

        Returns:
            The label; None if the user says nothing of it.
        """
        if _is_named(path, self.normal):
            return NORMAL
        return ANOMALOUS if _is_named(path, self.anomalous) else None

    def split(self, path: tuple[str, ...]) -> str | None:
        """The split that the user gives a folder.

        Args:
            path: names of folders from the source down.

        Returns:
            "train", "test" or `LEAVE_OUT`; None if the user says nothing of it.
        """
        return next((split for name, split in self.splits.items() if _is_named(path, (name,))), None)


@dataclass(frozen=True)
class FolderMeaning:
    """What a folder's name says by itself."""

    split: str | None = None
    """"train", "test" or `VALIDATION`."""
    masks: bool = False
    perhaps_masks: bool = False
    images: bool = False
    """A word such as "images", which says nothing."""
    state: str = ""
    """A word for normal or anomalous inside a compound name, such as "good" in "train_good"."""

    @property
    def unknown(self) -> bool:
        """Whether the name is in no list."""
        return self == FolderMeaning()


def meaning_of(name: str) -> FolderMeaning:
    """What a folder's name says by itself, whatever stands beside it.

    Args:
        name: of the folder.

    Returns:
        Its meaning; that of "train_masks" has two parts.
    """
    word = plain_word(name)
    if word in _SPLITS:
        return FolderMeaning(split=_SPLITS[word])
    if word in _MASKS or word in _PERHAPS_MASKS:
        return FolderMeaning(masks=True, perhaps_masks=word in _PERHAPS_MASKS)
    if word in _IMAGES:
        return FolderMeaning(images=True)
    parts = [plain_word(part) for part in _parts(name)]
    if len(parts) < 2 or word in _NORMAL or word in _ANOMALOUS:
        return FolderMeaning()
    split = [_SPLITS[part] for part in parts if part in _SPLITS]
    masks = [part for part in parts if part in _MASKS or part in _PERHAPS_MASKS]
    images = [part for part in parts if part in _IMAGES]
    fillers = [part for part in parts if part in _NOUNS or part.isdigit()]
    states = [part for part in parts if part in _NORMAL or part in _ANOMALOUS]
    telling = len(split) + len(masks) + len(images) + len(states)
    if not telling or telling + len(fillers) < len(parts) or len(split) > 1 or len(states) > 1:
        return FolderMeaning()
    return FolderMeaning(
        split=split[0] if split else None,
        masks=bool(masks),
        perhaps_masks=bool(masks) and all(part in _PERHAPS_MASKS for part in masks),
        images=bool(images) and not (split or masks or states),
        state=states[0] if states else "",
    )


def state_of(name: str, words: Collection[str] = frozenset()) -> int | None:
    """Whether a folder's name means normal or anomalous images.

    Args:
        name: of the folder.
        words: `plain_word` of all folders in the same folder.

    Returns:
        The label; None if the name does not say.
    """
    word = plain_word(name)
    if word in _NORMAL:
        return NORMAL
    if word in _ANOMALOUS:
        return ANOMALOUS
    for normal, anomalous in _PAIRS:
        if word in (normal, anomalous) and normal in words and anomalous in words:
            if word.isdigit() and any(other.isdigit() and other not in (normal, anomalous) for other in words):
                return None  # numbers of classes
            return NORMAL if word == normal else ANOMALOUS
    if word in _YIELDING_NORMAL and _NORMAL.isdisjoint(words):
        return NORMAL
    if any(part in _NORMAL for part in _negated(word)):
        return ANOMALOUS
    return NORMAL if any(part in _ANOMALOUS or part in _DEFECTS for part in _negated(word)) else None


def state_beside(name: str, words: Collection[str], shortened: Mapping[tuple[str, ...], int]) -> int | None:
    """Whether a name means normal or anomalous by one like it: "non-rust" beside "rust", "ok_front" beside "def_front".

    Args:
        name: of the folder.
        words: `plain_word` of all folders in the same folder.
        shortened: how many of them have each of `shortened_names`.

    Returns:
        The label; None if no name beside says it.
    """
    if any(part in words for part in _negated(plain_word(name))):
        return NORMAL
    parts = [plain_word(part) for part in _parts(name)]
    telling = [index for index, part in enumerate(parts) if part in _NORMAL or part in _ANOMALOUS]
    if len(parts) < 2 or len(telling) != 1 or shortened.get(_without(parts, telling[0]), 0) < 2:
        return None
    return NORMAL if parts[telling[0]] in _NORMAL else ANOMALOUS


def shortened_names(name: str) -> list[tuple[str, ...]]:
    """A folder's name without each of its parts in turn: what "ok_front" and "def_front" have in common.

    Args:
        name: of the folder.

    Returns:
        The remaining parts, with a gap.
    """
    parts = [plain_word(part) for part in _parts(name)]
    return [_without(parts, index) for index in range(len(parts))] if len(parts) > 1 else []


def names_a_defect(name: str) -> bool:
    """Whether a folder's name is that of a defect, such as "scratch" or "broken_large".

    Args:
        name: of the folder.

    Returns:
        True if a part of it is a word for a defect.
    """
    return plain_word(name) in _DEFECTS or any(plain_word(part) in _DEFECTS for part in _parts(name))


def is_generic(name: str) -> bool:
    """Whether a folder's name means defects of any kind, such as "bad".

    Args:
        name: of the folder.

    Returns:
        True for such a word.
    """
    return plain_word(name) in _ANOMALOUS


def object_name(name: str) -> str:
    """What the images of a source are called that has no folder for it: its own name, if that names an object.

    Args:
        name: of the source folder.

    Returns:
        The name, or `ANY_OBJECT` for one such as "test", "images" or "masks".
    """
    return name if meaning_of(name).unknown and state_of(name) is None and plain_word(name) else ANY_OBJECT


def split_inside(name: str) -> str | None:
    """The split whose word begins or ends a name, such as "trainA" or "my_test".

    Args:
        name: of the folder.

    Returns:
        "train", "test" or `VALIDATION`; None for other names.
    """
    parts = [plain_word(part) for part in _parts(name)]
    return next((_SPLITS[part] for part in (*parts[:1], *parts[-1:]) if part in _SPLITS), None)


def stripped_stems(stem: str) -> list[str]:
    """The names that an image may have whose mask, or the mask that may have whose image, is called so.

    Args:
        stem: a file's name without its suffix.

    Returns:
        The stem in lower case and composed Unicode, and what is left of it without words such as "mask" and "image",
        the longest first.
    """
    whole = composed(stem).lower()
    stems = {whole: None}
    suffixed = MASK_SUFFIX.fullmatch(whole)
    if suffixed:
        stems[suffixed["stem"]] = None
    for prefix in (MASK_PREFIX, IMAGE_PREFIX):
        if prefixed := prefix.fullmatch(whole):
            stems[prefixed["stem"]] = None
    return list(stems)


def plain_word(name: str) -> str:
    """A folder's name without the differences that people make: case, spaces, underscores, dashes, dots.

    Args:
        name: of the folder.

    Returns:
        The word.
    """
    return re.sub(r"[ _.\-]+", "", composed(name).lower())


def _parts(name: str) -> list[str]:
    """ "train_masks", "trainMasks" -> train, masks; "test2017" -> test, 2017."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=\d)", " ", re.sub(r"(?i)ground[ _\-]?truth", " gt ", name))
    return [part for part in re.split(r"[ _.\-()]+", spaced) if part]


def _without(parts: list[str], index: int) -> tuple[str, ...]:
    return (*parts[:index], "", *parts[index + 1 :])


def _negated(word: str) -> set[str]:
    """What a word denies: "crack" for "noncrack" or "crackfree"."""
    prefixed = {word.removeprefix(prefix) for prefix in ("non", "not", "no", "un", "without")}
    return (prefixed | {word.removesuffix("free")}) - {word, ""}


def _is_named(path: tuple[str, ...], names: Collection[str]) -> bool:
    """Whether one of the names means this folder: its own name, or its path from the source."""
    whole = composed("/".join(path)).lower()
    last = plain_word(path[-1]) if path else "."
    for name in names:
        inner = composed(name.strip().strip("/")).lower()
        if ("/" in inner and inner == whole) or (not path and inner in (".", "")):
            return True
        if path and "/" not in inner and plain_word(inner) == last and last:
            return True
    return False
