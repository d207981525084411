"""Each patch of segzoo.compat, tested by calls that fail without it. B boxes, C channels, H W pixels.

Also run in environments with other versions; with versions that need no patch, the same must hold.
"""

import importlib
import re
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from segzoo import compat

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def run_python(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a new process: what happens on import can only be seen where nothing was imported yet."""
    command = [sys.executable, *flags, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_patched_module_can_be_imported():
    for name in compat.PATCHES:
        importlib.import_module(name)


def test_detectron2_is_importable_silently_in_a_new_process_after_segzoo():
    code = """
        import segzoo
        import detectron2.engine, detectron2.evaluation, detectron2.model_zoo, detectron2.utils.visualizer
        from detectron2.projects import deeplab, point_rend, panoptic_deeplab
    """
    result = run_python(code)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_importing_segzoo_imports_neither_detectron2_nor_torchvision():
    result = run_python("import sys, segzoo; print(sorted({'detectron2', 'torchvision'} & set(sys.modules)))")
    assert result.stdout.strip() == "[]", result.stderr


def test_modules_imported_before_segzoo_are_patched_too():
    code = """
        from PIL import Image
        Image.LINEAR = Image.BILINEAR    # so that v0.6 gets as far as an old Pillow would let it
        import sys, types
        from segzoo import compat
        module = types.ModuleType("detectron2.utils.visualizer")
        module.np = None
        sys.modules["detectron2.utils.visualizer"] = module
        compat._install()
        print(module.np.float is float, module.np.bool is bool, module.np.zeros(1).sum())
    """
    assert run_python(code).stdout.strip() == "True True 0.0"


def test_a_missing_detectron2_is_explained_in_one_line():
    code = """
        import importlib.util
        found = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: None if name == "detectron2" else found(name, *rest)
        import segzoo.cli.main
        from segzoo.cli.main import main
        assert main(["--help"]) == 0
        assert main(["train", "--config-file", "semantic/camvid/maskformer_r18"]) == 2
        import segzoo.model_zoo
    """
    result = run_python(code)
    said = result.stderr.strip().splitlines()
    assert said[0] == f"error: {compat.NO_DETECTRON2}"
    assert said[-1] == f"ModuleNotFoundError: {compat.NO_DETECTRON2}"


def test_the_remedy_for_a_missing_detectron2_holds_for_an_installed_package():
    """There is no tools/ then; pip's command takes the commit of tools/install_detectron2.py."""
    installer = (REPOSITORY / "tools" / "install_detectron2.py").read_text()
    repository, commit = (
        re.search(rf'^{name} = "(.+?)"', installer, re.M)[1] for name in ("REPOSITORY", "COMMIT")
    )
    command = f"pip install --no-build-isolation 'git+{repository}@{commit}'"
    assert f"{command}`" in compat.NO_DETECTRON2
    assert command in compat.COMPILE_DETECTRON2
    assert command in (REPOSITORY / "INSTALL.md").read_text()


def test_numpy_and_pillow_themselves_stay_as_they_are():
    code = """
        import numpy, PIL.Image
        before = set(dir(numpy)), set(dir(PIL.Image))
        import segzoo, detectron2.data, detectron2.evaluation, detectron2.utils.visualizer
        after = set(dir(numpy)), set(dir(PIL.Image))
        print([sorted(a - b) for a, b in zip(after, before)])
    """
    added = eval(run_python(code).stdout)
    assert not {"int", "float", "str", "object"} & set(added[0])
    assert "LINEAR" not in added[1]


class TestCompiledOperators:
    def test_they_are_reported_as_detectron2_itself_sees_them(self):
        from detectron2.utils.collect_env import collect_env_info

        assert ("not built correctly" in collect_env_info()) == (not compat.detectron2_has_ops())

    @pytest.mark.skipif(compat.detectron2_has_ops(), reason="this detectron2 has its compiled operators")
    def test_calling_a_missing_one_names_it(self):
        missing = compat._MissingOperators("detectron2._C")
        with pytest.raises(
            NotImplementedError, match="deform_conv_forward is a compiled operator of detectron2"
        ):
            missing.deform_conv_forward(torch.zeros(1))

    def test_a_broken_extension_counts_as_missing(self, monkeypatch, caplog):
        def broken(name: str) -> types.ModuleType:
            raise ImportError("undefined symbol: _ZN3c10", name=name)

        monkeypatch.setattr(compat.importlib, "import_module", broken)
        compat.detectron2_has_ops.cache_clear()
        try:
            assert compat.detectron2_has_ops() is False
        finally:
            compat.detectron2_has_ops.cache_clear()
        assert "undefined symbol: _ZN3c10" in caplog.text

    def test_box_evaluation_gives_the_numbers_of_pycocotools(self):
        from detectron2.evaluation.fast_eval_api import COCOeval_opt
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        truth = COCO()
        box = {"image_id": 1, "category_id": 1, "iscrowd": 0}
        truth.dataset = {
            "images": [{"id": 1}],
            "categories": [{"id": 1}],
            "annotations": [
                {**box, "id": 1, "bbox": [0, 0, 10, 10], "area": 100},
                {**box, "id": 2, "bbox": [20, 20, 10, 10], "area": 100},
            ],
        }
        truth.createIndex()
        truth.dataset["info"] = {}
        found = truth.loadRes([{**box, "bbox": [0, 0, 10, 8], "score": 0.9}])
        scores = []
        for evaluation in (COCOeval(truth, found, "bbox"), COCOeval_opt(truth, found, "bbox")):
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            scores.append(evaluation.stats)
        np.testing.assert_allclose(*scores, rtol=0, atol=1e-12)
        # IoU 0.8 passes 7 of 10 thresholds. One box of two is found: precision 1 at 51 of 101 recalls.
        assert scores[0][0] == pytest.approx(0.7 * 51 / 101)


class TestNumpyAliases:
    def test_semantic_evaluator_counts(self, tmp_path):
        from detectron2.data import DatasetCatalog, MetadataCatalog
        from detectron2.evaluation import SemSegEvaluator

        label = np.array([[0, 1], [1, 255]], dtype=np.uint8)
        Image.fromarray(label).save(tmp_path / "label.png")
        record = {"file_name": "image.png", "sem_seg_file_name": str(tmp_path / "label.png")}
        DatasetCatalog.register("compat_test", lambda: [record])
        MetadataCatalog.get("compat_test").set(stuff_classes=["a", "b"], ignore_label=255)
        try:
            evaluator = SemSegEvaluator("compat_test", distributed=False)
            evaluator.reset()
            scores = functional.one_hot(torch.tensor([[0, 1], [0, 0]]), 2).permute(2, 0, 1).float()
            evaluator.process([record], [{"sem_seg": scores}])
            results = evaluator.evaluate()["sem_seg"]
        finally:
            DatasetCatalog.pop("compat_test")
            MetadataCatalog.pop("compat_test")
        assert results["mIoU"] == pytest.approx(50)
        assert results["pACC"] == pytest.approx(200 / 3)

    def test_polygons_without_points_give_an_empty_bool_mask(self):
        from detectron2.structures.masks import PolygonMasks, polygons_to_bitmask

        mask = polygons_to_bitmask([], 3, 4)
        assert mask.shape == (3, 4)
        assert mask.dtype == bool
        triangle = np.array([0.0, 0.0, 2.0, 0.0, 2.0, 2.0])
        assert PolygonMasks([[triangle], []]).nonempty().tolist() == [True, False]

    def test_class_histogram_of_a_dataset_is_printed(self, caplog):
        from detectron2.data.build import print_instances_class_histogram

        caplog.set_level("INFO", logger="detectron2.data.build")
        annotations = [{"category_id": 1}, {"category_id": 1}, {"category_id": 0, "iscrowd": 1}]
        print_instances_class_histogram([{"annotations": annotations}], ["left", "right"])
        if caplog.text:  # Detectron2's loggers may have been configured not to propagate
            assert "right" in caplog.text

    def test_visualizer_draws_a_panoptic_map(self):
        from detectron2.data import Metadata
        from detectron2.utils.visualizer import Visualizer

        metadata = Metadata(
            thing_classes=["car"],
            stuff_classes=["sky"],
            thing_colors=[(255, 0, 0)],
            stuff_colors=[(0, 0, 255)],
        )
        ids = torch.zeros(40, 60, dtype=torch.int32)
        ids[:20], ids[20:, :30] = 1, 2
        info = [
            {"id": 1, "isthing": False, "category_id": 0, "area": 1200},
            {"id": 2, "isthing": True, "category_id": 0, "area": 600, "score": 0.5},
        ]
        visualizer = Visualizer(np.zeros((40, 60, 3), dtype=np.uint8), metadata)
        image = visualizer.draw_panoptic_seg_predictions(ids, info).get_image()
        assert image.shape == (40, 60, 3)
        assert image[3, 3, 2] > image[3, 3, 0]
        assert image[-3:, -3:].max() == 0

    def test_video_visualizer_draws_two_frames(self):
        from detectron2.data import Metadata
        from detectron2.structures import Boxes, Instances
        from detectron2.utils.video_visualizer import VideoVisualizer

        visualizer = VideoVisualizer(Metadata(thing_classes=["car"]))
        instances = Instances((40, 60))
        instances.pred_masks = torch.zeros(1, 40, 60, dtype=torch.bool)
        instances.pred_masks[:, 5:30, 5:30] = True
        instances.pred_boxes = Boxes(torch.tensor([[5.0, 5.0, 30.0, 30.0]]))
        instances.pred_classes = torch.zeros(1, dtype=torch.int64)
        instances.scores = torch.ones(1)
        frame = np.zeros((40, 60, 3), dtype=np.uint8)
        for _ in range(2):
            assert visualizer.draw_instance_predictions(frame, instances).get_image().max() > 50

    def test_pascal_voc_is_read_and_scored(self, tmp_path):
        from detectron2.data.datasets.pascal_voc import load_voc_instances
        from detectron2.evaluation.pascal_voc_evaluation import voc_eval

        (tmp_path / "Annotations").mkdir()
        (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
        names = ["a", "b"]
        (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("\n".join(names))
        for name in names:
            (tmp_path / "Annotations" / f"{name}.xml").write_text(
                "<annotation><size><width>50</width><height>40</height></size><object><name>cat</name>"
                "<pose>x</pose><truncated>0</truncated><difficult>0</difficult><bndbox><xmin>1</xmin>"
                "<ymin>1</ymin><xmax>20</xmax><ymax>20</ymax></bndbox></object></annotation>"
            )
        instances = load_voc_instances(str(tmp_path), "val", ["cat"])
        assert [instance["annotations"][0]["bbox"] for instance in instances] == [[0.0, 0.0, 20.0, 20.0]] * 2
        (tmp_path / "cat.txt").write_text("a 0.9 1 1 20 20\n")
        recall, _, average_precision = voc_eval(
            str(tmp_path / "{}.txt"),
            str(tmp_path / "Annotations" / "{}.xml"),
            str(tmp_path / "ImageSets" / "Main" / "val.txt"),
            "cat",
        )
        assert recall.tolist() == [0.5]
        assert average_precision == pytest.approx(0.5)


def test_extent_transform_interpolates_bilinearly_by_default():
    from detectron2.data.transforms.transform import ExtentTransform

    image = np.array([[0, 100], [100, 200]], dtype=np.uint8)
    enlarged = ExtentTransform((0, 0, 2, 2), (4, 4)).apply_image(image)
    assert len(np.unique(enlarged)) > 4


def test_model_zoo_finds_its_configurations_without_setuptools():
    code = """
        import segzoo, sys
        from detectron2 import model_zoo
        print(model_zoo.get_config_file("COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml"))
        print("pkg_resources" in sys.modules)
    """
    lines = run_python(code).stdout.splitlines()
    assert lines[0].endswith("panoptic_fpn_R_50_3x.yaml")
    assert lines[1] == "False"


class TestTorchvision:
    def test_its_operators_are_looked_for(self):
        assert compat.torchvision_has_ops() is importlib.import_module("torchvision").extension._has_ops()

    @pytest.mark.parametrize("implementation", ["compiled", "numpy", "torchvision"])
    def test_nms_keeps_what_the_definition_keeps(self, implementation, monkeypatch):
        function = nms_of(implementation, monkeypatch)
        generator = torch.Generator().manual_seed(0)
        corners = torch.rand(200, 2, generator=generator) * 60
        boxes = torch.cat([corners, corners + torch.rand(200, 2, generator=generator) * 40], dim=1)
        scores = torch.rand(200, generator=generator)
        assert function(boxes, scores, 0.5).tolist() == greedy_nms(boxes.tolist(), scores.tolist(), 0.5)

    @pytest.mark.parametrize("implementation", ["compiled", "numpy", "torchvision"])
    def test_nms_handles_no_boxes_and_boxes_without_area(self, implementation, monkeypatch):
        function = nms_of(implementation, monkeypatch)
        assert function(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []
        assert function(torch.zeros(2, 4), torch.tensor([0.1, 0.9]), 0.5).tolist() == [1, 0]

    @pytest.mark.parametrize("implementation", ["compiled", "numpy", "torchvision"])
    def test_nms_compares_the_rounded_iou(self, implementation, monkeypatch):
        """As torchvision's kernel for CPUs: the IoU has the dtype of the boxes, the threshold is double."""
        function = nms_of(implementation, monkeypatch)
        scores = torch.tensor([0.9, 0.8])
        for part, whole, dropped in ((3, 5, True), (7, 10, False), (3, 10, True), (1, 2, False)):
            boxes = torch.tensor([[0.0, 0, whole, 10], [0, 0, part, 10]])
            assert (float(np.float32(part) / np.float32(whole)) > part / whole) == dropped
            assert function(boxes, scores, part / whole).tolist() == ([0] if dropped else [0, 1])
            assert function(boxes.double(), scores.double(), part / whole).tolist() == [0, 1]

    def test_batched_nms_of_detectron2_separates_the_classes(self):
        from detectron2.layers import batched_nms

        boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 9]])
        kept = batched_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 1]), 0.5)
        assert kept.tolist() == [0, 1]


def nms_of(implementation: str, monkeypatch):
    from torchvision.ops import nms

    from segzoo.layers import nms as module

    if implementation == "torchvision":
        return nms
    if implementation == "numpy":
        monkeypatch.setattr(module, "load_loops", lambda name: None)
    return module.nms


def greedy_nms(boxes: list[list[float]], scores: list[float], threshold: float) -> list[int]:
    """The definition, box by box in plain Python."""
    kept = []
    for candidate in sorted(range(len(boxes)), key=lambda index: -scores[index]):
        left, top, right, bottom = boxes[candidate]
        for other in kept:
            width = max(0.0, min(right, boxes[other][2]) - max(left, boxes[other][0]))
            height = max(0.0, min(bottom, boxes[other][3]) - max(top, boxes[other][1]))
            areas = (right - left) * (bottom - top)
            areas += (boxes[other][2] - boxes[other][0]) * (boxes[other][3] - boxes[other][1])
            if width * height > threshold * (areas - width * height):
                break
        else:
            kept.append(candidate)
    return kept
