from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from nds_plugin.datasets.label_space import DROPPED, unite
from nds_plugin.errors import NDSError
from nds_plugin.source.class_names import normalise

COCO = ["person", "traffic light", "car"]
DRIVING = ["Car", "traffic_light", "rider"]


def test_names_are_compared_without_case_and_separators() -> None:
    assert normalise("  Traffic_Light ") == normalise("traffic-light") == normalise("TRAFFIC   LIGHT")


def test_synonyms_are_one_class() -> None:
    space = unite([["person", "motorcycle"], ["pedestrian", "motorbike", "tram"]])
    assert space.classes == ("person", "motorcycle", "tram")
    assert [m.tolist() for m in space.maps] == [[0, 1], [0, 1, 2]]


def test_union_keeps_first_appearance_and_spelling() -> None:
    space = unite([COCO, DRIVING])
    assert space.classes == ("person", "traffic light", "car", "rider")
    assert [m.tolist() for m in space.maps] == [[0, 1, 2], [2, 1, 3]]
    assert space.labelled == (frozenset({0, 1, 2}), frozenset({1, 2, 3}))


def test_one_source_maps_onto_itself() -> None:
    space = unite([COCO])
    assert space.classes == tuple(COCO)
    assert space.maps[0].tolist() == [0, 1, 2]


def test_every_map_lands_in_the_united_classes() -> None:
    space = unite([COCO, DRIVING, ["a", "A", "b"]])
    for class_list, positions, labelled in zip([COCO, DRIVING, ["a", "A", "b"]], space.maps, space.labelled):
        for name, position in zip(class_list, positions):
            assert normalise(space.classes[position]) == normalise(name)
        assert labelled == set(positions.tolist())


def test_names_of_one_source_are_never_one_class() -> None:
    names = ["pm1.5", "pm15", "PM 15", "a", "A", "person", "pedestrian"]
    space = unite([names])
    assert space.classes == tuple(names)
    assert space.renamed == space.apart == ()
    again = unite([names, names])
    assert again.classes == tuple(names)
    assert [m.tolist() for m in again.maps] == [list(range(7))] * 2


def test_what_is_united_by_more_than_an_equal_name_is_listed() -> None:
    mapping = {"b": {"van": "car"}}
    space = unite([["car", "sofa"], ["Car", "couch", "van"], ["car"]], mapping, ["a", "b", "c"])
    assert space.classes == ("car", "sofa", "Car")
    assert [(r.source, r.old, r.new, r.how) for r in space.renamed] == [
        ("b", "couch", "sofa", "synonym"),
        ("b", "van", "car", "mapping"),
    ]
    assert space.apart == (), "the mapping says which class of b is 'car'"
    space = unite([["car"], ["Car"]], None, ["a", "b"])
    assert [(r.source, r.old, r.new, r.how) for r in space.renamed] == [("b", "Car", "car", "spelling")]
    assert json.loads(json.dumps(space.to_dict()))["renamed"][0]["how"] == "spelling"


@pytest.mark.parametrize("one", [["PM15"], ["PM15", "dust"]])
def test_a_name_that_may_be_either_of_two_stays_apart_and_an_equal_one_goes_first(one: list[str]) -> None:
    two = ["pm1.5", "pm15"]
    for lists in ([one, two], [two, one]):
        space = unite(lists)
        assert {"PM15", *two} <= set(space.classes)
        assert space.renamed == ()
        assert {frozenset(pair) for pair in space.apart} == {frozenset({"PM15", name}) for name in two}
    assert unite([["pm15"], two]).classes == ("pm15", "pm1.5")


def test_a_name_that_an_earlier_source_united_is_found_again() -> None:
    space = unite([["couch"], ["sofa"], ["sofa"]])
    assert space.classes == ("couch",)
    apart = unite([["couch"], ["sofa"], ["sofa", "couch"]])
    assert apart.classes == ("couch", "sofa")
    assert apart.maps[2].tolist() == [1, 0]


