"""A ClientApp that grows one tree a round, in the JSON that XGBoost writes, as far as Flower reads it."""

import json

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def booster(trees):
    shape = {"num_trees": str(len(trees)), "num_parallel_tree": "1"}
    model = {"gbtree_model_param": shape, "trees": trees, "tree_info": [0] * len(trees)}
    model["iteration_indptr"] = list(range(len(trees) + 1))
    return {"learner": {"gradient_booster": {"model": model}}}


def trees_of(msg: Message):
    data = msg.content["arrays"]["0"].numpy().tobytes()
    return json.loads(data)["learner"]["gradient_booster"]["model"]["trees"] if data else []


@app.train()
def train(msg: Message, context: Context):
    partition = context.node_config["partition-id"]
    tree = {"id": 0, "of": partition, "round": msg.content["config"]["server-round"], "pad": "x" * partition}
    cyclic = context.run_config["strategy"] == "FedXgbCyclic"
    model = booster([*trees_of(msg), tree] if cyclic else [tree])
    data = np.frombuffer(json.dumps(model).encode(), np.uint8)
    metrics = MetricRecord({"num-examples": 1, "trained": 1})
    return Message(RecordDict({"arrays": ArrayRecord([data]), "metrics": metrics}), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    metrics = MetricRecord({"num-examples": 1, "accuracy": float(len(trees_of(msg)))})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)
