"""A source in parts gives the selection that the same source gives from memory, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nds_plugin.commands import draw
from nds_plugin.errors import NDSError
from nds_plugin.experts.scores import Scores
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.drawing import draw_from_blocks, draw_subset
from nds_plugin.selection.manifest import stream_from_blocks
from nds_plugin.selection.select import select
from nds_plugin.selection.select_parts import select_from_parts
from nds_plugin.selection.selectors import SELECTORS
from nds_plugin.selection.selectors.nds import NDS
from nds_plugin.selection.selectors.uniform import Full, Uniform
from nds_plugin.selection.streams import WeightedStream
from nds_plugin.selection.weights import cluster_sizes
from nds_plugin.source.census import Census
from nds_plugin.source.index import SCHEMA, SourceIndex
from nds_plugin.source.index_parts import IndexParts, write_index
from nds_plugin.source.partition import Partition
from nds_plugin.source.partition_parts import (
    StreamedPartition,
    save_in_parts,
    seal_partition,
    write_partition_part,
)

IMAGES, CLUSTERS = 100_000, 40


def _table(images: int) -> pa.Table:
    """Three sources, one of which begins in the middle of a part and whose ids are those of another."""
    row = np.arange(images)
    source = np.where(row < 0.3 * images, "meadow", np.where(row < 0.9 * images, "airport", "beach"))
    text = pa.array(row % int(0.7 * images)).cast(pa.string())
    columns = {name: np.zeros(images) for name in ("width", "height", "label")}
    arrays = {"source": source, "image_id": text, "file_name": text, "url": text, **columns}
    return pa.table({name: pa.array(arrays.get(name, [""] * images)) for name in SCHEMA.names}).cast(SCHEMA)


@pytest.fixture(scope="module")
def index() -> SourceIndex:
    return SourceIndex(_table(IMAGES), ("cat", "dog"))


@pytest.fixture(scope="module")
def partition(index: SourceIndex) -> Partition:
    rng = np.random.default_rng(0)
    cluster = (rng.random(IMAGES) ** 2 * CLUSTERS).astype(np.int32)  # of sizes from 1.3 % to 16 %
    cluster[rng.random(IMAGES) < 0.01] = -1
    return Partition(cluster, index.table, index.hash, method="kmeans", seed=0)


@pytest.fixture(scope="module")
def folder(index: SourceIndex, partition: Partition, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same source on disk in both forms; parts of the index and of the partition end at other rows."""
    folder: Path = tmp_path_factory.mktemp("parts")
    index.save(folder / "index.parquet", index.hash)
    partition.save(folder / "partition.parquet", "key")
    # Every piece has a dictionary of sources of its own, as those of several writers have.
    text = index.table.set_column(0, "source", index.table.column("source").cast(pa.string()))
    pieces = [text.slice(0, 33_333), text.slice(33_333)]
    write_index(folder / "index", pieces, index.hash, index.classes, rows=37_000)
    save_in_parts(partition, folder / "partition", "key", rows=45_000)
    return folder


def _scores() -> Scores:
    z = np.linspace(0.2, 0.9, CLUSTERS).tolist()
    return Scores(list(range(CLUSTERS)), z, [0.0] * CLUSTERS, "accuracy", 10, "e" * 64, "rotation")


def _both(
    folder: Path, index: SourceIndex, partition: Partition, config: SelectionConfig
) -> tuple[bytes, bytes]:
    """The file of a selection from memory and that from the parts."""
    scores = _scores() if isinstance(config.selector, NDS) else None
    select(index, partition, config, scores).save(folder / "a.parquet", "key")
    parts = IndexParts.open(folder / "index"), StreamedPartition.open(folder / "partition")
    select_from_parts(*parts, config, scores).save(folder / "b.parquet", "key")
    return (folder / "a.parquet").read_bytes(), (folder / "b.parquet").read_bytes()


