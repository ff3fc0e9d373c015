"""A weighted mean that is folded as its terms arrive, in the memory of one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..protocol.tensors import Weights


@dataclass(frozen=True, slots=True)
class RunningMean:
    """The mean of tensors and of metrics, weighted by each term's number of examples.

    The sums are float64: whichever order the devices answer in, the float32 mean is the same to its last
    bit in all but rare cases, and a million terms lose nothing.

    Args:
        sums: Weighted sums by name, float64, or empty before the first term.
        metric_sums: Weighted sums of the metrics that every term has.
        num_examples: The sum of the weights.
        terms: How many were folded in.
    """

    sums: Mapping[str, NDArray[np.float64]]
    metric_sums: Mapping[str, float]
    num_examples: int = 0
    terms: int = 0

    @classmethod
    def empty(cls) -> RunningMean:
        """The mean of nothing."""
        return cls(sums={}, metric_sums={})

    def fold(
        self, weights: Mapping[str, NDArray[np.float32]], metrics: Mapping[str, float], num_examples: int
    ) -> RunningMean:
        """This mean with one more term.

        The sums are updated in place, so that a fold costs no second model: the old object is spent.

        Args:
            weights: One device's tensors; the same names and shapes in every term.
            metrics: One device's metrics; only those that all terms have stay.
            num_examples: The term's weight, above 0.
        """
        if not self.terms:
            sums = {name: value.astype(np.float64) * num_examples for name, value in weights.items()}
            return RunningMean(
                sums=sums,
                metric_sums={name: value * num_examples for name, value in metrics.items()},
                num_examples=num_examples,
                terms=1,
            )
        for name, total in self.sums.items():
            np.add(total, np.multiply(weights[name], num_examples, dtype=np.float64), out=total)
        shared = self.metric_sums.keys() & metrics.keys()
        return RunningMean(
            sums=self.sums,
            metric_sums={
                name: self.metric_sums[name] + metrics[name] * num_examples for name in sorted(shared)
            },
            num_examples=self.num_examples + num_examples,
            terms=self.terms + 1,
        )

    def weights(self) -> Weights:
        """The mean tensors, float32."""
        return {name: (total / self.num_examples).astype(np.float32) for name, total in self.sums.items()}

    def metrics(self) -> dict[str, float]:
        """The mean metrics."""
        return {name: total / self.num_examples for name, total in self.metric_sums.items()}
