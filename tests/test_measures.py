"""Measures and baselines, against numbers worked out by hand and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from hedgerow.models import baselines, measures
from hedgerow.models.datasets import Dataset


def test_top_accuracy_by_hand() -> None:
    outputs = np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2], [0.4, 0.4, 0.2]])
    y = np.array([1, 2, 1])
    assert measures.accuracy(outputs, y) == 0
    assert measures.top_accuracy(outputs, y, k=1) == pytest.approx(1 / 3)
    assert measures.top_accuracy(outputs, y, k=2) == pytest.approx(2 / 3)
    assert measures.top_accuracy(outputs, y, k=3) == 1


def test_roc_auc_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        scores, positive = random.integers(0, 6, 40) / 6, random.random(40) < 0.4
        expected = roc_auc_score(positive, scores)
        assert measures.roc_auc(scores, positive) == pytest.approx(expected)


def test_equal_error_rate_is_where_the_curve_crosses() -> None:
    random = np.random.default_rng(1)
    same = random.random(4000) < 0.3
    distances = random.normal(size=4000) + 1.5 * ~same
    false, true, _ = roc_curve(same, -distances)
    place = np.argmin(np.abs(false - (1 - true)))
    assert measures.equal_error_rate(distances, same) == pytest.approx(false[place], abs=2e-3)
    assert (
        measures.equal_error_rate(np.array([0.1, 0.2, 0.8, 0.9]), np.array([True, True, False, False])) == 0
    )


def test_mean_iou_by_hand() -> None:
    # Class 0: 2 of 3 right, 3 answered or there; class 1: 1 right, 2 in the union; class 2 does not occur.
    y = np.array([[0, 0, 0, 1]])
    outputs = np.eye(3)[np.array([[0, 0, 1, 1]])]
    assert measures.mean_iou(outputs, y) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_perplexity_of_certainty_and_of_ignorance() -> None:
    y = np.array([[1, 3]])
    assert measures.perplexity(np.zeros((1, 2, 4)), y) == pytest.approx(4)
    assert measures.perplexity(1000 * np.eye(4)[y], y) == 1
    # Of "1" 3/6 and of "3" 1/6: the geometric mean of 2 and 6.
    logits = np.log(np.array([[[1, 3, 1, 1], [1, 3, 1, 1]]], np.float32))
    assert measures.perplexity(logits, y) == pytest.approx(math.sqrt(12))


def test_perplexity_takes_logits_of_any_height() -> None:
    random = np.random.default_rng(0)
    logits, y = random.normal(size=(3, 5, 7)).astype(np.float32), random.integers(0, 7, (3, 5))
    value = measures.perplexity(logits, y)
    assert measures.perplexity(logits + 64, y) == pytest.approx(value)
    assert measures.perplexity(logits - 1e6 * np.ones((3, 5, 1)), y) == pytest.approx(value)
    # What is all but impossible has a price, however high.
    assert measures.perplexity(np.array([[200.0, 0.0]]), np.array([1])) == pytest.approx(math.exp(200))


def test_character_error_rate_by_hand() -> None:
    # Columns 1 1 - 1 2 read "1 1 2"; the line says "1 3".
    logits = np.eye(4)[np.array([[1, 1, 0, 1, 2]])]
    assert measures.character_error_rate(logits, np.array([[1, 3, 0]])) == pytest.approx(2 / 2)
    assert measures.character_error_rate(logits, np.array([[1, 1, 2]])) == 0
    assert measures.edit_distance([1, 2, 3], []) == 3
    assert measures.edit_distance(list(b"kitten"), list(b"sitting")) == 3


def test_greedy_sentences_feed_back_what_was_written() -> None:
    # A decoder that writes the word before plus one, until 4, which is followed by the end.
    asked: list[list[int]] = []

    def predict(x: np.ndarray, so_far: np.ndarray) -> np.ndarray:
        asked.extend(so_far.tolist())
        return np.eye(5)[np.where(so_far == 4, 0, np.minimum(so_far + 1, 4))]

    written = measures.greedy_sentences(predict, np.zeros((1, 1)), start=1, steps=5)
    assert written.tolist() == [[2, 3, 4, 0, 0]]
    assert asked == [[1, 0, 0, 0, 0], [1, 2, 0, 0, 0], [1, 2, 3, 0, 0], [1, 2, 3, 4, 0]]


def test_the_nearest_neighbour_and_the_nearest_mean() -> None:
    x = np.array([[0.0], [1.0], [5.0], [9.0]], np.float32)
    train = Dataset(x, np.array([0, 0, 1, 1], np.int32), ("low", "high"))
    ask = np.array([[2.6], [3.5]], np.float32)
    assert baselines.NEAREST_NEIGHBOUR.fit(train)(ask).argmax(axis=1).tolist() == [0, 1]
    assert baselines.NEAREST_MEAN.fit(train)(ask).argmax(axis=1).tolist() == [0, 0]


def test_a_bigram_model_by_hand() -> None:
    # The answers are 1 2 1 2: after 1 comes 2 (twice), after 0 and 2 comes 1.
    train = Dataset(
        np.array([[0, 1], [2, 1]], np.int32), np.array([[1, 2], [1, 2]], np.int32), ("a", "b", "c")
    )
    given = baselines.n_gram(2)(train)(np.array([[0, 1]], np.int32))
    unigram = np.array([0.1, 2.1, 2.1]) / 4.3
    after_1 = np.array([0, 0, 1.25]) / 2 + 0.75 / 2 * unigram
    after_0 = np.array([0, 0.25, 0]) / 1 + 0.75 / 1 * unigram
    assert np.allclose(np.exp(given), 0.98 * np.array([[after_0, after_1]]) + 0.02 / 3)
    assert np.allclose(np.exp(given).sum(axis=-1), 1)


def test_a_longer_n_gram_guesses_repetitions() -> None:
    rows = np.tile(np.arange(6, dtype=np.int32), (4, 1))
    train = Dataset(rows[:, :-1], rows[:, 1:], tuple("abcdef"))
    value = baselines.FOUR_GRAM.value(measures.PERPLEXITY, train, train)
    assert 1 < value < 2 < math.exp(math.log(6))


def test_verification_compares_directions() -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(40, 5)).astype(np.float32)
    lengths = rng.uniform(0.1, 9, (40, 1)).astype(np.float32)
    test = Dataset(directions, np.arange(40, dtype=np.int32) % 4)
    of = measures.EQUAL_ERROR_RATE.of
    assert of(lambda x: x * lengths, test) == pytest.approx(of(lambda x: x, test), abs=1e-3)
    centres = np.eye(4, dtype=np.float32)[test.y]
    assert of(lambda x: centres * lengths, test) == 0