@pytest.mark.parametrize(
    "config",
    [
        SelectionConfig(count=2_300, seed=3),
        SelectionConfig(NDS(temperature=0.01), share=0.5),
        SelectionConfig(NDS(temperature=1e-4), count=1),
        SelectionConfig(Uniform(), count=1_000, seed=1),
        SelectionConfig(Full()),
        SelectionConfig(mode="stream"),
    ],
    ids=["nds", "half", "one", "uniform", "full", "stream"],
)
def test_a_selection_from_parts_is_that_from_memory_byte_for_byte(
    folder: Path, index: SourceIndex, partition: Partition, config: SelectionConfig
) -> None:
    in_memory, from_parts = _both(folder, index, partition, config)
    assert from_parts == in_memory


def test_an_index_and_a_partition_in_parts_are_read_back_as_they_were(
    folder: Path, index: SourceIndex, partition: Partition
) -> None:
    loaded, parts = SourceIndex.load(folder / "index"), IndexParts.open(folder / "index")
    assert loaded.table.equals(index.table)
    assert (loaded.hash, loaded.classes, loaded.sources) == (index.hash, index.classes, index.sources)
    assert (parts.hash, parts.classes, parts.sources) == (index.hash, index.classes, index.sources)
    cut, streamed = Partition.load(folder / "partition"), StreamedPartition.open(folder / "partition")
    assert (cut.cluster == partition.cluster).all()
    assert cut.hash == streamed.hash == partition.hash
    assert (streamed.census.counts == Census.of(index, partition).counts).all()
    assert (streamed.census.sizes == partition.sizes).all()
    cut.check_matches(loaded)
    streamed.check_matches(parts)


def test_one_file_can_be_streamed_too(folder: Path, index: SourceIndex, partition: Partition) -> None:
    config = SelectionConfig(count=500)
    parts = IndexParts.open(folder / "index.parquet"), StreamedPartition.open(folder / "partition.parquet")
    streamed = select_from_parts(*parts, config, _scores())
    select(index, partition, config, _scores()).save(folder / "a.parquet", "key")
    streamed.save(folder / "b.parquet", "key")
    assert (folder / "a.parquet").read_bytes() == (folder / "b.parquet").read_bytes()


def test_parts_of_several_writers_without_a_head_give_the_same_draw(
    folder: Path, index: SourceIndex, partition: Partition, tmp_path: Path
) -> None:
    table = partition.identities.append_column("cluster", pa.array(partition.cluster))
    table = table.append_column("distance", pa.array(np.zeros(IMAGES, np.float32)))
    for number in (1, 0):
        piece = table.slice(number * 60_000, 60_000)
        write_partition_part(tmp_path / "p", number, piece, "key", index.hash, "kmeans", 0)
    unsealed = StreamedPartition.open(tmp_path / "p")
    sealed = seal_partition(tmp_path / "p", "key")
    assert unsealed.hash == sealed.hash == partition.hash
    assert (unsealed.census.counts == sealed.census.counts).all()
    assert unsealed.census.sources == sealed.census.sources == tuple(index.sources)
    assert Partition.load(tmp_path / "p").hash == partition.hash


@pytest.mark.parametrize("size", [997, 1 << 14, 1 << 20])
def test_the_draw_does_not_depend_on_how_the_source_is_cut_into_blocks(
    partition: Partition, size: int
) -> None:
    weights = np.random.default_rng(1).random(CLUSTERS) ** 6
    weights[:3] = 0
    asked = []

    def blocks():  # type: ignore[no-untyped-def]
        asked.append(1)
        for start in range(0, IMAGES, size):
            yield start, partition.cluster[start : start + size]

    sizes = cluster_sizes(partition.cluster, CLUSTERS)
    rows, cluster = draw_from_blocks(weights, sizes, blocks, 2_300, 7)
    assert np.array_equal(rows, draw_subset(weights, partition.cluster, 2_300, 7))
    assert np.array_equal(cluster, partition.cluster[rows])
    assert len(asked) == 1


