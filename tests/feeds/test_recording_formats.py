import gzip
import io
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin.errors import ReferenceDataError, RemoteWireError
from odin.feeds.recording_formats import (
    BarRow,
    Entry,
    Problem,
    Subject,
    TickRow,
    decode_tick_line,
    encode_tick_line,
    read_entries,
    symbol_of,
)
from odin.model import InstrumentKey, Tick

NINE_FIFTEEN_MS = 1_475_207_100_000  # 2016-09-30 09:15:00 IST
SBIN = Subject("NSE", "SBIN")
BAR_HEADER = "Date,Open,High,Low,Close,Volume\n"


def read(path: Path, symbol: str | None = None) -> list[Entry]:
    return list(read_entries([path], symbol=symbol, exchange="NSE"))


def read_text(folder: Path, text: str, name: str = "SBIN.csv", **values: str) -> list[Entry]:
    path = folder / name
    path.write_text(text)
    return read(path, **values)


def test_bars_one_file_a_symbol(tmp_path: Path) -> None:
    text = BAR_HEADER + "2016-09-30 09:15:00, 246.9, 248.15, 246.1, 248.1, 248464\n"
    expected = BarRow(SBIN, NINE_FIFTEEN_MS, 246.9, 248.15, 246.1, 248.1, 248464)
    assert read_text(tmp_path, text) == [expected]


@pytest.mark.parametrize(
    "header",
    [
        "Code,Date,Open,High,Low,Close,Volume",
        "Code,Date,O,H,L,C,V",
        "\ufeffsymbol, datetime, open, high, low, close, vol",
    ],
)
def test_bars_with_a_code_column(tmp_path: Path, header: str) -> None:
    text = (
        f"{header}\r\nsbin, 2016-09-30T09:15, 1, 4, 1, 2, 30\r\n\r\n"
        "INFY,2016-09-30 09:16,2,2,2,2,0\r\n"
    )
    assert read_text(tmp_path, text, "month.csv") == [
        BarRow(SBIN, NINE_FIFTEEN_MS, 1, 4, 1, 2, 30),
        BarRow(Subject("NSE", "INFY"), NINE_FIFTEEN_MS + 60_000, 2, 2, 2, 2, 0),
    ]


def test_columns_in_any_order_and_quoted(tmp_path: Path) -> None:
    text = (
        '"Volume","Close","Low","High","Open","Date"\n"7","2","1","4","1","2016-09-30 09:15:00"\n'
    )
    assert read_text(tmp_path, text) == [BarRow(SBIN, NINE_FIFTEEN_MS, 1, 4, 1, 2, 7)]


def test_bars_without_volumes_have_none(tmp_path: Path) -> None:
    entries = read_text(tmp_path, "Date,Open,High,Low,Close\n2016-09-30 09:15:00,1,4,1,2\n")
    assert entries == [BarRow(SBIN, NINE_FIFTEEN_MS, 1, 4, 1, 2, 0)]


def test_breeze_ticks(tmp_path: Path) -> None:
    text = (
        "Symbol,exchange_timestamp,last_price,volume_traded,last_traded_quantity,open_interest\n"
        "MCX,2016-09-30 09:15:00.022908,9767.0,349250,125,2620375\n"
        "5\n"
    )
    path = tmp_path / "all.csv"
    assert read_text(tmp_path, text, "all.csv") == [
        TickRow(Subject("NSE", "MCX"), NINE_FIFTEEN_MS + 22, 9767.0, 349250),
        Problem(str(path), 3, "the line had 1 fields of 6"),
    ]


@pytest.mark.parametrize("header", ["", "timestamp,value\n"])
def test_time_and_value_with_the_symbol_from_the_folder(tmp_path: Path, header: str) -> None:
    folder = tmp_path / "nifty_1s_2022"
    folder.mkdir()
    text = header + "2016-09-30 09:15:00,17659\r\n2016-09-30 09:15:01,17660.5\r\n"
    nifty = Subject("NSE", "NIFTY")
    assert read_text(folder, text, "2016-09-30.csv") == [
        TickRow(nifty, NINE_FIFTEEN_MS, 17659.0),
        TickRow(nifty, NINE_FIFTEEN_MS + 1000, 17660.5),
    ]


def test_an_option_names_the_symbol(tmp_path: Path) -> None:
    entries = read_text(tmp_path, "2016-09-30 09:15:00,17659\n", symbol="Nifty 50")
    assert entries == [TickRow(Subject("NSE", "NIFTY 50"), NINE_FIFTEEN_MS, 17659.0)]


