"""Every strategy gives through our folding what it gives when it is handed all replies at once."""

from __future__ import annotations

import tracemalloc
import warnings
from typing import Any

import msgspec
import numpy as np
import pytest

from hedgerow.coordinator import flower, flower_strategies
from hedgerow.coordinator.replies import EveryReply, FairReply, MeanReply, PrivateReply, replies_for
from hedgerow.coordinator.strategy_state import restore_state, save_state
from hedgerow.errors import StrategyError, TensorsError
from hedgerow.protocol.messages import BlobReference, Update
from hedgerow.protocol.tensors import Weights

DEVICES = ("a", "b", "c", "d", "e", "f", "g")
NODES = [number << 33 for number in range(1, len(DEVICES) + 1)]
BLOB = BlobReference(sha256="0" * 64, size=10, codec="f32")
FIXED = {"noise_multiplier": 0.5, "clipping_norm": 1.5, "num_sampled_clients": len(DEVICES)}
ADAPTIVE = {
    "noise_multiplier": 0.5,
    "num_sampled_clients": len(DEVICES),
    "initial_clipping_norm": 2.0,
    "clipped_count_stddev": 0.6,
}
CASES: list[tuple[str, dict[str, Any], str | None, type]] = [
    ("FedAvg", {}, None, MeanReply),
    ("FedProx", {"proximal_mu": 0.1}, None, MeanReply),
    ("FedAvgM", {"server_momentum": 0.9}, None, MeanReply),
    ("FedAdam", {}, None, MeanReply),
    ("FedAdagrad", {}, None, MeanReply),
    ("FedYogi", {}, None, MeanReply),
    ("QFedAvg", {"client_learning_rate": 0.1}, None, FairReply),
    ("FedMedian", {}, None, EveryReply),
    ("FedTrimmedAvg", {}, None, EveryReply),
    ("Krum", {"num_malicious_nodes": 1}, None, EveryReply),
    ("MultiKrum", {"num_malicious_nodes": 1, "num_nodes_to_select": 3}, None, EveryReply),
    ("Bulyan", {"num_malicious_nodes": 1}, None, EveryReply),
    ("DifferentialPrivacyServerSideFixedClipping", FIXED, None, PrivateReply),
    ("DifferentialPrivacyServerSideFixedClipping", FIXED, "FedAdam", PrivateReply),
    ("DifferentialPrivacyServerSideFixedClipping", FIXED, "FedMedian", EveryReply),
    ("DifferentialPrivacyServerSideAdaptiveClipping", ADAPTIVE, None, PrivateReply),
    ("DifferentialPrivacyClientSideFixedClipping", FIXED, None, PrivateReply),
    ("DifferentialPrivacyClientSideAdaptiveClipping", ADAPTIVE, "FedAvgM", PrivateReply),
]


def make(name: str, arguments: dict[str, Any], inside: str | None) -> Any:
    return flower_strategies.make_strategy(
        name, arguments, None if inside is None else flower_strategies.make_strategy(inside, {})
    )


def answers(start: Weights, strategy: Any, rng: np.random.Generator) -> list[tuple[Update, Weights]]:
    made = []
    for number, device in enumerate(DEVICES, 1):
        weights = {k: v + rng.normal(size=v.shape).astype(np.float32) for k, v in start.items()}
        metrics = {name: float(number % 3) + 0.5 for name in flower_strategies.train_metrics(strategy)}
        if flower.NORM_BIT in metrics:
            metrics[flower.NORM_BIT] = float(number % 2)
        made.append(
            (
                Update(
                    device=device,
                    incarnation=1,
                    counter=1,
                    task=device,
                    round=1,
                    num_examples=10 * number,
                    metrics=metrics,
                    weights=BLOB,
                ),
                weights,
            )
        )
    return made


def test_every_strategy_is_a_case() -> None:
    assert {name for name, *_ in CASES} == set(flower_strategies.strategy_names())


