"""The ServerApp: any strategy of Flower's, by name; the result goes to a file."""

import json

import flwr.serverapp.strategy as strategies
import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from digitsapp.task import initial_model

app = ServerApp()


def make_strategy(config):
    arguments = json.loads(config["arguments"])
    sampling = {"fraction_train": config["fraction-train"], "min_available_nodes": config["nodes"]}
    if config["strategy"] != "FedXgbCyclic":
        sampling |= {"min_train_nodes": config["min-nodes"], "min_evaluate_nodes": config["nodes"]}
    if config["inside"]:
        inside = getattr(strategies, config["inside"])(**sampling)
        return getattr(strategies, config["strategy"])(inside, **arguments)
    return getattr(strategies, config["strategy"])(**sampling, **arguments)


@app.main()
def main(grid: Grid, context: Context) -> None:
    result = make_strategy(context.run_config).start(
        grid=grid,
        initial_arrays=ArrayRecord(initial_model()),
        num_rounds=context.run_config["num-server-rounds"],
    )
    trained = [metrics["trained"] for metrics in result.train_metrics_clientapp.values()]
    accuracy = [metrics["accuracy"] for metrics in result.evaluate_metrics_clientapp.values()]
    arrays = result.arrays.to_numpy_ndarrays()
    np.savez(context.run_config["out"], *arrays, trained=trained, accuracy=accuracy)
