"""Detectron2's Instances with masks that are drawn when they are read."""

from typing import Any

from detectron2.structures import Instances

from segzoo.utils.lazy_masks import LazyMasks


class LazyInstances(Instances):
    """Instances whose fields may be `LazyMasks`, which a reader gets as (N, H, W) bool tensors.

    The first read of such a field (`instances.pred_masks`, `get`, `get_fields`) draws all its masks and keeps
    the tensor in their place, so that changes in place last, as in Detectron2; it takes N H W bytes for as
    long as the instances exist. `has`, `len`, `str`, indexing, `to`, `cat` of this class and pickling draw
    nothing. segzoo's evaluators, writers and drawings take the masks by `stored` and draw them in groups
    (`segzoo.utils.lazy_masks.planes`).
    """

    def stored(self, name: str) -> Any:
        """Return a field as it is stored, which may be `LazyMasks`."""
        return self._fields[name]

    def get(self, name: str) -> Any:
        return self._drawn(name)

    def __getattr__(self, name: str) -> Any:
        super().__getattr__(name)  # raises for what is not a field
        return self._drawn(name)

    def get_fields(self) -> dict[str, Any]:
        for name in self._fields:
            self._drawn(name)
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> "LazyInstances":
        return _with_fields_of(super().to(*args, **kwargs))

    def __getitem__(self, item: Any) -> "LazyInstances":
        return _with_fields_of(super().__getitem__(item))

    @staticmethod
    def cat(instance_lists: list[Instances]) -> Instances:
        """Return several Instances of one image together; masks that are drawn in part are drawn."""
        if not all(isinstance(one, LazyInstances) for one in instance_lists):
            return Instances.cat(instance_lists)
        for name in instance_lists[0]._fields:
            if len({isinstance(one.stored(name), LazyMasks) for one in instance_lists}) > 1:
                for one in instance_lists:
                    one._drawn(name)
        return _with_fields_of(Instances.cat([_plain(one) for one in instance_lists]))

    def _drawn(self, name: str) -> Any:
        value = self._fields[name]
        if isinstance(value, LazyMasks):
            value = self._fields[name] = value.tensor()
        return value


def _plain(instances: LazyInstances) -> Instances:
    """Return Instances with the same fields, as they are stored."""
    result = Instances(instances.image_size)
    result._fields = instances._fields
    return result


def _with_fields_of(instances: Instances) -> LazyInstances:
    """Return LazyInstances with the same fields."""
    result = LazyInstances(instances.image_size)
    result._fields = instances._fields
    return result
