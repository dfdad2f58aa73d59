"""Which instrument a client means: symbols, tokens and qualified names resolved in memory.

One dict leads from the exact text of a symbol or token to its instrument, so both cost the same.
Instruments are identified by (exchange, segment, token) alone; names never fold look-alike
Unicode letters. Reads no files: masters.py parses them, the caller brings the bytes.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from odin.errors import MAX_ERROR_CHARS, STOCK_ERRORS, ReferenceDataError, reflect
from odin.model import Instrument, InstrumentKey

SEGMENT_NAMES: Mapping[str, tuple[str, str]] = {
    "NSE_EQ": ("NSE", "CM"),
    "NSE_INDEX": ("NSE", "INDEX"),
    "NSE_FO": ("NSE", "FO"),
    "NFO": ("NSE", "FO"),
    "NCD_FO": ("NSE", "CD"),
    "CDS": ("NSE", "CD"),
    "NSE_COM": ("NSE", "CO"),
    "NCO": ("NSE", "CO"),
    "BSE_EQ": ("BSE", "CM"),
    "BSE_INDEX": ("BSE", "INDEX"),
    "BSE_FO": ("BSE", "FO"),
    "BFO": ("BSE", "FO"),
    "BCD_FO": ("BSE", "CD"),
    "BCD": ("BSE", "CD"),
    "MCX_FO": ("MCX", "CO"),
}
"""Segments as brokers name them (Kite, SmartAPI, Upstox), to (exchange, segment)."""

ODIN_SEGMENTS: Mapping[int, tuple[str, str]] = {
    1: ("NSE", "CM"),
    2: ("NSE", "FO"),
    3: ("BSE", "CM"),
    4: ("BSE", "FO"),
    5: ("MCX", "CO"),
    13: ("NSE", "CD"),
}
"""Market segment ids of 63 moons' ODIN (tag 1 of its market feed, `1_3045`), as its published
Python client numbers them."""

SUGGESTIONS = 3
SUGGESTED_PER_CALL = 20
"""How many unknown stocks of one call get suggestions, so that a request full of misspelled names
cannot hold up everybody else."""

_MAX_TEXT = 64
_MAX_DIGITS = 18  # stays within a 64-bit integer, which is what the database can hold
_TOKEN_LIMIT = 10**_MAX_DIGITS
_EXCHANGES = ("NSE", "BSE", "MCX")
_MARKETS = {("NSE", "CM"): 0, ("NSE", "INDEX"): 1, ("BSE", "CM"): 2, ("BSE", "INDEX"): 3}
_SERIES = {"EQ": 0, "BE": 1, "BZ": 2, "SM": 3, "ST": 4}
_KINDS = {"equity": 0, "etf": 0, "index": 0, "debt": 2}
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789&-"
_ASCII_UPPER = {ord(c): ord(c) - 32 for c in "abcdefghijklmnopqrstuvwxyz"}

Rank = tuple[int, int, int, str, str, str, int]


class Resolution(NamedTuple):
    """What one stock of a request turned out to be."""

    stock: str
    """As given, as text; shortened and escaped where it could not be shown as it is."""
    instrument: Instrument | None
    label: str
    """What a subscription_response shows: "SBIN" asked by symbol, "SBIN (NSE)" otherwise."""
    code: str | None = None
    """Key of STOCK_ERRORS when there is no instrument."""
    message: str | None = None
    suggestions: tuple[str, ...] = ()
    """Up to three names that would resolve, when this one did not."""


class _Query(NamedTuple):
    """A stock taken apart: `qualifier` is its exchange as written, "" if it had none."""

    name: str
    qualifier: str = ""
    exchange: str = ""
    segment: str = ""


class InstrumentRegistry:
    """All instruments, by key and by every name a client may use.

    Everybody holds one reference; `replace` swaps the content in place, whole or not at all.
    """

    __slots__ = ("_index", "version")

    def __init__(
        self,
        instruments: Iterable[Instrument] = (),
        *,
        aliases: Mapping[str, InstrumentKey] | None = None,
    ) -> None:
        """Aliases are further names; a listed symbol or token goes before an alias."""
        self._index = _Index(instruments, aliases or {})
        self.version = 0
        """Number of times the content was replaced."""

    def replace(
        self,
        instruments: Iterable[Instrument],
        *,
        aliases: Mapping[str, InstrumentKey] | None = None,
    ) -> None:
        """Put new content in place of the old; on an error nothing changes.

        Raises ReferenceDataError when a key is listed twice or an alias leads nowhere.
        """
        self._index = _Index(instruments, aliases or {})
        self.version += 1

    def __len__(self) -> int:
        return len(self._index.instruments)

    def __iter__(self) -> Iterator[Instrument]:
        """Yield the instruments in the order they were given."""
        return iter(self._index.instruments)

    def get(self, key: InstrumentKey | tuple[str, str, int]) -> Instrument | None:
        """Return the instrument with the key, a plain tuple will do; None if it is not listed."""
        return self._index.keys.get(key)

    def lookup(self, name: str) -> Instrument | None:
        """Return the instrument of an upper-case symbol or a token, one dict lookup each."""
        return self._index.names.get(name)

    def resolve(self, stock: object) -> Resolution:
        """Return what a client means by a symbol, token or qualified name; never raises.

        All digits is a token: NSE cash, then BSE cash, then whatever single other segment has it.
        A symbol is NSE's in series EQ, BE, BZ, SM, ST, then the other series (shares and funds
        before debt), then an NSE index, BSE cash, a BSE index, anything else. Also understood:
        "NSE:SBIN", "BSE:500112", "SBIN (NSE)", "SBIN.BSE", "SBIN-EQ", ODIN's "1_3045", and an
        index by its full name, "NIFTY 50".
        """
        return self._index.resolve(stock)

    def resolve_many(self, stocks: Sequence[object]) -> list[Resolution]:
        """Resolve each stock, in order; only the first unknown ones get suggestions."""
        resolutions = []
        suggested = 0
        for stock in stocks:
            resolution = self._index.resolve(stock, suggested < SUGGESTED_PER_CALL)
            suggested += resolution.instrument is None
            resolutions.append(resolution)
        return resolutions

    def search(self, text: str, limit: int = 20) -> list[Instrument]:
        """Return at most `limit` instruments that match a text in any case, best first.

        Exact symbol or name, symbol prefix, token prefix, part of the symbol, part of the name;
        among equals in the order in which `resolve` prefers them, then by symbol.
        """
        sought = ascii_upper(text.strip())
        if not sought or limit <= 0:
            return []
        matches = []
        for instrument in self._index.instruments:
            quality = _match(instrument, sought)
            if quality is not None:
                matches.append((quality, instrument))
        matches.sort(key=lambda match: (match[0], _rank(match[1])[:3], match[1].symbol))
        return [instrument for _, instrument in matches[:limit]]


class _Index:
    """One state of the registry; only `ready` ever changes, and never what it answers."""

    __slots__ = ("aliases", "instruments", "keys", "names", "ready", "scopes", "shared", "symbols")

    def __init__(
        self, instruments: Iterable[Instrument], aliases: Mapping[str, InstrumentKey]
    ) -> None:
        self.instruments = tuple(instruments)
        self.keys: dict[tuple[str, str, int], Instrument] = {}
        self.names: dict[str, Instrument] = {}
        """Leads from every symbol and unambiguous token, as text, to the instrument it means."""
        self.ready: dict[str, Resolution] = {}
        """Answers to exact names, kept because building one costs more than finding it."""
        shared: dict[str, list[Instrument]] = {}
        for instrument in self.instruments:
            key = instrument.key
            if key in self.keys:
                raise ReferenceDataError(
                    f"{key.exchange} {key.segment} {key.token} is listed twice, as "
                    f"{reflect(self.keys[key].symbol)} and as {reflect(instrument.symbol)}"
                )
            self.keys[key] = instrument
            symbol = ascii_upper(instrument.symbol)
            for text in (str(key.token),) if _is_token(symbol) else (str(key.token), symbol):
                first = self.names.setdefault(text, instrument)
                if first is not instrument:
                    shared.setdefault(text, [first]).append(instrument)
        self.shared = {text: tuple(sorted(group, key=_rank)) for text, group in shared.items()}
        """Everybody who has a name that several have, best first."""
        for text, group in self.shared.items():
            best = _token_owner(group) if _is_token(text) else group[0]
            if best is None:
                del self.names[text]
            else:
                self.names[text] = best
        self.symbols = sorted(text for text in self.names if not text.isdigit())
        pairs = dict.fromkeys(key[:2] for key in self.keys)
        self.scopes: dict[str, tuple[str, str]] = {
            **{exchange: (exchange, "") for exchange in _EXCHANGES},
            **{exchange: (exchange, "") for exchange, _ in pairs},
            **{f"{exchange}_{segment}": (exchange, segment) for exchange, segment in pairs},
            **SEGMENT_NAMES,
        }
        indices = [i for i in self.instruments if i.key.segment == "INDEX" and i.name]
        # an index also answers to its full name: "NIFTY" to "NIFTY 50", as other masters call it
        self.aliases = {ascii_upper(index.name): index for index in reversed(indices)}
        for name, key in aliases.items():
            self.aliases[ascii_upper(name)] = self._aliased(name, key)

    def _aliased(self, name: str, key: InstrumentKey) -> Instrument:
        instrument = self.keys.get(key)
        if instrument is None:
            raise ReferenceDataError(
                f"The alias {reflect(name)} leads to {' '.join(map(str, key))}, which is not listed"
            )
        return instrument

    def resolve(self, stock: object, suggest: bool = True) -> Resolution:
        if type(stock) is int and 0 <= stock < _TOKEN_LIMIT:
            stock = str(stock)
        if isinstance(stock, str):
            ready = self.ready.get(stock)
            if ready is not None:
                return ready
            found = self.names.get(stock)
            if found is None:
                return self._resolve_text(stock, suggest)
            label = stock if stock == found.symbol else found.label
            return self.ready.setdefault(stock, Resolution(stock, found, label))
        if isinstance(stock, bool):
            return _failure("true" if stock else "false", "invalid_stock")
        if not isinstance(stock, int):
            return _failure(reflect(stock), "invalid_stock")
        if stock.bit_length() > 4 * _MAX_TEXT:
            # Python refuses to print integers of thousands of digits
            return _failure(f"an integer of {stock.bit_length()} bits", "invalid_stock")
        return _failure(str(stock), "unknown_token")

    def _resolve_text(self, stock: str, suggest: bool) -> Resolution:
        given = reflect(stock)
        text = ascii_upper(stock.strip())
        if not text or len(text) > _MAX_TEXT or not text.isprintable():
            return _failure(given, "invalid_stock")
        query = self._parse(text)
        found = self._find(query)
        if isinstance(found, Instrument):
            return Resolution(given, found, text if text == found.symbol else found.label)
        subject = query.qualifier if found == "unknown_exchange" else given
        return _failure(given, found, subject, self._suggest(query, found) if suggest else ())

    def _parse(self, text: str) -> _Query:
        """Take the exchange off a name, unless the whole text is a name itself."""
        if text in self.names or text in self.aliases or _is_token(text):
            return _Query(text)
        if text.endswith(")") and "(" in text:
            name, _, qualifier = text[:-1].rpartition("(")
        elif ":" in text:
            qualifier, _, name = text.partition(":")
        else:
            name, _, qualifier = text.rpartition(".")
            if qualifier not in self.scopes:
                segment, _, token = text.partition("_")
                if not (_is_token(segment) and _is_token(token)):
                    return _Query(text)
                scope = ODIN_SEGMENTS.get(int(segment), ("", ""))
                return _Query(token, segment, *scope)
        name, qualifier = name.strip(), qualifier.strip()
        if not name or not qualifier:
            return _Query(text)
        return _Query(name, qualifier, *self.scopes.get(qualifier, ("", "")))

    def _find(self, query: _Query) -> Instrument | str:
        """Return the instrument, or the code of the reason why there is none."""
        if query.qualifier and not query.exchange:
            return "unknown_exchange"
        if _is_token(query.name):
            return self._find_token(query)
        listings = self._listings(query.name, query)
        if not listings:
            symbol, _, series = query.name.rpartition("-")
            listings = [i for i in self._listings(symbol, query) if series and i.series == series]
        return listings[0] if listings else "unknown_symbol"

    def _find_token(self, query: _Query) -> Instrument | str:
        if len(query.name) > _MAX_DIGITS:
            return "unknown_token"
        token = str(int(query.name))
        if not query.qualifier and token in self.names:
            return self.names[token]
        listings = self._listings(token, query)
        if not listings:
            return "unknown_token"
        cash = [i for i in listings if query.qualifier and i.key.segment == "CM"]
        best = cash or listings
        return best[0] if len(best) == 1 else "ambiguous_token"

    def _listings(self, text: str, query: _Query) -> list[Instrument]:
        """Return all instruments with a symbol or token within the query's exchange, best first."""
        group = self.shared.get(text)
        if group is None:
            one = self.names.get(text) or self.aliases.get(text)
            group = (one,) if one else ()
        return [
            instrument
            for instrument in group
            if query.exchange in ("", instrument.key.exchange)
            and query.segment in ("", instrument.key.segment)
        ]

    def _suggest(self, query: _Query, code: str) -> tuple[str, ...]:
        """Return names that resolve and are near what was asked."""
        if code == "ambiguous_token":
            listings = self._listings(str(int(query.name)), query)
            return tuple(
                f"{i.key.exchange}_{i.key.segment}:{i.key.token}" for i in listings[:SUGGESTIONS]
            )
        if query.qualifier:
            elsewhere = self._find(_Query(query.name))
            if isinstance(elsewhere, Instrument):
                return (f"{elsewhere.key.exchange}:{query.name}",)
        if _is_token(query.name) or code == "unknown_exchange":
            return ()
        prefix = f"{query.qualifier}:" if query.qualifier else ""
        near = [
            name
            for name in self._near(query.name)
            if not name.isdigit() and self._listings(name, query)
        ]
        return tuple(f"{prefix}{name}" for name in near[:SUGGESTIONS])

    def _near(self, text: str) -> list[str]:
        """Return symbols near a text, best first: the same but for blanks and the like, one edit
        away, what it begins with, completions, and two edits away among its neighbours."""
        if not 2 <= len(text) <= 32:
            return []
        squeezed = "".join(filter(str.isalnum, text))
        found = {squeezed: None} if squeezed in self.names else {}
        one_edit = {name for name in _edits(text) if name in self.names}
        found |= dict.fromkeys(sorted(one_edit, key=self._preference))
        if len(found) >= SUGGESTIONS:
            return list(found)
        shorter = [text[:n] for n in range(len(text) - 1, max(2, len(text) - 5), -1)]
        found |= dict.fromkeys([name for name in shorter if name in self.names][:1])
        at = bisect_left(self.symbols, text)
        longer = [name for name in self.symbols[at : at + 64] if name.startswith(text)]
        found |= dict.fromkeys(sorted(longer, key=self._preference))
        if len(found) >= SUGGESTIONS or len(text) < 5:
            return list(found)
        around = [n for n in self.symbols[max(at - 16, 0) : at + 16] if n[:3] == text[:3]]
        found |= dict.fromkeys(name for name in around if _within_two_edits(text, name))
        return list(found)

    def _preference(self, name: str) -> tuple[tuple[int, int, int], int, str]:
        return _rank(self.names[name])[:3], len(name), name


