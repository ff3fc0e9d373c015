"""FedAvg over arrays of a given size; with `replies`, one round with so many of them, however few nodes."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config, times = context.run_config, []
    while len(list(grid.get_node_ids())) < config["nodes"]:
        time.sleep(0.1)
    arrays = ArrayRecord([np.random.default_rng(0).normal(size=int(config["megabytes"] * 131_072))])

    def note(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        times.append(time.time())
        return MetricRecord({"round": server_round})

    if config["replies"]:
        one_round(grid, arrays, config["replies"])
    else:
        FedAvg().start(grid=grid, initial_arrays=arrays, num_rounds=config["rounds"], evaluate_fn=note)
    Path(config["out"]).write_text(json.dumps(times))


def one_round(grid: Grid, arrays: ArrayRecord, replies: int) -> None:
    nodes = list(grid.get_node_ids())
    content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": 1})})
    messages = [
        Message(content, dst_node_id=nodes[number % len(nodes)], message_type="train")
        for number in range(replies)
    ]
    answers = grid.send_and_receive(messages)
    mean, _ = FedAvg().aggregate_train(1, answers)
    np.testing.assert_allclose(mean["0"].numpy(), arrays["0"].numpy())
