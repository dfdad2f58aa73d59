import gzip
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin.errors import ReferenceDataError
from odin.market import masters
from odin.market.master_formats import Detail
from odin.market.masters import BadRow, Master, merge, parse_master, parse_sample
from odin.model import Instrument, InstrumentKey
from tests.market.test_master_formats import ANGEL, DHAN, EQUITY_L, parse
from tests.support.shared import shared


class TestBadRows:
    @pytest.mark.parametrize(
        ("row", "problem"),
        [
            ("NSE,E,12x", "the number of columns was 3, not that of the header"),
            (
                "NSE,E,5,EQUITY,0,A,1,Name, with a comma,,,,5,NA,ES,EQ,B",
                "the number of columns was 17, not that of the header",
            ),
            (
                "NSE,E,12x,EQUITY,0,A,1,A,,,,5,NA,ES,EQ,B",
                "SEM_SMST_SECURITY_ID was not a number of up to 18 digits: 12x",
            ),
            (
                "NSE,E,-5,EQUITY,0,A,1,A,,,,5,NA,ES,EQ,B",
                "SEM_SMST_SECURITY_ID was not a number of up to 18 digits: -5",
            ),
            (
                f"NSE,E,{'1' * 19},EQUITY,0,A,1,A,,,,5,NA,ES,EQ,B",
                f"SEM_SMST_SECURITY_ID was not a number of up to 18 digits: {'1' * 19}",
            ),
            ("NSE,E,,EQUITY,0,A,1,A,,,,5,NA,ES,EQ,B", "SEM_SMST_SECURITY_ID was empty"),
            (
                "NSE,E,5,EQUITY,0, ,1,A,,,,5,NA,ES,EQ,B",
                "SEM_TRADING_SYMBOL was not a symbol of 1 to 64 characters: ",
            ),
            (
                "NSE,E,5,EQUITY,0,A\x07,1,A,,,,5,NA,ES,EQ,B",
                "SEM_TRADING_SYMBOL was not a symbol of 1 to 64 characters: A\\x07",
            ),
            (
                "LSE,E,5,EQUITY,0,A,1,A,,,,5,NA,ES,EQ,B",
                "SEM_EXM_EXCH_ID was not a known exchange: LSE",
            ),
            ("NSE,Q,5,EQUITY,0,A,1,A,,,,5,NA,ES,EQ,B", "SEM_SEGMENT was not known: Q"),
            ("NSE,E,5,EQUITY,0,A,1,A,,,,x,NA,ES,EQ,B", "SEM_TICK_SIZE was not a number: x"),
            ("NSE,E,5,EQUITY,0,A,1,A,,,,nan,NA,ES,EQ,B", "SEM_TICK_SIZE was not a number: nan"),
            ("NSE,E,5,EQUITY,0,A,-1,A,,,,5,NA,ES,EQ,B", "SEM_LOT_UNITS was not a number: -1"),
            ("NSE,E,5,EQUITY,0,A,inf,A,,,,5,NA,ES,EQ,B", "SEM_LOT_UNITS was not a number: inf"),
            (
                "NSE,E,2885,EQUITY,0,OTHER,1,A,,,,5,NA,ES,EQ,B",
                "duplicate: NSE CM 2885 was listed before, as RELIANCE",
            ),
        ],
    )
    def test_are_counted_with_their_line(self, row: str, problem: str) -> None:
        good = parse(DHAN)
        master = parse(DHAN + row + "\n" + "NSE,E,7,EQUITY,0,LAST,1,Last,,,,5,NA,ES,EQ,LAST\n")
        assert master.bad_rows == [BadRow(11, problem)]
        assert master.rows == 11
        assert master.instruments[:-1] == good.instruments
        assert master.instruments[-1].symbol == "LAST"

    def test_the_line_is_that_of_the_file_even_behind_line_breaks_in_quotes(self) -> None:
        rows = 'A,"Two\nlines",EQ,,1,1,INE002A01018,1\nB,B,EQ,,1,1,nonsense,1\n'
        master = parse(EQUITY_L + rows)
        assert master.bad_rows == [BadRow(7, "ISIN NUMBER was not an ISIN: nonsense")]

    def test_the_same_token_in_another_segment_is_no_duplicate(self) -> None:
        index = "NSE,I,2885,INDEX,0,ODD,1,Odd,,,XX,0,,INDEX,X,ODD\n"
        master = parse(DHAN + index)
        assert master.bad_rows == []
        assert master.instruments[-1].tick_size == 0.05

    def test_duplicates_in_a_file_without_tokens(self) -> None:
        master = parse(EQUITY_L + "SBIN,Another,EQ,,1,1,INE002A01018,1\n")
        assert master.bad_rows == [BadRow(5, "duplicate: SBIN EQ was listed before, as SBIN")]
        assert master.details[1].isin == "INE062A01020"

    def test_elements_of_an_array_are_counted_from_one(self) -> None:
        master = parse(
            [*ANGEL[:1], 5, None, "text", {"token": "7"}, {"token": "8", "exch_seg": "NSE"}]
        )
        assert master.bad_rows == [
            BadRow(2, "a row was not an object: 5"),
            BadRow(3, "a row was not an object: None"),
            BadRow(4, "a row was not an object: text"),
            BadRow(5, "exch_seg was not a known exchange segment: "),
            BadRow(6, "symbol was not a symbol of 1 to 64 characters: "),
        ]
        assert len(master.instruments) == 1

    def test_bytes_that_are_not_utf_8_spoil_only_themselves(self) -> None:
        master = parse_master(DHAN.encode().replace(b"Reliance I", b"Reliance\xff"))
        assert master.instruments[0].name == "Reliance�ndustries"


