"""What pyproject.toml cannot say: configs/ lies at the top of the repository and is installed in the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies the configs of both hosts; an editable install reads them from the checkout."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for host in ("detectron2", "mmdetection", "ssl"):
                configs = Path(__file__).parent / "configs" / host
                installed = Path(self.build_lib) / "nds_plugin" / "configs" / host
                shutil.copytree(
                    configs, installed, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
                )


setup(cmdclass={"build_py": BuildWithConfigs})
