"""A ClientApp that boosts trees with XGBoost on its part of scikit-learn's breast cancer data."""

import numpy as np
import xgboost as xgb
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from sklearn.datasets import load_breast_cancer

PARAMETERS = {"objective": "binary:logistic", "eta": 0.3, "max_depth": 3, "nthread": 1, "eval_metric": "auc"}

app = ClientApp()


def load_data(partition_id, num_partitions):
    x, y = load_breast_cancer(return_X_y=True)
    x, y = x[partition_id::num_partitions], y[partition_id::num_partitions]
    cut = int(0.8 * len(x))
    return (x[:cut], y[:cut]), (x[cut:], y[cut:])


def boost(model, x, y, trees, keep_all):
    """A booster with some trees more; all of them, or only the new ones."""
    data = xgb.DMatrix(x, y)
    booster = xgb.Booster(PARAMETERS, [data])
    if model:
        booster.load_model(bytearray(model))
    before = booster.num_boosted_rounds()
    for number in range(before, before + trees):
        booster.update(data, number)
    return (booster if keep_all or not before else booster[before:]).save_raw("json")


def auc(model, x, y):
    booster = xgb.Booster(PARAMETERS)
    booster.load_model(bytearray(model))
    return float(booster.eval(xgb.DMatrix(x, y)).rpartition(":")[2])


def model_of(msg: Message):
    return msg.content["arrays"]["0"].numpy().tobytes()


def data_of(context: Context):
    return load_data(context.node_config["partition-id"], context.node_config["num-partitions"])


@app.train()
def train(msg: Message, context: Context):
    (x, y), _ = data_of(context)
    cyclic = context.run_config["strategy"] == "FedXgbCyclic"
    model = boost(model_of(msg), x, y, context.run_config["local-steps"], cyclic)
    metrics = MetricRecord({"num-examples": len(x), "trained": 1})
    arrays = ArrayRecord([np.frombuffer(model, np.uint8)])
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    _, (x, y) = data_of(context)
    metrics = MetricRecord({"num-examples": len(x), "accuracy": auc(model_of(msg), x, y)})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)
