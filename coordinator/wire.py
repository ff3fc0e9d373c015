"""Opens the coordinator's side of the wire: looks for another coordinator, connects, counts the epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from ..protocol.blobs import BlobStore
from ..protocol.link import Broker, LinkEvent, MqttLink, Will
from ..protocol.topics import Topics
from .downlink import Downlink
from .exchange import Exchange
from .journal import Journal
from .predecessor import epoch_on


def open_exchange(
    stack: contextlib.ExitStack, url: str, fleet: str, *, journal: Journal, store: BlobStore
) -> Exchange:
    """Connects as the coordinator of a fleet; closed with `stack`.

    Args:
        stack: Closes it.
        url: Of the broker.
        fleet: Its name.
        journal: Counts epochs, and knows what is on the broker.
        store: The blobs that may be offered.

    Raises:
        CoordinatorConflictError: Another coordinator serves the fleet.
        BrokerError: The broker is not there, at the very first start.
    """
    broker, topics = Broker.from_url(url), Topics(fleet)
    run = journal.run()
    seen = epoch_on(broker, topics, run, patient=journal.fact("epoch") is not None)

    def connect(
        *, will: Will, on_event: Callable[[LinkEvent], None], on_acknowledged: Callable[[], None]
    ) -> MqttLink:
        return MqttLink(
            broker,
            # No device can be called so: two clients of one name throw each other out for ever.
            client_id=f"{fleet}_coordinator",
            will=will,
            on_event=on_event,
            on_acknowledged=on_acknowledged,
        )

    exchange = Exchange(
        topics,
        run,
        next_epoch=lambda: journal.next_epoch(above=seen),
        connect=connect,
        open_downlink=lambda link: Downlink(link, topics, store, journal),
    )
    stack.callback(exchange.close)
    return exchange
