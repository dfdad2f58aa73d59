from collections.abc import Sequence

import pytest

from odin.feeds.odinfeed.numbering import Numbering
from odin.feeds.odinfeed.requests import Scrip
from odin.feeds.odinfeed.wire import OdinDecoder
from odin.model import InstrumentKey
from odin.settings import OdinFeedSettings

ACC = InstrumentKey("NSE", "CM", 22)
NIFTY = InstrumentKey("NSE", "INDEX", 26000)
INDICES = {"1_26000": NIFTY}


def test_numbering_goes_both_ways() -> None:
    numbering = Numbering(("1=NSE:CM", "38=BSE:CD", "39=BSE:CD"), INDICES)
    for scrip, key in ((Scrip(1, 22), ACC), (Scrip(1, 26000), NIFTY)):
        assert numbering.key(scrip) == key
        assert numbering.scrip(key) == scrip
    assert numbering.key(Scrip(39, 1)) == InstrumentKey("BSE", "CD", 1)
    assert numbering.scrip(InstrumentKey("BSE", "CD", 1)) == Scrip(38, 1)
    assert numbering.key(Scrip(2, 1)) is None
    for key in (InstrumentKey("MCX", "CO", 1), ACC._replace(token=2**32), ACC._replace(token=-1)):
        assert numbering.scrip(key) is None


def test_the_numbers_are_configurable() -> None:
    numbering = Numbering(("3=NSE:CD", " 4 = BSE:CM "), {})
    assert numbering.key(Scrip(4, 500325)) == InstrumentKey("BSE", "CM", 500325)
    assert numbering.key(Scrip(1, 22)) is None


@pytest.mark.parametrize(
    ("segments", "problem"),
    [
        (["NSE:CM"], "a segment must be like 1=NSE:CM, was NSE:CM"),
        (["x=NSE:CM"], "was x=NSE:CM"),
        (["1=NSE"], "was 1=NSE"),
        (["1=NSE:CM", "1=BSE:CM"], "segment 1 was given twice"),
    ],
)
def test_segments_of_another_form_are_refused(segments: Sequence[str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        OdinDecoder(OdinFeedSettings(segments=tuple(segments)), {})


@pytest.mark.parametrize("text", ["26000", "1-26000", "NSE_26000", "1_26000_1"])
def test_indices_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"must be like 1_26000=NSE:NIFTY 50, was {text}"):
        OdinDecoder(OdinFeedSettings(indices=(f"{text}=NSE:NIFTY 50",)), {})
    with pytest.raises(ValueError, match="must be like"):
        OdinDecoder(OdinFeedSettings(), {text: NIFTY})