class TestUnusableFiles:
    @pytest.mark.parametrize(
        ("data", "problem"),
        [
            (b"", "x.csv is empty"),
            (b" \n \n", "x.csv is empty"),
            (gzip.compress(b""), "x.csv is empty"),
            (gzip.compress(DHAN.encode())[:100], "x.csv is a damaged gzip file"),
            (b"\x1f\x8bnonsense", "x.csv is a damaged gzip file"),
            (b"[{]", "x.csv is not valid JSON"),
            (b'{"status": "error"}', "x.csv is JSON, but not an array of instruments"),
            (b"[]", "x.csv is in no known format.*its columns were: none"),
            (b'[{"a": 1, "b": 2}]', "x.csv is in no known format.*its columns were: a, b"),
            (b"date,open\n1,2\n", "x.csv is in no known format.*its columns were: date, open"),
            (DHAN.partition("\n")[0].encode(), r"no usable row among its 0 \(dhan format\)$"),
            (
                EQUITY_L.partition("\n")[0].encode() + b"\nA\n",
                r"no usable row among its 1 \(nse_equity_l format\), line 2: the number of col",
            ),
            (
                EQUITY_L.encode() + b'A,"' + b"x" * 200_000,
                "x.csv is not readable CSV in line 5: field larger than field limit",
            ),
        ],
    )
    def test_are_refused_with_the_reason(self, data: bytes, problem: str) -> None:
        with pytest.raises(ReferenceDataError, match=problem):
            parse_master(data, name="x.csv")

    def test_the_known_formats_are_named(self) -> None:
        with pytest.raises(ReferenceDataError) as refusal:
            parse(f"A,{'B' * 5000}\n1,2\n")
        text = str(refusal.value)
        assert "Dhan CSV, Zerodha CSV, Upstox CSV, NSE EQUITY_L.csv, Angel JSON" in text
        assert len(text) < 500

    def test_a_bomb_is_not_unpacked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(masters, "MAX_MASTER_BYTES", 10_000)
        bomb = gzip.compress(b"a" * 10_001)
        assert len(bomb) < 100
        for data in (bomb, b"a" * 10_001):
            with pytest.raises(ReferenceDataError, match="larger than 10,000 bytes unpacked"):
                parse_master(data)

    def test_progress_is_told_along_the_way_and_at_the_end(self) -> None:
        header = EQUITY_L.partition("\n")[0]
        rows = "".join(f"\nS{n},Name,EQ,,1,1,INE002A01018,1" for n in range(2500))
        told: list[tuple[int, int]] = []
        parse_master((header + rows).encode(), progress=lambda *at: told.append(at))
        assert told == [(1000, 2500), (2000, 2500), (2500, 2500)]
        told.clear()
        parse_master(json.dumps(ANGEL).encode(), progress=lambda *at: told.append(at))
        assert told == [(8, 8)]

    def test_a_broken_sample_says_where(self) -> None:
        header = (
            "exchange,segment,token,symbol,series,name,isin,kind,tick_size,lot_size,reference_close"
        )
        good = "\nNSE,CM,3045,SBIN,EQ,State Bank of India,INE062A01020,equity,0.05,1,967.85"
        assert parse_sample(header + good) == [
            Instrument(
                InstrumentKey("NSE", "CM", 3045),
                "SBIN",
                "EQ",
                "State Bank of India",
                "INE062A01020",
                reference_close=967.85,
            )
        ]
        with pytest.raises(ReferenceDataError, match="broken in line 3: token was empty"):
            parse_sample(header + good + "\nNSE,CM,,X,EQ,,,equity,0.05,1,")

    @given(st.binary() | st.text().map(str.encode))
    def test_any_bytes_are_read_or_refused(self, data: bytes) -> None:
        for given_data in (data, b"[" + data, DHAN.encode() + data, gzip.compress(data)):
            try:
                master = parse_master(given_data)
            except ReferenceDataError:
                continue
            assert len(master.instruments) + len(master.bad_rows) == master.rows

    @given(
        st.lists(
            st.dictionaries(
                st.sampled_from(sorted(ANGEL[0])),
                st.one_of(
                    st.none(), st.text(max_size=5), st.integers(), st.floats(), st.just("NSE")
                ),
            ),
            max_size=5,
        )
    )
    def test_any_row_is_read_or_counted(self, rows: list[dict[str, object]]) -> None:
        known = {(i.key, i.symbol) for i in parse(ANGEL).instruments}
        content = json.dumps([*ANGEL, *rows], allow_nan=True)
        try:
            master = parse_master(content.encode())
        except ReferenceDataError as error:
            assert "not valid JSON" in str(error)  # NaN, or integers past 64 bits
            return
        assert master.rows == len(ANGEL) + len(rows)
        assert len(master.instruments) + len(master.bad_rows) == master.rows
        assert known <= {(i.key, i.symbol) for i in master.instruments}


