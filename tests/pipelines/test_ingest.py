"""`bayes-pfl ingest` as a user runs it: the summary, the errors, and faults on a running Ray."""

import argparse
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import painted
import pytest
from PIL import Image
from s3fs import S3FileSystem

from bayes_pfl.config import parse_config
from bayes_pfl.data.preprocess import MAX_PIXELS, decode_image
from bayes_pfl.data.remote import Store
from bayes_pfl.data.samples import index_shards
from bayes_pfl.data.shards import iterate_rows, read_manifest
from bayes_pfl.datasets.output import claim
from bayes_pfl.datasets.packing import pack_shard
from bayes_pfl.errors import BayesPFLError, ConfigError, DataError, OutputError
from pipelines import datasets, ingest
from pipelines.cli import options_of
from pipelines.options.ingest import IngestConfig
from pipelines.platform.storage import dataset_manifest

PROJECT = Path(__file__).parents[2]
ONE_ROW = IngestConfig(rows_per_shard=1)


def call(program: ModuleType, *arguments: object) -> int:
    parser = argparse.ArgumentParser()
    options_of(program.__name__.removeprefix("pipelines.")).add_arguments(parser)
    return program.run(parser.parse_args([str(argument) for argument in arguments]))


def shard_bytes(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(output.glob("shard-*.arrow"))}