def test_a_file_nobody_names_is_a_problem_on_every_line(tmp_path: Path) -> None:
    folder = tmp_path / "2016"
    folder.mkdir()
    entries = read_text(folder, BAR_HEADER + "2016-09-30 09:15:00,1,1,1,1,1\n", "09-30.csv")
    assert [(entry.line, "which symbol" in entry.text) for entry in entries] == [(2, True)]  # type: ignore[union-attr]


def test_a_time_with_its_own_zone_keeps_it(tmp_path: Path) -> None:
    (entry,) = read_text(tmp_path, "timestamp,ltp\n2016-09-30T03:45:00.500+00:00,5\n")
    assert entry == TickRow(SBIN, NINE_FIFTEEN_MS + 500, 5.0)


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("minute/SBIN.csv", "SBIN"),
        ("a.tar.gz:minute/NIFTYPSU BANK.csv", "NIFTYPSU BANK"),
        ("BAJAJ-AUTO.csv.gz", "BAJAJ-AUTO"),
        ("20microns.csv", "20MICRONS"),
        ("M&M_2016-09-30.csv", "M&M"),
        ("nifty_1s_2022/2022-08-12.csv", "NIFTY"),
        ("2022/2022-08-12.csv", None),
    ],
)
def test_symbols_in_names(name: str, symbol: str | None) -> None:
    assert symbol_of(name) == symbol


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("2016-09-30 09:15:00,0,4,1,2,7", "the price was '0'"),
        ("2016-09-30 09:15:00,1,inf,1,2,7", "the price was 'inf'"),
        ("2016-09-30 09:15:00,1,nan,1,2,7", "the price was 'nan'"),
        ("2016-09-30 09:15:00,x,4,1,2,7", "the price was 'x'"),
        ("2016-09-30 09:15:00,1,4,1,5,7", "the bar's open 1.0 and close 5.0 were not all between"),
        ("2016-09-30 09:15:00,1,4,2,2,7", "the bar's open 1.0 and close 2.0 were not all between"),
        ("2016-09-30 09:15:00,1,4,1,2,-7", "the volume was '-7'"),
        ("2016-09-30 09:15:00,1,4,1,2,7.5", "the volume was '7.5'"),
        ("2016-09-30 09:15:00,1,4,1,2,1e99", "the volume was '1e99'"),
        ("30/09/2016,1,4,1,2,7", "the time was '30/09/2016'"),
        ("0001-01-01 00:00:00,1,4,1,2,7", "the time was '0001-01-01 00:00:00'"),
        ("9999-12-31 23:59:59,1,4,1,2,7", "the time was '9999-12-31 23:59:59'"),
        ("2016-09-30 09:15:00,1,4,1,2", "the line had 5 fields of 6"),
        ("2016-09-30 09:15:00\x1b[2J,1,4,1,2,7", r"the time was '2016-09-30 09:15:00\x1b[2J'"),
    ],
)
def test_bad_lines_are_reported_and_the_rest_is_read(tmp_path: Path, line: str, text: str) -> None:
    good = "2016-09-30 09:16:00,1,1,1,1,1\n"
    entries = read_text(tmp_path, f"{BAR_HEADER}{line}\n{good}")
    problem, bar = entries
    assert isinstance(problem, Problem)
    assert (problem.source, problem.line) == (str(tmp_path / "SBIN.csv"), 2)
    assert problem.text.startswith(text)
    assert isinstance(bar, BarRow)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "the file is empty"),
        (b"\n \n", "the file is empty"),
        (b"name,colour\nx,y\n", "no known columns were found in name,colour"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "no known columns were found in"),
        (b"Date,Open,High\n2016-09-30 09:15:00,1,2\n", "no known columns were found in"),
    ],
)
def test_files_of_no_known_format(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    (entry,) = read(path)
    assert isinstance(entry, Problem)
    assert entry.text.startswith(text)


def test_a_field_too_long_for_csv_ends_the_file(tmp_path: Path) -> None:
    good = "2016-09-30 09:16:00,1,1,1,1,1\n"
    bar, problem = read_text(tmp_path, BAR_HEADER + good + "x" * 200_000 + "\n" + good)
    assert isinstance(bar, BarRow)
    assert "no CSV from here on" in str(problem)


def test_a_file_with_only_a_header_still_names_its_instrument(tmp_path: Path) -> None:
    problem, subject = read_text(tmp_path, "Code," + BAR_HEADER, "NIFTYJUNIOR.csv")
    assert str(problem) == f"{tmp_path / 'NIFTYJUNIOR.csv'}: the file has a header and no rows"
    assert subject == Subject("NSE", "NIFTYJUNIOR")


def _archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("minute/link.csv")
        link.type = tarfile.SYMTYPE
        link.linkname = "/etc/passwd"
        archive.addfile(link)
    return path


def test_folders_archives_and_packed_files_hold_the_same(tmp_path: Path) -> None:
    text = (BAR_HEADER + "2016-09-30 09:15:00,1,4,1,2,7\n").encode()
    folder = tmp_path / "folder"
    (folder / "minute").mkdir(parents=True)
    (folder / "minute" / "INFY.csv").write_bytes(text)
    (folder / "minute" / "SBIN.csv.gz").write_bytes(gzip.compress(text))
    (folder / "minute" / "._SBIN.csv").write_bytes(b"\x00\x05")
    (folder / "minute" / "notes.md").write_text("not data")
    archive = _archive(
        tmp_path / "day.tar.gz",
        {"minute/INFY.csv": text, "minute/SBIN.csv": text, "minute/README": b"not data"},
    )
    assert read(folder) == read(archive)
    assert [entry.subject.symbol for entry in read(folder)] == ["INFY", "SBIN"]  # type: ignore[union-attr]
    packed = folder / "minute" / "SBIN.csv.gz"
    assert read(packed) == read(folder)[1:]


@pytest.mark.parametrize("name", ["missing.csv", "broken.tar.gz", "broken.csv.gz", "cut.csv.gz"])
def test_files_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    for broken in ("broken.tar.gz", "broken.csv.gz"):
        (tmp_path / broken).write_bytes(b"this is not gzip")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(BAR_HEADER.encode() * 50)[:-9])
    with pytest.raises(ReferenceDataError, match=name):
        read(tmp_path / name)


