"""A trained model as a function from images to results.

H W: size of an image; results have the image's original size.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata
from detectron2.data import transforms as T
from torch import nn

from segzoo.checkpoint import load_checkpoint
from segzoo.config.files import is_config_name
from segzoo.data import build_test_augmentations
from segzoo.modeling import SegmentationModel, as_segmentation_model, as_segmentor
from segzoo.modeling.protocols import (
    build_inference_protocol,
    build_protocol_model,
    build_single_scale_config,
)
from segzoo.utils.errors import InputError

from .cuda_settings import exact_settings
from .model_config import checkpoint_config
from .model_description import classes_metadata, describe
from .predictor_inputs import ImageInput, as_rgb, images_in, rgb_images
from .setup import resolve_device
from .trainers import find_trainer

logger = logging.getLogger(__name__)


class Predictor:
    """A model that runs on one or many images, from files or arrays, in batches of bounded size.

    >>> predictor = Predictor("output/street/model_best.pth")  # of a training with segzoo
    >>> predictor = Predictor(load_config("panoptic/coco/maskformer_r50"), weights="model.pth")
    >>> ids, segments_info = predictor("street.jpg")["panoptic_seg"]
    >>> results = predictor(["a.jpg", Image.open("b.jpg"), cv2.imread("c.jpg")], color="BGR")

    Images are resized as in evaluation (INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST) and run as TEST.PROTOCOL says,
    at one scale; results have the image's original size and are on the model's device.

    Attributes:
        model: the meta-architecture, in eval mode.
        metadata: metadata of the dataset whose classes the model predicts (`classes`, `colors`, `isthing`,
            ...); None for a built module.
        image_range: values of image files of more than 8 bits that become 0 and 255: INPUT.IMAGE_RANGE, else
            the range of the training; () for a range per file, see `segzoo.data.read_image`.
    """

    def __init__(
        self,
        model: str | Path | CfgNode | nn.Module,
        weights: str | Path | None = None,
        *,
        batch_size: int | None = None,
        augmentations: Sequence[T.Augmentation] | None = None,
        trust: bool = False,
    ):
        """
        Args:
            model: path or URL of a segzoo checkpoint, which needs nothing else; or a complete config
                (`segzoo.model_zoo.load_config`); or a built meta-architecture, which is put into eval mode.
            weights: path or URL of a checkpoint for a config or module; default: the config's MODEL.WEIGHTS;
                a built module keeps its weights.
            batch_size: number of images per batch; default: TEST.IMS_PER_BATCH, 1 for a built module.
            augmentations: applied to each image; default: the config's for evaluation, none for a built
                module.
            trust: execute pickled code in the weights' file, where it holds more than weights.

        Raises:
            InputError: no such device or file; weights that do not fill the whole model; a checkpoint trained
                for other classes, or another format or scale of images; or one without configuration.
        """
        if isinstance(model, str | Path):
            model = _config_from_checkpoint(model, weights, trust)
        ours = cfg = None
        if isinstance(model, CfgNode):
            cfg = model.clone()
            cfg.defrost()
            cfg.MODEL.DEVICE = resolve_device(cfg)
            self.image_range = tuple(cfg.INPUT.IMAGE_RANGE)
            default_batch_size, default_augmentations = cfg.TEST.IMS_PER_BATCH, build_test_augmentations(cfg)
            weights = weights or cfg.MODEL.WEIGHTS
            self.metadata = classes_metadata(cfg)
            ours = describe(cfg, self.metadata)
            self.model = find_trainer(cfg).build_model(cfg)
            if not weights:
                logger.warning("Predictor: no weights given, the model's are random; set MODEL.WEIGHTS")
        elif not isinstance(model, nn.Module):
            raise InputError(
                f"Predictor: found {type(model).__name__}; expected the path of a checkpoint, a "
                "configuration, or a built model"
            )
        else:
            default_batch_size, default_augmentations = 1, []
            self.image_range = ()
            self.metadata = None
            self.model = model
        if weights:
            report = load_checkpoint(self.model, str(weights), trust=trust)
            report.compare(ours)
            report.require_complete("Predictor", "its predictions would mean nothing")
            trained_range = (report.description or {}).get("image_range", ())
            self.image_range = self.image_range or tuple(trained_range)
        if self.image_range:
            logger.info(
                "Predictor: image files of more than 8 bits are read with %g as black and %g as white, the "
                "range of the configuration or the training",
                *self.image_range,
            )
        self.model.eval()
        if cfg is None:
            self._tested = as_segmentation_model(self.model)
        else:
            self._tested = _under_protocol(cfg, self.model, self.metadata)
        if batch_size is not None and batch_size < 1:
            raise InputError(f"Predictor: batch_size {batch_size}; expected at least 1")
        self.batch_size = batch_size or default_batch_size
        self._augmentations = T.AugmentationList(
            default_augmentations if augmentations is None else augmentations
        )

    def __call__(
        self,
        images: ImageInput | Iterable[ImageInput],
        color: str | None = None,
        *,
        tasks: Sequence[str] | None = None,
        semantic: str = "scores",
    ) -> dict | list[dict]:
        """Return the predictions for one or many images.

        Args:
            images: one image, or a list or other iterable of them, in any form that `as_rgb` takes: path of
                an image file, PIL image, (3, H, W) uint8 tensor in RGB, (H, W, 3) uint8 array. An array or
                tensor of four dimensions is a batch.
            color: channel order of arrays, "RGB" or "BGR" (OpenCV's); required for arrays.
            tasks: tasks to predict, from "semantic", "panoptic", "instance" and "entity"; None: TEST.TASKS.
            semantic: "scores" of every class, or "labels", which take far less memory.

        Returns:
            For one image, a dict with the results of the tasks: `sem_seg` (K, H, W) float scores or
            `sem_seg_labels` (H, W) integer; `panoptic_seg` and `entity_seg` ((H, W) int32 ids, 0 is void,
            list of segment dicts); `instances`. For several, a list of dicts.

        Raises:
            InputError: a file cannot be read, an input is no image, or an array comes without `color`.
        """
        if images_in(images) is None:
            rgb = as_rgb(images, color, image_range=self.image_range)
            return self._predict([rgb], tasks, semantic)[0]
        return [result for _, result in self.stream(images, color, tasks=tasks, semantic=semantic)]

    def stream(
        self,
        images: Iterable[ImageInput],
        color: str | None = None,
        *,
        tasks: Sequence[str] | None = None,
        semantic: str = "scores",
    ) -> Iterator[tuple[np.ndarray, dict]]:
        """Yield predictions while reading images, one batch in memory at a time, for long lists and videos.

        See `__call__` for the arguments.

        Yields:
            The image as an (H, W, 3) uint8 RGB array, and its result.
        """
        several = images_in(images)
        remaining = rgb_images([images] if several is None else several, color, self.image_range)
        while chunk := list(islice(remaining, self.batch_size)):
            yield from zip(chunk, self._predict(chunk, tasks, semantic), strict=True)

    @torch.inference_mode()
    def _predict(
        self, rgb_images: list[np.ndarray], tasks: Sequence[str] | None, semantic: str
    ) -> list[dict]:
        inputs = [self._to_input(rgb) for rgb in rgb_images]
        with exact_settings():
            return self._tested(inputs, tasks=tasks, semantic=semantic)

    def _to_input(self, rgb: np.ndarray) -> dict:
        """Return the model's input for an image, as the test mapper makes it."""
        height, width = rgb.shape[:2]
        augmented = T.AugInput(rgb if self._tested.input_format == "RGB" else rgb[..., ::-1])
        self._augmentations(augmented)
        image = torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        return {"image": image, "height": height, "width": width}


def _config_from_checkpoint(checkpoint: str | Path, weights: str | Path | None, trust: bool) -> CfgNode:
    if str(checkpoint).endswith((".yaml", ".yml")) or is_config_name(checkpoint):
        raise InputError(f"Predictor: {checkpoint} is a configuration; give load_config({str(checkpoint)!r})")
    if weights:
        raise InputError(
            f"Predictor: {checkpoint} and {weights} are two checkpoints; give one, or a configuration and one"
        )
    return checkpoint_config(checkpoint, trust=trust)


def _under_protocol(cfg: CfgNode, model: nn.Module, metadata: Metadata | None) -> SegmentationModel:
    """Return the model as TEST.PROTOCOL runs it on whole images, without averaging over scales."""
    cfg = build_single_scale_config(cfg)
    protocol = build_inference_protocol(cfg)
    if protocol is not None and protocol.mode == "center_crop":
        logger.info("TEST.PROTOCOL %s scores a center crop; whole images are predicted here", protocol.name)
        return as_segmentor(model, input_format=cfg.INPUT.FORMAT)
    return build_protocol_model(cfg, model, metadata.get("flip_pairs", ()) if metadata else ())
