import csv
import io
import tarfile
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin.clock import ist_date, ist_datetime_text
from odin.errors import ReferenceDataError
from odin.feeds.recording_formats import encode_tick_line
from odin.feeds.recordings import AD_HOC_SEGMENT, AD_HOC_TOKENS, Recording
from odin.model import Instrument, InstrumentKey, Tick
from tests.support.shared import shared

SBIN = Instrument(InstrumentKey("NSE", "CM", 3045), "SBIN")
NIFTY = Instrument(InstrumentKey("NSE", "INDEX", 13), "NIFTY", kind="index")
NAMES = {"NSE:SBIN": SBIN, "NSE:3045": SBIN, "NSE:NIFTY": NIFTY}
NINE_FIFTEEN_MS = 1_475_207_100_000  # 2016-09-30 09:15:00 IST
BARS = "Date,Open,High,Low,Close,Volume\n"


def load(*paths: Path, **values: str) -> Recording:
    return Recording.load(paths, resolve=NAMES.get, **values)  # type: ignore[arg-type]


def load_text(folder: Path, text: str, name: str = "SBIN.csv") -> Recording:
    path = folder / name
    path.write_text(text)
    return load(path)


def short(ticks: list[Tick]) -> list[tuple[object, ...]]:
    return [(tick.exchange_ms - NINE_FIFTEEN_MS, *tick[2:7]) for tick in ticks]


def test_a_rising_bar_goes_to_its_low_first(tmp_path: Path) -> None:
    recording = load_text(tmp_path, BARS + "2016-09-30 09:15:00,10,12,9,11,10\n")
    assert short(list(recording)) == [
        (0, 10.0, 2, 10.0, 10.0, 10.0),
        (15_000, 9.0, 5, 10.0, 10.0, 9.0),
        (30_000, 12.0, 7, 10.0, 12.0, 9.0),
        (59_900, 11.0, 10, 10.0, 12.0, 9.0),
    ]
    assert {tick.key for tick in recording} == {SBIN.key}
    assert all(tick.prev_close is None for tick in recording)


def test_a_falling_bar_goes_to_its_high_first(tmp_path: Path) -> None:
    recording = load_text(tmp_path, BARS + "2016-09-30 09:15:00,10,12,9,9.5,3\n")
    assert [tick.ltp for tick in recording] == [10.0, 12.0, 9.0, 9.5]
    assert [tick.volume for tick in recording] == [0, 1, 2, 3]


def test_a_bar_that_ends_where_it_began_goes_to_its_low_first(tmp_path: Path) -> None:
    recording = load_text(tmp_path, BARS + "2016-09-30 09:15:00,10,12,9,10,1\n")
    assert [tick.ltp for tick in recording] == [10.0, 9.0, 12.0, 10.0]


def test_ticks_out_of_order_are_put_in_order_and_ties_stay(tmp_path: Path) -> None:
    recording = load_text(
        tmp_path,
        "timestamp,ltp\n2016-09-30 09:15:02,1\n2016-09-30 09:15:01,2\n2016-09-30 09:15:01,3\n",
    )
    assert [tick.ltp for tick in recording] == [2.0, 3.0, 1.0]


def test_volume_and_day_fields_run_through_the_day_and_start_afresh(tmp_path: Path) -> None:
    recording = load_text(
        tmp_path,
        BARS
        + "2016-09-30 15:29:00,20,25,19,20,7\n"
        + "2016-09-30 09:15:00,10,12,9,11,10\n"
        + "2016-10-03 09:15:00,5,6,4,5,1\n",
    )
    ticks = list(recording)
    assert recording.days == ("2016-09-30", "2016-10-03")
    assert ticks[7][3:7] == (17, 10.0, 25.0, 9.0)
    assert ticks[8][3:7] == (0, 5.0, 5.0, 5.0)
    assert ticks[11][3:7] == (1, 5.0, 6.0, 4.0)
    assert recording.start_ms == ticks[0].exchange_ms
    assert recording.end_ms == ticks[-1].exchange_ms
    assert recording.tick_count == len(ticks) == 12


def test_symbols_are_merged_in_time_order_and_ties_in_the_order_of_instruments(
    tmp_path: Path,
) -> None:
    for name in ("ZEE", "SBIN", "ACC"):
        (tmp_path / f"{name}.csv").write_text(
            BARS + "2016-09-30 09:15:00,1,1,1,1,1\n2016-09-30 09:16:00,1,1,1,1,1\n"
        )
    recording = load(tmp_path)
    assert [instrument.symbol for instrument in recording.instruments] == ["ACC", "SBIN", "ZEE"]
    ticks = list(recording)
    times = [tick.exchange_ms for tick in ticks]
    assert times == sorted(times)
    keys = [instrument.key for instrument in recording.instruments]
    assert [tick.key for tick in ticks] == keys * 8
    assert list(recording) == ticks


