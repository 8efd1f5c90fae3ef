"""Client and server as processes of their own, on loopback, with lines that break and processes that are killed."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from as_user import ROOT, logging_kept, only_line
from provider import LOST, MOODS, Provider, mood, provider
from service_demo import ADMIN, build_parts, start
from slow_line import SlowLine, slow_line

from nds_plugin.experts.expert_set import ExpertSet
from nds_plugin.experts.scores import Scores
from nds_plugin.experts.scoring import score_experts
from nds_plugin.experts.settings import ScoringConfig
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.select import select
from nds_plugin.service.client.cli import main as client_main
from nds_plugin.service.fastadapt.scores import to_percentages
from nds_plugin.service.published.publishing import publish
from nds_plugin.source.folder import index_folder
from nds_plugin.source.image_folders import list_images
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition

pytestmark = pytest.mark.slow

NO_LIMITS = ("--requests-per-minute", "0", "--heavy-per-minute", "0")
CLIENT = str(ROOT / "tools" / "nds_client.py")


class Server:
    """A server that can be killed and started again on its port."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.process, self.url = start(store, *NO_LIMITS)
        self.port = int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def start_again(self) -> None:
        self.process, _ = start(self.store, *NO_LIMITS, "--port", str(self.port))


@dataclass
class World:
    """A published store with its server, and the provider of its images."""

    parts: dict[str, Path]
    server: Server
    provider: Provider

    @property
    def sample(self) -> Path:
        return self.parts["index"].parent / "sample"

    @property
    def client_images(self) -> Path:
        return self.sample / "city" / "images"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with provider(folder=folder / "sample") as images:
        parts = build_parts(folder, images.url)
        publish(folder / "store", **parts)
        server = Server(folder / "store")
        try:
            yield World(parts, server, images)
        finally:
            server.kill()


@pytest.fixture(scope="module")
def local_scores(world: World) -> Scores:
    """What scoring gives without any service."""
    config = ScoringConfig("accuracy", num_workers=0)
    return score_experts(ExpertSet.load(world.parts["experts"]), world.client_images, config, progress=False)