@pytest.mark.ray
class TestOverRay:
    """With several shards, which is when Ray is used."""

    def test_ray_writes_what_one_process_writes(self, ray_session: str, tmp_path: Path) -> None:
        painted.paint("mvtec", tmp_path / "in")
        spread = ingest.ingest("mvtec", tmp_path / "in", tmp_path / "ray", IngestConfig(rows_per_shard=4))
        tasks = ingest.plan_shards(
            tmp_path / "in",
            tmp_path / "one",
            ingest.PackingOptions("mvtec", 128, None, MAX_PIXELS),
            ingest.find(ingest.get_dataset("mvtec"), ingest.Source(tmp_path / "in")).records,
            4,
            2**20,
        )
        with claim(tmp_path / "one"):
            for task in tasks:
                pack_shard(task)
        assert spread["shards"] == spread["shards_written"] == len(tasks) == 4
        assert shard_bytes(tmp_path / "ray") == shard_bytes(tmp_path / "one")

    def test_a_second_run_does_nothing(self, ray_session: str, tmp_path: Path) -> None:
        painted.paint("kvasir", tmp_path / "in")
        first = ingest.ingest("kvasir", tmp_path / "in", tmp_path / "out", ONE_ROW)
        written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
        second = ingest.ingest("kvasir", tmp_path / "in", tmp_path / "out", ONE_ROW)
        assert (first["shards_written"], second["shards_written"]) == (2, 0)
        assert first["digest"] == second["digest"]
        for path in (tmp_path / "out").rglob("*.arrow*"):
            assert path.stat().st_mtime_ns == written[path]

    def test_an_object_store_gets_what_a_folder_gets(self, ray_session: str, object_store: str, tmp_path: Path) -> None:
        painted.paint("mvtec", tmp_path / "in")
        options = IngestConfig(rows_per_shard=4)
        ingest.ingest("mvtec", tmp_path / "in", tmp_path / "folder", options)
        place = f"{object_store}/mvtec"
        first = ingest.ingest("mvtec", tmp_path / "in", place, options)
        manifest = dataset_manifest(place)
        assert manifest == read_manifest(tmp_path / "folder")
        assert (first["output"], first["shards_written"]) == (place, 4)
        local = [(ref.sample_id, ref.sha256) for ref in index_shards(tmp_path / "folder")]
        assert [(ref.sample_id, ref.sha256) for ref in index_shards(place)] == local
        assert Store(place).sizes() == {
            path.name: path.stat().st_size for path in (tmp_path / "folder").glob("shard-*")
        }

        Store(place).remove("shard-00001.arrow")  # and the second of four is done again
        Store(place).write_json("_manifest/shards/shard-00002.arrow.json.0123.part", {})
        with pytest.raises(OutputError, match="holds another ingest"):
            ingest.ingest("mvtec", tmp_path / "in", place, IngestConfig(rows_per_shard=5))
        assert ingest.ingest("mvtec", tmp_path / "in", place, options)["shards_written"] == 1
        assert dataset_manifest(place) == manifest
        assert len(Store(f"{place}/_manifest/shards").names()) == 4

    def test_an_output_that_fails_in_a_worker_is_one_sentence(self, ray_session: str, tmp_path: Path) -> None:
        painted.paint("kvasir", tmp_path / "in")
        ingest.ingest("kvasir", tmp_path / "in", tmp_path / "out", ONE_ROW)
        notes = tmp_path / "out/_manifest/shards"
        for note in notes.iterdir():
            note.unlink()
        (notes / "shard-00001.arrow.json").mkdir()
        with pytest.raises(OutputError, match=r"^Cannot write .*shard-00001\.arrow\.json: Is a directory"):
            ingest.ingest("kvasir", tmp_path / "in", tmp_path / "out", ONE_ROW)
        with pytest.raises(DataError, match="no finished ingest"):
            read_manifest(tmp_path / "out")

    def test_kill_9_and_again_loses_and_repeats_nothing(self, ray_session: str, tmp_path: Path) -> None:
        tree = painted.Tree(tmp_path / "in")
        for number in range(24):
            tree.write(f"good/{number:02d}.png", painted.encoded(painted.surface(number, (700, 700)), ".png"))
        command = [sys.executable, "-m", "pipelines.cli", "ingest", "folder", "--source", str(tree.root)]
        command += ["--output", str(tmp_path / "out"), "--set", "rows_per_shard=1"]
        environment = {**os.environ, "RAY_ADDRESS": ray_session, "PYTHONPATH": str(PROJECT)}
        with subprocess.Popen(command, env=environment, start_new_session=True) as process:
            notes = tmp_path / "out/_manifest/shards"
            while process.poll() is None and len(list(notes.glob("*.json"))) < 3:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        with pytest.raises(DataError, match="no finished ingest"):
            read_manifest(tmp_path / "out")

        # A worker may outlive its driver for a moment: what is noted now is done; more may still come.
        finished = [tmp_path / "out" / note.stem for note in notes.glob("*.json")]
        times = [path.stat().st_mtime_ns for path in finished]
        config = IngestConfig(rows_per_shard=1)
        resumed = ingest.ingest("folder", tree.root, tmp_path / "out", config)
        whole = ingest.ingest("folder", tree.root, tmp_path / "whole", config)
        assert len(finished) >= 3
        assert 0 < resumed["shards_written"] <= 24 - len(finished)
        assert resumed["digest"] == whole["digest"]
        assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")
        paths = [row["path"] for row in iterate_rows(tmp_path / "out")]
        assert paths == [f"good/{number:02d}.png" for number in range(24)]
        assert [path.stat().st_mtime_ns for path in finished] == times
        assert not list((tmp_path / "out").rglob("*.part"))


