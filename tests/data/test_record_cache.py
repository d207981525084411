"""Records of large annotation files: read once, and equal to what reading the JSON gives."""

import io
import json
import logging
import os
import pickle
import signal
import threading
import time

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from segzoo.data import (
    build_train_loader,
    coco_json,
    record_cache,
    register,
    register_dataset_file,
    split_key,
)
from segzoo.data.joined_records import chosen_records, joined_records
from segzoo.data.record_cache import Built, cached_records
from segzoo.data.stored_records import StoredRecords, open_records, write_records
from segzoo.model_zoo import get_config
from segzoo.utils.dataset_records import dataset_records
from segzoo.utils.errors import InputError
from tests.data.data_trees import STREET_IDS, random_image, save, write_street, write_yaml


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of the cache, which keeps files of any size; a new process's memory."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SEGZOO_DATASET_CACHE", str(folder))
    monkeypatch.setattr(split_key, "_SMALLEST_FILE", 0)
    monkeypatch.setattr(record_cache, "_remembered", {})
    return folder


@pytest.fixture
def parsed(monkeypatch):
    """The JSON files that were parsed."""
    contents = []
    parse = coco_json._parsed
    monkeypatch.setattr(coco_json, "_parsed", lambda content: contents.append(1) or parse(content))
    return contents


def new_process():
    record_cache._remembered.clear()


def write_shapes(folder):
    """A dataset of instances, discs_train, whose JSON has other category ids than class indices."""
    save(folder / "images/a.png", random_image(8, 10))
    box = [[1, 1, 5, 1, 5, 5, 1, 5]]
    annotations = [
        {
            "id": 1,
            "image_id": 7,
            "category_id": 40,
            "iscrowd": 0,
            "segmentation": box,
            "bbox": [1, 1, 4, 4],
            "area": 16.5,
        },
        {
            "id": 2,
            "image_id": 7,
            "category_id": 20,
            "iscrowd": 0,
            "segmentation": box,
            "bbox": [1, 1, 4, 4],
            "area": 16,
        },
    ]
    content = {
        "images": [{"id": 7, "file_name": "a.png", "height": 8, "width": 10}],
        "annotations": annotations,
        "categories": [{"id": 20, "name": "disc"}, {"id": 40, "name": "box"}],
    }
    (folder / "shapes.json").write_text(json.dumps(content))
    yaml = {
        "splits": {"discs_train": "train"},
        "images": "images",
        "instances": "shapes.json",
        "classes": [{"name": "box", "isthing": True}, {"name": "disc", "isthing": True}],
    }
    return write_yaml(folder, yaml, "shapes.yaml")


def cached_files(folder):
    return sorted(folder.glob("*.records"))


def test_a_panoptic_json_is_parsed_once_for_all_processes(tmp_path, cache, parsed, monkeypatch):
    register_dataset_file(write_street(tmp_path / "street"))
    monkeypatch.setenv("SEGZOO_DATASET_CACHE", "off")
    expected = DatasetCatalog.get("street_train")
    new_process()
    monkeypatch.setenv("SEGZOO_DATASET_CACHE", str(cache))
    parsed.clear()
    for _ in range(2):
        listed, shared = DatasetCatalog.get("street_train"), dataset_records("street_train")
        assert type(listed) is list
        assert listed == list(shared) == expected
        assert isinstance(shared, StoredRecords)
        assert len(parsed) == 1
        assert MetadataCatalog.get("street_train").panoptic_json == str(tmp_path / "street/panoptic.json")
        new_process()
    assert len(cached_files(cache)) == 1


