"""Losses equal Keras's, their gradients float64 autodiff, and masked rows count for nothing."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hedgerow.errors import LossError
from hedgerow.models import losses

TOLERANCE = 1e-5
seeds = st.integers(0, 2**32 - 1)
shapes = hnp.array_shapes(min_dims=2, max_dims=5, min_side=1, max_side=5)


def softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def device_loss(loss, y, output, weight, *, from_logits=False):
    """Loss per example and the gradient of the batch's mean, float32, as the device computes them."""
    output = tf.constant(output, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(output)
        result = losses.weighted(
            loss, tf.constant(y), output, tf.constant(weight, tf.float32), from_logits=from_logits
        )
    return result, tape.gradient(result.mean, output).numpy()


def reference_loss(function, y, output, weight):
    """The same in float64, by Keras's function and autodiff; inner axes averaged per example."""
    output = tf.constant(output, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(output)
        elements = tf.reshape(function(y, output), [output.shape[0], -1])
        per_example = tf.reduce_mean(elements, 1)
        mean = tf.reduce_sum(per_example * weight) / np.count_nonzero(weight)
    return (
        per_example.numpy(),
        mean.numpy(),
        tape.gradient(mean, output, unconnected_gradients="zero").numpy(),
    )


def assert_equal_to_reference(loss, function, y, output, weight, *, from_logits=False) -> None:
    result, gradient = device_loss(loss, y, output, weight, from_logits=from_logits)
    values, mean, expected = reference_loss(function, y, output.astype(np.float32), weight)
    scale = np.abs(expected).max() + 1e-30
    np.testing.assert_allclose(result.per_example, values, rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(result.mean, mean, rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(gradient / scale, expected / scale, atol=TOLERANCE)


@given(shape=shapes, seed=seeds, scale=st.sampled_from([0.1, 1.0, 10.0]))
@settings(max_examples=15, deadline=None)
def test_categorical_losses_equal_keras(shape: tuple[int, ...], seed: int, scale: float) -> None:
    shape = (*shape[:-1], shape[-1] + 1)
    random = np.random.default_rng(seed)
    logits = random.normal(size=shape, scale=scale)
    labels = random.integers(0, shape[-1], shape[:-1]).astype(np.int32)
    targets = random.dirichlet(np.ones(shape[-1]), shape[:-1]).astype(np.float32)
    weight = random.uniform(0.5, 2, shape[0])
    # Probabilities near 0 or 1 are where Keras clips; where a value sits on the limit is rounding.
    probabilities = np.clip(softmax(logits), 1e-6, 1 - 1e-6)
    sparse, categorical = (
        losses.get("sparse_categorical_crossentropy"),
        losses.get("categorical_crossentropy"),
    )
    smooth = losses.get("categorical_crossentropy", label_smoothing=0.1)
    for from_logits, output in ((True, logits), (False, probabilities)):

        def sparse_reference(y, z, from_logits=from_logits):
            return keras.losses.sparse_categorical_crossentropy(y, z, from_logits=from_logits)

        def reference(y, z, from_logits=from_logits):
            return keras.losses.categorical_crossentropy(y, z, from_logits=from_logits)

        def smooth_reference(y, z, from_logits=from_logits):
            return keras.losses.categorical_crossentropy(y, z, from_logits=from_logits, label_smoothing=0.1)

        assert_equal_to_reference(sparse, sparse_reference, labels, output, weight, from_logits=from_logits)
        assert_equal_to_reference(categorical, reference, targets, output, weight, from_logits=from_logits)
        assert_equal_to_reference(smooth, smooth_reference, targets, output, weight, from_logits=from_logits)


@given(shape=shapes, seed=seeds, scale=st.sampled_from([0.1, 1.0, 10.0]))
@settings(max_examples=15, deadline=None)
def test_binary_crossentropy_equals_keras(shape: tuple[int, ...], seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(size=shape, scale=scale)
    targets = random.integers(0, 2, shape).astype(np.float32)
    weight = random.uniform(0.5, 2, shape[0])
    # 1 - p loses the digits of a p near 1, also in Keras: compare where float32 can tell.
    probabilities = np.clip(sigmoid(logits), 0.05, 0.95)
    for from_logits, output in ((True, logits), (False, probabilities)):
        for smoothing in (0.0, 0.2):

            def reference(y, z, from_logits=from_logits, smoothing=smoothing):
                return keras.losses.binary_crossentropy(
                    y, z, from_logits=from_logits, label_smoothing=smoothing
                )

            loss = losses.get("binary_crossentropy", label_smoothing=smoothing)
            assert_equal_to_reference(loss, reference, targets, output, weight, from_logits=from_logits)


@pytest.mark.parametrize(
    ("name", "hyperparameters"),
    [
        ("mean_squared_error", {}),
        ("mean_absolute_error", {}),
        ("huber", {}),
        ("huber", {"delta": 0.3}),
        ("cosine_similarity", {}),
    ],
)
@given(shape=shapes, seed=seeds, scale=st.sampled_from([0.1, 1.0, 100.0]))
@settings(max_examples=12, deadline=None)
def test_regression_losses_equal_keras(
    name: str, hyperparameters: dict[str, float], shape: tuple[int, ...], seed: int, scale: float
) -> None:
    random = np.random.default_rng(seed)
    output = random.normal(size=shape, scale=scale).astype(np.float32)
    targets = random.normal(size=shape, scale=scale).astype(np.float32)
    if name == "cosine_similarity":  # in one dimension its gradient is 0, and what is left is rounding
        output = np.repeat(output, 2, -1) + random.normal(size=2).astype(np.float32).repeat(shape[-1])
        targets = np.repeat(targets, 2, -1) * np.tile(np.float32([1, -1]), shape[-1])
    weight = random.uniform(0.5, 2, shape[0])

    def reference(y, z):
        return getattr(keras.losses, name)(tf.cast(y, tf.float64), z, **hyperparameters)

    assert_equal_to_reference(losses.get(name, **hyperparameters), reference, targets, output, weight)


def pair_references(labels: np.ndarray, embeddings: tf.Tensor, present: np.ndarray):
    """Distances, likes and unlikes of each example, pair by pair."""
    size = len(labels)
    distance = {
        (a, b): tf.sqrt(tf.reduce_sum((embeddings[a] - embeddings[b]) ** 2))
        for a in range(size)
        for b in range(size)
        if a != b
    }
    others = {a: [b for b in range(size) if b != a and present[a] and present[b]] for a in range(size)}
    likes = {a: [b for b in others[a] if labels[a] == labels[b]] for a in range(size)}
    unlikes = {a: [b for b in others[a] if labels[a] != labels[b]] for a in range(size)}
    return distance, likes, unlikes


def triplet_reference(labels, embeddings, present, margin, mining):
    distance, likes, unlikes = pair_references(labels, embeddings, present)
    values = []
    for a in range(len(labels)):
        value = tf.constant(0.0, tf.float64)
        if likes[a] and unlikes[a]:
            to_like = [distance[a, b] for b in likes[a]]
            to_unlike = sorted((distance[a, b] for b in unlikes[a]), key=float)
            if mining == "hard":
                value = tf.nn.relu(max(to_like, key=float) - to_unlike[0] + margin)
            else:
                chosen = [
                    next((d for d in to_unlike if float(d) > float(like)), to_unlike[-1]) for like in to_like
                ]
                terms = [tf.nn.relu(p - n + margin) for p, n in zip(to_like, chosen, strict=True)]
                value = tf.add_n(terms) / len(terms)
        values.append(value)
    return tf.stack(values)


def contrastive_reference(labels, embeddings, present, margin):
    distance, likes, unlikes = pair_references(labels, embeddings, present)
    values = []
    for a in range(len(labels)):
        terms = [distance[a, b] ** 2 for b in likes[a]]
        terms += [tf.nn.relu(margin - distance[a, b]) ** 2 for b in unlikes[a]]
        values.append(tf.add_n(terms) / len(terms) if terms else tf.constant(0.0, tf.float64))
    return tf.stack(values)


@given(
    size=st.integers(2, 7), features=st.integers(1, 6), seed=seeds, margin=st.sampled_from([0.2, 1.0, 3.0])
)
@settings(max_examples=15, deadline=None)
def test_embedding_losses_equal_their_definitions(size: int, features: int, seed: int, margin: float) -> None:
    random = np.random.default_rng(seed)
    embeddings = random.normal(size=(size, features)).astype(np.float32)
    labels = random.integers(0, 3, size).astype(np.int32)
    weight = random.uniform(0.5, 2, size) * (random.random(size) > 0.2)
    weight[0] = 1.0
    cases = [
        (
            losses.get("triplet", margin=margin),
            lambda e: triplet_reference(labels, e, weight, margin, "hard"),
        ),
        (
            losses.get("triplet", margin=margin, mining="semihard"),
            lambda e: triplet_reference(labels, e, weight, margin, "semihard"),
        ),
        (
            losses.get("contrastive", margin=margin),
            lambda e: contrastive_reference(labels, e, weight, margin),
        ),
    ]
    for loss, reference in cases:
        result, gradient = device_loss(loss, labels, embeddings, weight)
        values, mean, expected = reference_loss(lambda y, e, r=reference: r(e), labels, embeddings, weight)
        np.testing.assert_allclose(result.per_example, values, rtol=TOLERANCE, atol=TOLERANCE)
        np.testing.assert_allclose(result.mean, mean, rtol=TOLERANCE, atol=TOLERANCE)
        scale = np.abs(expected).max() + 1.0
        np.testing.assert_allclose(gradient / scale, expected / scale, atol=TOLERANCE)


def test_equal_embeddings_of_one_label_have_a_finite_gradient() -> None:
    embeddings = np.float32([[1, 2], [1, 2], [4, 6]])
    labels = np.int32([0, 0, 1])
    for loss in (losses.get("triplet", margin=6.0), losses.get("contrastive", margin=6.0)):
        _, gradient = device_loss(loss, labels, embeddings, np.ones(3))
        assert np.isfinite(gradient).all()


def test_a_triplet_by_hand() -> None:
    # On a line: 0 and 3 are like, 4 is not. Anchor 0: 3 - 4 + 2 = 1; anchor 3: 3 - 1 + 2 = 4; 4 has no like.
    result, gradient = device_loss(
        losses.get("triplet", margin=2.0), np.int32([7, 7, 9]), [[0.0], [3.0], [4.0]], np.ones(3)
    )
    np.testing.assert_allclose(result.per_example, [1, 4, 0])
    # d/dx of (x1 - x0) - (x2 - x0) + (x1 - x0) - (x2 - x1), over 3 examples.
    np.testing.assert_allclose(gradient, np.array([[-1], [3], [-2]]) / 3, atol=1e-7)


def test_crossentropies_by_hand() -> None:
    half, weight = np.log(2.0), np.ones(1)
    sparse = losses.get("sparse_categorical_crossentropy")
    result, gradient = device_loss(sparse, np.int32([1]), [[0.0, 0.0]], weight, from_logits=True)
    np.testing.assert_allclose(result.mean, half, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[0.5, -0.5]])
    binary = losses.get("binary_crossentropy")
    result, gradient = device_loss(binary, np.float32([[1, 0]]), [[0.0, 0.0]], weight, from_logits=True)
    np.testing.assert_allclose(result.mean, half, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.25, 0.25]])


def test_large_logits_neither_overflow_nor_lose_the_gradient() -> None:
    weight = np.ones(2)
    for name, y in (
        ("sparse_categorical_crossentropy", np.int32([1, 0])),
        ("categorical_crossentropy", np.float32([[0, 1], [1, 0]])),
    ):
        result, gradient = device_loss(
            losses.get(name), y, [[1e4, -1e4], [1e4, -1e4]], weight, from_logits=True
        )
        np.testing.assert_allclose(result.per_example, [2e4, 0])
        np.testing.assert_allclose(gradient, [[0.5, -0.5], [0, 0]])


EVERY_LOSS = [
    (losses.get("sparse_categorical_crossentropy"), (4, 3)),
    (losses.get("sparse_categorical_crossentropy"), (4, 2, 3)),
    (losses.get("categorical_crossentropy"), (4, 3)),
    (losses.get("binary_crossentropy"), (4, 1)),
    (losses.get("mean_squared_error"), (4, 2, 2)),
    (losses.get("mean_absolute_error"), (4, 2)),
    (losses.get("huber"), (4, 2)),
    (losses.get("cosine_similarity"), (4, 2)),
    (losses.get("triplet", margin=5.0), (4, 2)),
    (losses.get("triplet", margin=5.0, mining="semihard"), (4, 2)),
    (losses.get("contrastive", margin=5.0), (4, 2)),
    (losses.get("ctc", max_label_length=2), (4, 5, 3)),
]


def targets_for(loss: losses.Loss, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    spec = loss.target_spec(shape)
    if spec.dtype == tf.int32:
        return random.integers(0, 2, spec.shape.as_list()).astype(np.int32)
    return random.integers(0, 2, spec.shape.as_list()).astype(np.float32)


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize(("loss", "shape"), EVERY_LOSS, ids=lambda case: getattr(case, "name", str(case)))
def test_masked_rows_count_for_nothing_whatever_they_hold(
    loss: losses.Loss, shape: tuple[int, ...], from_logits: bool
) -> None:
    random = np.random.default_rng(0)
    y, output = targets_for(loss, shape, random), random.uniform(0.1, 0.9, shape).astype(np.float32)
    weight = np.float32([1, 0, 2, 0])
    clean, expected = device_loss(loss, y, output, weight, from_logits=from_logits)
    for garbage in (np.nan, np.inf, -np.inf, 3e38):
        output[[1, 3]] = garbage
        y[[1, 3]] = 12345 if y.dtype == np.int32 else garbage
        result, gradient = device_loss(loss, y, output, weight, from_logits=from_logits)
        assert result.mean == clean.mean
        assert result.sum == clean.sum
        np.testing.assert_array_equal(result.per_example, clean.per_example)
        np.testing.assert_array_equal(result.per_example.numpy()[[1, 3]], 0)
        np.testing.assert_array_equal(gradient, expected)
        np.testing.assert_array_equal(gradient[[1, 3]], 0)


@pytest.mark.parametrize(("loss", "shape"), EVERY_LOSS, ids=lambda case: getattr(case, "name", str(case)))
def test_a_batch_without_rows_has_loss_and_gradient_zero(loss: losses.Loss, shape: tuple[int, ...]) -> None:
    y = targets_for(loss, shape, np.random.default_rng(0))
    result, gradient = device_loss(loss, y, np.full(shape, np.nan), np.zeros(4))
    assert result.mean == 0
    np.testing.assert_array_equal(gradient, 0)


def test_sums_of_batches_add_up_to_the_mean_that_keras_reports() -> None:
    """Weights and a short last batch: Keras divides by the examples, not by the sum of their weights."""
    random = np.random.default_rng(0)
    logits, y = random.normal(size=(10, 3)).astype(np.float32), random.integers(0, 3, 10).astype(np.int32)
    weight = random.uniform(0.5, 2, 10).astype(np.float32)
    function = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    loss = losses.get(function)
    assert loss.from_logits
    total = 0.0
    for start in (0, 4, 8):
        rows = slice(start, start + 4)
        short = 4 - len(y[rows])
        padded = np.pad(weight[rows], (0, short))
        batch = losses.weighted(
            loss,
            tf.constant(np.pad(y[rows], (0, short))),
            tf.constant(np.pad(logits[rows], ((0, short), (0, 0)))),
            tf.constant(padded),
            from_logits=True,
        )
        total += float(batch.sum)
    np.testing.assert_allclose(total / 10, function(y, logits, sample_weight=weight), rtol=1e-6)


@pytest.mark.parametrize(
    "spec",
    [
        keras.losses.SparseCategoricalCrossentropy(),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
        keras.losses.BinaryCrossentropy(label_smoothing=0.2),
        keras.losses.MeanSquaredError(),
        keras.losses.MeanAbsoluteError(),
        keras.losses.Huber(delta=0.5),
        keras.losses.CosineSimilarity(),
        keras.losses.CTC(),
    ],
    ids=lambda spec: type(spec).__name__,
)
def test_keras_losses_are_translated(spec: keras.losses.Loss) -> None:
    loss = losses.get(spec)
    config = spec.get_config()
    for name in ("from_logits", "label_smoothing", "delta"):
        if name in config:
            assert getattr(loss, name) == config[name]


def test_every_name_is_found_and_aliases_are_keras_own() -> None:
    assert [losses.get(name).name for name in losses.NAMES] == list(losses.NAMES)
    assert losses.get("mse").name == "mean_squared_error"
    assert losses.get("mae").name == "mean_absolute_error"


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (lambda: losses.get("focal"), ["focal", "huber"]),
        (lambda: losses.get("huber", gamma=1), ["huber", "delta", "gamma"]),
        (lambda: losses.get("huber", delta=0.0), ["delta > 0", "0.0"]),
        (lambda: losses.get("categorical_crossentropy", label_smoothing=1.5), ["[0, 1)", "1.5"]),
        (lambda: losses.get("mse", from_logits=True), ["from_logits"]),
        (lambda: losses.get("triplet", mining="easy"), ["semihard", "easy"]),
        (lambda: losses.get("triplet", margin=-1), ["margin > 0", "-1"]),
        (lambda: losses.get("ctc", max_label_length=0), ["max_label_length", "0"]),
        (lambda: losses.get(3), ["3"]),
        (lambda: losses.get(losses.Huber(), delta=2.0), ["Huber", "delta"]),
        (lambda: losses.get(keras.losses.Poisson()), ["Poisson", "huber"]),
        (
            lambda: losses.get(keras.losses.MeanSquaredError(reduction="sum")),
            ["sum_over_batch_size", "'sum'"],
        ),
        (
            lambda: losses.get(keras.losses.SparseCategoricalCrossentropy(ignore_class=0)),
            ["ignore_class", "sparse"],
        ),
        (lambda: losses.get("sparse_categorical_crossentropy").target_spec([4, 1]), ["[4, 1]", "2 classes"]),
        (lambda: losses.get("mse").target_spec([4]), ["[4]"]),
        (lambda: losses.get("triplet").target_spec([4, 3, 2]), ["[4, 3, 2]"]),
        (lambda: losses.get("contrastive").target_spec([1, 3]), ["at least 2", "[1, 3]"]),
        (lambda: losses.get("ctc").target_spec([4, 3]), ["[4, 3]", "steps"]),
        (lambda: losses.get("ctc", blank_index=9).target_spec([4, 3, 5]), ["5 classes", "9"]),
    ],
)
def test_what_does_not_fit_is_said(attempt, words: list[str]) -> None:
    with pytest.raises(LossError) as caught:
        attempt()
    assert all(word in str(caught.value) for word in words)


def test_target_specs_and_label_counts() -> None:
    sparse = losses.get("sparse_categorical_crossentropy")
    assert sparse.target_spec([4, 7, 3]) == tf.TensorSpec([4, 7], tf.int32)
    assert sparse.label_count([4, 7, 3]) == 3
    assert losses.get("mse").target_spec([4, 7, 3]) == tf.TensorSpec([4, 7, 3], tf.float32)
    assert losses.get("mse").label_count([4, 7, 3]) is None
    assert losses.get("triplet").target_spec([4, 3]) == tf.TensorSpec([4], tf.int32)
    assert losses.get("ctc", max_label_length=5).target_spec([4, 9, 3]) == tf.TensorSpec([4, 5], tf.int32)
    assert losses.get("ctc").target_spec([4, 9, 3]) == tf.TensorSpec([4, 9], tf.int32)
    assert losses.get("ctc").label_count([4, 9, 3]) == 3


@pytest.mark.parametrize("name", ["sparse_categorical_crossentropy", "bce", "mse"])
@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_a_named_loss_reads_logits_where_the_model_ends_in_no_activation(
    name: str, activation: str | None
) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation=activation)])
    assert losses.for_model(name, model).from_logits == (activation is None and name != "mse")
    assert losses.for_model(losses.BinaryCrossentropy(), model) == losses.BinaryCrossentropy()
