"""A drawn subset as a dataset of MMDetection, which a stock config with DefaultSampler trains on."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from mmengine.registry import DATASETS

from nds_plugin.datasets.label_space import DROPPED, LabelSpace, unite
from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.mm.data.det_dataset import DetDataset
from nds_plugin.mm.data.identity import (
    LABEL_SPACE,
    SOURCE,
    SOURCES,
    Identities,
    classes_of,
    identities,
    joined,
    leaves,
    part_of,
    refuse_twice,
    source_of,
)
from nds_plugin.selection.selection import Selection

logger = logging.getLogger(__name__)


@DATASETS.register_module()
class NDSSelection(DetDataset):
    """The images of one or several datasets that a selection holds, their classes joined by name.

    The images stand as in the selection, each read by the pipeline of its own dataset. Every ``data_info``
    also has ``nds_source`` and ``label_space``, the number of its source among the selection's; the second is
    in the packed data sample, too, where NDSRoIHead reads it. A selection of
    mode stream holds every image that can be drawn: only NDSInfiniteSampler draws them by their probabilities.

    Args:
        dataset: config or configs of the datasets, or datasets.
        selection: path of the selection (parquet).
        source_names: the selection's name of each dataset; by default what the dataset's metainfo calls
            ``nds_source``, and where there is only one, the selection's only source.
        label_mapping: path of a class mapping, as ``NDS.SOURCE.LABEL_MAPPING``.
        test_mode: of the test loaders.

    Raises:
        NDSError: the selection was made of other images, a dataset has no name or no classes, or is not known,
            or holds an image twice.
    """

    def __init__(
        self,
        dataset: Any,
        selection: str | os.PathLike[str],
        source_names: Sequence[str] | None = None,
        label_mapping: str = "",
        test_mode: bool = False,
    ) -> None:
        self.selection = Selection.load(selection)
        self.parts = [_built(d) for d in (dataset if isinstance(dataset, (list, tuple)) else [dataset])]
        names = _names(self.parts, source_names, self.selection)
        space = unite(
            [classes_of(self._part(name, names)) for name in self.selection.sources],
            label_mapping or None,
            self.selection.sources,
            partial=True,
        )
        meta = {"classes": tuple(space.classes), SOURCES: list(self.selection.sources)}
        super().__init__(meta, (), test_mode)
        self.space: LabelSpace = space
        _tell_unlabelled(space)
        self._numbers = [self.selection.sources.index(name) for name in names]
        self.part, self.position, rows = self._taken(names, os.fspath(selection))
        self._rows = pa.array(rows)
        for part in self.parts:
            _check_pipelines(part)
        if label_mapping:
            self._drop_empty()
        if self.selection.mode == "stream" and not test_mode:
            logger.info(
                "%s is a stream, whose images are to be drawn by their probabilities: of MMEngine's samplers every one takes "
                "them all alike; NDSInfiniteSampler draws.",
                selection,
            )

    def __len__(self) -> int:
        return len(self.position)

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """See :class:`DetDataset`."""
        index = int(idx) + (len(self) if idx < 0 else 0)
        number = self._numbers[self.part[index]]
        info: dict[str, Any] = self.parts[self.part[index]].get_data_info(int(self.position[index]))
        new_class = self.space.maps[number]
        kept = []
        for instance in info.get("instances", ()):
            label = int(new_class[instance["bbox_label"]])
            if label != DROPPED:
                kept.append({**instance, "bbox_label": label})
        own = {SOURCE: self.selection.sources[number], LABEL_SPACE: number, "sample_idx": index}
        return {**info, "instances": kept, **own}

    def prepare_data(self, idx: int) -> Any:
        """What the pipeline of an image's own dataset makes of it, or None."""
        part, _ = part_of(self.parts[self.part[int(idx)]], int(self.position[int(idx)]))
        info = self.get_data_info(idx)
        example = part.pipeline(info)
        sample: Any = example.get("data_samples") if isinstance(example, Mapping) else None
        if hasattr(sample, "set_metainfo"):
            sample.set_metainfo({LABEL_SPACE: info[LABEL_SPACE]})
        return example

    def identities(self, source: str | None = None) -> Identities:
        """Identity and size of all images."""
        del source
        rows = self._rows
        return Identities(
            self.selection.column("source").cast(pa.string()).combine_chunks().take(rows),
            self.selection.column("image_id").combine_chunks().take(rows),
            self._sizes,
        )

    def _part(self, name: str, names: Sequence[str]) -> Any:
        if name not in names:
            raise NDSError(
                f"the selection was made from {', '.join(self.selection.sources)}, and no dataset is called {name!r}: the "
                f"datasets are {', '.join(names)}. Name them by source_names=[...] or metainfo=dict({SOURCE}=['NAME']), in all."
            )
        return self.parts[names.index(name)]

    def _taken(
        self, names: Sequence[str], path: str
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Dataset, position there and row of each selected image, in the order of the rows."""
        found = [identities(part, name) for part, name in zip(self.parts, names)]
        for ids, name in zip(found, names):
            _refuse_other_name(ids, name)
        together = joined(found)
        rows = self.selection.rows_of(together.sources, together.image_ids)
        refuse_twice(rows, together)
        chosen = np.flatnonzero(rows >= 0)
        chosen = chosen[np.argsort(rows[chosen], kind="stable")]
        starts = np.cumsum([0, *(len(f.image_ids) for f in found)])
        part = (np.searchsorted(starts, chosen, side="right") - 1).astype(np.int32)
        self._sizes = together.sizes[chosen]
        if len(chosen) < len(self.selection):
            logger.warning(
                "%d of the %d images of %s are not in the datasets %s, or are filtered there.",
                len(self.selection) - len(chosen), len(self.selection), path, ", ".join(names),
            )  # fmt: skip
        return part, chosen - starts[part], rows[chosen]

    def _drop_empty(self) -> None:
        """Leave out images of which the class mapping leaves no object."""
        kept = np.array([bool(self.get_data_info(i)["instances"]) for i in range(len(self))], bool)
        if not kept.any():
            raise NDSError("the class mapping leaves no object in any of the selected images.")
        if not kept.all():
            logger.warning(
                "%d of %d images have no object left under the class mapping.", (~kept).sum(), len(kept)
            )
        self.part, self.position, self._sizes = self.part[kept], self.position[kept], self._sizes[kept]
        self._rows = pc.filter(self._rows, pa.array(kept))


def _tell_unlabelled(space: LabelSpace) -> None:
    if space.partial:
        logger.warning(
            "The sources label different classes. Of an object of a class that its source does not label only NDSRoIHead leaves "
            "the loss out: roi_head=dict(type='NDSRoIHead', label_spaces=%s); other heads learn it as background.",
            str(space.label_spaces) if len(space.classes) <= 20 else "[...]",
        )


def _refuse_other_name(found: Identities, name: str) -> None:
    own = pc.unique(found.sources).to_pylist()
    if own not in ([], [name]):
        raise NDSError(
            f"the dataset that is named {name!r} says that its images are of {', '.join(own)} (nds_source of its metainfo): one "
            "name for one source; give a dataset of several sources as a list."
        )


def _check_pipelines(dataset: Any) -> None:
    for part in leaves(dataset):
        if not callable(getattr(part, "pipeline", None)):
            raise NDSError(
                f"the dataset {type(part).__name__} has no pipeline that makes an example of one image: give NDSSelection the "
                "dataset inside of it; wrappers that mix images go around NDSSelection."
            )


def _built(dataset: Any) -> Any:
    """A dataset, built from its config where it is one."""
    if isinstance(dataset, Mapping):
        try:
            dataset = DATASETS.build(dict(dataset))
        except KeyError as error:
            raise _unknown(dataset, error) from None
    if hasattr(dataset, "full_init"):
        dataset.full_init()
    return dataset


def _unknown(config: Mapping[str, Any], error: KeyError) -> Exception:
    """The error for a dataset that MMEngine does not know; any other KeyError is not ours."""
    kind = config.get("type")
    if not isinstance(kind, str) or kind not in str(error) or "registry" not in str(error):
        return error
    if "mmdet" in DATASETS.children and "." not in kind and kind in DATASETS.children["mmdet"]:
        return NDSError(
            f"dataset {kind!r} is MMDetection's, and the default_scope is another project's: write type='mmdet.{kind}', or set "
            "default_scope = 'mmdet'."
        )
    known = [*DATASETS.module_dict, *(n for child in DATASETS.children.values() for n in child.module_dict)]
    return unknown_name("dataset type", kind, known)


def _names(parts: Sequence[Any], given: Sequence[str] | None, selection: Selection) -> list[str]:
    if given is not None:
        names = [str(name) for name in given]
        if len(names) != len(parts):
            raise NDSError(
                f"source_names: expected a name for each of the {len(parts)} datasets, got {names}."
            )
    else:
        only = selection.sources[0] if len(selection.sources) == len(parts) == 1 else None
        own = [source_of(part) or only for part in parts]
        if None in own:
            raise NDSError(
                f"the selection was made from {', '.join(selection.sources)}: say which dataset is which, by "
                f"source_names=[...] or by metainfo=dict({SOURCE}=['NAME']) of each."
            )
        names = [str(name) for name in own]
    for name in names:
        if name not in selection.sources:
            raise unknown_name("source of the selection", name, selection.sources)
    if len(set(names)) != len(names):
        raise NDSError(
            f"source_names must differ, got {', '.join(names)}: ConcatDataset joins the parts of one source."
        )
    return names
