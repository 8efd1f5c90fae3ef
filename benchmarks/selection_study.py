"""What each way of selecting draws for a client, and what it costs the client: no detector is trained.

    NDS_DATA=/path/to/data python benchmarks/selection_study.py --work output/study --seeds 3

For every setting, client and seed: the share of each source dataset in the draw of the config's budget,
the share of the datasets that were labelled by hand as the client's own domain, forward passes and
seconds on the client. Experts, partitions and scores are kept in the work folder, so that a second
start and a new setting are quick. Without --setting the whole grid runs; one setting is a list of

    selector=nds kind=network K=8 unit=image z=accuracy T=0.1 norm=minmax draw=plain neighbours=0 l2=0.01 pool=sum rest=0.01

of which any may be left out, and of config keys such as NDS.EXPERTS.STEPS=160. In a minute, since no
expert is trained for it:

    NDS_DATA=/path/to/data python benchmarks/selection_study.py --setting selector=gate K=4 NDS.EXPERTS.SHARED_STEPS=20
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from nds_plugin.command_line import documented_parser, run
from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.files.artifacts import atomic_write
from nds_plugin.report.table_formats import source_label

logger = logging.getLogger("selection_study")

DRIVING = ("camvid", "highway", "carla", "urban_cam", "road_signs")
INDOOR, ANIMALS = ("indoor_home", "amenity", "doors"), ("animals", "pets_det")
CLIENTS = {"cityscapes": ("mini/Base-mini.yaml", DRIVING), "ccp": ("mini/Base-mini-ccp.yaml", ("uwear",))}
# Clients of a domain that the source holds: the validation images of one of its datasets. Only to confirm on
# them (--client) what was seen on the two above.
HELD_OUT = {
    "indoor_home": INDOOR,
    "doors": INDOOR,
    "animals": ANIMALS,
    "food": ("food",),
    "facades": ("facades",),
    "drone_vehicles": ("drone_vehicles",),
    "highway": DRIVING,
    "uwear": ("uwear",),
}
# Short names of the keys that a setting may change.
KEYS = {
    "selector": "NDS.SELECTOR",
    "kind": "NDS.EXPERTS.KIND",
    "on": "NDS.EXPERTS.NETWORK",
    "features": "NDS.PARTITION.NETWORK",
    "crop": "NDS.EXPERTS.CROP_SIZE",
    "share": "NDS.EXPERTS.SHARE",
    "K": "NDS.PARTITION.NUM_CLUSTERS",
    "unit": "NDS.UNIT",
    "z": "NDS.SCORING.METRIC",
    "T": "NDS.TEMPERATURE",
    "norm": "NDS.NORMALISATION",
    "draw": "NDS.GATE.DRAW",
    "neighbours": "NDS.KNN.NEIGHBOURS",
    "l2": "NDS.DOMAIN_CLASSIFIER.L2",
    "pool": "NDS.OBJECTS.POOL",
    "rest": "NDS.HISTOGRAM.REST",
}
LITE0 = "package:efficientnet-lite0"
# What a setting without any of it has the defaults of: experts and features of the shared rotation network.
KINDS = {"network": "", "head": f"kind=head on={LITE0} crop=128 share=0.5"}
FEATURES = {"network": "", "head": f"features={LITE0} crop=128"}
FROM_FEATURES = ("knn", "domain_classifier")
# What only changes the draw from scores or features that are there: no step is run for it again.
OF_THE_DRAW = {
    "nds": ("selector", "z", "T", "norm"),
    "gate": ("selector", "draw", "T", "norm"),
    "histogram": ("selector", "rest"),
    "features": ("selector", "T", "norm", "neighbours", "l2"),
}


@dataclass(frozen=True)
class Setting:
    """Values by short name or config key, in the order given."""

    values: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, words: Sequence[str]) -> Setting:
        """From words NAME=VALUE.

        Raises:
            NDSError: another form, or a name that is neither short nor a config key.
        """
        pairs = [tuple(word.split("=", 1)) for word in words]
        for word, pair in zip(words, pairs):
            if len(pair) != 2:
                raise NDSError(f"--setting: expected NAME=VALUE, got {word!r}.")
            if pair[0] not in KEYS and "." not in pair[0]:
                raise unknown_name("name in --setting", pair[0], KEYS)
        return cls(tuple((name, value) for name, value in pairs))

    def get(self, name: str, default: str) -> str:
        """The value of a short name."""
        return dict(self.values).get(name, default)

    @property
    def overrides(self) -> list[str]:
        """As KEY VALUE of a config."""
        return [item for name, value in self.values for item in (KEYS.get(name, name), value)]

    @property
    def evidence(self) -> tuple[tuple[str, str], ...]:
        """The part that the draw's own settings do not change; scores and features are kept by it."""
        selector, unit = self.get("selector", "nds"), self.get("unit", "image")
        family = "features" if selector in FROM_FEATURES else selector
        draw = OF_THE_DRAW[family] if unit == "image" and family in OF_THE_DRAW else ("selector",)
        return (("selector", family), *(pair for pair in self.values if pair[0] not in draw))

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.values)


