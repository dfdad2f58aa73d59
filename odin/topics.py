"""What the hub routes by.

A topic is any hashable value; the hub only compares it. Quotes have one topic per instrument,
encoding and mode, so that the frame built for a tick is shared by everybody who reads the same.
"""

from collections.abc import Hashable
from typing import Literal, NamedTuple

Topic = Hashable
Encoding = Literal["json", "json-delta", "msgpack", "msgpack-delta", "binary"]


class QuoteTopic(NamedTuple):
    """The quotes of one instrument in one encoding."""

    key: tuple[str, str, int]
    """Exchange, segment and token: an InstrumentKey."""
    encoding: Encoding = "json"
    mode: Literal["ltp", "quote", "full"] = "quote"
    """How much of the quote: a Mode of the model."""
