"""docs/feeds/kite.md says what is so."""

import re
import tomllib
from pathlib import Path

import msgspec

from odin.feeds import sources
from odin.feeds.credentials import COMMAND_TIMEOUT_S
from odin.feeds.kite.feed import BATCH, CAPACITY, CREDENTIALS, HEADERS, SILENCE_S
from odin.feeds.kite.wire import SEGMENTS
from odin.feeds.supervisor import CREDENTIALS_CHECK_S
from odin.settings import Settings
from tests.feeds.kite.test_wire import GOLDEN

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "feeds" / "kite.md").read_text("utf-8")
WORDS = " ".join(PAGE.split())


def test_the_configuration_can_be_used() -> None:
    found = re.search(r"<!-- example: config -->\n```toml\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    settings = msgspec.convert(tomllib.loads(found[1]), Settings)
    sources.check(settings)
    assert sources.names(settings) == ("kite",)


def test_every_segment_has_its_number() -> None:
    found = re.findall(r"(?:plus )?(\d+)(?: for)? ([A-Z]+):(CM|FO|CD|CO)\b", WORDS)
    assert {int(number): (exchange, segment) for number, exchange, segment in found} == SEGMENTS


def test_its_numbers_are_those_of_the_feed() -> None:
    sizes = [len(data) for data, _ in GOLDEN]
    assert sizes == [8, 44, 184, 28, 32]
    for text in (
        "| `ltp` | 8 |",
        "| `quote` | 44 (an index 28) |",
        "| `full` | 184 (an index 32) |",
        f"Up to {BATCH} instruments go into a request",
        f"{CAPACITY:,} instruments a connection, three connections an app: {3 * CAPACITY:,}",
        f"nothing was received for {SILENCE_S:g} s",
        f"looks every {CREDENTIALS_CHECK_S:g} seconds",
        f"within {COMMAND_TIMEOUT_S:g} seconds",
        "X-Kite-Version: " + HEADERS["X-Kite-Version"],
        *(f"`{name}=…`" for name in CREDENTIALS),
    ):
        assert text in WORDS
