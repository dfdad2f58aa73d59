"""What the server counts.

The hot path adds to plain integers; Prometheus objects are made only when `/metrics` is read.
Every counter is a field here with its help text, so that the list is complete by construction.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.core import Metric


def _counter(help_text: str) -> int:
    value: int = field(default=0, metadata={"help": help_text})
    return value


@dataclass(slots=True)
class Metrics:
    """Counters of one server; `odin_<field>_total` in Prometheus."""

    ticks: int = _counter("Ticks received from the feed")
    ticks_out_of_order: int = _counter("Ticks dropped because a newer one had been applied")
    ticks_invalid: int = _counter("Ticks dropped for a price that is zero, negative or not finite")
    ticks_unknown: int = _counter("Ticks dropped because no instrument has their key")
    ticks_gated: int = _counter("Ticks applied but not sent because the market was closed")
    frames_published: int = _counter("Quote frames built and given to the hub")
    frames_delivered: int = _counter("Frames written to clients")
    bytes_delivered: int = _counter("Bytes written to clients")
    frames_conflated: int = _counter("Frames replaced by a newer one for a client that was late")
    peers_late: int = _counter("Times a client fell behind and was conflated")
    connections: int = _counter("WebSocket connections accepted")
    connections_refused: int = _counter("Connections refused before the upgrade")
    takeovers: int = _counter("Sessions taken over by a newer connection")
    disconnects_slow: int = _counter("Connections ended because the client took nothing")
    disconnects_silent: int = _counter("Connections ended because no pong came")
    protocol_errors: int = _counter("Connections ended because a client broke RFC 6455")
    requests: int = _counter("Requests received from clients")
    request_errors: int = _counter("Requests answered with an error")
    requests_rate_limited: int = _counter("Requests refused for their rate")
    faults: int = _counter("Unexpected exceptions; each one is a bug and is in the log")
    feed_restarts: int = _counter("Times the feed was started again after it broke off")
    feed_stale_periods: int = _counter("Times the feed fell silent when it should not")
    feed_messages: int = _counter("Messages received from feeds")
    feed_bytes: int = _counter("Bytes received from feeds")
    feed_malformed: int = _counter("Messages of feeds, or parts of them, that made no sense")
    feed_rests: int = _counter("Times a feed let others run in the middle of a burst")
    feed_captures_dropped: int = _counter("Messages that a capture lost to a slow or full disk")
    feed_takeovers: int = _counter("Times the standby feed took over")
    store_commits: int = _counter("Transactions of subscription changes committed")
    store_failures: int = _counter("Subscription changes that could not be saved")
    clients_expired: int = _counter("Idle clients forgotten")


class Exposition:
    """Renders metrics in the Prometheus text format: the counters and named gauges."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._gauges: list[tuple[str, str, Callable[[], float]]] = []
        self._states: list[tuple[str, str, Callable[[], Mapping[str, str]]]] = []

    def gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Add `odin_<name>`, read by calling `read` at every scrape."""
        self._gauges.append((f"odin_{name}", help_text, read))

    def states(self, name: str, help_text: str, read: Callable[[], Mapping[str, str]]) -> None:
        """Add `odin_<name>{name,state}`, 1 for the state that each name is in."""
        self._states.append((f"odin_{name}", help_text, read))

    def collect(self) -> "Iterator[Metric]":
        """Yield every family; called by prometheus_client."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for counter in fields(self._metrics):
            value = getattr(self._metrics, counter.name)
            yield CounterMetricFamily(f"odin_{counter.name}", counter.metadata["help"], value=value)
        for name, help_text, read in self._gauges:
            yield GaugeMetricFamily(name, help_text, value=read())
        for name, help_text, read_states in self._states:
            family = GaugeMetricFamily(name, help_text, labels=("name", "state"))
            for labels in read_states().items():
                family.add_metric(labels, 1)
            yield family

    def render(self) -> bytes:
        """Return the text of one scrape."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)
