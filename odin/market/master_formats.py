"""The columns of each kind of instrument master, and how one row becomes an instrument.

A row is understood whole or refused with a RowError that names the column; nothing is guessed.
Prices come out in rupees, NSE symbols without their series suffix. Knows nothing of files:
masters.py takes those apart.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from odin.errors import reflect
from odin.market.instruments import SEGMENT_NAMES, ascii_upper
from odin.model import Instrument, InstrumentKey

Row = Mapping[str, object]

_ISIN = re.compile(r"[A-Z]{2}[A-Z0-9]{9}[0-9]")
_SUFFIXED = re.compile(r"(.+)-([A-Z][A-Z0-9])")
_DEFAULT_TICK_SIZE = 0.05


class Detail(NamedTuple):
    """What NSE's list of equities says of a share: it has no tokens."""

    symbol: str
    series: str
    name: str
    isin: str


class RowError(Exception):
    """What is wrong with one row."""


class MasterFormat(NamedTuple):
    """One kind of master file."""

    name: str
    title: str
    columns: frozenset[str]
    """Columns that tell this format from the others."""
    read: Callable[[Row], Instrument | Detail]


# Values of one row


def _text(row: Row, column: str) -> str:
    value = row.get(column)
    return "" if value is None else str(value).strip()


def _token(row: Row, column: str) -> int:
    text = _text(row, column)
    if not text:
        raise RowError(f"{column} was empty")
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise RowError(f"{column} was not a number of up to 18 digits: {reflect(text)}")
    return int(text)


def _symbol(row: Row, column: str) -> str:
    text = _text(row, column)
    if not text or len(text) > 64 or not text.isprintable():
        raise RowError(f"{column} was not a symbol of 1 to 64 characters: {reflect(text)}")
    return ascii_upper(text)


def _number(row: Row, column: str) -> float:
    """Return a number that is not negative; 0.0 where the column is empty or absent."""
    text = _text(row, column)
    try:
        value = float(text or 0)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1e12:
        raise RowError(f"{column} was not a number: {reflect(text)}")
    return value


def _tick_size(row: Row, column: str, *, unit: float) -> float:
    return round(_number(row, column) * unit, 6) or _DEFAULT_TICK_SIZE


def _lot_size(row: Row, column: str) -> int:
    return int(_number(row, column)) or 1


def _isin(text: str) -> str:
    return text if _ISIN.fullmatch(text) else ""


