"""What is measured: the loads, and the promises the results are held against."""

from dataclasses import dataclass

from bench.contenders import FORMATS, Contender
from bench.servers.source import TOPICS


@dataclass(frozen=True, slots=True)
class Scenario:
    """One constellation of clients, at several rates."""

    name: str
    title: str
    clients: int
    per_client: int
    """Topics each client subscribes, of TOPICS."""
    rates: tuple[int, ...]
    """Deliveries a second."""
    quick_rates: tuple[int, ...]
    late_percent: int = 0
    only: tuple[str, ...] = ()
    """Names of the contenders it is for; empty: all servers, in their usual format."""

    def is_for(self, contender: Contender) -> bool:
        """Whether the contender takes part."""
        return contender.name in self.only or not (self.only or contender.is_format)

    def ticks_per_s(self, rate: int) -> int:
        """Return the ticks a second that make so many deliveries a second."""
        return max(1, rate * TOPICS // (self.clients * self.per_client))


SCENARIOS = (
    Scenario(
        "A",
        "1,000 clients × 50 of 2,000 stocks",
        1_000,
        50,
        (20_000, 50_000, 100_000, 250_000, 500_000, 1_000_000),
        (100_000, 500_000),
    ),
    Scenario(
        "B",
        "10,000 clients × 10 of 2,000 stocks",
        10_000,
        10,
        (20_000, 50_000, 100_000, 250_000),
        (50_000,),
    ),
    Scenario(
        "C",
        "100 clients × all 2,000 stocks",
        100,
        TOPICS,
        (100_000, 500_000, 1_000_000),
        (1_000_000,),
    ),
    Scenario("D", "one client with all 2,000 stocks", 1, TOPICS, (1_000,), (1_000,)),
    Scenario(
        "E",
        "as A, but 5 % of the clients read only 4 KB/s; what the others see",
        1_000,
        50,
        (100_000,),
        (100_000,),
        late_percent=5,
    ),
    Scenario(
        "F",
        "as A, the encodings of Odin Streamer",
        1_000,
        50,
        (100_000, 500_000),
        (100_000,),
        only=("odin", *(contender.name for contender in FORMATS)),
    ),
    Scenario(
        "L",
        "the limit of the load generator: as C, from the C server alone",
        100,
        TOPICS,
        (1_500_000, 2_000_000, 3_000_000),
        (2_000_000,),
        only=("c-coalesced",),
    ),
)
