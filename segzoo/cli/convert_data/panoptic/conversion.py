"""Converting images, one by one or in several processes, and reporting what was found."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from segzoo.cli.panoptic_files import measure_segments
from segzoo.data import LabelReader
from segzoo.utils.errors import InputError

from . import painting
from .instances import InstancesOfSplit, decode_coco, decode_pngs
from .output import save_png

# Counts for which the worst images are listed.
NAMED = (painting.CONTRADICTED, painting.OTHER_CLASS, painting.WITHOUT_CLASS, painting.HIDDEN)


class Job(NamedTuple):
    """An image to convert.

    Attributes:
        record: its dataset dict.
        image_id, file_name, png: fields of its entries in the JSON.
        instances: its annotations or PNGs.
        size: (height, width) by the JSON of the instances, or None.
    """

    record: Mapping[str, Any]
    image_id: Any
    file_name: str
    png: str
    instances: Sequence[Any]
    size: tuple[int, int] | None


class Converted(NamedTuple):
    """The result for an image: its entries in the JSON and the counts, or what is wrong with it."""

    image: dict[str, Any] = {}
    annotation: dict[str, Any] = {}
    counts: Counter = Counter()
    problem: str = ""


@dataclass(frozen=True)
class Converter:
    """A function that converts images; it holds plain data, so that it can be sent to other processes.

    Attributes:
        target: folder of the PNGs, or None to write nothing.
        pngs: whether instances come from PNGs.
        is_binary: whether each PNG holds one instance.
    """

    reader: LabelReader
    rules: painting.Rules
    target: Path | None
    pngs: bool
    is_binary: bool
    no_instance: tuple[int, ...]

    def __call__(self, job: Job) -> Converted:
        try:
            return self._convert(job)
        except InputError as error:
            return Converted(problem=f"{job.record['file_name']}: {error}")

    def _convert(self, job: Job) -> Converted:
        labels = self.reader.load_sem_seg(job.record)
        height, width = labels.shape
        if job.size not in (None, labels.shape):
            raise InputError(
                f"is {job.size[1]}x{job.size[0]} in the JSON, but its semantic labels are {width}x{height}; "
                "both have to match pixel by pixel"
            )
        if self.pngs:
            instances = decode_pngs(job.instances, labels.shape, self.is_binary, self.no_instance)
        else:
            instances = decode_coco(job.instances, height, width)
        painted = painting.paint(labels, instances, self.rules)
        segments = []
        for segment_id, measured in measure_segments(painted.ids).items():
            index, is_crowd = painted.segments[segment_id - 1]
            category = self.reader.dataset.classes[index].id
            segments.append({"id": segment_id, "category_id": category, **measured, "iscrowd": int(is_crowd)})
        if self.target is not None:
            save_png(self.target / job.png, painted.ids)
        image = {"id": job.image_id, "file_name": job.file_name, "height": height, "width": width}
        annotation = {"image_id": job.image_id, "file_name": job.png, "segments_info": segments}
        return Converted(image, annotation, painted.counts)


def make_jobs(instances: InstancesOfSplit, records: Sequence[Mapping[str, Any]], folder: Path) -> list[Job]:
    """Return a job for each image; images without an id in a JSON are numbered from the largest id on."""
    numbers = [one for one in instances.ids.values() if isinstance(one, int)]
    number = max(numbers, default=0)
    jobs, seen = [], {}
    for record in records:
        file = record["file_name"]
        if file not in instances.ids:
            number += 1
        name = Path(os.path.relpath(os.path.abspath(file), folder))
        png = name.with_suffix(".png").as_posix()
        if seen.setdefault(png, file) != file:
            raise InputError(f"{seen[png]} and {file} share a name; keep one of them")
        jobs.append(
            Job(
                record,
                instances.ids.get(file, number),
                name.as_posix(),
                png,
                instances.of_image.get(file, ()),
                instances.sizes.get(file),
            )
        )
    return jobs


def report(split: str, jobs: Sequence[Job], done: Sequence[Converted], instances: InstancesOfSplit) -> None:
    """Print what was found, and the worst images."""
    segments = [segment for one in done if not one.problem for segment in one.annotation["segments_info"]]
    crowds = sum(segment["iscrowd"] for segment in segments)
    print(f"{split}: {len(jobs)} images, {len(segments)} segments, {crowds} of them crowds")
    without = [job.record["file_name"] for job in jobs if job.record["file_name"] not in instances.of_image]
    if without:
        print(f"  {len(without)} images without an entry or PNG of instances, first {without[0]}")
    for reason, count in instances.ignored.items():
        print(f"  {count} annotations {reason}, not used")
    total = sum((one.counts for one in done), Counter())
    for kind, count in total.items():
        print(f"  {count} {kind}")
        if kind in NAMED:
            worst = sorted(zip(done, jobs, strict=True), key=lambda pair: -pair[0].counts[kind])
            for one, job in worst[:3]:
                if one.counts[kind]:
                    print(f"    {one.counts[kind]} in {job.record['file_name']}")
