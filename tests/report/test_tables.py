"""Laws of the tables: the paper's printed character for character, means, intervals, what is missing."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nds_plugin.errors import NDSError
from nds_plugin.experiments.curve import beside_each_other, budget_curve
from nds_plugin.experiments.spec import GRIDS
from nds_plugin.report.paper import paper_table
from nds_plugin.report.result_table import ResultTable, TableRow, build_table
from nds_plugin.report.statistics import Estimate, estimate, paired_difference, seeds_needed, t_quantile
from nds_plugin.report.table_formats import (
    FORMATS,
    as_sections,
    comma_separated,
    latex,
    markdown,
    paper_form,
    text,
)
from nds_plugin.selection.selectors import SELECTORS

# Neural Data Server, supplementary material (CVPR 2020), Tables 4 and 5 as they are printed there.
HEADER = "Data (# Images)\tMethod\tAP^{bb}\tAP_{50}^{bb}\tAP\tAP_{50}\tcar\ttruck\trider\tbicycle\tperson\tbus\tmcycle\ttrain\n"
PRINTED = {
    "4": HEADER
    + """\
0	ImageNet Initialization	36.2	62.3	32.0	57.6	49.9	30.8	23.2	17.1	30.0	52.4	17.9	35.2
23K	Uniform Sampling	38.1	64.9	34.3	60.0	50.0	34.2	24.7	19.4	32.8	52.0	18.9	42.1
	NDS	40.7	66.0	36.1	61.0	51.3	35.4	25.9	20.4	33.9	56.9	20.8	44.0
47K	Uniform Sampling	39.8	65.5	34.4	60.0	50.7	31.8	25.4	18.3	33.3	55.2	21.2	38.9
	NDS	42.2	68.1	36.7	62.3	51.8	36.9	26.4	19.8	33.8	59.2	22.1	44.0
59K	Uniform Sampling	39.5	64.9	34.9	60.4	50.8	34.8	26.3	18.9	33.2	55.5	20.8	38.7
	NDS	41.7	66.6	36.7	61.9	51.7	37.2	26.9	19.6	34.2	56.7	22.5	44.5
118K	Full COCO	41.8	66.5	36.5	62.3	51.5	37.2	26.6	20.0	34.0	56.0	22.3	44.2
""",
    "5": HEADER
    + """\
0	ImageNet Initialization	36.2	62.3	32.0	57.6	49.9	30.8	23.2	17.1	30.0	52.4	17.9	35.2
118K	Uniform Sampling	37.5	62.5	32.8	57.2	49.6	33.2	23.3	18.0	30.8	52.9	17.4	37.1
	NDS	39.9	65.1	35.1	59.8	51.6	36.7	24.2	18.3	32.4	56.4	18.0	42.8
200K	Uniform Sampling	37.8	63.1	32.9	57.8	49.7	31.7	23.8	17.8	31.0	51.8	18.4	38.8
	NDS	40.7	65.8	36.1	61.2	51.4	38.2	24.2	17.9	32.3	57.8	19.7	47.3
""",
}
ALIGNED_5 = """\
Table 5. Means over seeds ± standard deviation.

Data    Method                     seeds    AP^bb    AP50^bb    AP    AP50    car    truck    rider    bicycle    person    bus    mcycle    train
------  -----------------------  -------  -------  ---------  ----  ------  -----  -------  -------  ---------  --------  -----  --------  -------
0       ImageNet Initialization      1/1     36.2       62.3  32.0    57.6   49.9     30.8     23.2       17.1      30.0   52.4      17.9     35.2
118K    Uniform Sampling             1/1     37.5       62.5  32.8    57.2   49.6     33.2     23.3       18.0      30.8   52.9      17.4     37.1
        NDS                          1/1     39.9       65.1  35.1    59.8   51.6     36.7     24.2       18.3      32.4   56.4      18.0     42.8
200K    Uniform Sampling             1/1     37.8       63.1  32.9    57.8   49.7     31.7     23.8       17.8      31.0   51.8      18.4     38.8
        NDS                          1/1     40.7       65.8  36.1    61.2   51.4     38.2     24.2       17.9      32.3   57.8      19.7     47.3
