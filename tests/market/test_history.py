"""Daily history: the published files, row by row, and the year they make."""

import gzip
import io
import lzma
import zipfile
from collections import defaultdict
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin.errors import ReferenceDataError
from odin.market import history
from odin.market.history import BadRow, Daily, parse_daily, summarise, window_start
from odin.model import DailyBar, InstrumentKey, YearSummary
from tests.support.shared import shared

RELIANCE = InstrumentKey("NSE", "CM", 2885)
MAHINDRA = InstrumentKey("NSE", "CM", 2031)
RELIANCE_BSE = InstrumentKey("BSE", "CM", 500325)

LISTED = {
    "NSE:RELIANCE": RELIANCE,
    "NSE:2885": RELIANCE,
    "NSE:M&M": MAHINDRA,
    "BSE:500325": RELIANCE_BSE,
}

# RELIANCE on 2025-09-04, as NSE published it in each of its forms.
RELIANCE_BAR = DailyBar(RELIANCE, "2025-09-04", 1371.8, 1374.0, 1357.1, 1359.3, 13223177)

FULL_HEADER = (
    "SYMBOL, SERIES, DATE1, PREV_CLOSE, OPEN_PRICE, HIGH_PRICE, LOW_PRICE, LAST_PRICE, "
    "CLOSE_PRICE, AVG_PRICE, TTL_TRD_QNTY, TURNOVER_LACS, NO_OF_TRADES, DELIV_QTY, DELIV_PER\n"
)
FULL = FULL_HEADER + (
    "RELIANCE, EQ, 04-Sep-2025, 1372.60, 1371.80, 1374.00, 1357.10, 1359.10, "
    "1359.30, 1363.97, 13223177, 180359.23, 200473, 8012345, 60.59\n"
)
UDIFF_HEADER = (
    "TradDt,BizDt,Sgmt,Src,FinInstrmTp,FinInstrmId,ISIN,TckrSymb,SctySrs,XpryDt,"
    "FininstrmActlXpryDt,StrkPric,OptnTp,FinInstrmNm,OpnPric,HghPric,LwPric,ClsPric,LastPric,"
    "PrvsClsgPric,UndrlygPric,SttlmPric,OpnIntrst,ChngInOpnIntrst,TtlTradgVol,TtlTrfVal,"
    "TtlNbOfTxsExctd,SsnId,NewBrdLotQty,Rmks,Rsvd1,Rsvd2,Rsvd3,Rsvd4\n"
)
UDIFF = UDIFF_HEADER + (
    "2025-09-04,2025-09-04,CM,NSE,STK,2885,INE002A01018,RELIANCE,EQ,,,,,RELIANCE INDUSTRIES LTD,"
    "1371.80,1374.00,1357.10,1359.30,1359.10,1372.60,,1359.30,,,13223177,18035923000.00,200473,"
    "F1,1,,,,,\n"
)
OLD = (
    "SYMBOL,SERIES,OPEN,HIGH,LOW,CLOSE,LAST,PREVCLOSE,TOTTRDQTY,TOTTRDVAL,TIMESTAMP,"
    "TOTALTRADES,ISIN,\n"
    "RELIANCE,EQ,1371.8,1374,1357.1,1359.3,1359.1,1372.6,13223177,18035923000,04-SEP-2025,"
    "200473,INE002A01018,\n"
)
PLAIN_HEADER = "date,symbol,series,prev_close,open,high,low,last,close,vwap,volume,trades\n"
PLAIN = PLAIN_HEADER + (
    "2025-09-04,RELIANCE,EQ,1372.6,1371.8,1374.0,1357.1,1359.1,1359.3,1363.97,13223177,200473\n"
)


def resolve(name: str, series: str) -> InstrumentKey | None:
    return LISTED.get(name)


def read(text: str) -> tuple[list[DailyBar], Daily]:
    daily = parse_daily(text.encode(), resolve)
    return list(daily.bars), daily