SBIN = Instrument(InstrumentKey("NSE", "CM", 3045), "SBIN", "EQ", "State Bank of India")
GONE = Instrument(InstrumentKey("NSE", "CM", 77), "GONE", "EQ")
ON_BSE = Instrument(InstrumentKey("BSE", "CM", 500112), "SBIN", "A")
INDEX = Instrument(InstrumentKey("NSE", "INDEX", 13), "NIFTY", kind="index")


def with_(instrument: Instrument, **changes: object) -> Instrument:
    fields = {name: getattr(instrument, name) for name in Instrument.__slots__}
    return Instrument(**{**fields, **changes})  # type: ignore[arg-type]


class TestMerge:
    def test_into_nothing_everything_is_added(self) -> None:
        change = merge([], Master("dhan", [SBIN, ON_BSE]))
        assert change.upserts == [SBIN, ON_BSE]
        assert change[1:] == ([], 2, 0, 0, 0, [], 0)

    def test_the_same_again_changes_nothing(self) -> None:
        change = merge([SBIN, ON_BSE], Master("dhan", [ON_BSE, SBIN]))
        assert change == ([], [], 0, 0, 0, 2, [], 0)

    def test_each_kind_of_change_is_counted_once(self) -> None:
        renamed = with_(SBIN, symbol="STATEBANK", name="State Bank")
        changed = with_(ON_BSE, tick_size=0.01)
        added = with_(GONE, key=InstrumentKey("NSE", "CM", 5))
        change = merge([SBIN, GONE, ON_BSE, INDEX], Master("x", [renamed, changed, added, INDEX]))
        assert change.upserts == [renamed, changed, added]
        assert change.removed == [GONE]
        assert change.renames == [("SBIN", renamed)]
        assert change[2:6] == (1, 1, 1, 1)

    def test_what_the_file_does_not_cover_stays(self) -> None:
        change = merge([SBIN, GONE, ON_BSE, INDEX], Master("dhan", [SBIN]))
        assert change.removed == [GONE]
        assert change.upserts == []

    def test_known_isin_and_close_survive_a_row_without_them(self) -> None:
        known = with_(SBIN, isin="INE062A01020", reference_close=967.85)
        assert merge([known], Master("dhan", [SBIN])).unchanged == 1
        renamed = with_(SBIN, symbol="STATEBANK")
        (upsert,) = merge([known], Master("dhan", [renamed])).upserts
        assert upsert == with_(known, symbol="STATEBANK")
        newer = with_(SBIN, isin="INE062A01038", reference_close=1.5)
        assert merge([known], Master("upstox", [newer])).upserts == [newer]

    def test_details_change_known_nse_shares_only(self) -> None:
        other_series = with_(SBIN, key=InstrumentKey("NSE", "CM", 9), series="BE")
        details = [
            Detail("SBIN", "EQ", "State Bank", "INE062A01020"),
            Detail("SBIN", "A", "Not of BSE", "INE002A01018"),
            Detail("NIFTY", "", "Not an index", "INE002A01018"),
        ]
        master = Master("nse_equity_l", details=details)
        change = merge([SBIN, other_series, ON_BSE, INDEX], master)
        completed = with_(SBIN, name="State Bank", isin="INE062A01020")
        assert change == ([completed], [], 0, 1, 0, 0, [], 2)
        assert merge([completed, ON_BSE], master).unchanged == 1

    def test_applying_the_change_leads_to_the_master(self) -> None:
        old, new = parse(DHAN), parse(DHAN.replace("RELIANCE,1", "RIL,1").replace(",13,", ",14,"))
        change = merge(old.instruments, new)
        now = {i.key: i for i in old.instruments}
        for instrument in change.removed:
            del now[instrument.key]
        now |= {i.key: i for i in change.upserts}
        assert sorted(now.values(), key=lambda i: i.key) == sorted(
            new.instruments, key=lambda i: i.key
        )
        assert [old for old, _ in change.renames] == ["RELIANCE"]