"""


def results(printed: str) -> dict[str, Any]:
    """A printed table as data: ``{"columns": [...], "rows": [{"images", "method", "values"}]}``."""
    names = {
        "ImageNet Initialization": "imagenet_init",
        "Uniform Sampling": "uniform",
        "NDS": "nds",
        "Full COCO": "full",
    }
    rows, images = [], 0
    for line in printed.splitlines()[1:]:
        data, method, *values = line.split("\t")
        images = (int(data[:-1]) * 1000 if data.endswith("K") else int(data)) if data else images
        rows.append({"images": images, "method": names[method], "values": [float(v) for v in values]})
    header = printed.splitlines()[0].split("\t")[2:]
    short = {"AP^{bb}": "AP_bb", "AP_{50}^{bb}": "AP50_bb", "AP_{50}": "AP50"}
    return {"columns": [short.get(h, h) for h in header], "rows": rows}


def as_table(paper: dict[str, Any], *, title: str, source: str) -> ResultTable:
    """The paper's own table in the form of ours: one run per row."""
    methods = {"imagenet_init": "none", "entire_dataset": "full"}
    columns = tuple("motorcycle" if name == "mcycle" else name for name in paper["columns"])
    rows = [
        TableRow(
            selector=methods.get(row["method"], row["method"]),
            budget=row["images"],
            values={c: Estimate(v, None, 1) for c, v in zip(columns, row["values"])},
            differences={},
            seeds=(0,),
        )
        for row in paper["rows"]
    ]
    return ResultTable(title, source, columns, tuple(rows), (0,))


@pytest.mark.parametrize("name", ["4", "5"])
def test_the_papers_tables_are_reproduced_character_for_character(name: str) -> None:
    table = as_table(results(PRINTED[name]), title="", source="COCO" if name == "4" else "OpenImages")
    assert paper_form(table) == PRINTED[name]


def test_the_aligned_text_of_a_table_is_this() -> None:
    assert text(as_table(results(PRINTED["5"]), title="Table 5.", source="OpenImages")) == ALIGNED_5


@pytest.mark.parametrize("name", ["4", "5"])
def test_the_numbers_of_the_paper_in_the_package_are_those_that_are_printed(name: str) -> None:
    assert paper_table(name) == results(PRINTED[name])
    assert paper_table("mini") is None


@pytest.mark.parametrize("name", ["4", "5"])
def test_runs_that_score_what_the_paper_scored_print_the_papers_table(name: str) -> None:
    """Through cells, as they come from the grid, one seed each."""
    grid, paper = GRIDS[name], results(PRINTED[name])
    long = {"mcycle": "motorcycle"}
    cells = []
    for row in paper["rows"]:
        values = dict(zip([long.get(c, c) for c in paper["columns"]], row["values"]))
        means = {m: values.pop(m) for m in ("AP_bb", "AP50_bb", "AP", "AP50")}
        selector = "none" if row["method"] == "imagenet_init" else row["method"]
        cells.append(
            {"selector": selector, "budget": row["images"], "seed": 0, **means, "per_category": values}
        )
    rows = [(r.selector, r.budget) for r in grid.rows if (r.selector, r.budget) != ("full", 1_743_042)]
    table = build_table(
        rows, cells, title=grid.title, source=grid.source, categories=grid.categories["cityscapes"], seeds=(0,), paper=paper
    )  # fmt: skip
    assert paper_form(table) == PRINTED[name]
    assert all(row.paper[c] == row.values[c].mean for row in table.rows for c in table.columns)


def cell(selector: str, budget: float, seed: int, ap: float, **more: Any) -> dict[str, Any]:
    means = {"AP_bb": ap, "AP50_bb": 2 * ap, "AP": ap - 1, "AP50": ap + 1}
    return {
        "selector": selector,
        "budget": budget,
        "seed": seed,
        **means,
        "per_category": {"car": 3 * ap},
        **more,
    }


