"""Publish a set: check what the partition and expert steps left, and put it into a store whole."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nds_plugin.errors import NDSError
from nds_plugin.experts.description import Description
from nds_plugin.experts.manifest import MANIFEST, check_set_file, read_manifest, set_files
from nds_plugin.files.artifacts import cannot_write, check_writable, content_hash, file_hash, sync, write_json
from nds_plugin.files.locking import held
from nds_plugin.service.fastadapt.scores import expert_name
from nds_plugin.service.published import store as layout
from nds_plugin.service.published.rows import write_rows
from nds_plugin.service.published.source_notes import SourceNotes, read_notes, with_links
from nds_plugin.service.set_limits import check_limits, check_size
from nds_plugin.source.index import NO_LABEL, SourceIndex
from nds_plugin.source.partition import Partition
from nds_plugin.store.file_names import join_names

logger = logging.getLogger(__name__)
FASTADAPT = "fastadapt"
_HALF_MADE = ".publishing-"
_MOST_LICENSES = 20
# Text that a spreadsheet takes for a formula, and that can do something as one: call a function or start a program
# needs a bracket, a bar or the like. Ids such as -xY_3 and checksums in base64 are harmless, and stay as they are.
_FORMULA = r"^[=+\-@\x00-\x1f\x{FF1D}\x{FF0B}\x{FF0D}\x{FF20}]"
_HARMLESS = r"^[A-Za-z0-9_./+=@-]*$"


def publish(
    store: str | os.PathLike[str],
    index: str | os.PathLike[str],
    partition: str | os.PathLike[str],
    experts: str | os.PathLike[str],
    notes: str | os.PathLike[str] | None = None,
    *,
    description: str | os.PathLike[str] | None = None,
    current: bool = True,
) -> str:
    """Check a set, copy it into the store and make it the current one.

    A server that runs on the store goes on with the new set; searches keep the one they began with.

    Args:
        store: the store's folder; made if need be.
        index, partition: the artefacts.
        experts: folder of experts, trained on that partition, unless ``description`` is given.
        notes: YAML about the sources (``source_notes.py``).
        description: how these experts, which may be of any other source, describe the clusters: then nothing
            was trained on them, and scores of the experts serve for this set, too.
        current: make it the current set; otherwise that is left to the holder of the admin token.

    Returns:
        The set's id.

    Raises:
        NDSError: the parts do not fit together, a file is damaged, or the store cannot be written.
    """
    folder = Path(store)
    source_index, cut = SourceIndex.load(index), Partition.load(partition)
    cut.check_matches(source_index)
    about = read_notes(notes, source_index.sources)
    table = with_links(_without_folders(source_index), about)
    _refuse_formulas(table)
    public = SourceIndex(table, source_index.classes)
    described = Description.load(description) if description is not None else None
    manifest = _checked_experts(Path(experts), cut, described)
    sources = [_describe(public, cut, name, about[name]) for name in public.sources]
    with only_publisher(folder), _new_folder(folder) as half_made:
        public.save(half_made / layout.INDEX, public.hash)
        cut.save(half_made / layout.PARTITION, cut.hash)
        rows = public.table.append_column("cluster", pa.array(cut.cluster))
        write_rows(half_made / layout.ROWS, rows)
        files = _copy_experts(Path(experts), half_made / layout.EXPERTS, manifest)
        names = [layout.INDEX, layout.PARTITION, layout.ROWS]
        if described:
            described.save(half_made / layout.DESCRIPTION)
            names.append(layout.DESCRIPTION)
        hashes = {name: file_hash(half_made / name) for name in names}
        made_from = [manifest["hash"], public.hash, cut.hash, hashes[layout.ROWS], sources]
        foreign = [
            [file["path"], file["sha256"]] for file in files if file["path"].startswith(f"{FASTADAPT}/")
        ]
        made_from += [each for each in (described and described.hash, foreign) if each]
        set_id = content_hash(made_from)[:16]
        info = {
            "id": set_id, "hash": manifest["hash"], "created": layout.utc(time.time()), "index": public.hash, "partition": cut.hash,
            "clusters": cut.num_clusters, "images": len(public), "classes": list(public.classes), "artefacts": hashes, "sources": sources, "files": files,
        }  # fmt: skip
        write_json(half_made / layout.SET_FILE, layout.KIND, set_id, info)
        _put_in_place(half_made, folder / layout.SETS / set_id)
        if current:
            layout.Store(folder).make_current(set_id)
    return set_id


def _without_folders(index: SourceIndex) -> pa.Table:
    """The index's table with base names: where the files lie is the publisher's own affair.

    Where base names clash in a source, the path below the source's folder is kept.
    """
    names = index.table.column("file_name").combine_chunks()
    public = pc.replace_substring_regex(names, r"^.*/", "")
    source = index.table.column("source").cast(pa.string()).combine_chunks()
    for name in index.sources:
        own = pc.equal(source, name)
        if pc.count_distinct(public.filter(own)).as_py() < pc.sum(own).as_py():
            whole = join_names(os.getcwd(), names)  # an annotation file may name some by their whole path
            ends = pc.min_max(whole.filter(own))
            folder = os.path.commonpath(
                [os.path.dirname(ends["min"].as_py()), os.path.dirname(ends["max"].as_py())]
            )
            below = pc.utf8_slice_codeunits(whole, len(folder) + (0 if folder in ("", "/") else 1))
            public = pc.if_else(own, below, public)
    return index.table.set_column(index.table.column_names.index("file_name"), "file_name", public)


def _refuse_formulas(table: pa.Table) -> None:
    """Refuse text that would run as a formula where a CSV manifest is opened in a spreadsheet.

    Quoting it would change ids and names that programs need to the byte.
    """
    for name in ("source", "image_id", "file_name", "license", "checksum"):
        text = pc.unique(table.column(name).cast(pa.string()))
        formula = pc.and_not(
            pc.match_substring_regex(text, _FORMULA), pc.match_substring_regex(text, _HARMLESS)
        )
        if found := text.filter(formula).to_pylist():
            raise NDSError(
                f"{len(found)} values of the column {name} could run as formulas in a spreadsheet, first "
                f"{found[0][:80]!r}: rename them, so that they do not begin with = + - @ or a control character."
            )


def _checked_experts(folder: Path, partition: Partition, described: Description | None) -> dict[str, Any]:
    """The manifest of a whole set of experts of this partition, or of those that describe it."""
    manifest = read_manifest(folder / MANIFEST)
    check_limits(manifest, f"{folder} cannot be served")
    check_size(MANIFEST, (folder / MANIFEST).stat().st_size, f"{folder} cannot be served")
    if described:
        described.check_matches(partition.hash)
        if described.expert_set != manifest["hash"] or described.num_clusters != partition.num_clusters:
            raise NDSError(
                f"{folder}: other experts than those that describe the source: expected the set "
                f"{described.expert_set[:12]}, got {manifest['hash'][:12]}; describe the source by these."
            )
    elif manifest["partition"] != partition.hash:
        raise NDSError(
            f"{folder}: experts of another partition: expected {partition.hash[:12]}, got "
            f"{manifest['partition'][:12]}; train the experts on this partition."
        )
    clusters = [entry["cluster"] for entry in manifest["experts"]]
    wanted = len(clusters) if described else partition.num_clusters
    if (most := max(wanted, partition.num_clusters)) > layout.MAX_CLUSTERS:
        raise NDSError(f"at most {layout.MAX_CLUSTERS} clusters can be served, got {most}.")
    if clusters != list(range(wanted)):
        raise NDSError(
            f"{folder}: expected one expert for each of the clusters 0 to {wanted - 1}, got "
            f"{clusters[:20]}: train the missing ones."
        )
    for entry in set_files(manifest):
        path = folder / entry["file"]
        check_set_file(path, manifest, entry["file"])
        check_size(entry["file"], path.stat().st_size, f"{folder} cannot be served")
        if (found := file_hash(path)) != entry["sha256"]:
            raise NDSError(
                f"{path} is not the file that the manifest names: expected SHA-256 {entry['sha256']}, got {found}."
            )
    return manifest


def _copy_experts(origin: Path, target: Path, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Copy manifest, experts and, where there are any, those in the paper authors' form; what was copied."""
    paths = [MANIFEST, *(entry["file"] for entry in set_files(manifest))]
    extra = sorted((origin / FASTADAPT).glob("*.pth")) if (origin / FASTADAPT).is_dir() else []
    own = {expert_name(manifest["hash"], entry["cluster"]) for entry in manifest["experts"]}
    if other := [path for path in extra if path.name not in own]:
        raise NDSError(
            f"{other[0]} is no file of these experts, which are like {min(own)}: export them again (nds export), or "
            f"remove {origin / FASTADAPT}."
        )
    paths += [f"{FASTADAPT}/{path.name}" for path in extra]
    known = {entry["file"]: entry["sha256"] for entry in set_files(manifest)}
    files = []
    for path in paths:
        copy = target / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(origin / path, copy)
        digest = file_hash(copy)
        if digest != known.get(path, digest):
            raise NDSError(f"{origin / path} changed while it was copied: publish again.")
        files.append({"name": copy.name, "path": path, "bytes": copy.stat().st_size, "sha256": digest})
    return files