def grid(clusters: Sequence[int], units: Sequence[str], kind: str) -> Iterator[Setting]:
    """The settings of the study, with experts of one kind; those of heads on a network with ImageNet weights."""
    features, experts = FEATURES[kind], KINDS[kind]
    for unit in units:
        for neighbours in (0, 10):
            for temperature in (0.03, 0.1, 0.3):
                yield Setting.parse(
                    f"selector=knn unit={unit} neighbours={neighbours} T={temperature} {features}".split()
                )
        for l2 in (0.001, 0.01, 0.1):
            yield Setting.parse(f"selector=domain_classifier unit={unit} l2={l2} {features}".split())
        for k in clusters:
            yield Setting.parse(f"selector=gate unit={unit} K={k} draw=plain {features}".split())
            for rest in (0.001, 0.01, 0.1):
                yield Setting.parse(f"selector=histogram unit={unit} K={k} rest={rest} {features}".split())
            for norm in ("minmax", "none"):
                for temperature in (0.03, 0.1, 0.3):
                    tail = f"T={temperature} norm={norm}"
                    yield Setting.parse(
                        f"selector=gate unit={unit} K={k} draw=softmax {tail} {features}".split()
                    )
                    for z in ("accuracy", "log_likelihood"):
                        yield Setting.parse(f"selector=nds unit={unit} K={k} z={z} {tail} {experts}".split())