UNIFORM = [cell("uniform", 0.2, seed, ap) for seed, ap in enumerate([10.0, 12.0, 11.0])]
NDS = [cell("nds", 0.2, seed, ap) for seed, ap in enumerate([12.0, 14.5, 12.5])]


def small(entries: list[dict[str, Any]], **options: Any) -> ResultTable:
    rows = [("none", 0), ("uniform", 0.2), ("nds", 0.2), ("oracle", 0.2), ("full", 1)]
    settings = {"title": "T.", "source": "source", "categories": ("car",), "seeds": (0, 1, 2), **options}
    return build_table(rows, entries, **settings)


def test_differences_are_paired_over_seeds_with_students_t() -> None:
    row = small([*UNIFORM, *NDS]).rows[2]
    change = row.differences["AP_bb"]
    # 2, 2.5, 1.5: mean 2, deviation 0.5, t(0.975, 2) = 4.302653
    assert change.mean == pytest.approx(2.0)
    assert change.error == pytest.approx(0.5 / math.sqrt(3))
    assert change.high == pytest.approx(2.0 + 4.302653 * 0.5 / math.sqrt(3), rel=1e-6)
    assert change.low == pytest.approx(2.0 - 4.302653 * 0.5 / math.sqrt(3), rel=1e-6)
    assert "+2.0 [+0.8, +3.2]" in text(small([*UNIFORM, *NDS]))


def test_what_a_seed_does_to_both_arms_cancels() -> None:
    shifted = {seed: value + 100 * seed for seed, value in enumerate([1.0, 1.1, 1.2])}
    base = {seed: 100.0 * seed for seed in range(3)}
    assert paired_difference(shifted, base).mean == pytest.approx(1.1)
    assert paired_difference(shifted, base).error == pytest.approx(0.1 / math.sqrt(3))


def test_only_seeds_that_both_have_are_paired() -> None:
    change = small([*UNIFORM, *NDS[1:]]).rows[2].differences["AP_bb"]
    assert (change.n, change.mean) == (2, pytest.approx(2.0))


def test_one_pair_has_no_interval_and_none_no_difference() -> None:
    assert paired_difference({0: 2.0}, {0: 1.0}).low is None
    assert paired_difference({0: 2.0}, {1: 1.0}).mean is None
    assert "+2.0 [one seed]" in text(small([UNIFORM[0], NDS[0]]))


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 12.7062), (2, 4.30265), (4, 2.77645), (30, 2.04227)])
def test_the_t_quantiles_are_those_of_the_printed_tables(degrees: int, quantile: float) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(quantile, rel=1e-5)


def test_the_spread_is_the_sample_standard_deviation() -> None:
    assert estimate([1.0, 2.0, 3.0]).spread == pytest.approx(1.0)
    assert estimate([1.0]).spread is None
    assert estimate([]).mean is None


def test_the_seeds_needed_make_the_room_three_standard_errors() -> None:
    assert seeds_needed(0.3, 0.2) == 4  # (3 x 0.2 / 0.3) ** 2
    assert seeds_needed(5.0, 0.1) == 3  # never fewer than three
    assert seeds_needed(-0.1, 0.2) is None


def test_a_number_of_fewer_runs_than_the_row_has_says_so() -> None:
    entries = [{**entry, "AP": None} if entry["seed"] == 0 else entry for entry in [*UNIFORM, *NDS]]
    shown = text(small(entries))
    runs = len(UNIFORM)
    assert shown.count(f"(n = {runs - 1})") == 3  # mask AP of both rows, and its difference


def test_missing_and_failed_cells_are_marked() -> None:
    table = small([*UNIFORM, *NDS[:2]], failed={("nds", 0.2, 2, ""): "out of memory"})
    assert table.missing == 10
    shown = text(table)
    assert "10 of 15 cells are missing" in shown
    assert "NDS 20 % seed 2 (failed)" in shown
    assert "; all of ImageNet Initialization 0, Oracle ‡ 20 %, Full source 100 %." in shown
    assert not any(
        line.startswith("100 %") for line in shown.splitlines()
    )  # of which there is nothing to show
    assert "2/3" in next(line for line in shown.splitlines() if " NDS " in line)


