"""What goes over the wire. Requests are strict: no unknown field, no text for a number, no NaN."""

# Without `from __future__ import annotations`: pydantic reads the annotations when the module runs.
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nds_plugin.experts.scores import METRICS
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.select import needs_scores
from nds_plugin.selection.selectors import SELECTORS
from nds_plugin.selection.selectors.nds import NDS
from nds_plugin.service.published.store import MAX_CLUSTERS
from nds_plugin.service.searchable import NORMALISATION, SEARCHABLE, TEMPERATURE
from nds_plugin.settings import settings_of

MAX_SEED = 2**53 - 1  # what JavaScript's numbers hold


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e9, le=1e9)]


class ScoresIn(_Strict):
    """One score for each expert of the set."""

    clusters: Annotated[
        list[Annotated[int, Field(ge=0, lt=MAX_CLUSTERS)]], Field(min_length=1, max_length=MAX_CLUSTERS)
    ]
    z: Annotated[list[Finite], Field(min_length=1, max_length=MAX_CLUSTERS)]
    metric: Annotated[Literal[METRICS], Field(description="of z, as scores.json names it")]  # type: ignore[valid-type]


class SearchRequest(_Strict):
    """A search, also of a preview."""

    expert_set: Annotated[
        str, Field(pattern=r"^([0-9a-f]{16}|[0-9a-f]{64})$", description="a set's id, or its experts' hash")
    ]
    scores: ScoresIn | None = None
    sources: Annotated[list[Annotated[str, Field(max_length=500)]], Field(max_length=1000)] | None = None
    budget: Annotated[int, Field(ge=1, le=2**53)] | None = None
    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    temperature: Annotated[
        float, Field(ge=1e-3, le=1e6, allow_inf_nan=False, description=TEMPERATURE.help)
    ] = TEMPERATURE.default
    normalisation: Literal[NORMALISATION.choices] = NORMALISATION.default  # type: ignore[valid-type,name-defined]
    selector: Literal[tuple(SEARCHABLE)] = NDS.name  # type: ignore[valid-type]
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    title: Annotated[str, Field(max_length=200)] = ""

    @model_validator(mode="after")
    def _one_budget(self) -> "SearchRequest":
        if (self.budget is None) == (self.share is None):
            raise ValueError(
                "give exactly one of budget (a number of images) and share (of the chosen sources)"
            )
        return self

    @model_validator(mode="after")
    def _no_needless_scores(self) -> "SearchRequest":
        """Scores that the selector does not look at are not kept."""
        needless = self.scores is not None and not needs_scores(SELECTORS[self.selector])
        return self.model_copy(update={"scores": None}) if needless else self

    def config(self) -> SelectionConfig:
        """The settings of the selection."""
        selector = SELECTORS[self.selector]
        given = {item.name: getattr(self, item.name) for item in settings_of(selector)}
        return SelectionConfig(
            selector(**given), count=self.budget or 0, share=self.share or 0.0, seed=self.seed
        )


class ProblemOut(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[dict[str, str]] | None = None


class Health(BaseModel):
    status: Literal["ok"]
    expert_set: str
    version: str


class SourceOut(BaseModel):
    name: str
    images: int
    linked_images: int
    clusters: list[int]
    cluster_images: dict[str, int]
    classes: list[str]
    licenses: list[str]
    homepage: str
    thumbnails_allowed: bool


class SourcesOut(BaseModel):
    expert_set: str
    sources: list[SourceOut]


class ExpertSetOut(BaseModel):
    id: str
    hash: str
    created: str
    current: bool
    kind: str
    task: str
    num_clusters: int
    num_experts: int
    crop_size: int
    images: int
    bytes: int


class ExpertSetsOut(BaseModel):
    expert_sets: list[ExpertSetOut]


class FileOut(BaseModel):
    name: str
    bytes: int
    sha256: str
    url: str


class ExpertSetDetail(ExpertSetOut):
    manifest: dict[str, Any]
    files: list[FileOut]


class Preview(BaseModel):
    budget: int
    drawable: int
    z: list[float] | None
    z_scaled: list[float] | None
    w: list[float]
    cluster_images: list[int]
    expected_share_by_cluster: list[float]
    expected_share_by_source: dict[str, float]
    effective_clusters: float
    effective_sample_size: float


class Result(Preview):
    images: int
    share_by_source: dict[str, float]
    share_by_cluster: list[float]
    links: dict[str, Any]


class SearchOut(BaseModel):
    id: str
    expert_set: str
    created: str
    request: dict[str, Any]
    result: Result
    token: str | None = None


class SearchesOut(BaseModel):
    searches: list[SearchOut]
    next: str | None


class ImageOut(BaseModel):
    source: str
    image_id: str
    cluster: int
    p: float
    url: str
    license: str
    checksum: str
    file_name: str


class ImagesOut(BaseModel):
    images: list[ImageOut]
    next: str | None


class MosaicImage(BaseModel):
    source: str
    image_id: str
    url: str
    thumbnail: str | None


class MosaicCluster(BaseModel):
    cluster: int
    z: float | None
    w: float
    images: list[MosaicImage]


class MosaicOut(BaseModel):
    clusters: list[MosaicCluster]


class TokenOut(BaseModel):
    token: str


class FastAdaptOut(BaseModel):
    expert_set: str
    clusters: list[int]
    z: list[float]
    metric: Literal["accuracy"] = "accuracy"  # all that the authors' client measures


class CurrentIn(_Strict):
    expert_set: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class CurrentOut(BaseModel):
    expert_set: str


class Stats(BaseModel):
    version: str
    expert_set: str
    expert_sets: list[str]
    searches: int
    tokens: int
    rss_mb: float
    uptime_s: float