def _describe(index: SourceIndex, partition: Partition, name: str, notes: SourceNotes) -> dict[str, Any]:
    """What the service says of a source."""
    rows = pc.equal(index.table.column("source").cast(pa.string()), name)
    own = index.table.filter(rows)
    cluster = partition.cluster[np.asarray(rows.to_numpy())]
    numbers, counts = np.unique(cluster[cluster >= 0], return_counts=True)
    labels = [k for k in sorted(pc.unique(own.column("label")).to_pylist()) if k != NO_LABEL]
    named = pc.unique(own.column("license").cast(pa.string())).to_pylist()
    licenses = notes.licenses or sorted(text for text in named if text)[:_MOST_LICENSES]
    return {
        "name": name,
        "images": own.num_rows,
        "numbered": bool(
            pc.all(pc.match_substring_regex(own.column("image_id"), r"^(0|[1-9][0-9]{0,17})$")).as_py()
        ),
        "linked_images": int(pc.sum(pc.not_equal(own.column("url"), "")).as_py() or 0),
        "clusters": numbers.tolist(),
        "cluster_images": {str(k): int(n) for k, n in zip(numbers, counts)},
        "classes": [index.classes[k] for k in labels],
        "licenses": list(licenses),
        "homepage": notes.homepage,
        "thumbnails": notes.thumbnails,
        "hosts": _hosts(own.column("url")),
    }