class User:
    """A user's account with its folders, on a machine that talks to one server."""

    def __init__(self, home: Path, server: str) -> None:
        self.home, self.server = home, server
        self.cache, self.config = home / "cache" / "nds_plugin", home / "config" / "nds_plugin"
        self.env = {
            **os.environ, "PYTHONPATH": str(ROOT), "NDS_SERVER": server, "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(home / "cache"), "XDG_CONFIG_HOME": str(home / "config"),
        }  # fmt: skip

    def begin(self, *arguments: object) -> subprocess.Popen[str]:
        """Start the client."""
        return subprocess.Popen(
            [sys.executable, CLIENT, *map(str, arguments)], env=self.env, cwd=self.home, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def does(self, *arguments: object, status: int = 0) -> str:
        """Run the client to its end; what it prints."""
        return self.ends(self.begin(*arguments), status)

    def ends(self, process: subprocess.Popen[str], status: int = 0) -> str:
        """Wait for a client that was started; what it prints."""
        out, err = process.communicate(timeout=120)
        assert process.returncode == status, (process.returncode, out, err)
        return out

    def fails(self, *arguments: object) -> str:
        """Run the client, which must refuse; its one line."""
        process = self.begin(*arguments)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 2, (process.returncode, out, err)
        return only_line(err)

    def experts(self) -> list[Path]:
        """Whole experts in the cache."""
        return sorted(self.cache.glob("experts/*/*.safetensors"))


class UserHere(User):
    """The same user, whose client runs in this process: many times as quick to start."""

    def __init__(
        self, home: Path, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        super().__init__(home, server)
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def _run(self, arguments: tuple[object, ...]) -> tuple[int, str, str]:
        for name, value in self.env.items():
            self._monkeypatch.setenv(name, value)
        self._monkeypatch.chdir(self.home)
        self._monkeypatch.setattr(sys, "argv", ["nds-client", *map(str, arguments)])
        self._monkeypatch.setattr(sys, "stdin", io.StringIO())
        self._capsys.readouterr()
        status = 0
        try:
            client_main()
        except SystemExit as end:
            status = int(end.code or 0)
        return (status, *self._capsys.readouterr())

    def does(self, *arguments: object, status: int = 0) -> str:
        found, out, err = self._run(arguments)
        assert found == status, (found, out, err)
        return out

    def fails(self, *arguments: object) -> str:
        found, out, err = self._run(arguments)
        assert found == 2, (found, out, err)
        return only_line(err)


@pytest.fixture
def user(world: World, tmp_path: Path) -> User:
    """A user whose client is a process of its own."""
    return User(tmp_path, world.server.url)


@pytest.fixture
def user_here(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[UserHere]:
    with logging_kept():
        yield UserHere(tmp_path, world.server.url, monkeypatch, capsys)


@pytest.fixture
def line(world: World) -> Iterator[SlowLine]:
    with slow_line(world.server.port) as running:
        yield running


def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.002)


def _save(scores: Scores, user: User) -> Path:
    scores.save(user.home / "scores.json")
    return user.home / "scores.json"


def _search_id(output: str) -> str:
    match = re.search(r"^search (\w+):", output, re.MULTILINE)
    assert match, output
    return match[1]


def test_score_search_download_gives_what_the_same_steps_give_without_a_service(
    world: World, user: User, local_scores: Scores
) -> None:
    assert "street" in user.does("sources")
    user.does(
        "score",
        "--images",
        world.client_images,
        "--output",
        "scores.json",
        "--metric",
        "accuracy",
        "--num-workers",
        0,
    )
    scores = Scores.load(user.home / "scores.json")
    assert (scores.z, scores.expert_set) == (local_scores.z, local_scores.expert_set)
    search = _search_id(user.does("search", "--scores", "scores.json", "--budget", 40, "--seed", 3, "--yes"))
    user.does("manifest", search, "--output", "m.parquet")
    index, partition = SourceIndex.load(world.parts["index"]), Partition.load(world.parts["partition"])
    expected = select(index, partition, SelectionConfig(count=40, seed=3), local_scores)
    found = pq.read_table(user.home / "m.parquet")
    for column in ("image_id", "cluster", "p", "url", "checksum"):
        assert found.column(column).to_pylist() == expected.column(column).to_pylist()
    _check_download(world, user, search)


def _check_download(world: World, user: User, search: str) -> None:
    """A provider in many moods: what can arrive does, byte for byte; the rest is told."""
    user.does("manifest", search, "--output", "m.csv")
    with open(user.home / "m.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    moods = {(row["source"], row["image_id"]): mood(row["file_name"]) for row in rows}
    lost = {identity: LOST[how] for identity, how in moods.items() if how in LOST}
    assert set(moods.values()) == set(MOODS)
    output = user.does("download", "--search", search, "--output", "images", status=1)
    assert f"{len(rows) - len(lost)} of {len(rows)} images in images" in output
    with open(user.home / "images" / "failures.csv", newline="") as file:
        failures = {(row["source"], row["image_id"]): row["reason"] for row in csv.DictReader(file)}
    assert failures == lost
    for row in rows:
        path = user.home / "images" / row["source"] / row["file_name"]
        if (row["source"], row["image_id"]) in lost:
            assert not path.exists()
        else:
            assert (
                path.read_bytes() == (world.sample / row["source"] / "images" / row["file_name"]).read_bytes()
            )
    assert len(index_folder(user.home / "images")) == len(rows) - len(lost)
    before = world.provider.counts
    again = user.does("download", "--search", search, "--output", "images", status=1)
    assert f"0 fetched (0.0 MB, 0.0 images a second), {len(rows) - len(lost)} were there" in again
    assert f"{len(lost)} were not tried again (--retry-failed)" in again
    assert world.provider.counts == before


def test_a_client_killed_inside_an_expert_goes_on_where_it_was(
    world: World, user: User, line: SlowLine
) -> None:
    size = sum(path.stat().st_size for path in world.parts["experts"].glob("*.safetensors"))
    user.env["NDS_SERVER"] = line.url
    line.rate = 60_000_000
    for part in range(2):
        process = user.begin("experts")
        _until(lambda least=(30 + 60 * part) * 1_000_000: line.back > least)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        # No file stands under its name that is not whole.
        for path in user.experts():
            assert path.read_bytes() == (world.parts["experts"] / path.name).read_bytes()
    line.rate = 0
    user.does("experts")
    assert len(user.experts()) == 4
    # What had arrived was not sent again, but for what a kill leaves in the kernel's buffers.
    assert line.back < size + 20_000_000


def test_a_server_killed_inside_an_expert_and_started_again_is_waited_for(
    world: World, user: User, line: SlowLine
) -> None:
    user.env["NDS_SERVER"] = line.url
    line.rate = 60_000_000
    process = user.begin("experts")
    _until(lambda: line.back > 30_000_000)
    world.server.kill()
    time.sleep(1.0)
    line.rate = 0
    world.server.start_again()
    user.ends(process)
    for path in user.experts():
        assert path.read_bytes() == (world.parts["experts"] / path.name).read_bytes()
    assert len(user.experts()) == 4


def test_a_line_that_breaks_inside_an_expert_is_taken_up(user: User, line: SlowLine) -> None:
    user.env["NDS_SERVER"] = line.url
    line.cut_after = 20_000_000
    user.does("experts")
    assert line.cut_after is None
    assert len(user.experts()) == 4


def test_a_damaged_expert_in_the_cache_is_fetched_again(world: World, user_here: UserHere) -> None:
    user_here.does("experts")
    victim = user_here.experts()[1]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    user_here.does("experts")
    assert victim.read_bytes() == (world.parts["experts"] / victim.name).read_bytes()


def test_an_expert_that_was_changed_on_the_server_is_refused(world: World, user_here: UserHere) -> None:
    (store_file,) = world.server.store.glob("sets/*/experts/expert_0001.safetensors")
    original = store_file.read_bytes()
    try:
        store_file.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        message = user_here.fails("score", "--images", world.client_images)
    finally:
        store_file.write_bytes(original)
    assert re.search(r"expert_0001\.safetensors is not the file that the manifest names", message)
    assert "expert_0001.safetensors" not in [path.name for path in user_here.experts()]
    assert not list(user_here.cache.rglob("*.part"))


def _searches(user: User) -> int:
    return len(re.findall(r"^[0-9a-f]{32} ", user.does("searches"), re.MULTILINE))


def test_an_answer_that_is_lost_makes_no_second_search(
    world: World, user: User, line: SlowLine, local_scores: Scores
) -> None:
    path = _save(local_scores, user)
    user.env["NDS_SERVER"] = line.url
    line.lose_answers = 1
    user.does("search", "--scores", path, "--budget", 20, "--yes")
    assert line.lose_answers == 0
    assert _searches(user) == 1
    user.does("search", "--scores", path, "--budget", 20, "--yes")
    assert _searches(user) == 1
    user.does("search", "--scores", path, "--budget", 21, "--yes")
    assert _searches(user) == 2


def test_a_client_killed_after_sending_finds_its_search_again(
    user: User, line: SlowLine, local_scores: Scores
) -> None:
    path = _save(local_scores, user)
    user.env["NDS_SERVER"] = line.url
    line.lose_answers = 1
    process = user.begin("search", "--scores", path, "--budget", 20, "--yes")
    _until(lambda: line.lost == 1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    _until(lambda: _searches(user) == 1)  # the request is still on its way
    user.does("search", "--scores", path, "--budget", 20, "--yes")
    assert _searches(user) == 1


def test_a_search_outlives_a_server_that_is_killed(world: World, user: User, local_scores: Scores) -> None:
    path = _save(local_scores, user)
    first = _search_id(user.does("search", "--scores", path, "--budget", 20, "--yes"))
    world.server.kill()
    process = user.begin("search", "--scores", path, "--budget", 30, "--yes")
    time.sleep(1.5)
    world.server.start_again()
    second = _search_id(user.ends(process))
    listed = user.does("searches")
    assert first in listed
    assert second in listed
    user.does("searches", "--delete", first)
    assert first not in user.does("searches")


def test_what_leaves_is_printed_and_nothing_leaves_without_a_yes(user: User, local_scores: Scores) -> None:
    path = _save(local_scores, user)
    process = user.begin("search", "--scores", path, "--budget", 20, "--title", "my cars")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "add --yes to send this. Nothing was sent" in only_line(err)
    for word in (
        local_scores.expert_set,
        "3 numbers",
        "20 images",
        "my cars",
        "selector nds, temperature 0.1",
    ):
        assert word in out
    assert all(f"{z:.6g}" in out for z in local_scores.z)
    assert not (user.config / "tokens.json").exists()


def test_the_token_is_private_and_never_printed(user_here: UserHere, local_scores: Scores) -> None:
    output = user_here.does("search", "--scores", _save(local_scores, user_here), "--budget", 20, "--yes")
    file = user_here.config / "tokens.json"
    (token,) = json.loads(file.read_text()).values()
    assert token not in output
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(user_here.config.stat().st_mode) == 0o700


def test_a_token_that_the_server_does_not_know_is_named_with_its_file(
    user_here: UserHere, local_scores: Scores
) -> None:
    path = _save(local_scores, user_here)
    user_here.config.mkdir(parents=True)
    file = user_here.config / "tokens.json"
    file.write_text(json.dumps({user_here.server: "nds_of-another-database"}))
    for arguments in (("searches",), ("search", "--scores", path, "--budget", 5, "--yes")):
        said = user_here.fails(*arguments)
        assert "401 Unauthorized: unknown token." in said
        assert f"in {file} is of another database or was forgotten: take it out there" in said
    assert "nds_of-another-database" not in said


def test_noise_is_sent_in_the_place_of_the_scores(user_here: UserHere, local_scores: Scores) -> None:
    path = _save(local_scores, user_here)
    outputs = [
        user_here.does(
            "search", "--scores", path, "--budget", 20, "--yes", "--privacy", "laplace:0.05,round:3"
        )
        for _ in range(2)
    ]
    sent = re.search(r"one per expert: (.*)", outputs[0])
    assert sent is not None
    assert sent[1].split() != [f"{z:.6g}" for z in local_scores.z]
    assert _search_id(outputs[0]) == _search_id(outputs[1])  # the same noise: the same search
    assert "epsilon" in outputs[0]


def test_scores_of_experts_that_were_replaced_are_refused_before_they_are_sent(
    world: World, user_here: UserHere, local_scores: Scores, tmp_path: Path
) -> None:
    path = _save(local_scores, user_here)
    (old,) = [folder.name for folder in (world.server.store / "sets").iterdir()]
    parts = build_parts(tmp_path / "other", world.provider.url, seed=1)
    publish(world.server.store, **parts)
    try:
        assert "score the current experts" in user_here.fails(
            "search", "--scores", path, "--budget", 20, "--yes"
        )
    finally:
        request = urllib.request.Request(
            f"{world.server.url}/api/v1/admin/current", json.dumps({"expert_set": old}).encode(),
            {"Authorization": f"Bearer {ADMIN}", "Content-Type": "application/json"},
        )  # fmt: skip
        urllib.request.urlopen(request).close()
        for folder in (world.server.store / "sets").iterdir():
            if folder.name != old:
                shutil.rmtree(folder)
    user_here.does("search", "--scores", path, "--budget", 20, "--yes")


def test_scores_of_the_authors_client_find_the_same_images(
    world: World, user_here: UserHere, local_scores: Scores
) -> None:
    files = user_here.does("experts", "--fastadapt", user_here.home / "fastadapt")
    assert "3 files for the paper authors' client" in files
    z = to_percentages(local_scores.clusters, local_scores.z, local_scores.expert_set)
    assert sorted(z) == sorted(path.name for path in (user_here.home / "fastadapt").iterdir())
    (user_here.home / "z.pickle").write_bytes(pickle.dumps(z, pickle.HIGHEST_PROTOCOL))
    user_here.does("convert", "z.pickle", "--output", "theirs.json")
    for name in ("none", "minmax"):
        manifests = []
        for scores in ("theirs.json", _save(local_scores, user_here)):
            found = user_here.does(
                "search", "--scores", scores, "--budget", 30, "--normalisation", name, "--yes"
            )
            user_here.does("manifest", _search_id(found), "--output", "m.json", "--format", "coco")
            manifests.append(json.loads((user_here.home / "m.json").read_text()))
        assert manifests[0] == manifests[1]


def test_a_hostile_pickle_is_refused_by_the_client(user_here: UserHere) -> None:
    (user_here.home / "z.pickle").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    assert "refused: its pickle asks for os.system" in user_here.fails("convert", "z.pickle")
    assert not (user_here.home / "executed").exists()
    assert not (user_here.home / "scores.json").exists()


def test_mistakes_are_one_line(user_here: UserHere, local_scores: Scores) -> None:
    assert "scores file not found" in user_here.fails("search", "--scores", "none.json", "--budget", 5)
    assert "no token for" in user_here.fails("searches")
    assert "no token for" in user_here.fails("manifest", "0" * 32, "--output", "m.csv")
    assert "is no id of a search" in user_here.fails("manifest", "../../health", "--output", "m.csv")
    path = _save(local_scores, user_here)
    assert "422" in user_here.fails("search", "--scores", path, "--budget", 10_000, "--yes")
    assert "unknown privacy step 'blur'" in user_here.fails(
        "search", "--scores", path, "--budget", 5, "--privacy", "blur:1"
    )
    assert "404" in user_here.fails("download", "--search", "f" * 32, "--output", "x")
    user_here.env["NDS_SERVER"] = "ftp://127.0.0.1"
    assert "expected an address such as" in user_here.fails("sources")


def test_images_are_downloaded_from_a_selection_that_was_drawn_without_a_service(
    world: World, user_here: UserHere, local_scores: Scores
) -> None:
    index, partition = SourceIndex.load(world.parts["index"]), Partition.load(world.parts["partition"])
    select(index, partition, SelectionConfig(count=10), local_scores).save(user_here.home / "s.parquet", "k")
    user_here.does("download", "--manifest", "s.parquet", "--output", "images", status=1)
    assert 0 < len(list_images(user_here.home / "images")) < 10