class Study:
    """Draws of settings for clients; partitions, experts and scores in one work folder."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self._kept: dict[Any, Any] = {}

    def row(self, setting: Setting, client: str, seed: int) -> dict[str, Any]:
        """One draw: what it holds and what it cost."""
        from nds_plugin.pipeline.settings_from_cfg import selection_config
        from nds_plugin.selection.select import select
        from nds_plugin.selection.tables import effective_numbers, source_shares

        cfg = self._config(setting, client, seed)
        found = self._weighed(cfg, (setting.evidence, client, seed))
        scores = found.scores
        if scores is not None and cfg.NDS.SELECTOR == "nds":
            scores = scores.with_metric(cfg.NDS.SCORING.METRIC)
        config = selection_config(cfg)
        selection = select(found.index, found.partition, config, scores, found.weights)
        shares = {source_label(r["source"]): r["draw_share"] for r in source_shares(selection, found.index)}
        return {
            "setting": str(setting),
            "client": client,
            "seed": seed,
            "own_domain": sum(shares[name] for name in _own_domain(client)),
            "shares": shares,
            "sees_target": selection.info["sees_target"],
            **selection.info["cost"],
            **effective_numbers(selection),
        }

    def _config(self, setting: Setting, client: str, seed: int) -> Any:
        from nds_plugin.d2.config.nodes import load_config

        name = CLIENTS.get(client, CLIENTS["cityscapes"])[0]
        overrides = ["NDS.WORK_DIR", str(self.work), "OUTPUT_DIR", str(self.work / "out")]
        overrides += ["NDS.SEED", str(seed), "DATALOADER.NUM_WORKERS", "0"]
        if client in HELD_OUT:
            overrides += ["NDS.TARGET.DATASETS", f"('nds_data_{client}_val',)"]
        if setting.get("selector", "nds") == "oracle":
            own = tuple(f"nds_data_{source}_train" for source in _own_domain(client))
            overrides += ["NDS.ORACLE.SOURCES", str(own)]
        return load_config(name, [*overrides, *setting.overrides])

    def _weighed(self, cfg: Any, key: Any) -> Any:
        from nds_plugin.d2.job.main_job import check_job, selection_steps
        from nds_plugin.job.selection_summary import Timings
        from nds_plugin.pipeline.selection_steps import Weighed
        from nds_plugin.selection.selectors import ImageSelector
        from nds_plugin.selection.selectors.base import weigh_images
        from nds_plugin.source.partition import Partition

        steps = selection_steps(cfg, Timings())
        from_features = cfg.NDS.SELECTOR in FROM_FEATURES and not steps.settings.by_objects
        if key not in self._kept:
            check_job(cfg)
            if from_features:
                index = steps.source.index()
                self._kept[key] = steps.evidence(index, steps.source.features(index))
            else:
                self._kept[key] = steps.weigh()
        if not from_features:
            return self._kept[key]
        evidence = self._kept[key]
        selector = steps.settings.selector
        assert isinstance(selector, ImageSelector)
        weights = weigh_images(selector, evidence)
        return Weighed(evidence.index, Partition.by_source(evidence.index), None, weights)


def _own_domain(client: str) -> tuple[str, ...]:
    return CLIENTS[client][1] if client in CLIENTS else HELD_OUT[client]


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """A line per client and setting: means over seeds, the spread of the own domain's share."""
    lines = []
    for client, setting in dict.fromkeys((row["client"], row["setting"]) for row in rows):
        group = [row for row in rows if (row["client"], row["setting"]) == (client, setting)]
        own = [100 * row["own_domain"] for row in group]
        mean = {name: statistics.fmean(row["shares"][name] for row in group) for name in group[0]["shares"]}
        most = sorted(mean, key=mean.__getitem__, reverse=True)[:3]
        lines.append(
            [
                client,
                setting + (" *" if group[0]["sees_target"] else ""),
                statistics.fmean(own),
                statistics.stdev(own) if len(own) > 1 else None,
                ", ".join(f"{name} {mean[name]:.0%}" for name in most),
                statistics.fmean(row["effective_sample_size"] for row in group),
                statistics.fmean(row["forward_passes"] for row in group),
                statistics.fmean(row["seconds"] for row in group),
            ]
        )
    headers = ["client", "setting", "own %", "sd", "most drawn", "ESS", "passes", "s"]
    floats = ("", "", ".1f", ".1f", "", ".0f", ".0f", ".1f")
    return tabulate(lines, headers, floatfmt=floats) + "\n* looks at the client's images"


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = documented_parser(__doc__)
    parser.add_argument(
        "--client",
        action="append",
        choices=[*CLIENTS, *HELD_OUT],
        help="repeatable; default cityscapes and ccp",
    )
    parser.add_argument("--setting", action="append", nargs="+", metavar="NAME=VALUE", help="repeatable")
    parser.add_argument(
        "--kinds", nargs="+", default=list(KINDS), choices=KINDS, help="of experts in the grid"
    )
    parser.add_argument("--clusters", type=int, nargs="+", default=[4, 8, 16], help="K of the grid")
    parser.add_argument("--units", nargs="+", default=["image", "object"], help="units of the grid")
    parser.add_argument("--only", nargs="+", default=[], help="selectors of the grid to run; default all")
    parser.add_argument("--seeds", type=int, default=3, help="of the target's images and of the draw")
    parser.add_argument("--work", default="output/study", help="folder of partitions, experts and scores")
    parser.add_argument("--output", help="rows as JSON; default WORK/study.json")
    return parser.parse_args()


def main() -> None:
    """Parse the command line, run what is asked for, print a table."""
    args = parse_arguments()
    if args.seeds < 1:
        raise NDSError(f"--seeds must be 1 or more, got {args.seeds}.")
    import torch

    torch.set_num_threads(1)
    settings = [Setting.parse(words) for words in args.setting or []] or [
        *(
            Setting.parse(words.split())
            for words in ("selector=uniform", "selector=oracle NDS.ORACLE.REST=0.001")
        ),
        *(setting for kind in args.kinds for setting in grid(args.clusters, args.units, kind)),
    ]
    if args.only:
        known = {s.get("selector", "nds") for s in settings}
        for name in args.only:
            if name not in known:
                raise unknown_name("selector in --only", name, sorted(known))
        settings = [s for s in settings if s.get("selector", "nds") in args.only]
    study, rows = Study(Path(args.work)), []
    output = Path(args.output or Path(args.work) / "study.json")
    for setting in settings:
        for client in args.client or CLIENTS:
            rows += [study.row(setting, client, seed) for seed in range(args.seeds)]
        with atomic_write(output, "w") as file:  # after every setting: a stopped study leaves what it has
            json.dump(rows, file, indent=1)
    print(summary(rows))
    print(f"wrote {output}")


if __name__ == "__main__":
    run(main)