def test_the_rows_of_a_page_are_called_by_their_own_names_where_others_are_not_begun() -> None:
    cells = [
        cell(selector, 0.2, seed, ap) for selector, ap in (("uniform", 1.0), ("nds", 2.0)) for seed in (0, 1)
    ]
    rows = [(selector, budget) for budget in (0.1, 0.2) for selector in ("uniform", "nds")]
    table = build_table(rows, cells, title="T", source="source", categories=("car",), seeds=(0, 1))
    values, differences = as_sections(table, "client")
    assert [(row[0], row[2].split()[0]) for row in values["rows"]] == [
        ("20 % Uniform Sampling", "1.0"),
        ("20 % NDS", "2.0"),
    ]
    assert [row[0] for row in differences["rows"]] == ["20 % NDS"]


def test_selectors_that_look_at_the_target_are_marked() -> None:
    table = build_table(
        [("knn", 0.2), ("oracle", 0.2), ("nds", 0.2)], [], title="T.", source="s", categories=(), seeds=(0,)
    )
    assert "Nearest neighbours †" in text(table)
    assert "† looks at the target's images" in text(table)
    assert "‡ draws from images that were chosen by hand" in text(table)
    assert "†" not in text(small([]))


def test_one_seed_twice_is_refused() -> None:
    with pytest.raises(NDSError, match="two cells of nds at 0.2 with seed 0: of different configs"):
        small([NDS[0], NDS[0]])


def test_cells_of_other_rows_are_left_out() -> None:
    assert small([*UNIFORM, cell("uniform", 0.4, 0, 99.0)]).rows[1].values["AP_bb"].n == 3


def test_an_ap_that_was_not_computed_is_missing_not_zero() -> None:
    table = small([{**UNIFORM[0], "AP": None, "per_category": {"car": None}}])
    assert table.rows[1].values["AP"].mean is None
    assert table.rows[1].values["car"].n == 0


def test_markdown_is_a_table_of_even_rows() -> None:
    lines = [line for line in markdown(small([*UNIFORM, *NDS])).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines[:7]} == {9}
    assert "11.0 ± 1.0" in markdown(small([*UNIFORM, *NDS]))


def test_latex_differences_are_those_of_the_means_with_signs_of_minus() -> None:
    entries = [{**entry, "per_category": {"car": entry["AP"]}} for entry in [*UNIFORM, *NDS]]
    worse = [{**entry, "AP_bb": entry["AP_bb"] - 50} for entry in entries if entry["selector"] == "nds"]
    shown = latex(small([*(e for e in entries if e["selector"] == "uniform"), *worse]))
    values, differences = shown.split(r"\end{table*}")[:2]
    assert "car" in values
    assert "car" not in differences
    assert "$-$4" in differences
    assert not re.search(r"[ \[]-\d", differences)


def test_latex_holds_no_unescaped_sign_and_one_end_per_begin() -> None:
    shown = latex(small([*UNIFORM, *NDS]))
    for name in ("tabular}", "table*}"):
        assert shown.count(rf"\begin{{{name}") == shown.count(rf"\end{{{name}") == 2
    assert shown.count("{") == shown.count("}")
    assert "±" not in shown
    assert r"20 \%" in shown
    for line in shown.splitlines():
        if line.endswith(r"\\") and "Method" not in line:
            assert line.count("&") in (7, 6)


def test_latex_escapes_what_it_would_read() -> None:
    shown = latex(small(UNIFORM, title=r"a_b ~ {c} $5 \d x^2 Top-1 -3."))
    expected = r"a\_b \textasciitilde{} \{c\} \$5 \textbackslash{}d x\textasciicircum{}2 Top-1 $-$3."
    assert expected in shown