def plain(*rows: str) -> tuple[list[DailyBar], Daily]:
    """Read rows of symbol, series, open, high, low, close and volume of one day."""
    lines = []
    for row in rows:
        symbol, series, opened, high, low, close, volume = row.split(",")
        lines.append(
            f"2025-09-04,{symbol},{series},1.0,{opened},{high},{low},1.0,{close},1.0,{volume},9\n"
        )
    return read(PLAIN_HEADER + "".join(lines))


def udiff(*rows: tuple[str, str, str, str, str, str]) -> tuple[list[DailyBar], Daily]:
    """Read rows of segment, exchange, kind, token, symbol and series with RELIANCE's prices."""
    lines = [
        f"2025-09-04,2025-09-04,{segment},{exchange},{kind},{token},,{symbol},{series},,,,,NAME,"
        "1371.80,1374.00,1357.10,1359.30,1359.10,1372.60,,,,,13223177,,,F1,1,,,,,\n"
        for segment, exchange, kind, token, symbol, series in rows
    ]
    return read(UDIFF_HEADER + "".join(lines))


def zipped(**members: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name.replace("_csv", ".csv").replace("_txt", ".txt"), text)
    return buffer.getvalue()


# ---------------------------------------------------------------- the four kinds of file


@pytest.mark.parametrize(
    ("text", "kind"),
    [(FULL, "sec_bhavdata_full"), (UDIFF, "UDiFF"), (OLD, "until July 2024"), (PLAIN, "daily")],
)
def test_every_published_form_gives_the_same_bar(text: str, kind: str) -> None:
    bars, daily = read(text)
    assert bars == [RELIANCE_BAR]
    assert kind in daily.format
    assert (daily.rows, daily.used, daily.bad_rows) == (1, 1, 0)


@pytest.mark.parametrize(
    "data",
    [
        PLAIN.encode(),
        b"\xef\xbb\xbf" + PLAIN.encode(),
        PLAIN.replace("\n", "\r\n").encode(),
        gzip.compress(PLAIN.encode()),
        lzma.compress(PLAIN.encode()),
        zipped(day_csv=PLAIN),
        zipped(readme_txt="about this file", day_csv=PLAIN),
    ],
    ids=["plain", "byte order mark", "CRLF", "gzip", "xz", "zip", "zip with a note"],
)
def test_packing_is_told_by_the_bytes(data: bytes) -> None:
    assert list(parse_daily(data, resolve).bars) == [RELIANCE_BAR]


def test_columns_may_come_in_any_order_and_case() -> None:
    bars, _ = read(
        "Volume,Close,Low,High,Open,Series,Symbol,Date\n"
        "13223177,1359.3,1357.1,1374.0,1371.8,EQ,RELIANCE,2025-09-04\n"
    )
    assert bars == [RELIANCE_BAR]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "its first line was empty"),
        (b"<!DOCTYPE html>\n", "its first line was <!DOCTYPE HTML>"),
        (b"SYMBOL,SERIES,OPEN\nA,EQ,1\n", "its first line was SYMBOL,SERIES,OPEN"),
        (b"\xff\xfe\x00rubbish", "cannot be read"),
        (zipped(a_csv=PLAIN, b_csv=PLAIN), "holds 2 CSV files, not one"),
        (zipped(readme_txt="nothing here"), "holds 0 CSV files, not one"),
        (zipped(day_csv=PLAIN)[:60], "cannot be read"),
        (b"\x1f\x8bnot gzip at all", "cannot be read"),
        (b"\xfd7zXZ\x00not xz at all", "cannot be read"),
        (b"date," + b"x" * 10_000, "a line of more than 10000 characters"),
    ],
)
def test_what_is_no_daily_history_is_refused_with_its_name(data: bytes, problem: str) -> None:
    with pytest.raises(ReferenceDataError) as caught:
        parse_daily(data, resolve, name="bhav\x1b.csv")
    assert str(caught.value).startswith("bhav\\x1b.csv ")
    assert problem in str(caught.value)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_file_cut_short_gives_its_rows_and_then_an_error(
    pack: Callable[[bytes], bytes],
) -> None:
    text = PLAIN_HEADER + PLAIN.splitlines(keepends=True)[1] * 50_000
    packed = pack(text.encode())
    daily = parse_daily(packed[: len(packed) - 40], resolve)
    seen: list[DailyBar] = []
    with pytest.raises(ReferenceDataError, match="the file cannot be read"):
        seen.extend(daily.bars)
    assert 0 < len(seen) == daily.used <= 50_000
    assert set(seen) == {RELIANCE_BAR}