@pytest.mark.parametrize(
    ("name", "arguments", "inside", "way"), CASES, ids=[f"{case[0]}-{case[2] or ''}" for case in CASES]
)
def test_folded_is_the_same_as_all_at_once(
    name: str, arguments: dict[str, Any], inside: str | None, way: type
) -> None:
    rng = np.random.default_rng(0)
    weights: Weights = {
        "z": rng.normal(size=(4, 3)).astype(np.float32),
        "a": rng.normal(size=3).astype(np.float32),
    }
    stock, ours = make(name, arguments, inside), make(name, arguments, inside)
    for round_ in (1, 2, 3):
        state = save_state(ours)
        ours = make(name, arguments, inside)
        restore_state(ours, state)
        replies = answers(weights, ours, rng)
        both = [
            flower.configure(s, round_, weights, {}, nodes=NODES, train=True, seed=f"{round_}")
            for s in (stock, ours)
        ]
        by_task = {update.task: given for update, given in replies}
        folded = replies_for(ours, train=True, start=weights, read=lambda u, by=by_task: by[u.task])
        assert type(folded) is way
        for update, given in reversed(replies):
            folded.fold(update, dict(given))
        np.random.seed(round_)
        actual, metrics = folded.conclude(ours, round_, both[1][0])
        np.random.seed(round_)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            all_at_once = [
                flower.make_reply(message, dict(given), update.metrics, update.num_examples)
                for message, (update, given) in zip(both[0], replies, strict=True)
            ]
            expected, expected_metrics = flower.outcome(stock.aggregate_train(round_, all_at_once))
        assert actual is not None
        assert expected is not None
        for key, value in expected.items():
            np.testing.assert_allclose(actual[key], value, rtol=2e-5, atol=2e-6)
        if flower.NORM_BIT not in metrics:
            assert metrics == pytest.approx(expected_metrics)
        assert getattr(ours, "clipping_norm", 0.0) == pytest.approx(getattr(stock, "clipping_norm", 0.0))
        weights = expected


def test_names_and_arguments_that_do_not_exist() -> None:
    with pytest.raises(StrategyError, match="Expected a strategy out of"):
        flower_strategies.make_strategy("FedNothing", {})
    with pytest.raises(StrategyError, match="Expected arguments that FedAvg takes"):
        flower_strategies.make_strategy("fedavg", {"momentum": 1.0})
    with pytest.raises(StrategyError, match="differential privacy around another"):
        flower_strategies.make_strategy("FedAvg", {}, flower_strategies.make_strategy("FedAvg", {}))


def test_a_strategy_that_waits_for_more_nodes_is_no_endless_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flwr.serverapp.strategy.strategy_utils.sleep", lambda seconds: None)
    strategy = flower_strategies.make_strategy("FedAvg", {"min_available_nodes": 9})
    assert flower_strategies.needed_nodes(strategy, train=True) == 9
    with pytest.raises(StrategyError, match="one that waits"):
        flower.configure(strategy, 1, {"w": np.zeros(1, np.float32)}, {}, nodes=NODES, train=True, seed="")


def test_an_update_that_changed_nothing_is_not_divided_by_its_length() -> None:
    weights: Weights = {"w": np.ones(3, np.float32)}
    clipped, was_clipped = flower.clip(dict(weights), weights, 1.0)
    assert not was_clipped
    np.testing.assert_array_equal(clipped["w"], weights["w"])


@pytest.mark.parametrize(
    ("name", "arguments", "inside"),
    [case[:3] for case in CASES if case[3] is not EveryReply],
    ids=[f"{case[0]}-{case[2] or ''}" for case in CASES if case[3] is not EveryReply],
)
def test_what_is_folded_takes_the_memory_of_one_model_whatever_the_number(
    name: str, arguments: dict[str, Any], inside: str | None
) -> None:
    strategy, rng = make(name, arguments, inside), np.random.default_rng(0)
    start: Weights = {"w": rng.normal(size=100_000).astype(np.float32)}
    replies = replies_for(strategy, train=True, start=start, read=lambda update: start)
    (update, weights), *_ = answers(start, strategy, rng)

    def held_after(folds: int) -> int:
        for _ in range(folds):
            replies.judge(update, weights)
            replies.fold(update, dict(weights))
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        few = held_after(3)
        assert held_after(100) - few < start["w"].nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("loss", "value", "good"),
    [(0.0, 1.5, True), (0.7, 1.5, True), (-1.0, 1.5, False), (1e300, 1.5, True), (0.7, 1e19, False)],
)
def test_an_update_that_q_fedavg_cannot_weigh_is_refused_before_it_counts(
    loss: float, value: float, good: bool
) -> None:
    strategy = make("QFedAvg", {"client_learning_rate": 1e-3}, None)
    start: Weights = {"w": np.ones(3, np.float32)}
    replies = replies_for(strategy, train=True, start=start, read=lambda update: start)
    update = answers(start, strategy, np.random.default_rng(0))[0][0]
    update = msgspec.structs.replace(update, metrics={"train_loss": loss})
    weights: Weights = {"w": np.full(3, value, np.float32)}
    if not good:
        with pytest.raises(TensorsError, match="q-FedAvg can weigh"):
            replies.judge(update, weights)
        return
    replies.judge(update, weights)
    replies.fold(update, weights)
    model, _ = replies.conclude(strategy, 1, None)
    assert model is not None
    assert np.isfinite(model["w"]).all()
