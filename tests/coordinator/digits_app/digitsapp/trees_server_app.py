"""A ServerApp for boosted trees: the model is bytes, which grow from round to round."""

from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from digitsapp.server_app import make_strategy

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    result = make_strategy(context.run_config).start(
        grid=grid,
        initial_arrays=ArrayRecord([np.frombuffer(b"", np.uint8)]),
        num_rounds=context.run_config["num-server-rounds"],
    )
    Path(context.run_config["out"]).write_bytes(result.arrays["0"].numpy().tobytes())