def test_a_file_that_unpacks_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_FILE_BYTES", 1 << 20)
    bomb = gzip.compress(PLAIN.encode() + b"\n" * (2 << 20))
    with pytest.raises(ReferenceDataError, match="larger than 1 MiB unpacked"):
        list(parse_daily(bomb, resolve).bars)


# ---------------------------------------------------------------- which rows count


def test_only_series_of_shares_count() -> None:
    series = ["EQ", "BE", "BZ", "SM", "ST", "BL", "GB", "N1", "IV", ""]
    bars, daily = plain(*(f"RELIANCE,{each},10,11,9,10,5" for each in series))
    assert len(bars) == 5
    assert (daily.rows, daily.used, daily.skipped_series) == (10, 5, 5)


def test_of_bse_every_group_counts_but_debt() -> None:
    groups = ["A", "B", "X", "T", "Z", "M", "F", "G"]
    bars, daily = udiff(*(("CM", "BSE", "STK", "500325", "RELIANCE", each) for each in groups))
    assert [bar.key for bar in bars] == [RELIANCE_BSE] * 6
    assert daily.skipped_series == 2


def test_derivatives_in_the_same_columns_do_not_count() -> None:
    bars, daily = udiff(
        ("FO", "NSE", "STF", "2885", "RELIANCE", ""),
        ("FO", "NSE", "STK", "2885", "RELIANCE", "EQ"),
        ("CM", "NSE", "IDX", "2885", "RELIANCE", "EQ"),
    )
    assert bars == []
    assert daily.skipped_series == 3


def test_a_token_goes_before_the_symbol_and_the_symbol_still_helps() -> None:
    bars, daily = udiff(
        ("CM", "NSE", "STK", "2885", "OLDNAME", "EQ"),
        ("CM", "NSE", "STK", "77777", "M&M", "BE"),
        ("CM", "NSE", "STK", "500325", "NOBODY", "EQ"),
        ("CM", "MSE", "STK", "2885", "RELIANCE", "EQ"),
    )
    assert [bar.key for bar in bars] == [RELIANCE, MAHINDRA]
    assert daily.skipped_unknown == 2
    assert daily.unknown_names == ["NSE:NOBODY", "MSE:RELIANCE"]


def test_resolve_is_given_the_series_and_asked_once_for_a_name() -> None:
    asked = []

    def remember(name: str, series: str) -> InstrumentKey | None:
        asked.append((name, series))
        return LISTED.get(name)

    row = PLAIN.splitlines(keepends=True)[1]
    text = PLAIN + row + row.replace(",EQ,", ",BE,") + row.replace("RELIANCE", "NOBODY") * 2
    assert len(list(parse_daily(text.encode(), remember).bars)) == 3
    assert asked == [("NSE:RELIANCE", "EQ"), ("NSE:RELIANCE", "BE"), ("NSE:NOBODY", "EQ")]


def test_unknown_names_are_counted_all_and_kept_few() -> None:
    rows = [f"NOBODY{number % 9},EQ,10,11,9,10,5" for number in range(20)]
    bars, daily = plain("RELIANCE,EQ,10,11,9,10,5", *rows)
    assert len(bars) == 1
    assert daily.skipped_unknown == 20
    assert daily.unknown_names == [f"NSE:NOBODY{number}" for number in range(5)]