def test_a_repeated_minute_is_reported_and_the_first_one_taken(tmp_path: Path) -> None:
    bar = "2016-09-30 09:15:00,{0},{0},{0},{0},1\n"
    recording = load_text(tmp_path, BARS + bar.format(1) + bar.format(2) + bar.format(3))
    assert {tick.ltp for tick in recording} == {1.0}
    assert recording.problem_count == 2
    assert str(recording.problems[0]) == (
        "SBIN: 2 bars repeat a minute, the first of each was taken"
    )


def test_unknown_symbols_get_instruments_of_their_own(tmp_path: Path) -> None:
    recording = load_text(tmp_path, BARS + "2016-09-30 09:15:00,1,1,1,1,1\n", "NIFTYPSU BANK.csv")
    (instrument,) = recording.instruments
    assert instrument.symbol == "NIFTYPSU BANK"
    assert instrument.key[:2] == ("NSE", AD_HOC_SEGMENT)
    assert len(instrument.token) == 10
    assert load(tmp_path / "NIFTYPSU BANK.csv").instruments == recording.instruments
    # 0xCBF43926 is the check value that every description of CRC-32 gives for "123456789".
    (instrument,) = load(tmp_path / "NIFTYPSU BANK.csv", symbol="123456789").instruments
    assert instrument.key.token == AD_HOC_TOKENS + 0xCBF43926 % AD_HOC_TOKENS


def test_colliding_tokens_are_told_apart_whatever_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("odin.feeds.recordings.crc32", lambda name: AD_HOC_TOKENS - 1)
    for name in ("ZEE", "ACC"):
        (tmp_path / f"{name}.csv").write_text(BARS + "2016-09-30 09:15:00,1,1,1,1,1\n")
    forward = load(tmp_path / "ACC.csv", tmp_path / "ZEE.csv")
    backward = load(tmp_path / "ZEE.csv", tmp_path / "ACC.csv")
    assert forward.instruments == backward.instruments
    tokens = {i.symbol: i.key.token for i in forward.instruments}
    assert tokens == {"ACC": 2 * AD_HOC_TOKENS - 1, "ZEE": AD_HOC_TOKENS}


def test_two_names_of_one_instrument_become_one(tmp_path: Path) -> None:
    own = encode_tick_line(Tick(SBIN.key, NINE_FIFTEEN_MS + 5, 800.0, 3))
    (tmp_path / "own.jsonl").write_bytes(own)
    (tmp_path / "SBIN.csv").write_text(BARS + "2016-09-30 09:15:00,1,1,1,1,1\n")
    recording = load(tmp_path)
    assert recording.instruments == (SBIN,)
    assert [tick.exchange_ms - NINE_FIFTEEN_MS for tick in recording] == [
        0,
        5,
        15_000,
        30_000,
        59_900,
    ]


def test_own_lines_keep_every_field_and_their_keys(tmp_path: Path) -> None:
    unknown = InstrumentKey("BSE", "CM", 500112)
    ticks = [
        Tick(SBIN.key, NINE_FIFTEEN_MS, 800.05, 3, 799.0, 801.0, 798.0, 797.5),
        Tick(SBIN.key, NINE_FIFTEEN_MS, 800.1),
        Tick(unknown, NINE_FIFTEEN_MS + 1, 801.0, 0),
    ]
    path = tmp_path / "own.jsonl"
    path.write_bytes(b"".join(map(encode_tick_line, ticks)))
    recording = load(path)
    assert sorted(recording, key=lambda tick: tick.exchange_ms) == ticks
    assert set(recording.instruments) == {SBIN, Instrument(unknown, "500112", kind="other")}


def test_a_token_the_registry_means_otherwise_keeps_its_own_key(tmp_path: Path) -> None:
    contract = InstrumentKey("NSE", "FO", 3045)
    path = tmp_path / "own.jsonl"
    path.write_bytes(encode_tick_line(Tick(contract, NINE_FIFTEEN_MS, 1.0)))
    assert [instrument.key for instrument in load(path).instruments] == [contract]


def test_a_header_alone_names_its_instrument_beside_others(tmp_path: Path) -> None:
    (tmp_path / "NIFTYJUNIOR.csv").write_text(BARS)
    (tmp_path / "SBIN.csv").write_text(BARS + "2016-09-30 09:15:00,1,1,1,1,1\n")
    recording = load(tmp_path)
    assert [instrument.symbol for instrument in recording.instruments] == ["NIFTYJUNIOR", "SBIN"]
    assert recording.problem_count == 1


def test_nothing_usable_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(ReferenceDataError, match=r"SBIN\.csv line 2: the price was 'x'"):
        load_text(tmp_path, BARS + "2016-09-30 09:15:00,x,1,1,1,1\n" * 5)
    with pytest.raises(ReferenceDataError, match="no file was given"):
        load()


def test_many_problems_are_counted_and_the_first_kept(tmp_path: Path) -> None:
    good = "2016-09-30 09:15:00,1,1,1,1,1\n"
    recording = load_text(tmp_path, BARS + "x,1,1,1,1,1\n" * 150 + good)
    assert recording.problem_count == 150
    assert [problem.line for problem in recording.problems] == list(range(2, 102))