class TestCommandLine:
    """What people see."""

    def test_the_summary_counts_every_file(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        tree = painted.paint("mvtec", tmp_path / "in")
        broken = sorted(tree.records)[0].image
        tree.write(broken, b"nothing")
        assert call(ingest, "mvtec", "--source", tmp_path / "in", "--output", tmp_path / "out") == 0
        said = capsys.readouterr().out
        assert "MVTec-AD (published layout)" in said
        assert "15 images" in said
        assert re.search(r"incomplete: \d of the 15 categories of MVTec-AD", said)
        assert "ignored: 4 files, no image" in said
        assert "ignored: 2 files, hidden file" in said
        assert f"set aside: 1 image\n  {broken}: not a readable image" in said

    def test_json_holds_the_same(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        painted.paint("brainmri", tmp_path / "in")
        arguments = ("--source", tmp_path / "in", "--output", tmp_path / "out", "--subset", "paper", "--json")
        assert call(ingest, "brainmri", *arguments) == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary["rows"] == 6
        assert summary["left_out"] == {"not in the paper's subset": 6}
        assert summary["metrics"] == ["image"]
        assert summary["digest"] == read_manifest(tmp_path / "out")["digest"]

    def test_what_was_assumed_of_files_is_said_and_is_no_fault(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        tree = painted.Tree(tmp_path / "in")
        tree.image("bad/1.png")
        (tmp_path / "in" / "good").mkdir()
        for name in ("1.png", "2.png"):
            Image.linear_gradient("L").convert("I;16").point(lambda value: value * 16).save(tmp_path / "in/good" / name)
        assert call(ingest, "folder", "--source", tmp_path / "in", "--output", tmp_path / "out", "--strict") == 0
        said = capsys.readouterr().out
        assert "read as: 2 images: 12 of 16 bits used, as the largest value shows (good/1.png, good/2.png)" in said

    def test_bits_that_are_said_are_those_of_every_image(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        values = np.arange(600).reshape(20, 30)
        for name, brightest in (("good/1.png", 4000), ("bad/1.png", 800), ("bad/2.png", 9000)):
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((values * brightest // 599).astype(np.uint16)).save(tmp_path / "in" / name)
        given = ("folder", "--source", tmp_path / "in", "--output", tmp_path / "out", "--bits", "12")
        assert call(ingest, *given, "--json") == 0
        summary = json.loads(capsys.readouterr().out)
        assert [entry[0] for entry in summary["set_aside"]] == ["bad/2.png"]
        assert "no 12 bits" in summary["set_aside"][0][1]
        stored = {row["sample_id"]: decode_image(row["image"]) for row in iterate_rows(tmp_path / "out")}
        dark = np.asarray(stored["in/bad/1.png"])[..., 0]
        assert np.array_equal(dark, np.round((values * 800 // 599) * (255 / 4095)))
        assert np.asarray(stored["in/good/1.png"]).max() == round(4000 * 255 / 4095)

    def test_options_reach_the_shards(self, tmp_path: Path) -> None:
        painted.paint("mvtec", tmp_path / "in")
        (tmp_path / "ingest.yaml").write_text("splits: [train]\nname: nuts\n")
        arguments = ("--source", tmp_path / "in", "--output", tmp_path / "out", "--config", tmp_path / "ingest.yaml")
        more = ("--categories", "metal_nut", "--split", "test", "--max-side", "16", "--set", "limit=3")
        assert call(ingest, "mvtec", *arguments, *more) == 0
        rows = list(iterate_rows(tmp_path / "out"))
        assert len(rows) == 3
        assert {(row["dataset"], row["category"], row["split"], row["width"]) for row in rows} == {
            ("nuts", "metal_nut", "test", 16)
        }

    def test_a_folder_of_ones_own_keeps_its_name(self, tmp_path: Path) -> None:
        tree = painted.Tree(tmp_path / "gears")
        tree.image("good/1.png")
        ingest.ingest("folder", tree.root, tmp_path / "out")
        (row,) = iterate_rows(tmp_path / "out")
        assert (row["dataset"], row["sample_id"], row["class_name"]) == ("gears", "gears/good/1.png", "gears")

    def test_strict_makes_a_bad_file_an_error(self, tmp_path: Path) -> None:
        tree = painted.paint("kvasir", tmp_path / "in")
        record = sorted(tree.records)[0]
        tree.write(record.image, b"nothing")
        with pytest.raises(DataError, match=f"{record.image}: not a readable image"):
            ingest.ingest("kvasir", tmp_path / "in", tmp_path / "out", IngestConfig(strict=True))
        assert ingest.ingest("kvasir", tmp_path / "in", tmp_path / "lax")["shards_written"] == 1
        with pytest.raises(DataError, match=f"{record.image}: not a readable image"):  # although nothing is to be done
            ingest.ingest("kvasir", tmp_path / "in", tmp_path / "lax", IngestConfig(strict=True))
        (tree.root / record.mask).unlink()
        with pytest.raises(DataError, match=f"{record.image}: is defective and has no mask"):
            ingest.ingest("kvasir", tmp_path / "in", tmp_path / "other", IngestConfig(strict=True))
        assert not (tmp_path / "other").exists()

    def test_a_uri_that_leads_nowhere_is_one_sentence(
        self, object_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        painted.paint("kvasir", tmp_path / "in")
        arguments = ("kvasir", "--source", tmp_path / "in", "--output")
        with pytest.raises(ConfigError, match=r"^nowhere://x cannot be opened: .*Check the URI"):
            call(ingest, *arguments, "nowhere://x")
        with pytest.raises(OutputError, match=r"^Cannot write s3://gone/x: .*bucket does not exist"):
            call(ingest, *arguments, "s3://gone/x")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        S3FileSystem.clear_instance_cache()
        with pytest.raises(
            DataError, match=r"^s3://shared/x/_manifest/plan\.json cannot be read .*Check it, its credentials"
        ):
            call(ingest, *arguments, "s3://shared/x")
        S3FileSystem.clear_instance_cache()

    def test_two_at_once_are_refused(self, tmp_path: Path) -> None:
        painted.paint("kvasir", tmp_path / "in")
        with claim(tmp_path / "out"), pytest.raises(OutputError, match="is being written by process"):
            ingest.ingest("kvasir", tmp_path / "in", tmp_path / "out")

    def test_errors_come_before_anything_is_written(self, tmp_path: Path) -> None:
        for arguments in (
            ("visa", "--source", tmp_path / "nowhere"),
            ("visa", "--source", tmp_path),
            ("vise", "--source", tmp_path),
            ("visa", "--source", tmp_path, "--set", "limt=3"),
            ("visa", "--source", tmp_path, "--set", "limit=0"),
            ("folder", "--source", tmp_path, "--layout", "meta"),
        ):
            with pytest.raises(BayesPFLError) as caught:
                call(ingest, *arguments, "--output", tmp_path / "out")
            assert caught.value.exit_code == 2
            assert not (tmp_path / "out").exists()

    def test_an_unknown_key_names_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match="max_side_px"):
            parse_config(IngestConfig, {"max_side": 3}, "here")


class TestRemarks:
    """What is probably wrong with the result is said in a line, and refused by --strict."""

    def ingest(self, tree: painted.Tree, output: Path, *options: object) -> None:
        assert call(ingest, "folder", "--source", tree.root, "--output", output, *options) == 0

    def refused(self, tree: painted.Tree, output: Path, message: str, *options: object) -> None:
        with pytest.raises(DataError, match=message):
            call(ingest, "folder", "--source", tree.root, "--output", output, "--strict", *options)
        assert not (output / "_manifest/manifest.json").exists()

    def test_a_clean_folder_has_none(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        tree = painted.Tree(tmp_path / "s")
        tree.image("good/1.png")
        tree.mask("masks/1.png")
        tree.image("bad/1.png")
        self.ingest(tree, tmp_path / "out", "--strict")
        assert "look at this" not in capsys.readouterr().out

    def test_categories_with_one_side_only(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        tree = painted.Tree(tmp_path / "s")
        for path in ("a/good/1.png", "a/bad/1.png", "b/good/1.png", "c/bad/1.png"):
            tree.image(path)
        self.ingest(tree, tmp_path / "out")
        said = capsys.readouterr().out
        assert "look at this: b: no anomalous image; --anomalous NAME" in said
        assert "look at this: c: no normal image, all is taken for defects (bad); --normal NAME" in said
        self.refused(tree, tmp_path / "strict", "^b: no anomalous image")
        self.ingest(tree, tmp_path / "some", "--split", "test", "--strict")  # chosen, so lacking is no news

    def test_the_same_file_as_good_and_as_defective(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        tree = painted.Tree(tmp_path / "s")
        for path in ("good/1.png", "good/2.png", "bad/1.png"):
            tree.image(path)
        for path in ("good/copy.png", "bad/copy.png"):
            tree.write(path, (tree.root / "good/1.png").read_bytes())
        self.ingest(tree, tmp_path / "out")
        printed = capsys.readouterr().out
        assert "2 images are byte for byte a copy of another" in printed
        assert "look at this: 1 image is both good and defective, byte for byte the same file: " in printed
        assert "the same file: good/1.png = bad/copy.png; remove the wrong one" in printed
        self.refused(tree, tmp_path / "strict", "^1 image is both good and defective")
        (tree.root / "bad/copy.png").unlink()
        self.ingest(tree, tmp_path / "right", "--strict")  # two good copies contradict nothing

    def test_masks_empty_full_and_large(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        tree = painted.Tree(tmp_path / "s")
        tree.image("good/1.png")
        for name, value in (("empty", 0), ("full", 255), ("large", 255), ("fine", 255)):
            tree.image(f"bad/{name}.png")
            tree.mask(f"masks/{name}.png", value)
        width, height = painted.SIZE
        full = Image.new("L", painted.SIZE, 255)
        tree.write("masks/full.png", painted.encoded(full, ".png"))
        full.paste(0, (0, 0, width // 3, height))
        tree.write("masks/large.png", painted.encoded(full, ".png"))
        self.ingest(tree, tmp_path / "out")
        said = capsys.readouterr().out
        assert "1 of 4 masks marks nothing: bad/empty.png; " in said
        assert "1 of 4 masks marks the whole image: bad/full.png; " in said
        assert "1 of 4 masks marks more than half of the image: bad/large.png; " in said
        self.refused(tree, tmp_path / "strict", r"^1 of 4 masks .* \(and 2 more\)")

    def test_normal_images_whose_masks_mark_something(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        tree = painted.Tree(tmp_path / "s")
        for number, value in ((1, 0), (2, 255)):
            tree.image(f"good/{number}.png")
            tree.mask(f"masks/good/{number}.png", value)
        tree.image("bad/1.png")
        tree.mask("masks/bad/1.png")
        self.ingest(tree, tmp_path / "out")
        assert "1 normal image has a mask that marks something: good/2.png; --anomalous" in capsys.readouterr().out
        assert [row["mask"] is None for row in iterate_rows(tmp_path / "out")] == [False, True, True]

    def test_masks_that_are_all_empty_are_an_error(self, tmp_path: Path) -> None:
        tree = painted.Tree(tmp_path / "s")
        tree.image("good/1.png")
        tree.image("bad/1.png")
        tree.mask("masks/1.png", 100)
        with pytest.raises(DataError, match=r"^All 1 mask.* empty.*bad/1\.png.*--mask-above 0"):
            call(ingest, "folder", "--source", tree.root, "--output", tmp_path / "out", "--mask-above", "127")
        self.ingest(tree, tmp_path / "other", "--mask-above", "0", "--strict")

    def test_missing_masks_unclear_folders_pages_and_long_names(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        name = "black_anodised_aluminium_extrusion_profile_with_countersunk_mounting_holes"
        tree = painted.Tree(tmp_path / name)
        tree.image("good/1.png")
        tree.image("bad/1.png")
        tree.image("bad/2.png")
        tree.mask("masks/2.png")
        tree.image("notes/3.png")
        pages = io.BytesIO()
        painted.surface(1).save(pages, "TIFF", save_all=True, append_images=[painted.surface(2), painted.surface(3)])
        tree.write("good/2.tif", pages.getvalue())
        self.ingest(tree, tmp_path / "out")
        said = capsys.readouterr().out
        assert "1 image of defects without a mask or annotation that fits by its name, left out: bad/1.png; " in said
        assert "1 image not taken, whose folders say neither normal nor anomalous: notes/3.png" in said
        assert "1 file has several pages or frames, of which the first is taken: good/2.tif (3)" in said
        assert "has more tokens than the 21 of the embedded model; --class-name" in said
        assert "ignored: 1 file, in notes/: stands beside bad/, good/" in said

    def test_turned_images_whose_masks_are_not(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        tree = painted.Tree(tmp_path / "s")
        tree.image("good/1.png")
        exif = Image.Exif()
        exif[0x0112] = 3
        data = io.BytesIO()
        painted.surface(1).save(data, "JPEG", exif=exif)
        tree.write("bad/1.jpg", data.getvalue())
        tree.mask("masks/1.png")
        self.ingest(tree, tmp_path / "out")
        assert "1 image turned by EXIF, whose masks are not and do not say" in capsys.readouterr().out
        self.refused(tree, tmp_path / "strict", "turned by EXIF.*bad/1.jpg")
        for option in ("--masks-as-stored", "--no-masks-as-stored"):
            self.ingest(tree, tmp_path / option, "--strict", option)
        first, second = (next(iterate_rows(tmp_path / f"--{name}masks-as-stored"))["mask"] for name in ("", "no-"))
        assert first != second

    def test_the_user_names_what_images_show(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        tree = painted.Tree(tmp_path / "test")
        tree.image("good/1.png")
        tree.image("part_1/bad/1.png")
        self.ingest(tree, tmp_path / "plain")
        assert "prompted as 'object'; --class-name says it" in capsys.readouterr().out
        self.ingest(tree, tmp_path / "one", "--class-name", "metal plate", "--class-name", "part_1=cup")
        assert {(row["category"], row["class_name"]) for row in iterate_rows(tmp_path / "one")} == {
            ("object", "metal plate"),
            ("part_1", "cup"),
        }
        with pytest.raises(ConfigError, match=r"part_2=\.\.\.: there is no such category.* object, part_1"):
            self.ingest(tree, tmp_path / "two", "--class-name", "part_2=cup")

    def test_names_without_a_letter_are_no_class_names(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        tree = painted.Tree(tmp_path / "s")
        for path in ("2024-01-01/OK/1.png", "2024-01-01/NG/2.png", "cup/OK/1.png", "cup/NG/2.png"):
            tree.image(path)
        self.ingest(tree, tmp_path / "out")
        assert "look at this: 2024-01-01: no letter in the names of 1 of the categories" in capsys.readouterr().out
        self.ingest(tree, tmp_path / "named", "--class-name", "2024-01-01=cup", "--strict")

    def test_a_blank_class_name_is_refused(self, tmp_path: Path) -> None:
        tree = painted.Tree(tmp_path / "s")
        tree.image("_/good/1.png")
        with pytest.raises(DataError, match=r"^The class name of the category '_' is blank"):
            call(ingest, "folder", "--source", tree.root, "--output", tmp_path / "out")

    def test_options_for_ones_own_images_are_for_them_alone(self, tmp_path: Path) -> None:
        painted.paint("kvasir", tmp_path / "in")
        for options in (
            ("--normal", "a"),
            ("--split", "val=test"),
            ("--label-from-masks",),
            ("--annotations", "a.json"),
        ):
            with pytest.raises(ConfigError, match="only for images of your own"):
                call(ingest, "kvasir", "--source", tmp_path / "in", "--output", tmp_path / "out", *options)
        with pytest.raises(ConfigError, match="split_names"):
            call(ingest, "folder", "--source", tmp_path, "--output", tmp_path / "out", "--split", "val=exam")
        with pytest.raises(ConfigError, match="splits"):
            call(ingest, "folder", "--source", tmp_path, "--output", tmp_path / "out", "--split", "val")


class TestDatasets:
    """`bayes-pfl datasets`."""

    def test_list_names_all_fifteen(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert call(datasets, "list", "--json") == 0
        entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
        assert set(entries) == {*painted.PUBLISHED, "folder"}
        assert entries["visa"]["images"] == {"complete": 10_821, "paper": 10_821}
        assert entries["brainmri"]["images"] == {"complete": 253, "paper": 153}
        assert call(datasets) == 0
        assert "5,354" in capsys.readouterr().out

    def test_one_entry_in_full(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert call(datasets, "list", "visa") == 0
        said = capsys.readouterr().out
        assert ["pcb1", "printed", "circuit", "board", "100", "+", "100", "904", "+", "0", "100", "+", "100"] in [
            line.split() for line in said.splitlines()
        ]
        assert "split_csv/1cls.csv" in said

    def test_verify_says_what_is_not_there(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        painted.paint("brainmri", tmp_path)
        assert call(datasets, "verify", "brainmri", "--source", tmp_path) == 1
        said = capsys.readouterr().out
        assert "brain_ct (test, normal): 7 instead of 98" in said
        assert said.endswith("not complete\n")

    def test_verify_needs_to_know_what(self) -> None:
        with pytest.raises(DataError, match="--source FOLDER"):
            call(datasets, "verify", "visa")
