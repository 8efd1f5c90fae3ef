"""What the tests share: one thread, no GPU surprises, and the folder of real photographs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from as_user import User, logging_kept


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """A shell starts what runs in its background deaf to Ctrl-C, and all that is started from there."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[User]:
    """Somebody who starts the tools."""
    with logging_kept():
        yield User(monkeypatch, capsys)


@pytest.fixture(scope="session")
def nds_data() -> Path:
    """The folder of real annotated photographs, from the environment variable NDS_DATA."""
    root = os.getenv("NDS_DATA", "")
    if not root or not Path(root, "detection").is_dir():
        pytest.skip("set NDS_DATA to a folder of real annotated photographs (docs/datasets.md)")
    return Path(root)


@pytest.fixture(scope="session")
def tiny_datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small synthetic domains, registered as ``tiny_<domain>_<split>``; the folder they are in.

    ``tiny_street_*`` and ``tiny_room_*`` share image ids, since each COCO file numbers its own.
    """
    from nds_plugin.d2.data.known_datasets import register_coco_folder
    from nds_plugin.datasets.sample.generate import generate

    root = tmp_path_factory.mktemp("tiny")
    generate(root, train_images=24, val_images=6, size=(96, 72), domains=["street", "room", "city"])
    for file in root.glob("*/*.json"):
        _number_from_one(file)
    register_coco_folder(root, "tiny")
    return root


@pytest.fixture(scope="session")
def service_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published store of three sources and as many clusters, which tests copy before they change it."""
    from service_demo import build_store

    return build_store(tmp_path_factory.mktemp("service"))


def _number_from_one(file: Path) -> None:
    document = json.loads(file.read_text())
    number = {image["id"]: i for i, image in enumerate(document["images"], start=1)}
    for image in document["images"]:
        image["id"] = number[image["id"]]
    for annotation in document["annotations"]:
        annotation["image_id"] = number[annotation["image_id"]]
    file.write_text(json.dumps(document))
