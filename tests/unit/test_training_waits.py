"""What a training says before and while it runs: lacking images, lines for waits, where an output lies."""

import sys
import time

import pytest

from bayes_pfl.config import BackboneConfig, WinClipConfig
from bayes_pfl.data.remote import Store
from bayes_pfl.data.samples import SampleRef
from bayes_pfl.errors import ConfigError
from pipelines.options.pretrain import PretrainSettings
from pipelines.options.tune import SweepSettings, TuneSettings
from pipelines.platform import progress
from pipelines.platform.settings import DataSettings, TrainSettings, below_home
from pipelines.train import _say_sizes, train
from pipelines.training import progress as lines
from pipelines.training.images import lacking_kind
from pipelines.training.places import with_absolute_paths
from pipelines.training.progress import EpochLines, Start, StepCounter, epoch_line
from pipelines.tune import tune


def ref(label: int) -> SampleRef:
    return SampleRef("shard", 0, "screw/test/1", "screw", "screw", label, "0")


def test_validation_images_of_one_kind_are_named_with_number_and_example():
    assert lacking_kind([ref(0), ref(1)]) == ""
    assert lacking_kind([]) == "there are none"
    assert lacking_kind([ref(1), ref(1)]) == "all 2 of them are anomalous, screw/test/1 for one"


@pytest.mark.parametrize("program", [train, tune])
def test_a_method_that_learns_nothing_is_refused_before_anything_is_read(program, tmp_path):
    changes = {"model": WinClipConfig(), "data": DataSettings(train=str(tmp_path / "missing"))}
    sweep = SweepSettings(grid={"training.learning_rate": (1e-3, 1e-4)})
    settings = TrainSettings(**changes) if program is train else TuneSettings(**changes, sweep=sweep)
    with pytest.raises(ConfigError, match=r"winclip learns nothing: .*--method winclip"):
        program(settings)


def test_what_takes_long_has_a_line_and_what_is_quick_has_none(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SILENT_S", 0.05)
    with progress.waiting("Loading CLIP"):
        time.sleep(0.3)
    assert capsys.readouterr().err == "Loading CLIP ...\n"
    monkeypatch.setattr(progress, "SILENT_S", 60)
    with progress.waiting("Loading CLIP"):
        pass
    assert capsys.readouterr().err == ""


def test_without_a_terminal_steps_are_told_now_and_then(tmp_path, capsys, monkeypatch):
    assert not sys.stderr.isatty()
    shown = EpochLines(Store(tmp_path), 2, 30, 2, None, lambda _: None)
    shown._show_steps(1)
    assert capsys.readouterr().err == ""  # the last line is not long ago
    monkeypatch.setattr(lines, "LINE_EVERY_S", 0)
    for steps in (0, 31, 31):
        shown._show_steps(steps)
    first, second, third = capsys.readouterr().err.splitlines()
    assert (first, second) == ("The workers start ...", "step 31 of 60")
    assert third.startswith("step 31 of 60, as before")


def test_workers_that_start_again_are_told_with_their_number(tmp_path, capsys):
    counter = StepCounter()
    shown = EpochLines(Store(tmp_path), 25, 6, 3, None, lambda _: None)
    counter.begin(0, 3)
    shown._show_starts(counter.get()[1])
    assert capsys.readouterr().err == ""  # as it was announced
    counter.begin(1, 2)
    for _ in range(2):
        shown._show_starts(counter.get()[1])
    assert capsys.readouterr().err == "Workers have started again: going on after epoch 1 of 25, on 2 workers.\n"
    resumed = EpochLines(Store(tmp_path), 25, 6, 3, None, lambda _: None)
    resumed._show_starts([Start(13, 3)])
    assert capsys.readouterr().err == "Going on after epoch 13 of 25, on 3 workers.\n"


def test_a_line_of_an_epoch_fits_a_terminal():
    entry = {"stage": 1, "total": 1234.5678, "images_per_second": 1234.5, "validation_pixel_ap": 0.99999}
    entry |= {"validation_image_auroc": 0.99999} | {f"term_{number}": 0.1234567 for number in range(14)}
    line = f"epoch 100/100  12345 s left  {epoch_line([entry, entry], 1)}"
    assert len(line) <= 120, line


@pytest.mark.parametrize("kind", [TrainSettings, PretrainSettings])
def test_outputs_below_runs_lie_below_the_home(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("BAYES_PFL_HOME", str(tmp_path / "home"))
    default = kind().output
    assert below_home(default) == str(tmp_path / "home" / default.removeprefix("runs/"))
    for output in ("models/mine", "/abs/runs/mine", "s3://bucket/runs/mine", "runs", "runs2/x"):
        assert below_home(output) == output
    monkeypatch.chdir(tmp_path)
    assert with_absolute_paths(TrainSettings(output="runs/mine")).output == str(tmp_path / "home" / "mine")
    monkeypatch.delenv("BAYES_PFL_HOME")
    assert with_absolute_paths(TrainSettings(output="runs/mine")).output == str(tmp_path / "runs" / "mine")


def test_sizes_of_another_backbone_are_told(capsys):
    embedded = {"image_size": 112, "feature_layers": (6, 8, 10, 12)}
    _say_sizes(BackboneConfig(name="ViT-B-16", pretrained="random:0", **embedded))
    printed = capsys.readouterr().err
    assert printed.startswith(
        "ViT-B-16 sees images at 112 px and gives layers 6, 8, 10, 12. So the configuration says;"
    )
    assert "its own are 224 px and layers 3, 6, 9, 12" in printed
    _say_sizes(BackboneConfig(name="ViT-B-16", pretrained="random:0"))
    _say_sizes(BackboneConfig(name="ViT-L-14-336", pretrained="openai"))
    assert capsys.readouterr().err.splitlines() == [
        "ViT-B-16 sees images at 224 px and gives layers 3, 6, 9, 12.",
        "ViT-L-14-336 sees images at 518 px and gives layers 6, 12, 18, 24.",
    ]
