"""Stock Flower apps over a real broker: `digits_app` is written as Flower's own examples are."""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_bagging
from typer.testing import CliRunner

from hedgerow.cli import app as cli
from hedgerow.coordinator import flower
from hedgerow.coordinator.journal import Journal
from hedgerow.coordinator.roster import node_id
from hedgerow.errors import FlowerAppError, UsageError
from hedgerow.flower_agent import parse_node_config

Fixture = Any
HERE = Path(__file__).parent
NODES = 3


@dataclass
class FlowerFleet:
    """An app of its own, its nodes, and its server."""

    rig: Fixture
    app: Path
    run: str = "run"
    nodes: list[Any] = field(default_factory=list)

    def device(self, number: int) -> str:
        """Of this fleet alone: on one broker, two clients of one name throw each other out for ever."""
        return f"{self.rig.fleet}-{number}"

    def start_node(self, number: int) -> Any:
        command = [sys.executable, "-m", "hedgerow", "flower", "agent", str(self.app)]
        command += ["--broker", self.rig.broker, "--fleet", self.rig.fleet, "--device", self.device(number)]
        command += ["--node-config", f"partition-id={number} num-partitions={NODES}"]
        command += ["--folder", str(self.rig.folder / f"node-{number}")]
        return self.rig.start(command, f"node-{number}")

    def start_nodes(self) -> None:
        self.nodes = [self.start_node(number) for number in range(NODES)]

    def start_server(self, *options: str, **config: Any) -> Any:
        command = [sys.executable, "-m", "hedgerow", "flower", "run", str(self.app)]
        command += ["--broker", self.rig.broker, "--fleet", self.rig.fleet, "--folder", str(self.state)]
        command += ["--run-config", self.values(**config), *options]
        return self.rig.start(command, "coordinator")

    def start_killed_server(self, where: str, count: int, **config: Any) -> Any:
        command = [sys.executable, str(HERE / "launch_flower.py"), str(self.app), self.rig.broker]
        command += [self.rig.fleet, str(self.state), self.values(**config), where, str(count)]
        return self.rig.start(command, "coordinator")

    def values(self, **config: Any) -> str:
        values = {"out": str(self.out), **{name.replace("_", "-"): value for name, value in config.items()}}
        return " ".join(f"{name}={_toml(value)}" for name, value in values.items())

    @property
    def state(self) -> Path:
        return Path(self.rig.folder / f"server-{self.run}")

    @property
    def out(self) -> Path:
        return Path(self.rig.folder / f"{self.run}.npz")

    def result(self, process: Any) -> dict[str, Any]:
        assert self.rig.finish(process, seconds=300.0) == 0, self.words()
        with np.load(self.out) as arrays:
            return dict(arrays)

    def words(self) -> str:
        return self.rig.log[-3000:] + (self.rig.folder / "node-0.log").read_text()[-2000:]

    def closed_batches(self) -> int:
        journal = Journal(self.state)
        number = 0
        while (record := journal.phase(number + 1, "messages")) is not None and record.closed:
            number += 1
        journal.close()
        return number

    def wait_for_batches(self, closed: int) -> None:
        until = time.monotonic() + 200
        while not (self.state / "journal.sqlite").exists() or self.closed_batches() < closed:
            assert time.monotonic() < until, self.words()
            time.sleep(0.02)


