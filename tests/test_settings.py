"""Laws of the settings: a default, a range and a sentence of help are written once, whoever reads them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import pytest

from nds_plugin.command_line import add_settings, settings_from
from nds_plugin.errors import NDSError
from nds_plugin.experts.settings import ExpertConfig, ExpertKind, HeadConfig, ScoringConfig
from nds_plugin.selection.config import LoaderConfig, SelectionConfig
from nds_plugin.selection.selectors import SELECTORS
from nds_plugin.settings import Settings, from_mapping, named, setting, settings_of
from nds_plugin.source.objects import ObjectConfig
from nds_plugin.source.partitioning import PartitionConfig

STEPS: list[type[Settings]] = [
    *(ExpertKind, ExpertConfig, HeadConfig, ScoringConfig, PartitionConfig, ObjectConfig, LoaderConfig),
    *SELECTORS.values(),
    *(cls for selector in SELECTORS.values() for cls in selector.also),
]
each_step = pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)


@dataclass(frozen=True)
class Brewing(Settings):
    what = "tea"

    minutes: float = setting(3.0, "how long", above=0, most=10)
    leaves: str = setting("green", "which", choices=("green", "black"))
    cups: int | None = setting(None, "how many", least=1, none=0)
    guests: tuple[str, ...] = setting((), "who")
    milk: bool = setting(False, "whether")
    kettle: int = setting(1, "which one", least=0, decides=False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"minutes": 0.0}, "tea minutes must be above 0 and 10 or less, got 0.0"),
        ({"minutes": float("nan")}, "tea minutes must be a number above 0 and 10 or less, got nan"),
        ({"minutes": "long"}, "tea minutes must be a number above 0.*, got 'long'"),
        ({"leaves": "gren"}, "unknown tea leaves 'gren'. Did you mean 'green'"),
        ({"cups": 0}, "tea cups must be 1 or more, got 0"),
        ({"cups": 1.5}, "tea cups must be a whole number of 1 or more, got 1.5"),
        ({"cups": True}, "tea cups must be a whole number of 1 or more, got True"),
        ({"guests": "Ann"}, "tea guests must be a list, got 'Ann'"),
        ({"milk": 1}, "tea milk must be true or false, got 1"),
    ],
)
def test_a_value_of_another_type_or_out_of_range_is_one_line(given: dict[str, object], message: str) -> None:
    with pytest.raises(NDSError, match=message):
        Brewing(**given)  # type: ignore[arg-type]


def test_what_costs_time_alone_is_not_in_the_identity() -> None:
    assert Brewing(kettle=2).identity() == Brewing().identity()
    assert "kettle" not in Brewing().identity()


@each_step
def test_every_setting_says_what_it_means(step: type[Settings]) -> None:
    for item in settings_of(step):
        assert item.help, item.name
        assert not item.help.endswith(".")


@each_step
def test_the_options_of_a_command_line_give_the_defaults_back(step: type[Settings]) -> None:
    if step is SELECTORS["oracle"]:
        return  # it has no default: a person names the domain
    parser = argparse.ArgumentParser()
    add_settings(parser, step)
    assert settings_from(parser.parse_args([]), step) == step()
    parser.format_help()  # a % in a help would fail here


@each_step
def test_the_node_of_a_config_gives_the_defaults_back(step: type[Settings]) -> None:
    from detectron2.config import get_cfg

    from nds_plugin.d2 import add_nds_config
    from nds_plugin.pipeline.config_nodes import nodes, read_settings

    if step is SELECTORS["oracle"]:
        return
    cfg = get_cfg()
    add_nds_config(cfg)
    node = next(node for node, cls in nodes() if cls is step)
    assert read_settings(step, cfg.NDS, node) == step()


def test_a_mapping_gives_settings_and_an_unknown_name_is_refused() -> None:
    found = from_mapping(Brewing, {"minutes": 4, "cups": 0, "guests": ["Ann"]}, "brewing")
    assert found == Brewing(minutes=4.0, guests=("Ann",))
    with pytest.raises(NDSError, match="brewing: unknown setting 'minute'. Did you mean 'minutes'"):
        from_mapping(Brewing, {"minute": 4}, "brewing")


def test_a_draw_has_no_range_of_its_own_for_a_budget() -> None:
    """Count and share are judged together, see ``check_budget``."""
    assert named(SelectionConfig, "count").range == ""


def test_the_table_in_the_docs_is_that_of_the_classes() -> None:
    import settings_table

    meanings = {key: item.help for key, item in settings_table.rows()}
    assert meanings["EXPERTS.STEPS"] == "of kind network: training steps of every expert"
    assert meanings["EXPERTS.C"].startswith("of kind head: ")
    assert "of heads" in meanings["EXPERTS.SEED"]
    assert "of networks" in meanings["EXPERTS.SEED"]
    for path in settings_table.PAGES:
        page = path.read_text(encoding="utf-8")
        assert settings_table.updated(path) == page, "run: python docs/settings_table.py"


def test_the_web_page_has_the_defaults_of_the_settings() -> None:
    from pathlib import Path

    from nds_plugin.selection.selectors.nds import NDS

    page = (Path(__file__).parents[1] / "nds_plugin/service/page/draft.js").read_text(encoding="utf-8")
    line = next(line for line in page.splitlines() if "DEFAULTS = {" in line)
    assert f'selector: "{NDS.name}"' in line
    assert f"temperature: {NDS().temperature}," in line
    assert f'normalisation: "{NDS().normalisation}"' in line
