"""Packaging of segzoo. The versions that `make` installs are pinned in requirements/constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

# Detectron2 is needed too, but is not on PyPI under its own name: tools/install_detectron2.py installs it.
REQUIRED = [
    "torch>=2.4",
    "torchvision>=0.19",
    "fvcore>=0.1.5.post20221221,<0.1.6",
    "iopath>=0.1.9",
    "matplotlib>=3.6",
    "numba>=0.59",
    "numpy>=1.24",
    "opencv-python-headless>=4.5.5.64",
    "Pillow>=9.3",
    "pycocotools>=2.0.7",
    "PyYAML>=6",
    "safetensors>=0.4.2",
    "scipy>=1.9.3",
    "submitit>=1.5",
    "tabulate>=0.9",
    "tensorboard>=2.10",
    "termcolor>=2.0.1",
    "timm>=1.0.31",
    "tqdm>=4.60",
]

EXTRAS = {
    # A faster engine of mask AP, taken where it is installed.
    "coco": ["faster-coco-eval>=1.6"],
    # The references that the tests compare with. panopticapi-lite provides the module panopticapi.
    "test": [
        "h5py>=3.10",
        "hypothesis>=6.100",
        # Declares numpy < 2, of which Python 3.13 has no wheels, but works with it; see INSTALL.md.
        "panopticapi-lite==0.2.0; python_version < '3.13'",
        "pytest>=8",
        "pytest-xdist>=3.5",
        "transformers>=4.51",
    ],
    "lint": ["ruff==0.17.5"],
}
# Every extra that a user, not only a developer, gains from.
EXTRAS["all"] = EXTRAS["coco"]


def version() -> str:
    text = (ROOT / "segzoo" / "__init__.py").read_text()
    return re.search(r'^__version__ = "(.+)"$', text, flags=re.MULTILINE).group(1)


setup(
    name="segzoo",
    version=version(),
    description="Semantic, panoptic and entity segmentation on Detectron2: one code base and model zoo",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.10",
    package_dir={"segzoo": "segzoo", "segzoo.projects": "projects", "segzoo.configs": "configs"},
    packages=[
        *find_packages(include=["segzoo", "segzoo.*"]),
        "segzoo.projects",
        *(f"segzoo.projects.{name}" for name in find_packages("projects")),
        # Not code: the YAML files stand in the wheel where the source tree has them, beside the projects.
        "segzoo.configs",
    ],
    package_data={
        "segzoo.data": ["catalog/*.yaml"],
        "segzoo.model_zoo": ["*.yaml", "*.json", "**/*.yaml", "**/*.json"],
        "segzoo.configs": ["**/*.yaml"],
    },
    install_requires=REQUIRED,
    extras_require=EXTRAS,
)