def _failure(
    given: str, code: str, subject: str = "", suggestions: tuple[str, ...] = ()
) -> Resolution:
    message = STOCK_ERRORS[code].text.format(stock=reflect(subject or given))[:MAX_ERROR_CHARS]
    return Resolution(given, None, given, code, message, suggestions)


def ascii_upper(text: str) -> str:
    """Upper-case ASCII letters only: str.upper makes "S" of the long s and "SS" of the sharp s,
    and one instrument must not answer to another one's name."""
    return text.upper() if text.isascii() else text.translate(_ASCII_UPPER)


def _is_token(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _rank(instrument: Instrument) -> Rank:
    """Order the instruments that share a name: market, series, kind; the rest makes it total."""
    exchange, segment, token = instrument.key
    return (
        _MARKETS.get((exchange, segment), len(_MARKETS)),
        _SERIES.get(instrument.series, len(_SERIES)),
        _KINDS.get(instrument.kind, 1),
        instrument.series,
        exchange,
        segment,
        token,
    )


def _token_owner(group: Sequence[Instrument]) -> Instrument | None:
    """Return whom a bare token means among those that share it: NSE cash, then BSE cash."""
    cash = {i.key.exchange: i for i in group if i.key.segment == "CM"}
    return cash.get("NSE") or cash.get("BSE")


def _match(instrument: Instrument, sought: str) -> int | None:
    """Return how well an instrument matches, 0 is best; None if it does not."""
    symbol, name = instrument.symbol, ascii_upper(instrument.name)
    if sought in (symbol, name):
        return 0
    if symbol.startswith(sought):
        return 1
    if sought.isdigit() and str(instrument.key.token).startswith(sought):
        return 2
    if sought in symbol:
        return 3
    return 4 if sought in name else None


def _edits(text: str) -> Iterator[str]:
    """Yield every text one deletion, transposition, replacement or insertion away."""
    for at in range(len(text) + 1):
        head, tail = text[:at], text[at:]
        if tail:
            yield head + tail[1:]
            yield from (head + letter + tail[1:] for letter in _ALPHABET)
        if len(tail) > 1:
            yield head + tail[1] + tail[0] + tail[2:]
        yield from (head + letter + tail for letter in _ALPHABET)


def _within_two_edits(a: str, b: str) -> bool:
    """Tell whether at most two insertions, deletions or replacements lead from a to b."""
    if abs(len(a) - len(b)) > 2:
        return False
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (x != y)))
        if min(row) > 2:
            return False
    return row[-1] <= 2