keys = st.builds(
    InstrumentKey,
    st.sampled_from(["NSE", "BSE"]),
    st.sampled_from(["CM", "INDEX", "FO"]),
    st.integers(0, 2**53 - 1),
)
prices = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
ticks = st.builds(
    Tick,
    keys,
    st.integers(0, 4_000_000_000_000),
    prices,
    st.none() | st.integers(0, 2**53 - 1),
    st.none() | prices,
    st.none() | prices,
    st.none() | prices,
    st.none() | prices,
)


@given(ticks)
def test_our_own_lines_round_trip(tick: Tick) -> None:
    line = encode_tick_line(tick)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    decoded = decode_tick_line(line)
    assert decoded.tick(tick.key) == tick._replace(detail=None)
    assert decoded.subject == Subject(tick.key.exchange, "", tick.key)


def test_what_is_not_known_is_not_in_the_line() -> None:
    line = encode_tick_line(Tick(InstrumentKey("NSE", "CM", 2885), 5, 1365.5))
    assert line == (
        b'{"exchange":"NSE","segment":"CM","token":2885,"exchange_ms":5,"ltp":1365.5}\n'
    )


def test_our_own_lines_by_symbol(tmp_path: Path) -> None:
    text = (
        '\n{"symbol": "sbin", "exchange_ms": 5, "ltp": 800, "note": "ignored"}\n\n'
        '{"exchange": "BSE", "token": 500112, "symbol": "SBIN", "exchange_ms": 6, "ltp": 801.5}\n'
        '{"exchange_ms": 7, "ltp": 800}\n'
        '{"symbol": "SBIN", "exchange_ms": 8, "ltp": -1}\n'
    )
    first, second, third, fourth = read_text(tmp_path, text, "own.jsonl")
    assert first == TickRow(SBIN, 5, 800.0)
    key = InstrumentKey("BSE", "CM", 500112)
    assert second == TickRow(Subject("BSE", "SBIN", key), 6, 801.5)
    assert isinstance(third, Problem)
    assert (third.line, third.text) == (5, "the line names neither a token nor a symbol")
    assert isinstance(fourth, Problem)
    assert fourth.line == 6


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_line_is_a_value_or_their_fault(line: bytes) -> None:
    with suppress(RemoteWireError):
        decode_tick_line(line)


@given(st.binary(max_size=400))
def test_any_file_is_entries_or_problems(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(BAR_HEADER.encode() + content)
    assert all(isinstance(entry, BarRow | Problem | Subject) for entry in read(path, symbol="X"))
    path.write_bytes(content)
    assert read(path)
