"""How many new client_ids one address or API key may bring."""

import msgspec
import pytest

from odin.errors import ClientError
from odin.protocols.newcomers import DAY_S, Newcomers
from odin.settings import LimitSettings

LIMITS = msgspec.structs.replace(LimitSettings(), new_clients_per_day=3)


def test_so_many_a_day_and_each_for_itself() -> None:
    newcomers = Newcomers(LIMITS)
    for _ in range(3):
        newcomers.admit("10.0.0.1", 0)
    with pytest.raises(ClientError) as refused:
        newcomers.admit("10.0.0.1", 1)
    assert refused.value.code == "too_many_clients"
    newcomers.admit("10.0.0.2", 1)
    newcomers.admit("10.0.0.1", 1 + DAY_S / 3)


def test_exempt_addresses_are_not_counted() -> None:
    newcomers = Newcomers(LIMITS)
    for _ in range(10):
        newcomers.admit("127.0.0.1", 0)


def test_owners_who_brought_nobody_lately_are_forgotten() -> None:
    newcomers = Newcomers(LIMITS)
    for number in range(5000):
        newcomers.admit(f"key{number}", number * DAY_S)
    assert len(newcomers._buckets) <= 1024


def test_the_default_is_a_thousand() -> None:
    newcomers = Newcomers(LimitSettings())
    for _ in range(1000):
        newcomers.admit("10.0.0.1", 0)
    with pytest.raises(ClientError):
        newcomers.admit("10.0.0.1", 0)