def test_metadata_of_a_json_comes_from_the_cache_too(tmp_path, parsed):
    name = register_dataset_file(write_shapes(tmp_path / "shapes"))[0]
    first = DatasetCatalog.get(name)
    assert MetadataCatalog.get(name).contiguous_id_to_dataset_id == [40, 20]
    new_process()
    register_dataset_file(tmp_path / "shapes/shapes.yaml")
    assert "json_file" not in vars(MetadataCatalog.get(name))
    assert DatasetCatalog.get(name) == first
    assert first[0]["annotations"][0]["area"] == 16.5
    assert DatasetCatalog.get(name)[0]["annotations"][1]["bbox_mode"] is BoxMode.XYWH_ABS
    metadata = MetadataCatalog.get(name)
    assert metadata.contiguous_id_to_dataset_id == [40, 20]
    assert metadata.thing_dataset_id_to_contiguous_id == {40: 0, 20: 1}
    assert metadata.json_file == str(tmp_path / "shapes/shapes.json")
    assert len(parsed) == 1


def test_changing_a_record_changes_nobody_elses(tmp_path):
    register_dataset_file(write_street(tmp_path / "street"))
    for records in (DatasetCatalog.get("street_train"), dataset_records("street_train")):
        record = records[0]
        record["segments_info"][0]["id"] = -1
        record.clear()
        assert dataset_records("street_train")[0]["segments_info"][0]["id"] > 0


@pytest.mark.parametrize("what", ["json", "yaml", "images", "panoptic"])
def test_a_change_of_the_dataset_is_noticed(tmp_path, parsed, what):
    folder = tmp_path / "street"
    path = write_street(folder)
    register_dataset_file(path)
    (before,) = DatasetCatalog.get("street_train")
    if what == "json":
        content = json.loads((folder / "panoptic.json").read_text())
        content["annotations"][0]["segments_info"][0]["iscrowd"] = 1
        (folder / "panoptic.json").write_text(json.dumps(content) + " ")
    elif what == "yaml":
        path.write_text(path.read_text() + "crowd: instances\n")
        register_dataset_file(path)
    else:
        os.utime(folder / what, ns=(1, 1))
    (after,) = DatasetCatalog.get("street_train")
    assert len(parsed) == 2
    assert (after == before) == (what in ("images", "panoptic"))


def test_a_missing_image_is_reported_as_without_a_cache(tmp_path):
    folder = tmp_path / "street"
    register_dataset_file(write_street(folder))
    status = (folder / "images").stat()
    assert DatasetCatalog.get("street_train")
    (folder / "images/a.jpg").unlink()
    for moved in (False, True):
        if moved:
            # As if the file were in a folder below the one whose time is part of the key.
            os.utime(folder / "images", ns=(status.st_atime_ns, status.st_mtime_ns))
        with pytest.raises(InputError, match=r"a\.jpg"):
            DatasetCatalog.get("street_train")


def test_a_change_that_keeps_size_and_time_is_noticed(tmp_path, parsed):
    folder = tmp_path / "street"
    register_dataset_file(write_street(folder))
    (before,) = DatasetCatalog.get("street_train")
    file = folder / "panoptic.json"
    status, content = file.stat(), file.read_text()
    changed = content.replace('"iscrowd": 0', '"iscrowd": 1', 1)
    with file.open("r+") as stream:
        stream.write(changed)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert changed != content
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    (after,) = DatasetCatalog.get("street_train")
    assert after != before


def _another_user(monkeypatch):
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    return me


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o600, "owner"])
def test_a_file_that_others_may_have_written_is_not_read(cache, caplog, monkeypatch, mode):
    cache.mkdir()
    path, foreign = cache / "a.records", mode != 0o600
    with path.open("w+b") as stream:
        write_records(stream, [{"a": "theirs"}], {})
    path.chmod(0o644 if mode == "owner" else mode)
    if mode == "owner":
        me = _another_user(monkeypatch)
    with caplog.at_level(logging.INFO):
        found = record_cache._built_once(path, lambda: Built([{"a": "mine"}], {}))
    assert list(found) == [{"a": "mine" if foreign else "theirs"}]
    reason = f"it belongs to the user {me}" if mode == "owner" else "other users can write to it"
    assert (f"is written again: {reason}" in caplog.text) == foreign