@pytest.fixture(scope="module")
def new() -> Master:
    path = shared("data/instruments/dhan_scrip_master_2026-07-01.csv")
    return parse_master(path.read_bytes())


@pytest.fixture(scope="module")
def old() -> Master:
    path = shared("data/instruments/dhan_scrip_master_nse_2025-08-09.csv")
    return parse_master(path.read_bytes())


class TestRealMasters:
    def test_every_row_is_understood(self, new: Master, old: Master) -> None:
        assert (new.format, new.rows, new.bad_rows) == ("dhan", 23_116, [])
        assert (old.rows, old.bad_rows) == (8_326, [])
        places: dict[tuple[str, str], int] = {}
        for instrument in new.instruments:
            place = instrument.key[:2]
            places[place] = places.get(place, 0) + 1
        assert places == {
            ("NSE", "CM"): 9_586,
            ("BSE", "CM"): 13_339,
            ("NSE", "INDEX"): 119,
            ("BSE", "INDEX"): 72,
        }
        assert all(0.01 <= i.tick_size <= 5 for i in new.instruments)

    def test_is_read_well_under_a_second(self) -> None:
        data = shared("data/instruments/dhan_scrip_master_2026-07-01.csv").read_bytes()
        start = time.perf_counter()
        parse_master(data)
        assert time.perf_counter() - start < 1.5

    def test_eleven_months_of_renames_and_delistings(self, old: Master, new: Master) -> None:
        change = merge(old.instruments, new)
        renames = dict(change.renames)
        assert change.renamed == len(renames) == 51
        assert (renames["TATAMOTORS"].symbol, renames["TATAMOTORS"].token) == ("TMPV", "3456")
        assert (renames["LTIM"].symbol, renames["LTIM"].token) == ("LTM", "17818")
        assert renames["JCHAC"].symbol == "BOSCH-HCIL"
        gone = {instrument.symbol for instrument in change.removed if instrument.series == "EQ"}
        assert {"QUICKHEAL", "GSPL", "SDL26BEES"} <= gone
        assert len(change.removed) == 1_007
        on_nse = [i for i in change.upserts if i.key[:2] == ("NSE", "CM")]
        assert change.renamed + change.changed + change.unchanged == 7_319
        assert len(on_nse) == 2_267 + change.renamed + change.changed
        assert change.added == 23_116 - 7_319

    def test_an_nse_file_removes_nothing_of_bse(self, old: Master, new: Master) -> None:
        change = merge(new.instruments, old)
        assert {instrument.key[:2] for instrument in change.removed} == {("NSE", "CM")}
        assert len(change.removed) == 2_267

    def test_isins_from_the_list_of_equities(self, new: Master) -> None:
        details = parse_master(shared("data/instruments/nse_EQUITY_L.csv").read_bytes())
        assert (details.format, details.rows, details.bad_rows) == ("nse_equity_l", 2_384, [])
        change = merge(new.instruments, details)
        assert change.changed + change.unmatched == 2_384
        assert change.changed == 2_325
        completed = {i.key: i for i in change.upserts}
        reliance = completed[InstrumentKey("NSE", "CM", 2885)]
        assert (reliance.isin, reliance.name) == ("INE002A01018", "Reliance Industries Limited")
        assert {key[:2] for key in completed} == {("NSE", "CM")}
        again = merge({**{i.key: i for i in new.instruments}, **completed}.values(), details)
        assert (again.unchanged, again.upserts) == (2_325, [])
