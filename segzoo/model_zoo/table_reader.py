"""Read and check the tables in `weights/*.yaml`; an error is one line that names the key."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from segzoo.utils.errors import InputError
from segzoo.utils.text import did_you_mean

from .records import Measured, Published, Section, WeightsInfo

_MD5_IN_NAME = re.compile(r"_([0-9a-f]{6})\.pkl$")
# GluonCV's, see `published_sha1`, which checks them.
_SHA1_IN_NAME = re.compile(r"-([0-9a-f]{8})\.zip$")

# The authors' training time and memory.
_TRAINING = ("train_time", "train_hours", "train_memory")

# Keys that apply to all models of a file, unless a section or row overrides them.
_SOURCE = {
    "method": str,
    "paper": str,
    "repository": str,
    "code_license": str,
    "weights_license": str,
    "url_prefix": str,
    "folder": str,
    "size": tuple,
    "gflops_size": tuple,
    "count_with": list,
    "only_official": dict,
    "trained_on": str,
}
_FILE = {**_SOURCE, "readme": str, "evaluate_with": dict, "sections": list}
_FILE_REQUIRED = ("method", "paper", "repository", "readme", "weights_license", "sections")
_SECTION = {
    **_SOURCE,
    "title": str,
    "source": str,
    "metrics": dict,
    "evaluate_with": dict,
    "models": dict,
}
_SECTION_REQUIRED = ("title", "metrics", "models")
_ROW = {
    **_SOURCE,
    "backbone": str,
    "pretraining": str,
    "schedule": str,
    "params": float,
    "gflops": float,
    "official_code": dict,
    "reproduced": dict,
    "metrics": dict,
    **dict.fromkeys(_TRAINING, float),
    "model_id": str,
    "file": str,
    "url": str,
    "page": str,
    "log": str,
    "md5": str,
    "sha256": str,
    "note": str,
}
_ROW_REQUIRED = ("backbone", "pretraining", "schedule")
_MEASURED = {"params": float, "gflops": float, "size": tuple, "metrics": dict}
_MEASURED_REQUIRED = ("params", "gflops", "size")

_TYPE_NAMES = {
    str: "a string",
    float: "a number",
    tuple: "[height, width]",
    list: "a list",
    dict: "a mapping",
}


def read_table(file: Path) -> Iterator[Section]:
    """Yield the sections of a table.

    Raises:
        InputError: the file is not YAML, or a key is missing, unknown, repeated or of another type.
    """
    try:
        table = yaml.load(file.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise InputError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    _check(table, _FILE, _FILE_REQUIRED, f"{file}")
    for index, section in enumerate(table["sections"]):
        yield _section(file, table, index, section)


def _section(file: Path, table: dict[str, Any], index: int, section: Any) -> Section:
    title = section.get("title", index) if isinstance(section, dict) else index
    where = f"{file}: section {title}"
    _check(section, _SECTION, _SECTION_REQUIRED, where)
    metrics = section["metrics"]
    for metric, protocol in metrics.items():
        if not isinstance(protocol, str) or not protocol.strip():
            raise InputError(
                f"{where}: metrics: {metric} has no protocol; say in a sentence how it is measured"
            )
    shared = {key: value for key, value in {**table, **section}.items() if key in _SOURCE}
    models = []
    for name, row in section["models"].items():
        _check(row, {**_ROW, **dict.fromkeys(metrics, float)}, _ROW_REQUIRED, f"{file}: {name}")
        models.append(_info(f"{file}: {name}", {**shared, **row}, metrics, name))
    if len({info.name.rsplit("/", 1)[0] for info in models}) != 1:
        raise InputError(
            f"{where}: its models have several tasks or datasets, or there are none; split the section"
        )
    links = {"paper": shared["paper"], "repository": shared["repository"], "readme": table["readme"]}
    return Section(
        method=shared["method"],
        source=section.get("source", ""),
        links=links,
        folder=shared.get("folder", ""),
        code_license=shared.get("code_license", ""),
        title=section["title"],
        metrics=metrics,
        evaluate_with=_overrides(where, {**table, **section}.get("evaluate_with", {}), metrics),
        models=tuple(models),
    )


def _trained_on(where: str, row: dict[str, Any]) -> str:
    """Return the hardware of a row's training time and memory, or "" if it has none."""
    key = next((key for key in _TRAINING if row.get(key) is not None), None)
    if key is None:
        return ""
    if not row.get("trained_on"):
        raise InputError(f"{where}: has a {key}; say on which GPUs in trained_on")
    return row["trained_on"]


