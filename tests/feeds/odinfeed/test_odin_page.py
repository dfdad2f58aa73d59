"""docs/feeds/odin.md says what is so."""

import re
from pathlib import Path

import pytest

from odin.config import load
from odin.feeds import sources
from odin.feeds.odinfeed.feed import LOGIN_TIMEOUT_S, PACE_S
from odin.feeds.odinfeed.framing import MAX_INFLATED_BYTES
from odin.feeds.odinfeed.subscriptions import BATCH_SCRIPS
from odin.feeds.odinfeed.wire import OdinDecoder
from odin.settings import OdinFeedSettings

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "feeds" / "odin.md").read_text("utf-8")


def test_its_configuration_works(tmp_path: Path) -> None:
    found = re.search(r"<!-- example: config -->\n```toml\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    path = tmp_path / "odin.toml"
    path.write_text(found[1], encoding="utf-8")
    settings = load(path, environ={})
    sources.check(settings)
    assert sources.names(settings) == ("odin",)


def test_its_other_numbering_works() -> None:
    found = re.search(r'`\["(3=NSE:CD.*?)"\]` besides `"(.*?)"` and `"(.*?)"`', PAGE, re.DOTALL)
    assert found is not None
    segments = (*found[1].split('", "'), found[2], found[3])
    assert len(OdinDecoder(OdinFeedSettings(segments=segments), {}).numbering._segments) == 6


@pytest.mark.parametrize(
    "text",
    [
        f"at most {MAX_INFLATED_BYTES // 2**20} MiB",
        f"not answered within {LOGIN_TIMEOUT_S:g} s",
        f"{PACE_S * 1000:g} ms lie between",
        f"a thousand instruments take {1000 / BATCH_SCRIPS * PACE_S:g} seconds",
        f"order books {1000 * PACE_S:g} more",
    ],
)
def test_its_numbers_are_those_of_the_code(text: str) -> None:
    assert text in PAGE