def test_what_is_written_is_read_again_whatever_the_mask_of_new_files(cache):
    calls = []

    def build():
        calls.append(1)
        return Built([{"a": 1}], {})

    mask = os.umask(0)
    try:
        for _ in range(2):
            cached_records("x", {}, build)
            new_process()
    finally:
        os.umask(mask)
    (file,) = cached_files(cache)
    assert len(calls) == 1
    assert file.stat().st_mode & 0o022 == 0
    assert cache.stat().st_mode & 0o022 == 0


def test_users_of_one_folder_have_their_own_files(cache, monkeypatch):
    cached_records("x", {}, lambda: Built([{"a": 1}], {}))
    new_process()
    _another_user(monkeypatch)
    records, _ = cached_records("x", {}, lambda: Built([{"a": 2}], {}))
    assert list(records) == [{"a": 2}]
    assert len(set(cached_files(cache))) == 2


@pytest.mark.parametrize("damage", ["empty", "short", "long", "flipped", "other", "header"])
def test_a_damaged_file_is_written_again(tmp_path, cache, parsed, damage):
    register_dataset_file(write_street(tmp_path / "street"))
    expected = DatasetCatalog.get("street_train")
    (file,) = cached_files(cache)
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 4
    cut = {"empty": content[:0], "short": content[:-3], "long": content + b"x", "flipped": content}
    cut |= {"other": bytearray(b"something else" * 90), "header": content[:20]}
    file.unlink()  # a mapped file must not shrink
    file.write_bytes(cut[damage])
    new_process()
    assert DatasetCatalog.get("street_train") == expected
    assert len(parsed) == 2
    new_process()
    assert DatasetCatalog.get("street_train") == expected
    assert len(parsed) == 2


def test_every_single_damaged_byte_is_noticed(tmp_path):
    stream = io.BytesIO()
    write_records(stream, [{"a": 1}, {"b": [1, 2.5, "x", None, True, (3,)]}], {"c": "d"})
    content = stream.getvalue()
    assert list(StoredRecords(content)) == [{"a": 1}, {"b": [1, 2.5, "x", None, True, (3,)]}]
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        with pytest.raises(ValueError, match=r"it is|checksum"):
            StoredRecords(bytes(damaged))


def test_without_a_folder_to_write_to_it_reads_by_itself(tmp_path, cache, parsed, caplog, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEGZOO_DATASET_CACHE", str(tmp_path / "file/cache"))
    register_dataset_file(write_street(tmp_path / "street"))
    with caplog.at_level(logging.WARNING):
        first = DatasetCatalog.get("street_train")
    assert "SEGZOO_DATASET_CACHE" in caplog.text
    # Once for a process, all the same.
    assert list(dataset_records("street_train")) == first
    assert len(parsed) == 1


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path, cache, parsed, monkeypatch):
    register_dataset_file(write_street(tmp_path / "street"))

    def fail(stream, records, description):
        if not isinstance(stream, io.BytesIO):
            stream.write(b"part")
            raise OSError(28, "No space left on device")
        write_records(stream, records, description)

    monkeypatch.setattr(record_cache, "write_records", fail)
    assert len(DatasetCatalog.get("street_train")) == 1
    assert len(parsed) == 1
    assert [file.suffix for file in cache.iterdir()] == [".lock"]
    # With room, all is as if nothing had happened.
    monkeypatch.undo()
    monkeypatch.setenv("SEGZOO_DATASET_CACHE", str(cache))
    monkeypatch.setattr(split_key, "_SMALLEST_FILE", 0)
    new_process()
    assert isinstance(dataset_records("street_train"), StoredRecords)
    assert len(cached_files(cache)) == 1


