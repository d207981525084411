"""MXNet's `.params` files, written from the description of the format and not with segzoo's reader."""

import struct
from collections.abc import Mapping

import numpy as np

FLAGS = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6, "bool": 7}
HEADER = struct.pack("<QQ", 0x112, 0)


def params_bytes(arrays: Mapping[str, np.ndarray], version: int = 2) -> bytes:
    """Return the content of a file with these arrays, in their order."""
    content = [HEADER, struct.pack("<Q", len(arrays))]
    content += [array_bytes(array, version) for array in arrays.values()]
    content.append(struct.pack("<Q", len(arrays)))
    for name in arrays:
        content += [struct.pack("<Q", len(name)), name.encode()]
    return b"".join(content)


def array_bytes(array: np.ndarray, version: int = 2) -> bytes:
    head = struct.pack("<Iii", {2: 0xF993FAC9, 3: 0xF993FACA}[version], 0, array.ndim)
    if array.ndim == 0 and version == 2:
        return head
    device = struct.pack("<ii", 2, 5)  # the sixth GPU
    shape = struct.pack(f"<{array.ndim}q", *array.shape)
    values = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
    return head + shape + device + struct.pack("<i", FLAGS[str(array.dtype)]) + values


def gluon_names(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return weights of a torchvision-like network with the leaf names of MXNet's norms, without counters."""
    norms = {name.removesuffix(".running_mean") for name in weights if name.endswith(".running_mean")}
    named = {}
    for name, value in weights.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        if module in norms:
            leaf = {"weight": "gamma", "bias": "beta"}.get(leaf, leaf)
        named[f"{module}.{leaf}"] = value
    return named
