"""Manifests: what comes out of every format is what was put in, in pieces that stay small."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nds_plugin.errors import NDSError
from nds_plugin.selection.weights import cluster_sizes, image_rates
from nds_plugin.service.published.rows import BATCH, Rows, write_rows
from nds_plugin.service.published.store import PublishedSet, SetRecord
from nds_plugin.service.server import manifests
from nds_plugin.service.server.selecting import Drawn

ODD = [
    'a"b',
    "a,b",
    "a\nb",
    "a\\b",
    "Täßchen",
    "\U0001f600",
    "'; DROP",
    "\u2028",
    "=1+1",
    " ",
    "\t",
    "007",
    "</script>",
]
INFO: dict[str, Any] = {"selector": "nds", "seed": 0, "sources": ["a", 'b "c"']}


def made_up(folder: Path, images: int, ids: list[str] | None = None) -> PublishedSet:
    """A set of two sources and three clusters without experts."""
    rng = np.random.default_rng(0)
    names = ids or [str(k) for k in range(images)]
    table = pa.table(
        {
            "source": [INFO["sources"][k % 2] for k in range(images)],
            "image_id": names,
            "file_name": [f"{name}.jpg" for name in names],
            "url": [f"https://host.example/{k}.jpg" for k in range(images)],
            "license": ["CC BY 2.0", "other"] * (images // 2) + ["other"] * (images % 2),
            "checksum": [""] * images,
            "cluster": pa.array(rng.integers(-1, 3, images), pa.int32()),
        }
    )
    write_rows(folder / "rows.arrow", table)
    sources = [{"name": name, "numbered": ids is None} for name in INFO["sources"]]
    record = SetRecord(
        folder, {"id": "0" * 16, "images": images, "sources": sources}, {"experts": [None] * 3}
    )
    return PublishedSet.load(record)


def drawn_from(published: PublishedSet, step: int = 1) -> Drawn:
    """Every ``step``-th image that is in a cluster."""
    weights = np.array([0.5, 0.3, 0.2])
    rows = np.flatnonzero(published.cluster >= 0)[::step].astype(np.int32)
    return Drawn(rows, image_rates(weights, cluster_sizes(published.cluster, 3)), weights, INFO)


def parsed(published: PublishedSet, drawn: Drawn) -> dict[str, list[dict[str, Any]]]:
    """The images of the formats that hold them whole."""
    text = {
        kind: b"".join(manifests.stream(kind, published, drawn, {"seed": 0})) for kind in manifests.FORMATS
    }
    rows = list(csv.DictReader(io.StringIO(text["csv"].decode(), newline="")))
    table = pq.read_table(io.BytesIO(text["parquet"]))
    return {
        "csv": [{**row, "cluster": int(row["cluster"]), "p": float(row["p"])} for row in rows],
        "json": json.loads(text["json"])["images"],
        "parquet": table.to_pylist(),
        "coco": [json.loads(text["coco"])],
    }


def test_any_text_survives_every_format(tmp_path: Path) -> None:
    published = made_up(tmp_path, len(ODD), ODD)
    drawn = drawn_from(published)
    expected = manifests.image_rows(published, drawn, 0, len(drawn.rows))
    assert [row["image_id"] for row in expected] == [ODD[k] for k in drawn.rows]
    found = parsed(published, drawn)
    assert found["csv"] == found["json"] == expected
    assert found["parquet"] == [{k: v for k, v in row.items() if k != "file_name"} for row in expected]
    by_source = {name: [r["image_id"] for r in expected if r["source"] == name] for name in INFO["sources"]}
    assert found["coco"] == [{name: ids for name, ids in by_source.items() if ids}]


@pytest.mark.slow
@pytest.mark.parametrize("images", [1, 2, BATCH - 1, BATCH, BATCH + 1, 5 * BATCH + 7])
@pytest.mark.parametrize("step", [1, 97])
def test_no_image_is_lost_at_the_edges_of_batches(tmp_path: Path, images: int, step: int) -> None:
    published = made_up(tmp_path, images)
    if not (published.cluster >= 0).any():
        pytest.skip("the only image is in no cluster")
    drawn = drawn_from(published, step)
    wanted = [str(k) for k in drawn.rows]
    found = parsed(published, drawn)
    for kind in ("csv", "json", "parquet"):
        assert [row["image_id"] for row in found[kind]] == wanted
        assert [row["p"] for row in found[kind]] == drawn.rates[published.cluster[drawn.rows]].tolist()
    ids = [number for numbers in found["coco"][0].values() for number in numbers]
    assert sorted(ids) == drawn.rows.tolist()  # as numbers, since all ids of these sources are
    pages = [
        row
        for start in range(0, len(wanted), 1000)
        for row in manifests.image_rows(published, drawn, start, start + 1000)
    ]
    assert [row["image_id"] for row in pages] == wanted


@pytest.mark.slow
def test_a_manifest_comes_in_pieces_of_bounded_size(tmp_path: Path) -> None:
    published = made_up(tmp_path, 40 * BATCH)
    drawn = drawn_from(published)
    for kind in manifests.FORMATS:
        sizes = [len(piece) for piece in manifests.stream(kind, published, drawn, {})]
        assert max(sizes) < 300 * BATCH
        assert len(sizes) > 3, kind


def test_the_counts_of_a_set_are_those_of_its_rows(tmp_path: Path) -> None:
    published = made_up(tmp_path, 1000)
    for source in range(2):
        for k in range(3):
            inside = (published.source == source) & (published.cluster == k)
            assert published.counts[source, k] == inside.sum()
    assert published.sizes_in(["a"]).tolist() == published.counts[0].tolist()
    assert (published.cluster_in(["a"]) >= 0).sum() == published.counts[0].sum()


def test_a_file_that_is_no_rows_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    path.write_bytes(b"nonsense")
    with pytest.raises(NDSError, match="not a whole file of rows"):
        Rows(path)
    table = pa.table({"source": ["a"]})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(NDSError, match="its columns are not those of this release"):
        Rows(path)
    write_rows(
        path,
        pa.table(
            {
                name: []
                for name in ("source", "image_id", "file_name", "url", "license", "checksum", "cluster")
            }
        ),
    )
    assert Rows(path).batches == 0