def test_the_command_draws_from_parts_what_it_draws_from_one_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _scores().save(folder / "scores.json", "key")
    told = []
    for form in (".parquet", ""):
        for options in (["--scores", str(folder / "scores.json")], ["--selector", "uniform"]):
            for mode in (["--images", "700"], ["--mode", "stream", "--images", "3000"]):
                given = ["--partition", str(folder / f"partition{form}")] if "--scores" in options else []
                output = folder / f"drawn{len(told)}.parquet"
                index = ["--index", str(folder / f"index{form}")]
                listed = folder / "listed.csv"
                draw.main(
                    [*index, *given, *options, *mode, "--output", str(output), "--manifest", str(listed)]
                )
                said = capsys.readouterr().out.replace(str(output), "")
                told.append((said, output.read_bytes(), listed.read_bytes()))
    assert told[:4] == told[4:]
    assert told[0][2].startswith(b"source,image_id,cluster,p,url,license,checksum\n")
    assert [manifest.count(b"\n") for _, _, manifest in told] == [701, 3001] * 4


def test_a_manifest_of_a_stream_needs_the_number_of_draws(folder: Path) -> None:
    given = ["--index", str(folder / "index"), "--selector", "uniform", "--mode", "stream"]
    with pytest.raises(NDSError, match="give the number of draws that --manifest lists by --images"):
        draw.main([*given, "--output", str(folder / "s.parquet"), "--manifest", str(folder / "s.csv")])


@pytest.mark.parametrize("size", [997, 1 << 20])
def test_draws_with_replacement_from_blocks_are_those_of_the_stream(partition: Partition, size: int) -> None:
    weights = np.random.default_rng(1).random(CLUSTERS) ** 6
    weights[:3] = 0

    def blocks():  # type: ignore[no-untyped-def]
        return ((start, partition.cluster[start : start + size]) for start in range(0, IMAGES, size))

    rows, cluster = stream_from_blocks(weights, partition.sizes, blocks, 20_000, 7)
    assert np.array_equal(rows, WeightedStream(weights, partition.cluster, 7).draw(0, 20_000))
    assert np.array_equal(cluster, partition.cluster[rows])
    assert len(np.unique(rows)) < len(rows)


def test_a_partition_of_another_index_is_refused(folder: Path, index: SourceIndex, tmp_path: Path) -> None:
    other = write_index(tmp_path / "other", [index.table.slice(0, 50_000)], "k", index.classes)
    cut = StreamedPartition.open(folder / "partition")
    with pytest.raises(NDSError, match="it has 100,000 images, the index 50,000: make the partition again"):
        cut.check_matches(other)
    other = write_index(tmp_path / "again", [index.table], "k", ("cat",))
    with pytest.raises(NDSError, match="it was made from another one"):
        cut.check_matches(other)


def test_an_index_is_not_written_over_the_parts_of_another_start(index: SourceIndex, tmp_path: Path) -> None:
    def killed() -> Iterator[pa.Table]:
        yield index.table.slice(0, 40)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_index(tmp_path / "index", killed(), "k", rows=20)
    with pytest.raises(
        NDSError, match="holds parts of an index already.*remove the folder, or name a new one"
    ):
        write_index(tmp_path / "index", [index.table.slice(0, 100)], "k", rows=50)


def test_an_image_that_is_drawn_twice_is_refused(index: SourceIndex, tmp_path: Path) -> None:
    tables = [index.table.slice(0, 2_000), index.table.slice(0, 2_000)]
    parts = write_index(tmp_path / "index", tables, "k", rows=2_000)
    with pytest.raises(NDSError, match=r"of the drawn images occur more than once.*of source 'meadow'"):
        select_from_parts(
            parts, StreamedPartition.by_source(parts), SelectionConfig(SELECTORS["uniform"](), share=0.9)
        )