def _hosts(urls: pa.ChunkedArray) -> list[str]:
    """The distinct origins of links, such as ``https://images.example.org``."""
    found = pc.extract_regex(urls, r"^(?P<origin>https?://[^/?#]+)")
    origins = pc.unique(pc.struct_field(found, "origin"))
    return sorted(text for text in origins.to_pylist() if text)


@contextlib.contextmanager
def only_publisher(folder: Path) -> Iterator[None]:
    """One process at a time adds sets to a store or takes some out; what a killed publisher left is removed."""
    check_writable(folder / layout.SETS)
    with held(folder / ".publish.lock", f"waiting for another publisher in {folder}."):
        for left in (folder / layout.SETS).glob(f"{_HALF_MADE}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    half_made = Path(tempfile.mkdtemp(prefix=_HALF_MADE, dir=folder / layout.SETS))
    try:
        yield half_made
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(half_made, ignore_errors=True)


def _put_in_place(half_made: Path, target: Path) -> None:
    """Flush everything to the disk, then rename; a set that is there already stays unless it is damaged."""
    for path in [*half_made.rglob("*"), half_made]:
        sync(path)
    if target.exists():
        if _is_whole(target):
            return
        logger.warning("%s is damaged: replacing it.", target)
        with _new_folder(target.parent.parent) as damaged:
            os.rename(target, damaged / target.name)
    os.chmod(half_made, 0o755)
    os.rename(half_made, target)
    sync(target.parent)


def _is_whole(folder: Path) -> bool:
    """Whether every file of a set in the store is what its set.json says."""
    try:
        record = layout.SetRecord.read(folder)
        wanted = {folder / name: digest for name, digest in record.info["artefacts"].items()}
        wanted |= {record.expert_path(name): entry["sha256"] for name, entry in record.files.items()}
        return all(file_hash(path) == digest for path, digest in wanted.items())
    except (NDSError, OSError):
        return False
