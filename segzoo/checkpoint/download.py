"""Turn a path or URL into a verified local file."""

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import urlparse

import detectron2.checkpoint  # noqa: F401  registers catalog:// with the path manager
from detectron2.utils.file_io import PathManager

from segzoo.utils.errors import InputError
from segzoo.utils.paths import user_path
from segzoo.utils.published_hashes import find_hashes

from .params_reader import ParamsError, params_sha1, published_sha1
from .weight_sets import split_choice

# Names that carry the first hex digits of the file's hash, as their publishers write them.
_MD5_IN_NAME = re.compile(r"model_final_([0-9a-f]{6})\.pkl$")
_SHA256_IN_NAME = re.compile(r"-([0-9a-f]{8})\.pth$")
_SUFFIXES = (".pth", ".pkl", ".safetensors", ".params")
_SHA256_HOST = "download.pytorch.org"


def local_file(path_or_url: str | Path, md5_prefix: str = "", sha256_prefix: str = "") -> Path:
    """Return the local file of a checkpoint, downloaded into iopath's cache if remote, and check its hash.

    A file under GluonCV's published name, `.params` or `.zip`, is compared with the sha1 in that name.

    Args:
        path_or_url: a path (`~` is the home folder), `https://...`, `detectron2://...` or `catalog://...`;
            a set of weights named after `#` (see `split_choice`) is not part of it.
        md5_prefix: first hex digits of the expected md5; by default those of the zoo's tables for the
            address, else those in the name of a `model_final_<six hex digits>.pkl`, which is how Detectron2,
            MaskFormer and Mask2Former publish.
        sha256_prefix: likewise for sha256; by default also the digits in the name of torchvision's files.

    Raises:
        InputError: the file does not exist, the download failed, or the hash differs from the expected one.
    """
    source, _ = split_choice(str(path_or_url))
    if not source.strip() or source == ".":  # as Path("") says
        raise InputError(
            "the path of the checkpoint is empty; give a file (.pth, .pkl, .safetensors or .params)"
        )
    remote = "://" in source
    try:
        file = Path(PathManager.get_local_path(source)) if remote else user_path(source)
    except Exception as error:  # urllib, socket, lock and catalog errors have no common class
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{source}: download failed ({reason}); fetch it by other means and set MODEL.WEIGHTS to the file"
        ) from None
    if not os.path.isfile(file):  # Path.is_file raises for a name that is too long
        found = "is a folder" if os.path.isdir(file) else "does not exist"
        files = file.iterdir() if os.path.isdir(file) else ()
        inside = sorted(path.name for path in files if path.suffix in _SUFFIXES)
        example = f", such as {file / inside[0]}" if inside else ""
        expected = f"a checkpoint file (.pth, .pkl, .safetensors or .params){example}"
        raise InputError(f"{source}: {found}; expected {expected}")
    if remote and not (md5_prefix or sha256_prefix):
        md5_prefix, sha256_prefix = find_hashes(source)
    _check_hash(file, source, remote, md5_prefix, sha256_prefix)
    return file


def file_hash(file: Path, algorithm: str = "md5") -> str:
    """Return the hex digest of a file's content."""
    digest = hashlib.new(algorithm)
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _check_hash(file: Path, source: str, remote: bool, md5_prefix: str, sha256_prefix: str) -> None:
    published = urlparse(source).path if remote else source  # without a query such as ?download=1
    if not (md5_prefix or sha256_prefix):
        if match := _MD5_IN_NAME.search(published):
            md5_prefix = match.group(1)
        elif urlparse(source).hostname == _SHA256_HOST and (match := _SHA256_IN_NAME.search(published)):
            sha256_prefix = match.group(1)
    sha1_prefix = published_sha1(published.rsplit("/", 1)[-1])
    for algorithm, expected in (("md5", md5_prefix), ("sha256", sha256_prefix), ("sha1", sha1_prefix)):
        if not expected:
            continue
        found = _params_sha1(file) if algorithm == "sha1" else file_hash(file, algorithm)
        if not found.startswith(expected):
            remedy = f"delete {file} and try again" if remote else "download it again"
            raise InputError(
                f"{source}: {algorithm} starts with {found[: len(expected)]}, expected {expected}; "
                f"the file is damaged or not the published one: {remedy}"
            )


def _params_sha1(file: Path) -> str:
    try:
        return params_sha1(file)
    except ParamsError:
        return file_hash(file, "sha1")  # an error page, for example
