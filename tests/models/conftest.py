"""Generated data for all tests of this folder."""

import pytest

from segzoo.cli.prepare.shapes import make_shapes


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory):
    """Create DETECTRON2_DATASETS with four training and two validation images of Shapes, 64 x 64."""
    folder = tmp_path_factory.mktemp("models")
    patch = pytest.MonkeyPatch()
    patch.setenv("DETECTRON2_DATASETS", str(folder))
    make_shapes(folder / "shapes", train=4, val=2, size=64, workers=0)
    yield folder
    patch.undo()