def test_a_share_without_a_trade_is_no_fault() -> None:
    bars, daily = plain("RELIANCE,EQ,0.00,0.00,0.00,5.00,0")
    assert bars == []
    assert (daily.skipped_untraded, daily.bad_rows) == (1, 0)


@pytest.mark.parametrize(
    "row",
    [
        "RELIANCE,EQ,12,11,9,10,5",
        "RELIANCE,EQ,10,11,9,8.9,5",
        "RELIANCE,EQ,8,11,9,10,5",
        "RELIANCE,EQ,10,11,9,11.05,5",
        "RELIANCE,EQ,10,9,11,10,5",
        "RELIANCE,EQ,0,11,0,10,5",
        "RELIANCE,EQ,-10,-9,-11,-10,5",
        "RELIANCE,EQ,10,inf,9,10,5",
        "RELIANCE,EQ,10,1e9,9,10,5",
        "RELIANCE,EQ,nan,11,9,10,5",
        "RELIANCE,EQ,10,11,9,-,5",
        "RELIANCE,EQ,10,11,9,10,-5",
        "RELIANCE,EQ,10,11,9,10,5.5",
        "RELIANCE,EQ,10,11,9,10,",
        "RELIANCE,EQ,10,11,9,10,nan",
        "RELIANCE,EQ,10,11,9,10,1e30",
    ],
)
def test_a_row_that_makes_no_sense_is_left_out_and_told(row: str) -> None:
    bars, daily = plain("M&M,EQ,10,11,9,10,5", row)
    assert [bar.key for bar in bars] == [MAHINDRA]
    assert daily.bad_rows == 1
    assert daily.problems[0].line == 3


@pytest.mark.parametrize(
    "text", ["2025-02-30", "31-Feb-2025", "04-Xxx-2025", "2025/09/04", "20250904", "", "soon"]
)
def test_a_date_that_is_none_is_told(text: str) -> None:
    bars, daily = read(PLAIN.replace("2025-09-04", text))
    assert bars == []
    assert daily.problems == [BadRow(2, f"the date was {text!r}")]


def test_bad_rows_are_counted_all_and_kept_few() -> None:
    daily = plain(*["RELIANCE,EQ,12,11,9,10,5"] * 8)[1]
    assert daily.bad_rows == 8
    problem = (
        "RELIANCE had open 12.0, high 11.0, low 9.0, close 10.0: not 0 < low <= open, close <= high"
    )
    assert daily.problems == [BadRow(line, problem) for line in range(2, 7)]


def test_a_row_cut_short_is_told_and_an_empty_line_is_nothing() -> None:
    bars, daily = read(PLAIN_HEADER + "\n2025-09-04,RELIANCE,EQ\n")
    assert bars == []
    assert daily.rows == 1
    assert daily.problems == [BadRow(3, "3 columns where 11 were needed")]


def test_a_volume_from_a_spreadsheet_is_a_whole_number() -> None:
    bars, _ = plain("RELIANCE,EQ,10,11,9,10,12345.0")
    assert bars[0].volume == 12345
    assert type(bars[0].volume) is int


@pytest.mark.parametrize("is_packed", [False, True])
def test_progress_ends_with_the_whole_file(is_packed: bool) -> None:
    seen: list[tuple[int, int]] = []
    text = PLAIN + PLAIN.splitlines(keepends=True)[1] * 20_000
    data = zipped(day_csv=text) if is_packed else text.encode()
    daily = parse_daily(data, resolve, progress=lambda done, size: seen.append((done, size)))
    assert sum(1 for _ in daily.bars) == 20_001
    assert seen == sorted(seen)
    assert len(seen) > 2
    assert seen[-1] == (len(data), len(data))


@given(st.binary(max_size=300), st.sampled_from([PLAIN, FULL, UDIFF, OLD]))
def test_any_bytes_end_in_bars_or_in_our_error(noise: bytes, text: str) -> None:
    try:
        daily = parse_daily(text.encode() + noise, resolve)
        bars = list(daily.bars)
    except ReferenceDataError:
        return
    skipped = daily.skipped_series + daily.skipped_untraded + daily.skipped_unknown
    assert daily.rows == len(bars) + skipped + daily.bad_rows
    assert daily.used == len(bars)


