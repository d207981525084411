"""tools/demo.py from its command line to its files, with a small random model."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from demo_helpers import CONFIG, OVERRIDES, load_tool
from PIL import Image

demo = load_tool("tools/demo.py")


@pytest.fixture
def run(weights, tmp_path):
    def run_demo(*arguments: str) -> int:
        output = ["--output", str(tmp_path / "out")]
        return demo.main(
            ["--config-file", CONFIG, *output, *arguments, "--opts", *OVERRIDES, "MODEL.WEIGHTS", weights]
        )

    return run_demo


@pytest.fixture
def files(pictures, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, picture in zip("abc", pictures, strict=True):
        cv2.imwrite(str(folder / f"{name}.png"), picture)
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


def test_panoptic_pngs_and_json_agree_and_speak_the_dataset_s_ids(run, files, tmp_path):
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


def test_an_unreadable_picture_is_reported_and_the_others_are_drawn(run, files, tmp_path, capsys):
    (files / "b.png").write_bytes(b"no picture")
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
    [("nowhere.jpg", "no such file"), ("empty", "holds no pictures"), ("notes.txt", "unknown kind of file")],
)
def test_wrong_inputs_end_in_one_line(run, tmp_path, capsys, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    assert run("--input", str(tmp_path / name)) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: --input")
    assert message in error
    assert "\n" not in error


def test_without_output_and_display_it_says_so(files, weights, capsys, monkeypatch):
    def no_window(*arguments):
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(cv2, "namedWindow", no_window)
    assert demo.main(["--config-file", CONFIG, "--webcam"]) == 2
    assert "give --output DIR" in capsys.readouterr().err
    assert demo.main(["--config-file", CONFIG, "--input", str(files), "--save-labels"]) == 2
    assert "--save-labels needs --output" in capsys.readouterr().err


def test_inputs_are_never_overwritten(run, tmp_path, pictures, capsys):
    out = tmp_path / "out"
    out.mkdir()
    cv2.imwrite(str(out / "a.jpg"), pictures[0])
    before = (out / "a.jpg").read_bytes()
    assert run("--input", str(out)) == 2
    assert "give another --output" in capsys.readouterr().err
    assert (out / "a.jpg").read_bytes() == before


def test_names_differ_in_more_than_case():
    assert demo.name_results([Path("x/A.png"), Path("y/a.png")]) == ["A", "a_2"]


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
    monkeypatch.setattr(demo.cv2, "VideoCapture", Longer)
    assert run("--input", source) == 1
    assert "read 2 of 40 frames" in capsys.readouterr().err


def test_junk_is_skipped_in_a_glob_and_reported_in_a_list(files, capsys):
    (files / "notes.txt").write_text("")
    assert [path.stem for path in demo.find_inputs([str(files / "*")])[0]] == ["a", "b", "c"]
    assert "skipped 1 files" in capsys.readouterr().out
    found, _, failures = demo.find_inputs([str(files / "notes.txt"), str(files / "a.png")])
    assert [path.stem for path in found] == ["a"]
    assert "unknown kind of file" in failures[0]


def test_empty_weights_are_refused(files, tmp_path, capsys):
    arguments = ["--config-file", CONFIG, "--input", str(files), "--output", str(tmp_path / "o"), "--opts"]
    assert demo.main([*arguments, *OVERRIDES, "MODEL.WEIGHTS", ""]) == 2
    assert "MODEL.WEIGHTS is empty" in capsys.readouterr().err


def test_what_is_done_before_a_crash_is_listed(run, files, tmp_path, monkeypatch):
    write = demo._write_picture

    def fail_on_the_second(path, drawn):
        if path.stem == "b":
            raise RuntimeError("disk")
        write(path, drawn)

    monkeypatch.setattr(demo, "_write_picture", fail_on_the_second)
    with pytest.raises(RuntimeError, match="disk"):
        run("--input", str(files), "--save-labels")
    annotations = json.loads((tmp_path / "out" / "labels" / "panoptic.json").read_text())["annotations"]
    assert [entry["image_id"] for entry in annotations] == ["a"]
