"""A ServerApp without a strategy: it asks a question, and looks for answers now and then."""

import json
import time
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    totals = []
    for number in range(context.run_config["num-server-rounds"]):
        while len(nodes := list(grid.get_node_ids())) < 3:
            time.sleep(0.1)
        messages = [
            Message(RecordDict(), dst_node_id=node, message_type="query.histogram", group_id=str(number))
            for node in nodes
        ]
        waiting, counts = set(grid.push_messages(messages)), []
        while waiting:
            time.sleep(0.05)
            for reply in grid.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                counts.append(reply.content["counts"]["counts"])
        totals.append([sum(column) for column in zip(*counts, strict=True)])
    Path(context.run_config["out"]).write_text(json.dumps(totals))