# ---------------------------------------------------------------- the year


def bar(
    date: str, high: float, low: float, volume: int = 1, close: float | None = None
) -> DailyBar:
    return DailyBar(RELIANCE, date, low, high, low, low if close is None else close, volume)


def test_a_summary_holds_the_extremes_with_their_latest_dates() -> None:
    bars = [
        bar("2025-09-01", 20.0, 10.0),
        bar("2025-09-02", 20.0, 10.0),
        bar("2025-09-03", 19.0, 11.0, close=15.0),
    ]
    expected = YearSummary(20.0, "2025-09-02", 10.0, "2025-09-02", 1, 15.0, "2025-09-03")
    assert summarise(bars) == expected
    assert summarise(bars[::-1]) == expected


@pytest.mark.parametrize(
    ("volumes", "mean"),
    [([7], 7), ([1, 2], 2), ([2, 3], 3), ([1, 1, 1, 1, 4], 2), ([10**9, 1, 2, 3, 4, 6], 3)],
)
def test_the_average_volume_is_that_of_the_last_five_bars(volumes: list[int], mean: int) -> None:
    bars = [bar(f"2025-09-{day:02}", 2.0, 1.0, volume) for day, volume in enumerate(volumes, 1)]
    assert summarise(bars).avg_volume_5d == mean


def test_no_bars_make_no_summary() -> None:
    with pytest.raises(ValueError, match="at least one"):
        summarise([])


@pytest.mark.parametrize(
    ("previous", "start"),
    [
        ("2025-09-03", "2024-09-03"),
        ("2024-02-29", "2023-02-28"),
        ("2025-02-28", "2024-02-28"),
        ("2024-03-01", "2023-03-01"),
        ("2026-01-01", "2025-01-01"),
    ],
)
def test_the_window_begins_on_the_same_date_one_year_back(previous: str, start: str) -> None:
    assert window_start(previous) == start


def test_the_window_of_no_date_is_an_error() -> None:
    with pytest.raises(ValueError, match="Invalid isoformat string"):
        window_start("03-Sep-2025")


# ---------------------------------------------------------------- real data

# NSE's 52-week values of 2025-11-14, before the open; no corporate action in the window.
PUBLISHED = {
    "SBIN": (971.4, "2025-11-06", 680.0, "2025-03-03"),
    "ICICIBANK": (1500.0, "2025-07-25", 1186.0, "2025-01-23"),
    "INFY": (2006.45, "2024-12-13", 1307.0, "2025-04-07"),
    "TCS": (4494.9, "2024-12-13", 2866.6, "2025-10-01"),
    "RELIANCE": (1551.0, "2025-07-09", 1114.85, "2025-04-07"),
}


@pytest.mark.shared
def test_a_real_year_of_every_share_is_read_and_says_what_nse_says() -> None:
    keys = {f"NSE:{symbol}": InstrumentKey("NSE", "CM", n) for n, symbol in enumerate(PUBLISHED)}
    path = shared("data/daily/*.xz")
    daily = parse_daily(path.read_bytes(), lambda name, series: keys.get(name), name=path.name)
    bars: dict[InstrumentKey, list[DailyBar]] = defaultdict(list)
    for each in daily.bars:
        bars[each.key].append(each)
    assert daily.rows == 655_021
    assert (daily.bad_rows, daily.skipped_series, daily.skipped_untraded) == (0, 0, 0)
    assert daily.used == 321 * len(PUBLISHED)
    assert daily.used + daily.skipped_unknown == daily.rows

    start = window_start("2025-11-13")
    for symbol, expected in PUBLISHED.items():
        window = [
            each for each in bars[keys[f"NSE:{symbol}"]] if start <= each.date <= "2025-11-13"
        ]
        summary = summarise(window)
        assert summary[:4] == expected
        assert summary.prev_date == "2025-11-13"