def _overrides(where: str, found: dict[str, Any], metrics: dict[str, str]) -> dict[str, list[str]]:
    for metric, pairs in found.items():
        if not isinstance(pairs, list) or len(pairs) % 2:
            raise InputError(
                f"{where}: evaluate_with: {metric} is {pairs!r}; expected a list [KEY, VALUE, ...]"
            )
    return {metric: [str(item) for item in found[metric]] for metric in metrics if metric in found}


def _info(where: str, row: dict[str, Any], metrics: dict[str, str], name: str) -> WeightsInfo:
    if "file" in row and "url" in row:
        raise InputError(f"{where}: has file and url; give one of them")
    file = row.get("file", "")
    url = row.get("url_prefix", "") + file if file else row.get("url", "")
    if url and not re.match(r"https?://", url):
        raise InputError(f"{where}: {url} is not a web address; set url_prefix, or url instead of file")
    md5, sha1 = _MD5_IN_NAME.search(file), _SHA1_IN_NAME.search(file)
    own = row.get("metrics") or {}
    for metric in own:
        if metric not in metrics or metric not in row:
            raise InputError(f"{where}: metrics: {metric} is not published in this row")
    published = [
        Published(metric, float(row[metric]), own.get(metric, protocol))
        for metric, protocol in metrics.items()
        if metric in row
    ]
    return WeightsInfo(
        name=name,
        method=row["method"],
        backbone=row["backbone"],
        pretraining=row["pretraining"],
        schedule=row["schedule"],
        url=url,
        page=row.get("page", ""),
        folder=row.get("folder", ""),
        log=row.get("log", ""),
        md5_prefix=row.get("md5", md5.group(1) if md5 else ""),
        sha256_prefix=row.get("sha256", ""),
        sha1_prefix=sha1.group(1) if sha1 else "",
        license=row["weights_license"],
        code_license=row.get("code_license", ""),
        paper=row["paper"],
        repository=row["repository"],
        published=tuple(published),
        params=row.get("params"),
        gflops=row.get("gflops"),
        gflops_size=_size(row.get("gflops_size")),
        size=_size(row.get("size")),
        count_with=tuple(row.get("count_with", ())),
        only_official=_only_official(row.get("only_official") or {}, where),
        model_id=row.get("model_id", ""),
        note=row.get("note", ""),
        official_code=_measured(row.get("official_code"), f"{where}: official_code"),
        reproduced=_measured(row.get("reproduced"), f"{where}: reproduced"),
        trained_on=_trained_on(where, row),
        **{key: row.get(key) for key in _TRAINING},
    )


def _measured(row: dict[str, Any] | None, where: str) -> Measured | None:
    if row is None:
        return None
    _check(row, _MEASURED, _MEASURED_REQUIRED, where)
    return Measured(row["params"], row["gflops"], tuple(row["size"]), row.get("metrics", {}))


def _only_official(found: dict[str, Any], where: str) -> dict[str, int]:
    for key, count in found.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise InputError(f"{where}: only_official: {key} is {count!r}; expected a number of parameters")
    return dict(found)


def _size(value: list[int] | None) -> tuple[int, int] | None:
    return None if value is None else (value[0], value[1])


def _check(found: Any, known: dict[str, type], required: Collection[str], where: str) -> None:
    """Check keys and types of a mapping; None means "not published" and is valid for optional keys."""
    if not isinstance(found, dict):
        raise InputError(f"{where}: expected a mapping with {', '.join(required)}, found {found!r}")
    for key in required:
        if found.get(key) is None:
            raise InputError(f"{where}: {key} is missing")
    for key, value in found.items():
        if key not in known:
            raise InputError(f"{where}: unknown key {key}{did_you_mean(key, known)}")
        if value is not None and not _fits(value, known[key]):
            raise InputError(f"{where}: {key} is {value!r}; expected {_TYPE_NAMES[known[key]]}")


def _fits(value: Any, expected: type) -> bool:
    if expected is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if expected is tuple:
        return isinstance(value, list) and len(value) == 2 and all(isinstance(side, int) for side in value)
    return isinstance(value, expected)


class _UniqueKeys(yaml.SafeLoader):
    """YAML loader that refuses a repeated key, where PyYAML's silently takes the second one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.constructor.ConstructorError(None, None, f"{key} is repeated", node.start_mark)
        return super().construct_mapping(node, deep)
