"""The pages that people read: short where they should be, and true to the commands and files that they name."""

from __future__ import annotations

import json
import re
import statistics
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from nds_plugin.commands.nds import VERBS, command
from nds_plugin.engine.config import EngineConfig
from nds_plugin.report.statistics import paired_difference
from nds_plugin.settings import settings_of

ROOT = Path(__file__).parents[1]
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES = [*TOP, *sorted((ROOT / "docs").rglob("*.md"))]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
# The command at the start of a line, after a variable, or as code in a sentence.
_NDS = re.compile(
    r"(?:^ *(?:[A-Z_0-9]+=\S+ )*|`(?:[A-Z_0-9]+=\S+ )*)nds ([a-z]+(?: [a-z]+\b)?)", re.MULTILINE
)

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def anchors(page: Path) -> set[str]:
    """The addresses of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def named_verbs(text: str) -> list[str]:
    """The verb of each command ``nds ...`` on a page."""
    joined = re.sub(r"\\\n\s*", "", text)
    found = (match[1].split() for match in _NDS.finditer(joined))
    two_words = {verb.split()[0] for verb in VERBS if " " in verb}
    return [" ".join(words[: 2 if words[0] in two_words else 1]) for words in found]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pages
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    broken = []
    for link in _LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(link)
    assert not broken


@pages
def test_every_verb_that_a_page_names_exists(page: Path) -> None:
    assert not set(named_verbs(page.read_text(encoding="utf-8"))) - set(VERBS)


def test_verbs_are_found_wherever_they_stand() -> None:
    page = "    nds draw --x\n    A=1 nds \\\n        train\nUse `nds gate score --gate g`, or `nds frob`.\n"
    assert named_verbs(page) == ["draw", "train", "gate score", "frob"]
    assert {"train", "partition", "score", "draw"} <= set(
        named_verbs((ROOT / "README.md").read_text("utf-8"))
    )


@pages
def test_every_make_target_and_script_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert not set(re.findall(r"(?:^    |`)make ([a-z-]+)", text, re.MULTILINE)) - targets
    # A page about another program may name that program's own tools/.
    theirs = {"tools/train_net.py", "tools/lazyconfig_train_net.py"}
    scripts = set(re.findall(r"python ((?:tools|benchmarks|docs)/\w+\.py)", text)) - theirs
    assert not {name for name in scripts if not (ROOT / name).is_file()}


def test_every_page_is_in_the_site() -> None:
    # The rest of mkdocs.yml is checked by make docs, strictly.
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    named = set(re.findall(r"[\w/]+\.md", str(nav)))
    assert named == {str(page.relative_to(ROOT / "docs")) for page in PAGES if page not in TOP}


def test_every_module_of_the_api_reference_exists() -> None:
    for page in (ROOT / "docs/api").glob("*.md"):
        for name in re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            module = ROOT / name.replace(".", "/")
            defined = module.with_suffix(".py").is_file() or (module / "__init__.py").is_file()
            parent = module.parent.with_suffix(".py")
            text = parent.read_text(encoding="utf-8") if parent.is_file() else ""
            assert defined or re.search(rf"^(class|def) {module.name}\b", text, re.MULTILINE), name


def test_the_readme_installs_as_the_page_on_installing_does() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^    (.*pip (?:wheel|install).*)$", readme, re.MULTILINE)
    assert len(lines) == 3
    assert "\n".join(f"    {line}" for line in lines) in (ROOT / "docs/howto/install.md").read_text(
        encoding="utf-8"
    )


def test_the_version_is_the_same_wherever_it_is_written() -> None:
    from nds_plugin import __version__

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(cited["version"]) == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"nds_plugin-{__version__}-" in (ROOT / "configs/ray/cluster.yaml").read_text(encoding="utf-8")


# What a tool reads and writes; the table of tools tells the other options.
INPUT_AND_OUTPUT = {
    *("--help", "--output", "--index", "--partition", "--experts", "--scores", "--gate", "--name"),
    *("--dataset", "--coco", "--folder", "--images"),
}
TOOLS = re.findall(
    r"^\| `nds ([a-z -]+)`[^|]*\|[^|]*\| (.*--.*) \|$",
    (ROOT / "docs/configuration.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


@pytest.mark.parametrize(("verb", "told"), TOOLS, ids=[verb for verb, _ in TOOLS])
def test_the_options_of_a_tool_are_those_in_the_table_of_tools(
    verb: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command(verb)(["--help"])
    lines = re.findall(r"^  (--.*?)(?:  |$)", capsys.readouterr().out, re.MULTILINE)
    real = set(re.findall(r"--[a-z0-9-]+", " ".join(lines)))
    named = set(re.findall(r"--[a-z0-9-]+", told))
    if "engine" in told:
        named |= {item.flag for item in settings_of(EngineConfig)}
    assert not named - real
    # Of a switch, one side.
    missing = {o for o in real - named - INPUT_AND_OUTPUT if _other_side(o) not in named}
    assert not missing


def _other_side(option: str) -> str:
    return f"--{option[5:]}" if option.startswith("--no-") else f"--no-{option[2:]}"


# The rows of the two tables that are written by hand, by how their lines begin. Of other configs there are network experts alone.
FIRST_RESULTS = {
    "| NDS with network experts": [("nds with networks", 0.2)],
    "| no pretraining": [("none", 0)],
    "| uniform, 20 and 40 %": [("uniform", 0.2), ("uniform", 0.4)],
    "| uniform, 10 % of": [("uniform", 0.1)],
    "| uniform, 20 %": [("uniform", 0.2)],
    "| uniform, 40 %": [("uniform", 0.4)],
    "| NDS with": [("nds", 0.2)],
    "| histogram, 20 %": [("histogram", 0.2)],
    "| `histogram`, 20 %": [("histogram", 0.2)],
    "| gate, 20 %": [("gate", 0.2)],
    "| Scalable NDS, 20 %": [("snds", 0.2)],
    "| nearest neighbours, 20 %": [("knn", 0.2)],
    "| domain classifier, 20 %": [("domain_classifier", 0.2)],
    "| NDS, 10 %": [("nds", 0.1)],
    "| NDS, 40 %": [("nds", 0.4)],
    "| picked by hand": [("oracle", 0.2)],
}
PAIRED = {
    "NDS 10 %": ("nds", 0.1), "uniform 10 %": ("uniform", 0.1), "NDS": ("nds", 0.2), "histogram": ("histogram", 0.2), "gate": ("gate", 0.2), "Scalable NDS": ("snds", 0.2),
    "uniform 20 %": ("uniform", 0.2), "uniform 40 %": ("uniform", 0.4),
}  # fmt: skip
MINUS = "\N{MINUS SIGN}"


@pytest.mark.parametrize("page", ["README.md", "docs/benchmark_imagenet.md"])
def test_the_first_results_are_those_of_the_benchmark(page: str) -> None:
    hashes = json.loads((ROOT / "tests/experiments/row_hashes.json").read_text(encoding="utf-8"))
    current = set(hashes["mini_imagenet"].values())
    results = json.loads((ROOT / "docs/benchmark_imagenet.json").read_text(encoding="utf-8"))
    ap: dict[tuple[str, str, float], dict[int, float]] = defaultdict(dict)
    for cell in results["cells"]:
        kind = "" if cell["config_hash"] in current else " with networks"
        ap[cell["client"], cell["selector"] + kind, cell["budget"]][cell["seed"]] = cell["AP_bb"]
    text = (ROOT / page).read_text(encoding="utf-8").replace("*", "")
    rows = text[text.index("| box AP after fine-tuning") :].split("\n\n")[0].splitlines()[2:]
    for line in rows:
        name, *told = (cell.strip() for cell in line.split("|")[1:-1])
        for client, cell in zip(("cityscapes", "dawn", "ccp_modanet13"), told):
            if name.endswith(", paired"):
                ours, theirs = (
                    ap[(client, *PAIRED[part])] for part in name.removesuffix(", paired").split(f" {MINUS} ")
                )
                found = paired_difference(ours, theirs)
                low, high = (f"{bound:+.2f}" for bound in (found.low, found.high))
                measured = [f"{found.mean:+.2f} [{low}, {high}]".replace("-", MINUS)]
            else:
                methods = next(methods for start, methods in FIRST_RESULTS.items() if line.startswith(start))
                runs = [ap[(client, *method)].values() for method in methods]
                measured = [f"{statistics.fmean(r):.2f} ± {statistics.stdev(r):.2f}" for r in runs]
            assert cell == ", ".join(measured), f"{client}: {line}"
