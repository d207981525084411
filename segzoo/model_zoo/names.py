"""List the names of the zoo's configurations."""

from segzoo.config.files import config_root


def list_models(task: str | None = None, dataset: str | None = None, method: str | None = None) -> list[str]:
    """Return the sorted names of the zoo's configurations: paths below `configs/` without `.yaml`.

    Args:
        task: semantic | panoptic | entity | instance.
        dataset: the dataset's folder: ade20k, coco, camvid, ...
        method: beginning of the file name: maskformer, pspnet, pspnet_jpu, ...
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
