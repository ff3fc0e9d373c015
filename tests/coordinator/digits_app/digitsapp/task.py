"""The model and the data: softmax regression on a part of scikit-learn's digits."""

import numpy as np
from sklearn.datasets import load_digits


def initial_model():
    rng = np.random.default_rng(0)
    return [rng.normal(0, 0.01, (64, 10)), np.zeros(10)]


def load_data(partition_id, num_partitions):
    x, y = load_digits(return_X_y=True)
    x, y = x[partition_id::num_partitions] / 16.0, y[partition_id::num_partitions]
    cut = int(0.8 * len(x))
    return (x[:cut], y[:cut]), (x[cut:], y[cut:])


def probabilities(model, x):
    logits = x @ model[0] + model[1]
    logits -= logits.max(axis=1, keepdims=True)
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True)


def train(model, x, y, steps, rate):
    weights, bias = (array.copy() for array in model)
    for _ in range(steps):
        error = (probabilities([weights, bias], x) - np.eye(10)[y]) / len(x)
        weights -= rate * x.T @ error
        bias -= rate * error.sum(axis=0)
    return [weights, bias]


def evaluate(model, x, y):
    likely = probabilities(model, x)
    loss = -np.log(likely[np.arange(len(y)), y] + 1e-12).mean()
    return float(loss), float((likely.argmax(axis=1) == y).mean())
