"""MODEL_ZOO.md, made from the tables so that its numbers are those that the code checks and loads."""

from .official import Section, WeightsInfo, sections

_INTRODUCTION = """# Model zoo

Made by `python tools/make_model_zoo.py` from `segzoo/model_zoo/weights/*.yaml`; do not edit it by hand.

- *paper* columns are what the authors publish, in their paper or model zoo. *reproduced* columns are measured
  with segzoo: parameters and GFLOPs (multiply-adds of one forward pass, 10^9) by `tools/analyze_model.py` at
  the stated height x width, metrics by an evaluation of the linked file or of a training with the linked
  configuration. A dash means not published or not measured yet.
- No weights are redistributed. The links lead to the authors' files, which load as they are:
  `python tools/train_net.py --eval-only --config-file configs/NAME.yaml MODEL.WEIGHTS URL`, or
  `model_zoo.get(NAME, weights="official")`. The md5 prefix is checked when the file is loaded.
- **Mind the licence of the weights**, which is not that of this code.
- Published by the same authors and not here yet: MaskFormer on ADE20K panoptic, ADE20K-full, COCO-Stuff-10k,
  Cityscapes and Mapillary Vistas, and the per-pixel baselines. Their datasets or heads are still to come.
"""


def render() -> str:
    """The text of MODEL_ZOO.md."""
    return "\n".join([_INTRODUCTION, *(_section(section) for section in sections())])


def _section(section: Section) -> str:
    # A column that no row fills says nothing.
    metrics = [name for name in section.metrics if any(_published(row, name) for row in section.models)]
    metrics = metrics or list(section.metrics)
    header = ["name", "backbone", "pre-training", "schedule"]
    header += [f"{metric}, {source}" for metric in metrics for source in ("paper", "reproduced")]
    header += ["params M, paper", "params M, reproduced", "GFLOPs, paper", "GFLOPs, reproduced"]
    header += ["weights", "md5", "licence"]
    lines = [header, ["---"] * len(header), *(_row(info, metrics) for info in section.models)]
    links = f"[paper]({section.links['paper']}), [official code]({section.links['repository']})"
    text = [f"## {section.method}: {section.title}", "", f"{links}, [notes]({section.links['readme']})", ""]
    text += ["| " + " | ".join(cells) + " |" for cells in lines]
    text += ["", *(f"- {metric}: {section.metrics[metric]}." for metric in metrics)]
    text += [f"- {info.name}: {info.note}." for info in section.models if info.note and info.published]
    return "\n".join(text) + "\n"


def _row(info: WeightsInfo, metrics: list[str]) -> list[str]:
    measured = info.reproduced
    cells = [f"[{info.name}](configs/{info.name}.yaml)", info.backbone, info.pretraining, info.schedule]
    for metric in metrics:
        own = measured.metrics.get(metric) if measured else None
        cells += [_published(info, metric) or "-", "-" if own is None else f"{own:.1f}"]
    cells += ["-" if info.params is None else f"{info.params}", f"{measured.params:.2f}" if measured else "-"]
    height, width = measured.size if measured else (0, 0)
    cells += ["-" if info.gflops is None else f"{info.gflops}"]
    cells += [f"{measured.gflops:.1f} @ {height}x{width}" if measured else "-"]
    if info.url:
        return [*cells, f"[{info.model_id}]({info.url})", f"`{info.md5_prefix}`", info.licence]
    return [*cells, "none published", "-", "-"]


def _published(info: WeightsInfo, metric: str) -> str:
    return next((f"{entry.value:.1f}" for entry in info.published if entry.metric == metric), "")
