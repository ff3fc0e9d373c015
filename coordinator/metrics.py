"""What Prometheus may ask of a coordinator."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from .events import DevicesOnline, Event, PhaseOpened, RoundEnded, Started, UpdateCounted, UpdateRefused


class Metrics:
    """A listener that counts, and serves the counts over HTTP.

    Args:
        registry: Where the metrics are registered.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._starts = Gauge("hedgerow_epoch", "Epoch of this coordinator.", registry=self.registry)
        self._round = Gauge("hedgerow_round", "Round in hand.", registry=self.registry)
        self._online = Gauge("hedgerow_devices_waiting_for", "Devices wanted.", registry=self.registry)
        self._asked = Counter("hedgerow_tasks", "Devices asked.", ["phase"], registry=self.registry)
        self._counted = Counter("hedgerow_updates", "Updates counted.", ["phase"], registry=self.registry)
        self._refused = Counter("hedgerow_refusals", "Tasks refused or failed.", registry=self.registry)
        self._bytes = Counter("hedgerow_bytes", "Blob bytes.", ["direction"], registry=self.registry)
        self._seconds = Histogram(
            "hedgerow_round_seconds",
            "Length of a round.",
            buckets=(1, 5, 20, 60, 300, 1800, 7200),
            registry=self.registry,
        )
        self._quality = Gauge(
            "hedgerow_model", "Of the last round's model.", ["metric", "data"], registry=self.registry
        )

    def serve(self, port: int) -> None:
        """Answers on every address of this machine, in a thread that ends with the process."""
        start_http_server(port, registry=self.registry)

    def __call__(self, event: Event) -> None:
        """Counts an event."""
        match event:
            case Started():
                self._starts.set(event.epoch)
                self._round.set(event.round)
            case DevicesOnline():
                self._online.set(event.wanted)
            case PhaseOpened():
                self._round.set(event.round)
                self._asked.labels(event.phase).inc(len(event.devices))
            case UpdateCounted():
                self._counted.labels(event.phase).inc()
            case UpdateRefused():
                self._refused.inc()
            case RoundEnded(record=record):
                self._seconds.observe(record.seconds)
                self._bytes.labels("down").inc(record.bytes_down)
                self._bytes.labels("up").inc(record.bytes_up)
                for data in ("device", "held_out"):
                    for metric in ("loss", "accuracy"):
                        value = getattr(record, f"{data}_{metric}")
                        if value is not None:
                            self._quality.labels(metric, data).set(value)
