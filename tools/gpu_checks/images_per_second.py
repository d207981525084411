"""Images per second of the zoo's models, recorded as `tools/benchmark.py throughput --record` does."""

from benchmark_cases import throughput

from . import Rows, Settings
from .measuring import failures_in_rows

NAMES = (
    "semantic/ade20k/segformer_mit_b0",
    "semantic/ade20k/segformer_mit_b2",
    "semantic/ade20k/pspnet_r50_v1s_100ep",
    "semantic/ade20k/upernet_swin_tiny",
    "semantic/ade20k/maskformer_swin_tiny",
    "semantic/ade20k/mask2former_r50",
    "semantic/ade20k/mask2former_swin_tiny",
    "panoptic/coco/mask2former_r50",
)
SMALL_NAMES = ("semantic/shapes/pspnet_r18_quarter",)


def run(settings: Settings, rows: Rows) -> None:
    file = settings.output / "images_per_second.json"
    for precision in ("bf16", "fp32"):
        for name in SMALL_NAMES if settings.small else NAMES:
            with failures_in_rows(rows, name=name, precision=precision):
                options = ["--batch", "2" if settings.small else "16", "--precision", precision]
                options += ["--device", settings.device, "--record", str(file)]
                options += ["--seconds", "0.01" if settings.small else "1"]
                options += ["--size", "64", "64"] if settings.small else []
                record = throughput.measure(name, throughput.parse_arguments([name, *options]))
                throughput.add_record(file, record)
                rows.add(**{key: record[key] for key in ("name", "precision", "batch", "images_per_second")})
