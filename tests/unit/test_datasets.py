"""The fifteen datasets, read from painted folders in the published and in the community's forms."""

import re
from pathlib import Path

import painted
import pytest

from bayes_pfl.datasets.catalogue import DATASETS, find
from bayes_pfl.datasets.source import DatasetListing, Source

# The authors' names of categories, where they are not the published folders'.
AUTHORS_NAMES = {
    "btad": {"01": "metal1", "02": "wood", "03": "metal2"},
    "ksdd2": {"metal": "Metal"},
    "rsdd": {"rail": "Metal15"},
    "dagm": {f"Class{number}": f"Fabric{number}" for number in range(1, 11)},
    "dtd": {"Woven_068": "woven4", "Blotchy_099": "blotchy"},
    "headct": {"head_ct": "head ct"},
    "brainmri": {"brain_ct": "brain ct"},
}
AUTHORS_FOLDERS = {
    "mvtec": "mvtec",
    "visa": "visa",
    "btad": "BTAD",
    "ksdd2": "KSDD2",
    "rsdd": "RSDD",
    "dagm": "DAGM",
    "dtd": "DTD",
    "headct": "HeadCT",
    "brainmri": "BrainMRI",
    "br35h": "Br35H",
    "isic": "ISIC",
    "colondb": "ColonDB",
    "clinicdb": "ClinicDB",
    "endo": "Endo",
    "kvasir": "Kvasir",
}
# Of AnomalyCLIP and AdaCLIP.
COMMUNITY_NAMES = {
    "headct": {"head_ct": "headct"},
    "brainmri": {"brain_ct": "brain"},
    "isic": {"skin": "isic"},
    "colondb": {"colon": "ColonDB"},
    "clinicdb": {"colon": "ClinicDB"},
}
# Images of the paper's evaluation, normal and anomalous, as counted in the authors' lists.
PAPER_COUNTS = {
    "mvtec": (467, 1258),
    "visa": (962, 1200),
    "btad": (451, 290),
    "ksdd2": (356, 356),
    "rsdd": (387, 387),
    "dagm": (1350, 1350),
    "dtd": (357, 947),
    "headct": (100, 100),
    "brainmri": (85, 68),
    "br35h": (1500, 1500),
    "isic": (0, 379),
    "colondb": (0, 380),
    "clinicdb": (0, 612),
    "endo": (0, 200),
    "kvasir": (0, 1000),
}
every_dataset = pytest.mark.parametrize("name", DATASETS)


def read(name: str, folder: Path, **choices: object) -> DatasetListing:
    return find(DATASETS[name], Source(folder), **choices)


@every_dataset
def test_published_layout_gives_exactly_the_painted_records(name: str, tmp_path: Path) -> None:
    tree = painted.paint(name, tmp_path)
    found = read(name, tmp_path)
    assert found.layout == "published"
    assert list(found.records) == sorted(tree.records)
    assert found.set_aside == ()
    assert sorted(skipped.path for skipped in found.ignored) == sorted(tree.strays)
    assert all(skipped.reason for skipped in found.ignored)


@pytest.mark.parametrize("name", painted.OTHER_FORMS)
def test_other_published_forms(name: str, tmp_path: Path) -> None:
    tree = painted.Tree(tmp_path)
    painted.OTHER_FORMS[name](tree)
    found = read(name, tmp_path)
    assert list(found.records) == sorted(tree.records)
    assert sorted(skipped.path for skipped in found.ignored) == sorted(tree.strays)


@every_dataset
@pytest.mark.parametrize("prefix", ["", "/remote-home/someone/data/"])
def test_community_list_beside_published_files_gives_the_same_records(name: str, prefix: str, tmp_path: Path) -> None:
    tree = painted.paint(name, tmp_path)
    painted.write_list(tmp_path / "meta.json", tree.records, COMMUNITY_NAMES.get(name, {}), prefix)
    listed = read(name, tmp_path, layout="meta")
    assert listed.layout == "meta"
    assert list(listed.records) == sorted(tree.records)
    assert read(name, tmp_path).records == listed.records