def _scope(row: Row, column: str, names: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
    text = _text(row, column)
    try:
        return names[text]
    except KeyError:
        raise RowError(f"{column} was not a known exchange segment: {reflect(text)}") from None


def _without_series(symbol: str, exchange: str, segment: str, default: str) -> tuple[str, str]:
    """Take the series off NSE cash symbols such as "SBIN-EQ"; "-RE" marks rights entitlements and
    belongs to the symbol."""
    if (exchange, segment) != ("NSE", "CM"):
        return symbol, ""
    match = _SUFFIXED.fullmatch(symbol)
    return (match[1], match[2]) if match and match[2] != "RE" else (symbol, default)


def _cash_kind(exchange: str, series: str) -> str:
    """Tell shares from bonds by series or BSE group, where a master has nothing better."""
    if exchange == "BSE":
        return "debt" if series in ("F", "G") else "equity"
    if exchange != "NSE" or series in _SHARE_SERIES:
        return "equity"
    return "other" if series in _OTHER_SERIES else "debt"


_SHARE_SERIES = frozenset({"EQ", "BE", "BZ", "SM", "ST", "SZ", "E1", "IT", ""})
_OTHER_SERIES = frozenset({"IV", "RR", "MF", "SF", "GB", "P1", "P2", "W1", "X1"})


def _kind(instrument_type: str, exchange: str, segment: str, series: str) -> str:
    if segment == "INDEX":
        return "index"
    if segment == "CM":
        return _cash_kind(exchange, series)
    if instrument_type.startswith("FUT"):
        return "future"
    return "option" if instrument_type.startswith(("OPT", "CE", "PE")) else "other"


# Formats


_CASH = {"NSE": ("NSE", "CM"), "BSE": ("BSE", "CM")}
_KITE_EXCHANGES = {**SEGMENT_NAMES, **_CASH, "MCX": ("MCX", "CO"), "NCDEX": ("NCDEX", "CO")}
_DHAN_SEGMENTS = {"E": "CM", "I": "INDEX", "D": "FO", "C": "CD", "M": "CO"}
_DHAN_KINDS = {"ES": "equity", "ETF": "etf"} | dict.fromkeys(
    ("DEB", "DBT", "CB", "GB", "TB", "PTC"), "debt"
)


def _dhan(row: Row) -> Instrument:
    exchange = _text(row, "SEM_EXM_EXCH_ID")
    if exchange not in ("NSE", "BSE", "MCX"):
        raise RowError(f"SEM_EXM_EXCH_ID was not a known exchange: {reflect(exchange)}")
    segment = _DHAN_SEGMENTS.get(_text(row, "SEM_SEGMENT"), "")
    if not segment:
        raise RowError(f"SEM_SEGMENT was not known: {reflect(row['SEM_SEGMENT'])}")
    if segment == "CM":
        kind = _DHAN_KINDS.get(_text(row, "SEM_EXCH_INSTRUMENT_TYPE"), "other")
    else:
        kind = _kind(_text(row, "SEM_INSTRUMENT_NAME"), exchange, segment, "")
    return Instrument(
        key=InstrumentKey(exchange, segment, _token(row, "SEM_SMST_SECURITY_ID")),
        symbol=_symbol(row, "SEM_TRADING_SYMBOL"),
        series=_text(row, "SEM_SERIES") if segment == "CM" else "",
        name=_text(row, "SEM_CUSTOM_SYMBOL") or _text(row, "SM_SYMBOL_NAME"),
        kind=kind,
        # paise, but rupees where the row is an index: 10 for RELIANCE and 0.05 for NIFTY
        tick_size=_tick_size(row, "SEM_TICK_SIZE", unit=1 if segment == "INDEX" else 0.01),
        lot_size=_lot_size(row, "SEM_LOT_UNITS"),
    )


def _zerodha(row: Row) -> Instrument:
    exchange, segment = _scope(row, "exchange", _KITE_EXCHANGES)
    if _text(row, "segment") == "INDICES":
        segment = "INDEX"
    symbol, series = _without_series(_symbol(row, "tradingsymbol"), exchange, segment, "EQ")
    return Instrument(
        key=InstrumentKey(exchange, segment, _token(row, "exchange_token")),
        symbol=symbol,
        series=series,
        name=_text(row, "name"),
        kind=_kind(_text(row, "instrument_type"), exchange, segment, series),
        tick_size=_tick_size(row, "tick_size", unit=1),
        lot_size=_lot_size(row, "lot_size"),
        reference_close=_number(row, "last_price") or None,
    )


def _angel(row: Row) -> Instrument:
    exchange, segment = _scope(row, "exch_seg", _KITE_EXCHANGES)
    instrument_type = _text(row, "instrumenttype")
    if instrument_type == "AMXIDX":
        segment = "INDEX"
    symbol, series = _without_series(_symbol(row, "symbol"), exchange, segment, "")
    return Instrument(
        key=InstrumentKey(exchange, segment, _token(row, "token")),
        symbol=symbol,
        series=series,
        name=_text(row, "name"),
        kind=_kind(instrument_type, exchange, segment, series),
        tick_size=_tick_size(row, "tick_size", unit=0.01),
        lot_size=_lot_size(row, "lotsize"),
    )


def _upstox_csv(row: Row) -> Instrument:
    exchange, segment = _scope(row, "exchange", SEGMENT_NAMES)
    instrument_type = _text(row, "instrument_type")
    # this file does not tell NSE's series; its word for a share is EQUITY
    is_share = (exchange, segment) == ("NSE", "CM") and instrument_type in ("EQUITY", "EQ")
    kind = _kind(instrument_type, exchange, segment, "")
    if segment == "CM" and instrument_type not in ("EQUITY", "EQ"):
        kind = "other"
    return Instrument(
        key=InstrumentKey(exchange, segment, _token(row, "exchange_token")),
        symbol=_symbol(row, "tradingsymbol"),
        series="EQ" if is_share else "",
        name=_text(row, "name"),
        isin=_isin(_text(row, "instrument_key").partition("|")[2]),
        kind=kind,
        tick_size=_tick_size(row, "tick_size", unit=1),
        lot_size=_lot_size(row, "lot_size"),
        reference_close=_number(row, "last_price") or None,
    )


def _upstox_json(row: Row) -> Instrument:
    exchange, segment = _scope(row, "segment", SEGMENT_NAMES)
    instrument_type = _text(row, "instrument_type")
    series = instrument_type if segment == "CM" else ""
    return Instrument(
        key=InstrumentKey(exchange, segment, _token(row, "exchange_token")),
        symbol=_symbol(row, "trading_symbol"),
        series=series,
        name=_text(row, "name"),
        isin=_isin(_text(row, "isin")),
        kind=_kind(instrument_type, exchange, segment, series),
        tick_size=_tick_size(row, "tick_size", unit=0.01),
        lot_size=_lot_size(row, "lot_size"),
    )


def _equity_l(row: Row) -> Detail:
    isin = _text(row, "ISIN NUMBER")
    if not _isin(isin):
        raise RowError(f"ISIN NUMBER was not an ISIN: {reflect(isin)}")
    return Detail(_symbol(row, "SYMBOL"), _text(row, "SERIES"), _text(row, "NAME OF COMPANY"), isin)


def _sample(row: Row) -> Instrument:
    return Instrument(
        key=InstrumentKey(_text(row, "exchange"), _text(row, "segment"), _token(row, "token")),
        symbol=_symbol(row, "symbol"),
        series=_text(row, "series"),
        name=_text(row, "name"),
        isin=_isin(_text(row, "isin")),
        kind=_text(row, "kind"),
        tick_size=_tick_size(row, "tick_size", unit=1),
        lot_size=_lot_size(row, "lot_size"),
        reference_close=_number(row, "reference_close") or None,
    )


CSV_FORMATS = (
    MasterFormat(
        "dhan",
        "Dhan CSV",
        frozenset({"SEM_EXM_EXCH_ID", "SEM_SEGMENT", "SEM_SMST_SECURITY_ID", "SEM_TRADING_SYMBOL"}),
        _dhan,
    ),
    MasterFormat(
        "zerodha",
        "Zerodha CSV",
        frozenset({"instrument_token", "exchange_token", "tradingsymbol", "segment", "exchange"}),
        _zerodha,
    ),
    MasterFormat(
        "upstox",
        "Upstox CSV",
        frozenset({"instrument_key", "exchange_token", "tradingsymbol", "exchange"}),
        _upstox_csv,
    ),
    MasterFormat(
        "nse_equity_l",
        "NSE EQUITY_L.csv",
        frozenset({"SYMBOL", "NAME OF COMPANY", "SERIES", "ISIN NUMBER"}),
        _equity_l,
    ),
)
JSON_FORMATS = (
    MasterFormat("angel", "Angel JSON", frozenset({"token", "symbol", "exch_seg"}), _angel),
    MasterFormat(
        "upstox",
        "Upstox JSON",
        frozenset({"instrument_key", "segment", "trading_symbol"}),
        _upstox_json,
    ),
)
SAMPLE_FORMAT = MasterFormat(
    "sample",
    "sample",
    frozenset({"exchange", "segment", "token", "symbol", "series", "kind", "reference_close"}),
    _sample,
)