def test_a_rule_is_for_the_class_of_its_very_name() -> None:
    two = ["pm1.5", "pm15"]
    assert unite([two], {"*": {"pm15": "dust"}}).classes == ("pm1.5", "dust")
    with pytest.raises(NDSError, match=re.escape("'PM 15' may mean 'pm1.5' or 'pm15': write the name")):
        unite([two], {"*": {"PM 15": "dust"}})
    with pytest.raises(NDSError, match="half a character"):
        unite([two], {"*": {"pm15": "\ud83d"}})


def test_mapping_renames_drops_and_prefers_the_source() -> None:
    mapping = {"*": {"car": "vehicle", "Rider": "person"}, "driving": {"car": None}}
    space = unite([COCO, DRIVING], mapping, ["coco", "driving"])
    assert space.classes == ("person", "traffic light", "vehicle")
    assert [m.tolist() for m in space.maps] == [[0, 1, 2], [DROPPED, 1, 0]]
    assert space.labelled == (frozenset({0, 1, 2}), frozenset({0, 1}))


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_mapping_files_are_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"map{suffix}"
    path.write_text(
        '{"*": {"rider": "person", "person": null}}' if suffix == ".json" else "'*': {rider: car}\n"
    )
    given = json.loads(path.read_text()) if suffix == ".json" else {"*": {"rider": "car"}}
    from_file, direct = unite([COCO, DRIVING], path), unite([COCO, DRIVING], given)
    assert from_file.classes == direct.classes
    assert [m.tolist() for m in from_file.maps] == [m.tolist() for m in direct.maps]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (
            {"*": {"ridr": "person"}},
            "unknown class of any source in the class mapping given 'ridr'. Did you mean 'rider'",
        ),
        ({"coco": {"rider": "person"}}, "unknown class of source 'coco' in the class mapping given 'rider'."),
        (
            {"cocos": {}},
            "unknown source in the class mapping given 'cocos'. Did you mean 'coco'? Known: coco, driving.",
        ),
        (["car"], "got a list"),
        ({"coco": ["car"]}, "got ['car'] for 'coco'"),
        ({"*": {"car": 3}}, "got 'car': 3"),
        ({"*": {"car": " "}}, "got 'car': ' '"),
        ({"*": dict.fromkeys([*COCO, "rider"])}, "no class is left of the sources coco, driving"),
    ],
)
def test_bad_mappings_have_their_line(mapping: Any, message: str) -> None:
    with pytest.raises(NDSError, match=re.escape(message)) as error:
        unite([COCO, DRIVING], mapping, ["coco", "driving"])
    assert "\n" not in str(error.value)


def test_bad_mapping_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NDSError, match=r"class mapping file not found: .*no\.json"):
        unite([COCO], tmp_path / "no.json")
    (tmp_path / "cut.json").write_text('{"*": {"car"')
    with pytest.raises(NDSError, match=r"cut\.json is not JSON"):
        unite([COCO], tmp_path / "cut.json")
    (tmp_path / "cut.yaml").write_text("'*': {car: [\n")
    with pytest.raises(NDSError, match=r"cut\.yaml is not YAML") as error:
        unite([COCO], tmp_path / "cut.yaml")
    assert "\n" not in str(error.value)
    with pytest.raises(NDSError, match="cannot read the class mapping file"):
        unite([COCO], tmp_path)


def test_source_names_must_fit() -> None:
    with pytest.raises(NDSError, match="2 class lists but 1 source names"):
        unite([COCO, DRIVING], None, ["coco"])
    with pytest.raises(NDSError, match="source names must differ, got a, a"):
        unite([COCO, DRIVING], None, ["a", "a"])


def test_a_mapping_may_name_sources_that_are_not_in_a_draw_if_it_is_told_so() -> None:
    mapping = {"coco": {"person": "human"}, "elsewhere": {"tram": "train"}}
    assert unite([COCO], mapping, ["coco"], partial=True).classes[0] == "human"
    with pytest.raises(NDSError, match="elsewhere"):
        unite([COCO], mapping, ["coco"])
