"""What pyproject.toml cannot say: configs/ lies at the top of the repository and is installed in the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies configs/detectron2; an editable install reads them from the checkout."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            configs = Path(__file__).parent / "configs" / "detectron2"
            installed = Path(self.build_lib) / "nds_plugin" / "configs" / "detectron2"
            shutil.copytree(
                configs, installed, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
            )


setup(cmdclass={"build_py": BuildWithConfigs})
