"""PyTorch's side of train_step.py, for an interpreter that has PyTorch: same models, batch and threads."""

from __future__ import annotations

import json
import resource
import sys
import time

import torch
from torch import nn

STEPS_A_ROUND = 5


class Residual(nn.Module):
    """A residual stack of ResNet-8."""

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, filters, 3, stride, 1),
            nn.BatchNorm2d(filters),
            nn.ReLU(),
            nn.Conv2d(filters, filters, 3, 1, 1),
            nn.BatchNorm2d(filters),
        )
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(inputs, filters, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """relu(shortcut + body)."""
        return torch.relu(self.shortcut(x) + self.body(x))


class Recurrent(nn.Module):
    """An LSTM and a dense layer."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, units, batch_first=True)
        self.top = nn.Linear(units, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits from the last state."""
        return self.top(self.lstm(x)[0][:, -1])


def build(name: str) -> tuple[nn.Module, tuple[int, ...], int]:
    """The model, the shape of an example (channels first) and the number of classes."""
    if name == "two_conv_cnn":
        net = nn.Sequential(
            nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.ZeroPad2d((0, 1, 0, 1)),
            nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip
        return net, (1, 28, 28), 10
    if name == "resnet8":
        net = nn.Sequential(
            nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), Residual(16, 16, 1),
            Residual(16, 32, 2), Residual(32, 64, 2), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, 10),
        )  # fmt: skip
        return net, (3, 32, 32), 10
    if name == "ds_cnn":
        blocks: list[nn.Module] = [nn.Conv2d(1, 64, (10, 4), 2, (5, 1)), nn.BatchNorm2d(64), nn.ReLU()]
        for _ in range(4):
            blocks += [nn.Conv2d(64, 64, 3, 1, 1, groups=64), nn.BatchNorm2d(64), nn.ReLU()]
            blocks += [nn.Conv2d(64, 64, 1), nn.BatchNorm2d(64), nn.ReLU()]
        net = nn.Sequential(
            nn.Dropout(0.2), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 12)
        )
        return net, (1, 49, 10), 12
    if name.startswith("lstm"):
        length = 50 if name == "lstm64" else 100
        return Recurrent(int(name.removeprefix("lstm") or 32)), (length, 6), 7
    raise SystemExit(0)


def main() -> None:
    """Answers each line on the standard input with the seconds of a few steps."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net, shape, classes = build(sys.argv[2])
    batch_size = int(sys.argv[3])
    x, y = torch.rand(batch_size, *shape), torch.randint(0, classes, (batch_size,))
    net(x)
    optimizer, loss = torch.optim.SGD(net.parameters(), 0.001), nn.CrossEntropyLoss()

    def step() -> None:
        optimizer.zero_grad()
        loss(net(x), y).backward()
        optimizer.step()

    for _ in range(5):
        step()
    print("{}", flush=True)
    for _ in sys.stdin:
        seconds = []
        for _ in range(STEPS_A_ROUND):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_mb": peak_mb}), flush=True)


if __name__ == "__main__":
    main()
