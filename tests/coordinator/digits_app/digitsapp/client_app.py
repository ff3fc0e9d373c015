"""The ClientApp: it trains, evaluates, answers a question, and counts in its state how often it trained."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from digitsapp.task import evaluate as evaluate_model
from digitsapp.task import load_data
from digitsapp.task import train as train_model

app = ClientApp()


def data_of(context: Context):
    return load_data(context.node_config["partition-id"], context.node_config["num-partitions"])


@app.train()
def train(msg: Message, context: Context):
    model = msg.content["arrays"].to_numpy_ndarrays()
    (x, y), _ = data_of(context)
    steps = context.run_config["local-steps"]
    model = train_model(model, x, y, steps, context.run_config["learning.rate"])
    trained = context.state.metric_records.get("times", MetricRecord({"trained": 0}))["trained"] + 1
    context.state["times"] = MetricRecord({"trained": trained})
    metrics = {"num-examples": len(x), "train_loss": evaluate_model(model, x, y)[0], "trained": trained}
    content = RecordDict({"arrays": ArrayRecord(model), "metrics": MetricRecord(metrics)})
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    _, (x, y) = data_of(context)
    loss, accuracy = evaluate_model(msg.content["arrays"].to_numpy_ndarrays(), x, y)
    metrics = {"num-examples": len(x), "loss": loss, "accuracy": accuracy}
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)


@app.query("histogram")
def histogram(msg: Message, context: Context):
    (_, y), _ = data_of(context)
    counts = [int((y == digit).sum()) for digit in range(10)]
    return Message(RecordDict({"counts": MetricRecord({"counts": counts})}), reply_to=msg)
