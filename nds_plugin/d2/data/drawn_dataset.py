"""A selection as a registered dataset: a name that any Detectron2 script can train on.

Every selection under ``$DETECTRON2_DATASETS/nds_selections/NAME.parquet`` is registered as
``nds_NAME`` when ``nds_plugin.d2`` is imported. Scripts that do not import it, such as
Detectron2's own ``train_net.py``, find the names with ``DETECTRON2_ENV_MODULE=nds_plugin.d2.env``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from detectron2.data import DatasetCatalog, MetadataCatalog

from nds_plugin.d2.data.catalog import RegisteredDicts, joined
from nds_plugin.d2.data.dicts import DatasetDicts
from nds_plugin.d2.data.registration import dataset_classes, dataset_dicts
from nds_plugin.d2.data.store_source import register_annotated, say_unfiltered, set_anew
from nds_plugin.datasets.label_space import LabelSpace, unite
from nds_plugin.datasets.public import selections_folder
from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import content_hash, read_header
from nds_plugin.selection.selection import KIND, Selection

logger = logging.getLogger(__name__)

_told: set[str] = set()  # streams and unions that were logged in this process


def register_selections_folder() -> list[str]:
    """Register every selection of the folder under ``nds_<file stem>``; the names. One whose name is taken is left out."""
    names = []
    for path in sorted(selections_folder().glob("*.parquet")):
        try:
            register_selection(path, f"nds_{path.stem}")
        except NDSError as error:  # a file must not make the package unusable
            logger.warning("%s: %s", path, error)
        else:
            names.append(f"nds_{path.stem}")
    return names


def register_selection(
    path: str | os.PathLike[str], name: str, label_mapping: str = "", selection: Selection | None = None
) -> None:
    """Register a selection as a dataset; nothing is read before it is used, nor then if it is handed over.

    Its dicts are those of the source datasets, restricted to the selected images, each with
    ``nds_source``. Sources with different classes are united by name (or by ``label_mapping``),
    and each dict then says which label space it is annotated in (``label_space``).

    Raises:
        NDSError: the name is that of a dataset that is no selection.
    """
    if name in DatasetCatalog:
        if not isinstance(DatasetCatalog[name], DrawnDataset):
            raise NDSError(f"a dataset {name!r} is there already: give the selection another name.")
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)
    DatasetCatalog.register(name, DrawnDataset(str(path), name, label_mapping, selection))
    MetadataCatalog.get(name).set(
        evaluator_type="coco", nds_selection=str(path), nds_label_mapping=label_mapping
    )
    register_annotated(name)


@dataclass(frozen=True)
class DrawnDataset(RegisteredDicts):
    """What ``DatasetCatalog`` calls for a selection.

    Attributes:
        path: of the selection. name: that it is registered as. label_mapping: of a class mapping.
        content: of the file, where it is at hand.
    """

    path: str
    name: str
    label_mapping: str = ""
    content: Selection | None = field(default=None, compare=False, repr=False)

    def selection(self) -> Selection:
        """What the dataset was drawn by: as it was handed over, else as the file is now."""
        return Selection.load(self.path) if self.content is None else self.content

    def __call__(self) -> Any:
        """What ``DatasetCatalog.get`` returns: the dicts, and a word to who trains on them with a stock loader."""
        dicts = self.dicts()
        say_unfiltered(self.name, dicts)
        self._say_stream()
        return dicts.plain()

    def _say_stream(self) -> None:
        if self.name not in _told and read_header(self.path, KIND).get("mode") == "stream":
            _told.add(self.name)
            logger.warning(
                "dataset %r is a stream, whose images are to be drawn by their probabilities. Detectron2's own samplers "
                "take every one alike: train with build_nds_train_loader and DATALOADER.SAMPLER_TRAIN NDSTrainingSampler.",
                self.name,
            )

    def dicts(self) -> DatasetDicts:
        """The dicts of the selected images."""
        return _load(self)


def drawn_dataset(names: Sequence[str]) -> dict[str, Any] | None:
    """The header of the selection that these datasets, if they are one alone, were registered from."""
    path = MetadataCatalog.get(names[0]).get("nds_selection") if len(names) == 1 else None
    return None if path is None else read_header(path, KIND)


def drawn_label_spaces(dataset: str | Sequence[str]) -> list[list[int]]:
    """The classes that each source of a drawn dataset labels: what ``NDS.LABEL_SPACES`` is for it.

    Of several datasets only if they are alike in this; none if they were not drawn.
    """
    found = [_label_spaces_of(name) for name in ([dataset] if isinstance(dataset, str) else dataset)]
    return found[0] if found and all(spaces == found[0] for spaces in found) else []


def _label_spaces_of(name: str) -> list[list[int]]:
    drawn = drawn_dataset([name])
    if drawn is None:
        return []
    mapping = MetadataCatalog.get(name).get("nds_label_mapping", "")
    return selection_label_space(drawn["sources"], mapping).label_spaces


def selection_label_space(
    sources: Sequence[str], label_mapping: str = "", *, partial: bool = True
) -> LabelSpace:
    """The united classes of several registered datasets.

    Args:
        sources: the datasets' names.
        label_mapping: path of a class mapping.
        partial: the mapping may also name other sources: a draw need not hold an image of each.

    Raises:
        NDSError: an unknown dataset, or a mapping that names unknown classes.
    """
    space = unite(
        [dataset_classes(name) for name in sources], label_mapping or None, sources, partial=partial
    )
    told = content_hash([list(sources), space.to_dict()])
    if told not in _told:
        _told.add(told)
        _log_union(space)
    return space


def _log_union(space: LabelSpace) -> None:
    for one in space.renamed:
        logger.info("class %r of %s is taken for %r (%s).", one.old, one.source, one.new, one.how)
    for first, second in space.apart:
        logger.warning(
            "the classes %r and %r of the sources stay apart: one source tells such names from each other, so that it "
            "is not known which belong together; say so in NDS.SOURCE.LABEL_MAPPING.",
            first,
            second,
        )


def _load(drawn: DrawnDataset) -> DatasetDicts:
    selection = drawn.selection()
    space = selection_label_space(selection.sources, drawn.label_mapping)
    of_source = selection.column("source").cast(pa.string())
    parts = []
    for number, source in enumerate(selection.sources):
        ids = selection.column("image_id").filter(pc.equal(of_source, source)).combine_chunks()
        if len(ids) == 0:
            continue
        part = dataset_dicts(source).choose(ids)
        if len(part) != len(ids):
            raise NDSError(
                f"{drawn.path} selects {len(ids)} images of {source}, but that dataset holds "
                f"{len(part)} of them: it is not the dataset that the selection was made from."
            )
        parts.append(part.relabelled(space.maps[number], number, source))
    dicts = joined(parts)
    if drawn.label_mapping:
        _warn_of_empty(dicts, drawn.label_mapping)
    set_anew(drawn.name, thing_classes=list(space.classes))
    return dicts


def _warn_of_empty(dicts: DatasetDicts, label_mapping: str) -> None:
    empty = len(dicts) - len(dicts.annotated())
    if empty:
        logger.warning(
            "%d of the %d selected images lose all their objects by the mapping %s: training leaves them out.",
            empty,
            len(dicts),
            label_mapping,
        )
