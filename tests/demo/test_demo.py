"""`segzoo predict` from its command line to its files, with a small random model."""

import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from PIL import Image

from segzoo.cli import predict
from segzoo.cli.prediction import outputs, runner, window
from segzoo.cli.prediction.inputs import find_inputs, name_results
from tests.demo.demo_helpers import CONFIG, OVERRIDES


class Ended(NamedTuple):
    """A process that has ended."""

    returncode: int


@pytest.fixture
def run(weights, tmp_path):
    def run_demo(*arguments: str) -> int:
        output = ["--output", str(tmp_path / "out")]
        return predict.main(
            ["--config-file", CONFIG, *output, *arguments, "--opts", *OVERRIDES, "MODEL.WEIGHTS", weights]
        )

    return run_demo


@pytest.fixture
def files(images, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, image in zip("abc", images, strict=True):
        cv2.imwrite(str(folder / f"{name}.png"), image)
    return folder


def test_files_folders_and_globs_are_drawn_at_their_own_size(run, files, tmp_path):
    more = tmp_path / "more"
    more.mkdir()
    (files / "c.png").rename(more / "c.png")
    assert run("--input", str(files / "a.png"), str(files), str(more / "*.png")) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jpg", "b.jpg", "c.jpg"]
    for source in (files / "a.png", files / "b.png", more / "c.png"):
        drawn = Image.open(tmp_path / "out" / f"{source.stem}.jpg")
        assert drawn.size == Image.open(source).size


@pytest.mark.parametrize("task", ["semantic", "panoptic", "entity", "instance"])
def test_every_task_is_drawn(run, files, tmp_path, task):
    assert run("--input", str(files / "a.png"), "--task", task, "--confidence-threshold", "0") == 0
    drawn = cv2.imread(str(tmp_path / "out" / "a.jpg"))
    assert np.abs(drawn.astype(int) - cv2.imread(str(files / "a.png"))).mean() > 5


@pytest.mark.parametrize(
    ("model", "task", "known"),
    [
        ("semantic/shapes/pspnet_r18_quarter", "panoptic", "semantic"),
        ("entity/coco/mask2former_r50", "semantic", "entity"),
        ("instance/coco/mask2former_r50", "panoptic", "instance"),
    ],
)
def test_a_task_that_the_model_does_not_predict_is_named(files, tmp_path, capsys, model, task, known):
    given = ["--model", model, "--random-weights", "--task", task, "--input", str(files / "a.png")]
    assert predict.main([*given, "--output", str(tmp_path / "new"), "MODEL.DEVICE", "cpu"]) == 2
    assert capsys.readouterr().err == (
        f"error: --task {task}: this model predicts {known} only; without --task it predicts {known}\n"
    )
    assert not (tmp_path / "new").exists()


def test_inputs_of_one_name_do_not_overwrite_each_other(run, files, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (files / "b.png").rename(other / "a.png")
    assert run("--input", str(files / "a.png"), str(other / "a.png")) == 0
    sizes = [Image.open(tmp_path / "out" / name).size for name in ("a.jpg", "a_2.jpg")]
    assert sizes == [(128, 96), (100, 150)]


@pytest.mark.parametrize("flag", ["--input", "--video-input"])
def test_a_video_keeps_its_frames_rate_and_size(run, tmp_path, flag):
    source = str(tmp_path / "clip.mp4")
    writer = cv2.VideoWriter(source, cv2.VideoWriter_fourcc(*"mp4v"), 7.0, (96, 64))
    for value in range(5):
        writer.write(np.full((64, 96, 3), 40 * value, dtype=np.uint8))
    writer.release()
    assert run(flag, source) == 0
    drawn = cv2.VideoCapture(str(tmp_path / "out" / "clip.mp4"))
    assert drawn.get(cv2.CAP_PROP_FPS) == pytest.approx(7.0)
    frames = []
    while (frame := drawn.read())[0]:
        frames.append(frame[1].shape)
    assert frames == [(64, 96, 3)] * 5


def test_semantic_label_maps_hold_the_predicted_classes(run, files, make_predictor, tmp_path):
    assert run("--input", str(files), "--task", "semantic", "--save-labels") == 0
    predictor = make_predictor("TEST.TASKS", "('semantic',)")
    for path in files.iterdir():
        labels = np.asarray(Image.open(tmp_path / "out" / "labels" / path.name))
        expected = predictor(path)["sem_seg"].argmax(dim=0).numpy()
        assert labels.dtype == np.uint8
        # Pixels on which two classes tie to rounding may fall either way.
        assert np.mean(labels == expected) > 0.999


def test_panoptic_pngs_and_json_agree_and_use_the_dataset_s_ids(run, files, tmp_path):
    assert run("--input", str(files), "--save-labels", "--confidence-threshold", "0") == 0
    folder = tmp_path / "out" / "labels"
    annotations = json.loads((folder / "panoptic.json").read_text())["annotations"]
    assert {entry["image_id"] for entry in annotations} == {"a", "b", "c"}
    for entry in annotations:
        ids = np.asarray(Image.open(folder / entry["file_name"])).astype(np.int64) @ [1, 256, 65536]
        assert entry["segments_info"]
        listed = {segment["id"]: segment for segment in entry["segments_info"]}
        assert set(np.unique(ids).tolist()) - {0} == set(listed)
        for segment_id, segment in listed.items():
            assert segment["area"] == np.count_nonzero(ids == segment_id)
            assert segment["category_id"] in {1, 2, 4, 5, 7, 8, 11, 12, 14, 17, 20}


def test_a_high_threshold_leaves_nothing_to_draw(run, files, tmp_path):
    assert run("--input", str(files / "a.png"), "--save-labels", "--confidence-threshold", "1") == 0
    assert not np.asarray(Image.open(tmp_path / "out" / "labels" / "a.png")).any()
    drawn = cv2.imread(str(tmp_path / "out" / "a.jpg")).astype(int)
    jpeg = cv2.imencode(".jpg", cv2.imread(str(files / "a.png")), [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
    assert np.array_equal(drawn, cv2.imdecode(jpeg, cv2.IMREAD_COLOR))


def test_an_unreadable_image_is_reported_and_the_others_are_drawn(run, files, tmp_path, capsys):
    (files / "b.png").write_bytes(b"no image")
    assert run("--input", str(files)) == 1
    assert "b.png" in capsys.readouterr().err
    drawn = {path.name: Image.open(path).size for path in (tmp_path / "out").iterdir()}
    assert drawn == {"a.jpg": (128, 96), "c.jpg": (64, 64)}


def test_an_unreadable_video_is_reported(run, tmp_path, capsys):
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    assert run("--input", str(tmp_path / "clip.mp4")) == 1
    assert "clip.mp4: cannot be read as a video" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere.jpg", "no such file"), ("empty", "holds no images"), ("notes.txt", "unknown file format")],
)
def test_wrong_inputs_end_in_one_line(run, tmp_path, capsys, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    assert run("--input", str(tmp_path / name)) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: --input")
    assert message in error
    assert "\n" not in error


def test_without_output_and_display_the_error_says_so(files, weights, capsys, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    reasons = {"NONE": "this OpenCV is built without windows", "QT5": "has no display"}
    for kind, reason in reasons.items():
        monkeypatch.setattr(cv2, "getBuildInformation", lambda kind=kind: f"  GUI:      {kind}\n")
        assert predict.main(["--config-file", CONFIG, "--webcam"]) == 2
        line = capsys.readouterr().err
        assert reason in line
        assert "give --output DIR" in line
    # A display that does not exist: checked in another process, which Qt ends.
    monkeypatch.setenv("DISPLAY", ":77")
    tried = []
    monkeypatch.setattr(window.subprocess, "run", lambda words, **_: tried.append(words) or Ended(-6))
    assert "cannot be reached" in window.why_no_window()
    assert "namedWindow" in tried[0][2]
    monkeypatch.setattr(window.subprocess, "run", lambda words, **_: Ended(0))
    assert window.why_no_window() == ""
    assert predict.main(["--config-file", CONFIG, "--input", str(files), "--save-labels"]) == 2
    assert "--save-labels needs --output" in capsys.readouterr().err


def test_inputs_are_never_overwritten(run, tmp_path, images, capsys):
    out = tmp_path / "out"
    out.mkdir()
    cv2.imwrite(str(out / "a.jpg"), images[0])
    before = (out / "a.jpg").read_bytes()
    assert run("--input", str(out)) == 2
    assert "give another --output" in capsys.readouterr().err
    assert (out / "a.jpg").read_bytes() == before


def test_names_differ_in_more_than_case():
    assert name_results([Path("x/A.png"), Path("y/a.png")]) == ["A", "a_2"]
    assert name_results([Path("a.png"), Path("a_2.png"), Path("a.tif")]) == ["a", "a_2", "a_3"]
    # With --save-labels, each frame of a video has its own name.
    images, videos = [Path("clip_000003.png")], [Path("clip.mp4"), Path("clip.avi")]
    assert name_results(images, videos) == ["clip_000003", "clip_2", "clip_3"]


def test_images_that_cannot_be_drawn_are_reported_and_the_others_are_drawn(run, files, tmp_path, capsys):
    (files / "folder.jpg").mkdir()
    (files / "empty.png").touch()
    (files / "page.jpg").write_text("<html>404</html>")
    (files / "cut.png").write_bytes((files / "a.png").read_bytes()[:500])
    (files / "loop.png").symlink_to(files / "loop.png")
    status = run("--input", str(tmp_path / "none.jpg"), *map(str, sorted(files.iterdir())))
    assert status == 1
    found = capsys.readouterr()
    errors = [line for line in found.err.splitlines() if line.startswith("error: ")]
    wrong = ("none.jpg", "folder.jpg", "loop.png", "cut.png", "empty.png", "page.jpg")
    assert [name for name in wrong if sum(name in line for line in errors) == 1] == list(wrong)
    assert len(errors) == len(wrong)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jpg", "b.jpg", "c.jpg"]
    # Found in their folder, files of such names are no images.
    assert {path.name for path in find_inputs([str(files)])[0]}.isdisjoint({"folder.jpg", "loop.png"})


def test_an_image_too_large_for_a_jpeg_becomes_a_png(tmp_path):
    wide = np.zeros((2, 66000, 3), np.uint8)
    wide[:, 10] = (255, 0, 0)
    written = outputs.write_image(tmp_path / "wide.jpg", wide)
    assert written == tmp_path / "wide.png"
    with Image.open(written) as image:
        assert np.array_equal(np.asarray(image), wide)
    # Not over an input.
    again = outputs.write_image(tmp_path / "wide.jpg", wide, [tmp_path / "wide.png"])
    assert again == tmp_path / "wide_drawn.png"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_leaves_no_partial_image(run, files, tmp_path, capsys, monkeypatch):
    whole = outputs.write_atomically

    def full(path, write, **options):
        def part(stream):
            stream.write(b"a few")
            raise OSError(28, "No space left on device", str(path))

        whole(path, part if path.name == "b.jpg" else write, **options)

    monkeypatch.setattr(outputs, "write_atomically", full)
    assert run("--input", str(files)) == 2
    assert "No space left on device; free some space" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.jpg"]


def test_an_image_that_does_not_fit_into_memory_is_one_failure(run, files, tmp_path, capsys, monkeypatch):
    predict = runner.Predictor._predict

    def small_only(predictor, images, *asked):
        if len(images) > 1 or images[0].shape[0] == 150:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return predict(predictor, images, *asked)

    monkeypatch.setattr(runner.Predictor, "_predict", small_only)
    assert run("--input", str(files)) == 1
    assert "b.png: 100x150 needs more memory than is free" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jpg", "c.jpg"]


def test_a_missing_camera_is_reported(capsys, tmp_path):
    assert predict.main(["--config-file", CONFIG, "--webcam", "97", "--output", str(tmp_path / "o")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --webcam: no camera found (number 97); give another number, or a file with --video-input"
    ]


def test_a_video_of_odd_sides_loses_nothing(tmp_path):
    frames = np.full((3, 77, 101, 3), 20, np.uint8)
    frames[:, -1], frames[:, :, -1] = (250, 250, 250), (250, 250, 250)
    video = outputs.VideoFile(tmp_path / "odd.mp4", 5.0, frames[0].shape)
    for frame in frames:
        video.write(frame)
    assert video.is_larger
    assert video.close() is None
    capture = cv2.VideoCapture(str(tmp_path / "odd.mp4"))
    read = capture.read()[1]
    capture.release()
    assert read.shape == (78, 102, 3)
    assert read[76, 5:95].mean() > 200
    assert read[5:70, 100].mean() > 200
    assert read[5:70, 5:95].mean() < 60
    # The encoder does not report a truncated file.
    video.frames = 40
    assert "holds 3 of 40 frames; is the disk full?" in video.close()


def test_a_truncated_video_is_a_failure(run, tmp_path, capsys, monkeypatch):
    source = str(tmp_path / "clip.avi")
    writer = cv2.VideoWriter(source, cv2.VideoWriter_fourcc(*"MJPG"), 7.0, (96, 64))
    for _ in range(2):
        writer.write(np.zeros((64, 96, 3), dtype=np.uint8))
    writer.release()

    class Longer:
        def __init__(self, path):
            self.capture = open_capture(path)

        def __getattr__(self, name):
            return getattr(self.capture, name)

        def get(self, key):
            return 40.0 if key == cv2.CAP_PROP_FRAME_COUNT else self.capture.get(key)

    open_capture = cv2.VideoCapture
    monkeypatch.setattr(runner.cv2, "VideoCapture", Longer)
    assert run("--input", source) == 1
    assert "read 2 of 40 frames" in capsys.readouterr().err


def test_junk_is_skipped_in_a_glob_and_reported_in_a_list(files, capsys):
    (files / "notes.txt").write_text("")
    assert [path.stem for path in find_inputs([str(files / "*")])[0]] == ["a", "b", "c"]
    assert "skipped 1 files" in capsys.readouterr().out
    found, _, failures = find_inputs([str(files / "notes.txt"), str(files / "a.png")])
    assert [path.stem for path in found] == ["a"]
    assert "unknown file format" in failures[0]


def test_empty_weights_are_refused(files, tmp_path, capsys):
    arguments = ["--config-file", CONFIG, "--input", str(files), "--output", str(tmp_path / "o"), "--opts"]
    assert predict.main([*arguments, *OVERRIDES, "MODEL.WEIGHTS", ""]) == 2
    assert "MODEL.WEIGHTS is empty" in capsys.readouterr().err


def test_results_written_before_a_crash_are_listed(run, files, tmp_path, monkeypatch):
    write = runner.write_image

    def fail_on_the_second(path, drawn, inputs):
        if path.stem == "b":
            raise RuntimeError("disk")
        return write(path, drawn, inputs)

    monkeypatch.setattr(runner, "write_image", fail_on_the_second)
    with pytest.raises(RuntimeError, match="disk"):
        run("--input", str(files), "--save-labels")
    annotations = json.loads((tmp_path / "out" / "labels" / "panoptic.json").read_text())["annotations"]
    assert [entry["image_id"] for entry in annotations] == ["a"]