def test_the_papers_form_has_the_decimals_of_the_table() -> None:
    printed = {"columns": ["car"], "rows": [{"images": 0.2, "method": "uniform", "values": [30.25]}]}
    table = small(UNIFORM, means=(), paper=printed, digits=2)
    assert "20 %\tUniform Sampling\t33.00\n" in paper_form(table)
    assert "33.00 ± 3.00 (30.25)" in text(table)


def test_csv_and_json_hold_every_number() -> None:
    table = small([*UNIFORM, *NDS])
    rows = list(csv.DictReader(io.StringIO(comma_separated(table))))
    nds = next(row for row in rows if row["selector"] == "nds" and row["metric"] == "AP_bb")
    assert float(nds["mean"]) == pytest.approx(13.0)
    assert float(nds["low"]) == pytest.approx(table.rows[2].differences["AP_bb"].low)
    document = json.loads(FORMATS["json"](table))
    assert [row["method"] for row in document["rows"]] == ["none", "uniform", "nds", "oracle", "full"]
    assert document["rows"][2]["values"][0] == pytest.approx(13.0)
    assert document["rows"][0]["missing"] == {"0": "missing", "1": "missing", "2": "missing"}


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_curve_is_the_same_file_for_the_same_table(tmp_path: Path, suffix: str) -> None:
    entries = [
        cell(s, b, seed, 10 + 5 * b + seed)
        for s in ("uniform", "nds")
        for b in (0.1, 0.2, 0.4)
        for seed in range(3)
    ]
    rows = [
        ("none", 0),
        *((s, b) for b in (0.1, 0.2, 0.4) for s in ("uniform", "nds")),
        ("oracle", 0.2),
        ("full", 1),
    ]
    entries += [cell("none", 0, 0, 4.0), cell("oracle", 0.2, 0, 15.0), cell("full", 1, 1, 14.0)]
    table = build_table(rows, entries, title="", source="source", categories=(), seeds=(0, 1, 2))
    first, second = (budget_curve(table, tmp_path / f"{i}.{suffix}") for i in range(2))
    assert first.read_bytes() == second.read_bytes()
    if suffix == "png":
        with Image.open(first) as image:
            assert image.width > 450


def test_a_budget_of_one_seed_is_drawn_open_and_in_no_band(tmp_path: Path) -> None:
    rows = [(selector, budget) for selector in ("uniform", "nds") for budget in (0.1, 0.2)]
    cells = [cell(*row, seed, 5.0 + seed) for row in rows for seed in range(3)]

    def drawn(entries: list[dict[str, Any]]) -> tuple[int, bool]:
        table = build_table(rows, entries, title="", source="source", categories=(), seeds=(0, 1, 2))
        picture = budget_curve(table, tmp_path / "curve.svg").read_text()
        colour = SELECTORS["nds"].colour
        return len(
            re.findall('id="(?:FillBetween)?PolyCollection', picture)
        ), f"fill: #ffffff; stroke: {colour}" in picture

    assert drawn(cells) == (2, False)
    assert drawn([c for c in cells if (c["selector"], c["budget"]) != ("nds", 0.2) or not c["seed"]]) == (
        1,
        True,
    )


def test_selectors_of_one_budget_stand_beside_each_other_in_the_curve() -> None:
    rows = [("uniform", 0.2), ("nds", 0.1), ("nds", 0.2), ("gate", 0.2), ("knn", 0.2), ("oracle", 0.2)]
    entries = [cell(selector, budget, 0, 5.0) for selector, budget in rows]
    table = build_table(rows, entries, title="T.", source="source", categories=("car",), seeds=(0,))
    moved = beside_each_other(table.rows, [0.1, 0.2])
    assert "nds" not in moved  # a line, through its budgets
    assert len(set(moved.values())) == len(moved) == 4
    assert sum(moved.values()) == pytest.approx(0.0)
    assert max(moved.values()) < 0.1 / 4


def test_a_curve_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NDSError, match="not one cell of the table has AP_bb"):
        budget_curve(small([]), tmp_path / "curve.png")
    with pytest.raises(NDSError, match="no column 'bus'"):
        budget_curve(small(UNIFORM), tmp_path / "curve.png", "bus")
