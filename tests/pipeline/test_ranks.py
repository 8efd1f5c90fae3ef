"""The steps on several ranks: each image is embedded once by one of them, and the artefacts are those of one rank."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nds_plugin.d2.config.nodes import load_config
from nds_plugin.d2.job.main_job import selection_steps
from nds_plugin.job.selection_summary import Timings
from nds_plugin.pipeline.selection_steps import SelectionSteps
from nds_plugin.source.extraction import Extractor

pytestmark = pytest.mark.slow

TINY = [
    *("DATASETS.TRAIN", "('tiny_city_train',)", "DATASETS.TEST", "('tiny_city_val',)"),
    *(
        "NDS.SOURCE.DATASETS",
        "('tiny_street_train', 'tiny_room_train', 'tiny_street_val', 'tiny_room_val', 'tiny_city_val')",
    ),
    *("NDS.TARGET.NUM_IMAGES", "8", "NDS.PARTITION.NUM_CLUSTERS", "3", "NDS.EXPERTS.CROP_SIZE", "32"),
    *("NDS.PARTITION.SAMPLE_LEAST", "1", "NDS.PARTITION.SAMPLE_PER_CLUSTER", "4"),
    *("NDS.BUDGET.SHARE", "0.5", "NDS.SHARD_SIZE", "64", "DATALOADER.NUM_WORKERS", "0"),
]


class WaitingRanks:
    """Ranks that wait for each other, each a thread of this process; those of support/ranks.py do not wait."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._barrier = threading.Barrier(count, timeout=60)
        self._values: list[Any] = [None] * count

    def of(self, rank: int, inner: Any) -> Any:
        ranks = self

        class Host(type(inner)):  # type: ignore[misc]
            world_size = ranks.count

            def __init__(self) -> None:
                self.__dict__.update(inner.__dict__)

            @property
            def rank(self) -> int:
                return rank

            def barrier(self) -> None:
                ranks._barrier.wait()

            def all_gather(self, value: Any) -> list[Any]:
                ranks._values[rank] = value
                self.barrier()
                found = list(ranks._values)
                self.barrier()
                return found

        return Host()


def run(folder: Path, selector: str, count: int) -> None:
    cfg = load_config(
        "nds_sample.yaml",
        [*TINY, "NDS.SELECTOR", selector, "OUTPUT_DIR", str(folder), "NDS.WORK_DIR", str(folder)],
    )
    ranks = WaitingRanks(count)

    def one(rank: int) -> None:
        steps = selection_steps(cfg, Timings())
        SelectionSteps(steps.settings, ranks.of(rank, steps.host), folder).run()

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(one, range(count)))


@pytest.mark.parametrize("selector", ["gate", "histogram", "knn"])
def test_two_ranks_embed_each_image_once_and_select_as_one_does(
    selector: str, tiny_datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, str]] = []
    embed = Extractor.run

    def counted(self: Extractor, files: Sequence[str], *rest: Any) -> Any:
        seen.extend((threading.get_ident(), file) for file in files)
        return embed(self, files, *rest)

    run(tmp_path / "one", selector, 1)
    monkeypatch.setattr(Extractor, "run", counted)
    run(tmp_path / "two", selector, 2)
    of_source = [(thread, file) for thread, file in seen if "city/images/train" not in file]
    assert len({file for _, file in of_source}) == len(of_source) > 64
    assert len({thread for thread, _ in of_source}) == 2
    made = {path.name: path for path in (tmp_path / "one").glob("*.parquet")}
    assert any(name.startswith("selection") for name in made)
    for name, path in made.items():
        assert (tmp_path / "two" / name).read_bytes() == path.read_bytes()
