"""Names of the zoo's configurations."""

from segzoo.config.files import config_root


def list_models(task: str | None = None, dataset: str | None = None, method: str | None = None) -> list[str]:
    """Names of the zoo's configurations, sorted: paths below `configs/` without `.yaml`.

    Args:
        task: semantic | panoptic | entity | instance.
        dataset: as in the path: ade20k, coco, camvid, ...
        method: as the file name starts: maskformer, pspnet, pspnet_jpu, ...
    """
    names = []
    root = config_root()
    for file in root.rglob("*.yaml"):
        name = file.relative_to(root).with_suffix("").as_posix()
        parts = name.split("/")
        if parts[0] == "_base_" or len(parts) != 3:
            continue
        if (
            task in (None, parts[0])
            and dataset in (None, parts[1])
            and (method is None or f"{parts[2]}_".startswith(f"{method}_"))
        ):
            names.append(name)
    return sorted(names)