@every_dataset
@pytest.mark.parametrize("layout", ["meta", "rearranged"])
def test_the_authors_copy_gives_the_same_images(name: str, layout: str, tmp_path: Path) -> None:
    tree = painted.paint(name, tmp_path / "published")
    names = AUTHORS_NAMES.get(name, {})
    copy = painted.rearrange(tree, tmp_path / "data", AUTHORS_FOLDERS[name], names)
    # A folder with everything the authors give out holds the other datasets too.
    painted.rearrange(painted.paint("clinicdb", tmp_path / "other"), tmp_path / "data", "A", {})
    found = read(name, tmp_path / "data", layout=layout)
    assert found.layout == layout
    assert found.set_aside == ()

    keeps_kinds = not DATASETS[name].defect  # this form knows good and anomaly only
    wanted = [r._replace(defect="anomaly") if keeps_kinds and r.label else r for r in copy.records]
    assert list(found.records) == sorted(wanted)


def test_the_authors_copy_is_recognised_by_itself(tmp_path: Path) -> None:
    tree = painted.paint("visa", tmp_path / "published")
    painted.rearrange(tree, tmp_path / "data", "visa", {})
    assert read("visa", tmp_path / "data").layout == "meta"
    (tmp_path / "data/meta_visa.json").unlink()
    assert read("visa", tmp_path / "data").layout == "rearranged"


@every_dataset
def test_descriptions_hold_the_papers_counts(name: str) -> None:
    expected = [category.expected("paper") for category in DATASETS[name].categories]
    normal = sum(counts.test_normal for counts in expected)
    assert (normal, sum(counts.test_anomalous for counts in expected)) == PAPER_COUNTS[name]


@every_dataset
def test_descriptions_are_complete(name: str) -> None:
    dataset = DATASETS[name]
    assert dataset.name == name
    assert dataset.licence
    assert dataset.url.startswith("http")
    assert dataset.metrics
    assert len({category.name for category in dataset.categories}) == len(dataset.categories)
    for category in dataset.categories:
        assert re.fullmatch(r"[a-z0-9 ]+", category.class_name)


def test_metrics_that_apply() -> None:
    by_metrics: dict[tuple[str, ...], set[str]] = {}
    for name, dataset in DATASETS.items():
        by_metrics.setdefault(dataset.metrics, set()).add(name)
    assert by_metrics == {
        ("image", "pixel"): {"mvtec", "visa", "btad", "ksdd2", "rsdd", "dagm", "dtd"},
        ("image",): {"headct", "brainmri", "br35h"},
        ("pixel",): {"isic", "colondb", "clinicdb", "endo", "kvasir"},
    }


def test_the_documented_sixteenth_dataset_is_read(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/datasets.md").read_text("utf-8")
    (entry,) = re.findall(r"```python\n(from bayes_pfl.datasets.*?)```", text, re.DOTALL)
    names: dict[str, object] = {}
    exec(entry, names)
    tree = painted.Tree(tmp_path, "screen", "phone screen")
    tree.good("good/1.png")
    tree.bad("oil/1.png", "ground_truth/oil/1_seg.png", "oil")
    tree.bad("crack/1.png", "ground_truth/crack/1.png", "crack")
    assert list(find(names["PHONES"], Source(tmp_path)).records) == sorted(tree.records)


def test_the_documented_counts_are_the_described_ones() -> None:
    text = (Path(__file__).parents[2] / "docs/datasets.md").read_text("utf-8")
    for name, dataset in DATASETS.items():
        counts = [category.expected("complete") for category in dataset.categories]
        normal = sum(count.test_normal + count.train_normal for count in counts)
        anomalous = sum(count.test_anomalous + count.train_anomalous for count in counts)
        (row,) = re.findall(rf"^\| `{name}` .*$", text, re.MULTILINE)
        assert f"| {len(counts)} | {normal:,} / {anomalous:,} |" in row