bars = st.lists(
    st.tuples(
        st.integers(0, 2_000),
        st.lists(st.integers(1, 10_000), min_size=4, max_size=4),
        st.integers(0, 10**9),
    ),
    min_size=1,
    max_size=30,
    unique_by=lambda bar: bar[0],
)


@given(bars)
def test_the_ticks_add_up_to_the_bars(
    tmp_path_factory: pytest.TempPathFactory,
    bars: list[tuple[int, list[int], int]],
) -> None:
    """The day of the last tick is that of the bars; volume never falls; ltp is inside the day."""
    lines = []
    days: dict[str, list[tuple[float, float, float, float, int]]] = defaultdict(list)
    for minute, prices, volume in sorted(bars):
        low, one, two, high = (price / 20 for price in sorted(prices))
        start_ms = NINE_FIFTEEN_MS + minute * 60_000
        lines.append(f"{ist_datetime_text(start_ms)},{one},{high},{low},{two},{volume}\n")
        days[ist_date(start_ms)].append((one, high, low, two, volume))
    path = tmp_path_factory.getbasetemp() / "SBIN.csv"
    path.write_text(BARS + "".join(reversed(lines)))
    ticks: dict[str, list[Tick]] = defaultdict(list)
    for tick in load(path):
        ticks[ist_date(tick.exchange_ms)].append(tick)
    assert ticks.keys() == days.keys()
    for day, rows in days.items():
        last = ticks[day][-1]
        assert last.ltp == rows[-1][3]
        assert last.volume == sum(row[4] for row in rows)
        assert last.open == rows[0][0]
        assert last.high == max(row[1] for row in rows) == max(t.ltp for t in ticks[day])
        assert last.low == min(row[2] for row in rows) == min(t.ltp for t in ticks[day])
        for before, after in pairwise(ticks[day]):
            assert before.exchange_ms < after.exchange_ms
            assert (before.volume or 0) <= (after.volume or 0)


# ---------------------------------------------------------------- real recordings


def test_every_symbol_of_a_real_day_is_reproduced_exactly() -> None:
    """1-minute bars of 179 symbols (one file is empty, the indices are of another day)."""
    path = shared("data/bars/nse_1min_2016-09-30_179sym.tar.gz")
    expected: dict[str, tuple[float, float, float, float, int]] = {}
    bar_count = 0
    with tarfile.open(path) as archive:
        for member in archive:
            stream = archive.extractfile(member)
            if stream is None:
                continue
            rows = list(csv.DictReader(io.TextIOWrapper(stream), skipinitialspace=True))
            rows.sort(key=lambda row: row["Date"])
            bar_count += len(rows)
            symbol = Path(member.name).stem
            if rows:
                expected[symbol] = (
                    float(rows[0]["Open"]),
                    max(float(row["High"]) for row in rows),
                    min(float(row["Low"]) for row in rows),
                    float(rows[-1]["Close"]),
                    sum(int(row["Volume"]) for row in rows),
                )
    recording = load(path)
    assert len(recording.instruments) == 179
    assert recording.tick_count == 4 * bar_count
    assert recording.days == ("2016-09-12", "2016-09-30")
    assert [Path(problem.source).stem for problem in recording.problems] == ["NIFTYJUNIOR"]

    symbols = {instrument.key: instrument.symbol for instrument in recording.instruments}
    opens: dict[str, float] = {}
    seen: dict[str, list[float]] = defaultdict(list)
    last: dict[str, Tick] = {}
    before_ms = 0
    for tick in recording:
        assert tick.exchange_ms >= before_ms
        before_ms = tick.exchange_ms
        symbol = symbols[tick.key]
        opens.setdefault(symbol, tick.ltp)
        seen[symbol].append(tick.ltp)
        last[symbol] = tick
    assert set(last) == set(expected)
    assert len(expected) == 178
    for symbol, day in expected.items():
        tick = last[symbol]
        assert (tick.open, tick.high, tick.low, tick.ltp, tick.volume) == day
        assert (opens[symbol], max(seen[symbol]), min(seen[symbol])) == day[:3]


def test_real_future_ticks() -> None:
    recording = load(shared("data/ticks/icici_breeze_fut_ticks_2025-11-17.csv"))
    assert recording.tick_count == 5535
    assert {i.symbol for i in recording.instruments} == {"MCX", "RELIND", "TCS", "TRENT"}
    assert [problem.line for problem in recording.problems] == [184]
    first = next(iter(recording))
    assert (first.ltp, first.volume) == (9767.0, 349250)
    assert ist_datetime_text(first.exchange_ms) == "2025-11-17 12:07:57"


def test_real_index_seconds() -> None:
    day = shared("data/ticks/nifty_1s_2022/2022-11-10.csv")
    recording = load(day.parent)
    assert recording.instruments == (NIFTY,)
    assert recording.days == ("2022-08-12", "2022-08-29", "2022-11-10")
    assert recording.tick_count == 70_827
    assert recording.problem_count == 0
    times = [tick.exchange_ms for tick in recording]
    assert times == sorted(times)
    assert load(day, symbol="SBIN").instruments == (SBIN,)
