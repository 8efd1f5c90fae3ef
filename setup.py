"""Packaging of nds_plugin; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "nds_plugin/__init__.py").read_text())[1]

setup(
    name="nds_plugin",
    version=VERSION,
    description="Neural Data Server for Detectron2: choose the pretraining images that suit a target dataset",
    long_description=(HERE / "README.md").read_text() if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    packages=find_packages(include=["nds_plugin", "nds_plugin.*"]),
    package_data={"nds_plugin": ["py.typed"]},
    python_requires=">=3.9",
    install_requires=[
        "numpy>=1.23",
        "pyarrow>=15",
        "pillow>=9.4",
        "tqdm",
        "tabulate",
        "pycocotools",
        "fvcore",
        "safetensors",
        "scikit-learn>=1.3",
        "scipy",
        "matplotlib",
        "torch>=2.3",
        "torchvision",
    ],
    extras_require={
        "dev": ["pytest", "pytest-timeout", "ruff", "mypy", "psutil", "playwright"],
    },
)