def _toml(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else json.dumps(value)


MakeFleet = Callable[..., FlowerFleet]


def copy_app(folder: Path, client: str = "client_app:app", server: str = "server_app:app") -> Path:
    shutil.copytree(HERE / "digits_app", folder)
    described = (folder / "pyproject.toml").read_text()
    described = described.replace("client_app:app", client).replace("server_app:app", server)
    (folder / "pyproject.toml").write_text(described)
    return folder


@pytest.fixture
def make_fleet(mosquitto: str, make_rig: Fixture) -> MakeFleet:
    """A fleet that nobody else uses."""

    def make(client: str = "client_app:app", server: str = "server_app:app") -> FlowerFleet:
        rig = make_rig(mosquitto)
        return FlowerFleet(rig, copy_app(rig.folder / "app", client, server))

    return make


@pytest.fixture(scope="module")
def shared_fleet(mosquitto: str, make_lasting_rig: Fixture) -> FlowerFleet:
    """Three nodes with the app for all tests that only run servers: one after the other."""
    rig = make_lasting_rig(mosquitto)
    fleet = FlowerFleet(rig, copy_app(rig.folder / "app"))
    fleet.start_nodes()
    return fleet


class LocalGrid(flower.NodeGrid):
    """The reference: the same ClientApps called one after the other, without anything in between."""

    def __init__(self, client: Any, config: dict[str, Any], devices: list[str]) -> None:
        self._nodes_ids = {node_id(device): number for number, device in enumerate(devices)}
        super().__init__(lambda: self._nodes_ids)
        self._client = client
        self._contexts = {
            node: Context(
                1, node, {"partition-id": number, "num-partitions": NODES}, RecordDict(), dict(config)
            )
            for node, number in self._nodes_ids.items()
        }

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        # In the order of the nodes, as our grid does it: Krum decides ties by the order of the replies.
        by_node = {message.metadata.dst_node_id: message for message in messages}
        return [
            self._client(by_node[node], self._contexts[node]) for node in self._nodes_ids if node in by_node
        ]


def digits_module(name: str) -> Any:
    sys.path.insert(0, str(HERE / "digits_app"))
    try:
        return importlib.import_module(f"digitsapp.{name}")
    finally:
        sys.path.remove(str(HERE / "digits_app"))


def reference(fleet: FlowerFleet, client: str, **config: Any) -> dict[str, Any]:
    out = fleet.rig.folder / f"{fleet.run}-reference.npz"
    project = flower.Project.read(fleet.app, [fleet.values(**config), f"out='{out}'"])
    module, attribute = client.split(":")
    client_app = getattr(digits_module(module), attribute)
    grid = LocalGrid(client_app, dict(project.config), [fleet.device(number) for number in range(NODES)])
    context = Context(1, 0, {}, RecordDict(), dict(project.config))
    digits_module("server_app").app(grid, context)
    with np.load(out) as arrays:
        return dict(arrays)


def assert_same(found: dict[str, Any], expected: dict[str, Any], **tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, **(tolerance or {"rtol": 1e-9}))


def test_a_stock_app_gives_what_it_gives_without_a_network(shared_fleet: FlowerFleet) -> None:
    fleet = replace(shared_fleet, run="stock")
    found = fleet.result(fleet.start_server())
    assert_same(found, reference(fleet, "client_app:app"))
    np.testing.assert_array_equal(found["trained"], [1, 2, 3], "state lasts from round to round")
    assert found["accuracy"][-1] > 0.8
    assert not list(fleet.state.glob("journal.sqlite")), "a run that has ended leaves nothing behind"
    # A second run begins anew, on the same agents: their state is that of a run.
    again = fleet.result(fleet.start_server(num_server_rounds=1))
    np.testing.assert_array_equal(again["trained"], [1])


def test_a_server_that_is_killed_goes_on_where_it_was(shared_fleet: FlowerFleet) -> None:
    fleet = replace(shared_fleet, run="killed")
    config = {"num_server_rounds": 4, "strategy": "FedAdam", "local_steps": 2}
    server = fleet.start_server(**config)
    fleet.wait_for_batches(3)
    server.kill()
    server.wait()
    fleet.out.unlink(missing_ok=True)
    found = fleet.result(fleet.start_server(**config))
    np.testing.assert_array_equal(found["trained"], [1, 2, 3, 4], "nobody trained twice for one round")
    assert_same(found, reference(fleet, "client_app:app", **config))


def test_sigterm_stops_and_a_fresh_run_begins_anew(shared_fleet: FlowerFleet) -> None:
    fleet = replace(shared_fleet, run="stopped")
    server = fleet.start_server(num_server_rounds=1000)
    fleet.wait_for_batches(2)
    server.send_signal(signal.SIGTERM)
    assert fleet.rig.finish(server, seconds=60.0) == 0, fleet.words()
    assert "goes on here" in fleet.rig.log
    assert (fleet.state / "journal.sqlite").exists()
    found = fleet.result(fleet.start_server("--fresh", num_server_rounds=1))
    np.testing.assert_array_equal(found["trained"], [1])


def test_what_a_stock_app_says_is_what_the_document_describes(
    shared_fleet: FlowerFleet, sniff: Fixture
) -> None:
    fleet = replace(shared_fleet, run="sniffed")
    with sniff(fleet.rig) as seen:
        fleet.result(fleet.start_server(num_server_rounds=1))
    assert {"coordinator", "state", "blob", "up-accepted", "up-update", "up-chunk"} <= seen.keys()
    assert {"down-task", "down-grant", "down-settled"} <= seen.keys()
    tasks = {task["task"]: task for task in seen["down-task"]}
    assert (
        sorted(task["flower"]["message_type"] for task in tasks.values()) == ["evaluate"] * 3 + ["train"] * 3
    )
    for task in tasks.values():
        assert task["flower"]["app"] == "hedgerow/digits-app"
        assert task["flower"]["node_id"] == node_id(task["device"])
        assert task["flower"]["run_config"]["learning.rate"] == 0.5
        assert task["weights"] == task["program"]
        assert task["weights"]["codec"] == "flower"
    answers = {update["task"]: update["weights"]["codec"] for update in seen["up-update"]}
    assert answers == dict.fromkeys(tasks, "flower")


def test_an_app_that_polls_and_asks_questions(shared_fleet: FlowerFleet, tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    app = copy_app(tmp_path / "app", server="polling_server_app:app")
    fleet = replace(shared_fleet, run="polling", app=app)
    server = fleet.start_server(num_server_rounds=2)
    assert fleet.rig.finish(server, seconds=300.0) == 0, fleet.words()
    _, y = load_digits(return_X_y=True)
    parts = [y[number::NODES] for number in range(NODES)]
    expected = sum(np.bincount(part[: int(0.8 * len(part))], minlength=10) for part in parts)
    assert json.loads(fleet.out.read_text()) == [expected.tolist()] * 2


@pytest.mark.slow
def test_a_node_that_fails_and_one_that_goes_away(make_fleet: MakeFleet) -> None:
    fleet = make_fleet()
    fleet.start_nodes()
    # One app is broken on its device; another device's agent is killed, and its will says so.
    (fleet.rig.folder / "broken").mkdir()
    broken = FlowerFleet(fleet.rig, fleet.rig.folder / "broken" / "app")
    shutil.copytree(fleet.app, broken.app)
    (broken.app / "digitsapp" / "client_app.py").write_text("raise ValueError('no camera')\n")
    fleet.nodes[1].send_signal(signal.SIGTERM)
    fleet.nodes[1].wait()
    broken.start_node(1)
    server = fleet.start_server("--offline-seconds", "1", num_server_rounds=1, local_steps=2000, nodes=2)
    until = time.monotonic() + 200
    while "no camera" not in (fleet.rig.folder / "node-1.log").read_text():
        assert time.monotonic() < until, fleet.words()
        time.sleep(0.05)
    fleet.nodes[2].kill()
    fleet.result(server)
    words = (fleet.rig.folder / "coordinator.out").read_text() + fleet.rig.log
    assert "Received 1 results and 2 failures" in words
    assert "no camera" in words
    assert "has gone offline" in words


STRATEGIES: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        name: ("client_app:app", {"strategy": name})
        for name in (
            "FedAvg",
            "FedAvgM",
            "FedAdagrad",
            "FedAdam",
            "FedYogi",
            "FedMedian",
            "FedTrimmedAvg",
        )
    },
    "FedProx": ("client_app:app", {"strategy": "FedProx", "arguments": '{"proximal_mu": 0.1}'}),
    "QFedAvg": ("client_app:app", {"strategy": "QFedAvg", "arguments": '{"client_learning_rate": 0.5}'}),
    "Krum": ("client_app:app", {"strategy": "Krum", "arguments": '{"num_malicious_nodes": 0}'}),
    "MultiKrum": (
        "client_app:app",
        {"strategy": "MultiKrum", "arguments": '{"num_malicious_nodes": 0, "num_nodes_to_select": 2}'},
    ),
    "Bulyan": ("client_app:app", {"strategy": "Bulyan", "arguments": '{"num_malicious_nodes": 0}'}),
    **{
        f"DifferentialPrivacy{side}{kind}Clipping": (
            f"clipped_client_app:{kind.lower()}" if side == "ClientSide" else "client_app:app",
            {
                "strategy": f"DifferentialPrivacy{side}{kind}Clipping",
                "inside": "FedAvg",
                "arguments": json.dumps(
                    {"noise_multiplier": 1e-9, "num_sampled_clients": NODES}
                    | ({"clipping_norm": 0.5} if kind == "Fixed" else {"initial_clipping_norm": 0.5})
                    | ({"clipped_count_stddev": 1e-9} if kind == "Adaptive" else {})
                ),
            },
        )
        for side in ("ServerSide", "ClientSide")
        for kind in ("Fixed", "Adaptive")
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_that_works_on_arrays(name: str, make_fleet: MakeFleet) -> None:
    client, config = STRATEGIES[name]
    fleet = make_fleet(client=client)
    fleet.start_nodes()
    config = {"num_server_rounds": 2, **config}
    found = fleet.result(fleet.start_server(**config))
    assert_same(found, reference(fleet, client, **config), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["FedXgbBagging", "FedXgbCyclic"])
def test_boosted_trees(strategy: str, make_fleet: MakeFleet) -> None:
    """Real XGBoost; the model is to its last byte the one that XGBoost makes without anything in between."""
    fleet = make_fleet(client="trees_client_app:app", server="trees_server_app:app")
    fleet.start_nodes()
    server = fleet.start_server(strategy=strategy, num_server_rounds=3, local_steps=2)
    assert fleet.rig.finish(server, seconds=300.0) == 0, fleet.words()
    trees = digits_module("trees_client_app")
    data = [trees.load_data(number, NODES) for number in range(NODES)]
    expected = set()
    if strategy == "FedXgbBagging":
        model = b""
        for _ in range(3):
            grown = [bytes(trees.boost(model, *train, 2, False)) for train, _ in data]
            model = functools.reduce(aggregate_bagging, grown, model)
        expected.add(model)
    else:
        # Flower draws the order in which nodes have their turns.
        for order in itertools.permutations(data):
            model = b""
            for train, _ in order:
                model = bytes(trees.boost(model, *train, 2, True))
            expected.add(model)
    found = fleet.out.read_bytes()
    assert found in expected
    assert min(trees.auc(found, *test) for _, test in data) > 0.95


def test_every_exported_strategy_is_tested() -> None:
    import flwr.serverapp.strategy as strategies

    exported = set(strategies.__all__) - {"Result", "Strategy"}
    assert exported == STRATEGIES.keys() | {"FedXgbBagging", "FedXgbCyclic"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "count", "config"),
    [
        ("after", 2, {"strategy": "FedAdam", "fraction_train": 0.7, "min_nodes": 2}),
        ("before", 3, {"strategy": "FedAvg"}),
        ("after", 3, STRATEGIES["DifferentialPrivacyServerSideAdaptiveClipping"][1]),
    ],
)
def test_killed_at_every_transition(
    where: str, count: int, config: dict[str, Any], make_fleet: MakeFleet
) -> None:
    fleet = make_fleet()
    fleet.start_nodes()
    config = {"num_server_rounds": 2, "local_steps": 2, **config}
    found = fleet.result(fleet.start_killed_server(where, count, **config))
    kills = Counter((fleet.rig.folder / "kills").read_text().split())
    print(f"{sum(kills.values())} kills: {dict(kills)}")  # noqa: T201
    assert {"facts", "offers", "phases", "updates"} <= kills.keys()
    assert kills["updates"] >= 3
    assert found["trained"][-1] <= 2, "nobody trained twice for one round"
    if "fraction_train" not in config:
        assert_same(found, reference(fleet, "client_app:app", **config), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_nodes_that_are_killed_answer_all_the_same(make_fleet: MakeFleet) -> None:
    fleet = make_fleet()
    fleet.start_nodes()
    config = {"num_server_rounds": 4, "local_steps": 300}
    server = fleet.start_server("--offline-seconds", "60", **config)
    for strike in range(6):
        time.sleep(1.3)
        if server.poll() is not None:
            break
        number = strike % NODES
        fleet.nodes[number].kill()
        fleet.nodes[number].wait()
        fleet.nodes[number] = fleet.start_node(number)
    found = fleet.result(server)
    np.testing.assert_array_equal(found["trained"], [1, 2, 3, 4], "the state of a lost answer is undone")
    assert_same(found, reference(fleet, "client_app:app", **config))


def test_what_a_user_gets_wrong(tmp_path: Path) -> None:
    def fails(*arguments: str) -> Any:
        return CliRunner().invoke(cli, ["flower", *arguments, "--broker", "mqtt://127.0.0.1:1"]).exception

    assert "Cannot find pyproject.toml" in str(fails("run", str(tmp_path)))
    app = str(HERE / "digits_app")
    assert "Key 'nonsense' is not present" in str(fails("run", app, "--run-config", "nonsense=1"))
    assert "received {" in str(fails("run", app, "--run-config", "learning.rate=nan"))
    assert isinstance(fails("agent", str(tmp_path), "--device", "a"), FlowerAppError)
    assert isinstance(fails("agent", app, "--device", "a", "--node-config", "x"), UsageError)
    broken = copy_app(tmp_path / "broken")
    described = (broken / "pyproject.toml").read_text()
    (broken / "pyproject.toml").write_text(described.replace("digitsapp.server_app", "broken_server"))
    (broken / "broken_server.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(FlowerAppError, match="nothing_of_that_name"):
        flower.Project.read(broken).load("serverapp")
    sys.path.remove(str(broken))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("partition-id=0 num-partitions=8", {"partition-id": 0, "num-partitions": 8}),
        ("a='x y' b=\"1\" c=true d=0.5", {"a": "x y", "b": "1", "c": True, "d": 0.5}),
    ],
)
def test_node_config(text: str, values: dict[str, Any]) -> None:
    assert parse_node_config(text) == values


@pytest.mark.parametrize("text", ["x", "a=1 b", "=1", "a=b", "a='x"])
def test_what_is_no_node_config(text: str) -> None:
    with pytest.raises(UsageError, match="Expected pairs"):
        parse_node_config(text)