@pytest.mark.parametrize("why", ["off", "small"])
def test_off_and_for_small_files_only_a_process_remembers(tmp_path, cache, parsed, monkeypatch, why):
    register_dataset_file(write_street(tmp_path / "street"))
    if why == "off":
        monkeypatch.setenv("SEGZOO_DATASET_CACHE", "off")
    else:
        monkeypatch.setattr(split_key, "_SMALLEST_FILE", 1 << 20)
    for process in (1, 2):
        assert list(dataset_records("street_train")) == DatasetCatalog.get("street_train")
        assert len(parsed) == process
        new_process()
    assert not cache.exists()


def test_the_folder_follows_the_users_cache_folder(monkeypatch):
    monkeypatch.delenv("SEGZOO_DATASET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/cache")
    assert str(record_cache.cache_folder()) == "/some/cache/segzoo/datasets"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(record_cache.cache_folder()) == "/home/me/.cache/segzoo/datasets"


@pytest.mark.parametrize("named", ["", "~/cache"])
def test_a_user_without_a_home_folder_reads_by_himself(tmp_path, parsed, caplog, monkeypatch, named):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("SEGZOO_DATASET_CACHE", named)

    def no_home(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(type(tmp_path), "expanduser", no_home)
    register_dataset_file(write_street(tmp_path / "street"))
    with caplog.at_level(logging.WARNING):
        assert DatasetCatalog.get("street_train") == list(dataset_records("street_train"))
    assert "Could not determine home directory" in caplog.text
    assert len(parsed) == 1


def test_sizes_read_from_images_are_not_kept(tmp_path, cache, parsed):
    folder = tmp_path / "street"
    register_dataset_file(write_street(folder))
    content = json.loads((folder / "panoptic.json").read_text())
    del content["images"][0]["height"]
    (folder / "panoptic.json").write_text(json.dumps(content))
    for count in (1, 2):
        (record,) = DatasetCatalog.get("street_train")
        assert record["height"] == STREET_IDS.shape[0]
        assert len(parsed) == count
    assert not cached_files(cache)


def built_by_threads(build, count=4):
    """What each of several threads gets, as ranks of a machine would: none remembers anything."""
    results = []

    def run():
        try:
            results.append(list(record_cache._built_once(folder / "a.records", build)))
        except InputError as error:
            results.append(str(error))

    folder = record_cache.cache_folder()
    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return results


def test_of_several_processes_one_reads(cache):
    calls = []

    def build():
        calls.append(1)
        time.sleep(0.3)
        return Built([{"a": 1}], {})

    assert built_by_threads(build) == [[{"a": 1}]] * 4
    assert len(calls) == 1


def test_without_room_the_waiting_processes_read_at_the_same_time(monkeypatch):
    monkeypatch.setattr(record_cache, "_written", lambda path, built: None)
    first, together = [], threading.Barrier(3)

    def build():
        if not first:
            first.append(1)
            time.sleep(0.5)  # until the others wait
        else:
            together.wait(20)  # an error if they read one after the other
        return Built([{"a": 1}], {})

    assert built_by_threads(build) == [[{"a": 1}]] * 4


def test_a_killed_reader_stops_nobody(cache):
    cache.mkdir()
    path, started = cache / "a.records", cache / "started"

    def die():
        (cache / ".a.1.writing.records").write_bytes(b"part")
        started.touch()
        time.sleep(60)

    child = os.fork()
    if not child:
        record_cache._built_once(path, die)
        os._exit(1)
    while not started.exists():
        time.sleep(0.01)
    calls, results = [], []

    def build():
        calls.append(1)
        return Built([{"a": 1}], {})

    waiting = threading.Thread(target=lambda: results.append(list(record_cache._built_once(path, build))))
    waiting.start()
    waiting.join(0.5)
    assert not calls  # it waits for the child
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    waiting.join(30)
    assert results == [[{"a": 1}]]
    assert list(record_cache._built_once(path, build)) == [{"a": 1}]
    assert len(calls) == 1


def test_old_files_make_room_for_new_ones(cache, monkeypatch):
    cache.mkdir()
    ages = {"month": 31, "ten": 10, "three": 3, "hour": 0.04, "now": 0}  # days
    for name, days in ages.items():
        for file, size in ((f"{name}.records", 100), (f".{name}.1.writing.records", 0)):
            (cache / file).write_bytes(b"x" * size)
            os.utime(cache / file, (time.time() - days * 86400,) * 2)
    # Of 500 bytes, with and without room for all; files of the last day stay.
    for largest, left in ((1000, "now hour three ten"), (350, "now hour three"), (0, "now hour")):
        monkeypatch.setattr(record_cache, "_LARGEST_FOLDER", largest)
        record_cache._make_room(cache)
        assert {file.stem for file in cache.glob("[!.]*")} == set(left.split())
        assert {file.name.split(".")[1] for file in cache.glob(".*")} == {"hour", "now"}


def test_an_error_reaches_all_processes():
    def build():
        raise InputError("a.json: is wrong")

    assert built_by_threads(build) == ["a.json: is wrong"] * 4


def test_records_can_be_sent_to_another_process(tmp_path):
    path = tmp_path / "a.records"
    with path.open("w+b") as stream:
        write_records(stream, [{"a": 1}, {"a": 2}], {})
    in_memory = StoredRecords(path.read_bytes())
    for records in (open_records(path), in_memory):
        sent = pickle.loads(pickle.dumps(records.with_entries({"exif": "ignore"})))
        assert list(sent) == [{"a": 1, "exif": "ignore"}, {"a": 2, "exif": "ignore"}]
        assert list(records) == [{"a": 1}, {"a": 2}]
    mapped = open_records(path)
    assert len(pickle.dumps(mapped)) < 200 + len(str(path))
    # The folder may be deleted at any time.
    path.unlink()
    assert list(pickle.loads(pickle.dumps(mapped))) == [{"a": 1}, {"a": 2}]


def test_values_of_numpy_are_not_stored():
    for value in (np.float64(1.5), np.int64(3), np.ones(3)):
        records, values = cached_records("x", {"value": str(value)}, lambda: Built([{"a": value}], {"b": 1}))  # noqa: B023
        assert records[0]["a"] is value
        assert values == {"b": 1}


def test_joined_and_chosen_records_are_those_of_lists():
    rng = np.random.default_rng(0)
    lists = [[{"n": int(number)} for number in rng.integers(0, 99, count)] for count in (3, 1, 5)]
    stored = []
    for listed in lists:
        stream = io.BytesIO()
        write_records(stream, listed, {})
        stored.append(StoredRecords(stream.getvalue()))
    flat = [record for listed in lists for record in listed]
    chosen = (rng.random(len(flat)) < 0.5).tolist()
    for parts in (lists, stored, [lists[0], *stored[1:]]):
        joined = joined_records(parts)
        assert len(joined) == len(flat)
        assert list(joined) == flat
        assert joined[-1] == flat[-1]
        expected = [record for record, keep in zip(flat, chosen, strict=True) if keep]
        assert list(chosen_records(joined, chosen)) == expected
    assert stored[0][1:] == lists[0][1:]
    with pytest.raises(IndexError):
        stored[0][3]


def test_training_gets_the_same_batches_from_the_cache(tmp_path, monkeypatch):
    register_dataset_file(write_street(tmp_path / "street"))
    cfg = get_config("panoptic/coco/maskformer_r50")
    settings = ["DATASETS.TRAIN", ("street_train",), "SEED", 3, "SOLVER.IMS_PER_BATCH", 2]
    cfg.merge_from_list([*settings, "DATALOADER.NUM_WORKERS", 0, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", True])
    batches = []
    for kept in (True, False):
        if not kept:
            monkeypatch.setattr(register, "cache_key", lambda *_: None)
        loader = build_train_loader(cfg)
        batches.append(next(iter(loader)))
    for ours, theirs in zip(*batches, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
