"""What the machine is, and what it reaches: matrix products, copies, launches, transfers."""

import importlib.metadata
import platform

import torch

import segzoo

from . import Rows, Settings
from .measuring import computing, milliseconds, precisions

PACKAGES = ("torch", "triton", "torchvision", "detectron2", "transformers", "timm", "numpy")


def run(settings: Settings, rows: Rows) -> None:
    for name in PACKAGES:
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = "not installed"
        rows.add(what=name, value=found)
    rows.add(what="segzoo", value=segzoo.__version__)
    rows.add(what="Python", value=platform.python_version())
    if settings.on_gpu:
        properties = torch.cuda.get_device_properties(settings.device)
        rows.add(what="GPU", value=properties.name)
        rows.add(what="memory", value=round(properties.total_memory / 2**30, 1), unit="GiB")
        rows.add(what="multiprocessors", value=properties.multi_processor_count)
        rows.add(what="CUDA", value=str(torch.version.cuda))
        rows.add(what="cuDNN", value=str(torch.backends.cudnn.version()))
    side = 256 if settings.small else 8192
    for precision in precisions(settings):
        left, right = torch.randn(2, side, side, device=settings.device).unbind()
        with computing(precision, settings), torch.no_grad():
            if precision in ("fp16", "bf16"):
                left, right = (one.to(torch.get_autocast_dtype(left.device.type)) for one in (left, right))
            time = milliseconds(lambda left=left, right=right: left @ right, settings, 0.3)
        rows.add(what=f"product of {side} x {side}, {precision}", value=2e-9 * side**3 / time, unit="TFLOP/s")
    size = (1 << 20) if settings.small else (1 << 30)
    source = torch.empty(size, dtype=torch.uint8, device=settings.device)
    target = torch.empty_like(source)
    time = milliseconds(lambda: target.copy_(source), settings, 0.3)
    rows.add(what="copy on the device, read and written", value=2e-6 * size / time, unit="GB/s")
    small = torch.zeros(1, device=settings.device)

    def launches() -> None:
        for _ in range(1000):
            small.add_(1)

    rows.add(what="launch of a kernel", value=milliseconds(launches, settings, 0.3), unit="us")
    if settings.on_gpu:
        size = 1 << 26
        for pinned in (False, True):
            host = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
            time = milliseconds(lambda host=host: host.to(settings.device, non_blocking=True), settings, 0.3)
            kind = "page-locked" if pinned else "pageable"
            rows.add(what=f"copy to the device, {kind}", value=1e-6 * size / time, unit="GB/s")
