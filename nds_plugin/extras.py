"""Optional packages: which extra of nds_plugin brings which, and the error where one is missing.

May import: errors, files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from nds_plugin import __version__
from nds_plugin.errors import MissingPackageError
from nds_plugin.files.installed import CHECKOUT

# The package is on no index: an extra is installed from where the package itself came from.
_EXTRA = (
    f"python -m pip install './nds_plugin-{__version__}-py3-none-any.whl[{{}}]' in the folder of that wheel"
    if CHECKOUT is None
    else "python -m pip install -e '" + str(CHECKOUT).replace("{", "{{").replace("}", "}}") + "[{}]'"
)
# By the name that is imported. pyproject.toml has the extras with their versions.
_COMMANDS = {
    **dict.fromkeys(("torch", "torchvision", "sklearn", "threadpoolctl", "timm"), _EXTRA.format("experts")),
    **dict.fromkeys(
        (
            "fastapi",
            "starlette",
            "pydantic",
            "anyio",
            "uvicorn",
            "httptools",
            "uvloop",
            "sqlalchemy",
            "psycopg",
        ),
        _EXTRA.format("server"),
    ),
    "httpx": _EXTRA.format("client"),
    **dict.fromkeys(("fvcore", "iopath", "yacs", "omegaconf"), _EXTRA.format("detectron2")),
    "detectron2": "python -m pip install --no-build-isolation --no-deps 'git+https://github.com/facebookresearch/detectron2.git'",
    # Not of the extra itself: mmcv with compiled operators is chosen by torch and CUDA (docs/mmdetection.md).
    **dict.fromkeys(
        ("mmdet", "mmcv", "mmengine"),
        f"{_EXTRA.format('mmdetection')}, then python -m pip install --no-deps mmdet==3.3.0 mmcv-lite==2.1.0 mmengine==0.10.7",
    ),
    **dict.fromkeys(("addict", "cv2", "rich", "terminaltables", "yapf"), _EXTRA.format("mmdetection")),
    "ray": _EXTRA.format("ray"),
    "shapely": _EXTRA.format("cityscapes"),
    "cityscapesscripts": "python -m pip install --no-deps cityscapesscripts",
}


def missing(error: ModuleNotFoundError, what: str = "this command") -> MissingPackageError | None:
    """The error for an optional package that could not be imported; None for any other module.

    Args:
        what: needs the package, such as "reading Stanford Cars".
    """
    package = (error.name or "").split(".")[0]
    if package not in _COMMANDS:
        return None
    return MissingPackageError(
        f"{what} needs the package {package}, which is not installed: {_COMMANDS[package]}"
    )


@contextlib.contextmanager
def needed_for(what: str) -> Iterator[None]:
    """Around imports of optional packages: what is missing is told with the command that installs it.

    Raises:
        MissingPackageError: an optional package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise (missing(error, what) or error) from None
