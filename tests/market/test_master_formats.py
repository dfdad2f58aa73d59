import gzip
import json

import pytest

from odin.market.master_formats import Detail
from odin.market.masters import BadRow, Master, parse_master
from odin.model import Instrument, InstrumentKey

DHAN = """\
SEM_EXM_EXCH_ID,SEM_SEGMENT,SEM_SMST_SECURITY_ID,SEM_INSTRUMENT_NAME,SEM_EXPIRY_CODE,\
SEM_TRADING_SYMBOL,SEM_LOT_UNITS,SEM_CUSTOM_SYMBOL,SEM_EXPIRY_DATE,SEM_STRIKE_PRICE,\
SEM_OPTION_TYPE,SEM_TICK_SIZE,SEM_EXPIRY_FLAG,SEM_EXCH_INSTRUMENT_TYPE,SEM_SERIES,SM_SYMBOL_NAME
NSE,E,2885,EQUITY,0,RELIANCE,1,Reliance Industries,,,,10,NA,ES,EQ,RELIANCE INDUSTRIES LTD
BSE,E,500112,EQUITY,0,SBIN,1,,,,,5,NA,ES,A,STATE BANK OF INDIA
NSE,E,19257,EQUITY,0,CHOLAFIN,1,CIFCL-7.5%-30092026-NCD,,,,5,NA,DEB,D1,CHOLAMANDALAM
NSE,E,10576,EQUITY,0,NIFTYBEES,1,Nippon Nifty 50 ETF,,,,1,NA,ETF,EQ,NIP IND ETF NIFTY BEES
NSE,I,13,INDEX,0,NIFTY,1,Nifty 50,0001-01-01,,XX,0.05,,INDEX,X,NIFTY
NSE,D,35001,FUTIDX,0,NIFTY-Jul2026-FUT,75.0,NIFTY JUL FUT,2026-07-28,,XX,10.0000,M,FUT,,NIFTY
NSE,D,35002,OPTSTK,0,SBIN-Jul2026-800-CE,750.0,SBIN 28 JUL 800 CALL,,800,CE,5.0000,M,OP,,SBIN
NSE,C,1234,FUTCUR,0,USDINR-Jul2026-FUT,1.0,USDINR JUL FUT,,,XX,0.2500,M,FUT,,USDINR
MCX,M,5678,FUTCOM,0,GOLD-Aug2026-FUT,100.0,GOLD AUG FUT,,,XX,100.0000,M,FUT,,GOLD
"""
KITE = """\
instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,lot_size,\
instrument_type,segment,exchange
779521,3045,SBIN,STATE BANK OF INDIA,0,,0,0.05,1,EQ,NSE,NSE
128028676,500112,SBIN,STATE BANK OF INDIA,812.5,,0,0.05,1,EQ,BSE,BSE
4268801,16675,BAJAJ-AUTO,BAJAJ AUTO,0,,0,0.05,1,EQ,NSE,NSE
5193217,20286,JAIPURKURT-BE,JAIPUR KURTI,0,,0,0.05,1,EQ,NSE,NSE
3865345,15099,734AP33-SG,SDL AP 7.34% 2033,0,,0,0.01,100,EQ,NSE,NSE
193061121,754145,SUMEET-RE,SUMEET INDUSTRIES RE,0,,0,0.01,1,EQ,NSE,NSE
256265,1001,NIFTY 50,NIFTY 50,0,,0,0,0,EQ,INDICES,NSE
12378626,48354,NIFTY17JAN8300PE,,31.0,2017-01-25,8300.0,0.05,75,PE,NFO-OPT,NFO
1234,5,USDINR26SEPFUT,USDINR,0,2026-09-26,0,0.0025,1,FUT,CDS-FUT,CDS
20000,78,GOLD26AUGFUT,GOLD,0,2026-08-28,0,1,100,FUT,MCX-FUT,MCX
"""
ANGEL = [
    {
        "token": "1008",
        "symbol": "FACT-EQ",
        "name": "FACT",
        "expiry": "",
        "strike": "-1.000000",
        "lotsize": "1",
        "instrumenttype": "",
        "exch_seg": "NSE",
        "tick_size": "5.000000",
        "freeze_qty": "125531",
        "is_cas_enabled": False,
    },
    {"token": "2885", "symbol": "RELIANCE-EQ", "exch_seg": "NSE", "tick_size": "10.000000"},
    {"token": "754145", "symbol": "SUMEET-RE-BE", "exch_seg": "NSE"},
    {"token": "16669", "symbol": "BAJAJ-AUTO-EQ", "name": "BAJAJ-AUTO", "exch_seg": "NSE"},
    {"token": "500325", "symbol": "RELIANCE", "name": "RELIANCE", "exch_seg": "BSE"},
    {
        "token": "99926000",
        "symbol": "Nifty 50",
        "name": "NIFTY",
        "instrumenttype": "AMXIDX",
        "exch_seg": "NSE",
        "tick_size": "0.000000",
    },
    {
        "token": "48354",
        "symbol": "NIFTY28JUL2624000CE",
        "lotsize": "75",
        "instrumenttype": "OPTIDX",
        "exch_seg": "NFO",
        "tick_size": "5.000000",
    },
    {
        "token": "1234",
        "symbol": "USDINR26JULFUT",
        "instrumenttype": "FUTCUR",
        "exch_seg": "CDS",
        "tick_size": "0.250000",
    },
]
UPSTOX_CSV = """\
"instrument_key","exchange_token","tradingsymbol","name","last_price","expiry","strike",\
"tick_size","lot_size","instrument_type","option_type","exchange"
"NSE_EQ|INE002A01018","2885","RELIANCE","Reliance Industries","1365.5","","",0.05,1,"EQUITY","",\
"NSE_EQ"
"BSE_EQ|INE062A01020","500112","SBIN","State Bank of India","0","","",0.05,1,"EQUITY","","BSE_EQ"
"NSE_EQ|IN2920250163","758719","749RJ35","SDL RJ 7.49% 2035","","","",0.01,100,"BOND","","NSE_EQ"
"NSE_INDEX|Nifty 50","","Nifty 50","Nifty 50","","","",0,0,"INDEX","","NSE_INDEX"
"NSE_FO|54321","54321","NIFTY26JUL24500CE","","","2026-07-28","24500",0.05,75,"OPTIDX","CE","NSE_FO"
"""
UPSTOX = [
    {
        "segment": "NSE_EQ",
        "name": "JOCIL LIMITED",
        "exchange": "NSE",
        "isin": "INE839G01010",
        "instrument_type": "BE",
        "instrument_key": "NSE_EQ|INE839G01010",
        "lot_size": 1,
        "exchange_token": "16927",
        "tick_size": 1.0,
        "trading_symbol": "JOCIL",
    },
    {
        "segment": "BSE_INDEX",
        "name": "AUTO",
        "instrument_type": "INDEX",
        "instrument_key": "BSE_INDEX|AUTO",
        "exchange_token": 13,
        "trading_symbol": "AUTO",
    },
    {
        "segment": "NSE_INDEX",
        "name": "Nifty 50",
        "instrument_type": "INDEX",
        "instrument_key": "NSE_INDEX|Nifty 50",
        "trading_symbol": "NIFTY",
    },
    {
        "segment": "NSE_FO",
        "name": "VODAFONE IDEA LIMITED",
        "expiry": 1706207399000,
        "instrument_type": "CE",
        "instrument_key": "NSE_FO|36708",
        "lot_size": 80000,
        "exchange_token": "36708",
        "tick_size": 5.0,
        "trading_symbol": "IDEA 22 CE 25 JAN 24",
    },
]
EQUITY_L = """\
SYMBOL,NAME OF COMPANY, SERIES, DATE OF LISTING, PAID UP VALUE, MARKET LOT, ISIN NUMBER, FACE VALUE
RELIANCE,Reliance Industries Limited,EQ,29-NOV-1995,10,1,INE002A01018,10
SBIN,"State Bank, of India",EQ,01-MAR-1995,1,1,INE062A01020,1
DCM,DCM Limited,BE,01-JAN-2000,10,1,INE498A01018,10
"""


def parse(content: object) -> Master:
    if isinstance(content, str):
        return parse_master(content.encode())
    return parse_master(json.dumps(content).encode())


def by_token(master: Master) -> dict[str, Instrument]:
    return {instrument.token: instrument for instrument in master.instruments}


class TestFormats:
    def test_dhan(self) -> None:
        master = parse(DHAN)
        assert (master.format, master.rows, master.bad_rows) == ("dhan", 9, [])
        found = by_token(master)
        assert found["2885"] == Instrument(
            InstrumentKey("NSE", "CM", 2885),
            "RELIANCE",
            "EQ",
            "Reliance Industries",
            kind="equity",
            tick_size=0.1,
        )
        assert found["500112"].name == "STATE BANK OF INDIA"
        assert found["500112"].key == ("BSE", "CM", 500112)
        assert [found[t].kind for t in ("19257", "10576", "13")] == ["debt", "etf", "index"]
        assert found["13"].key.segment == "INDEX"
        assert (found["13"].series, found["13"].tick_size) == ("", 0.05)
        assert found["35001"].key == ("NSE", "FO", 35001)
        assert (found["35001"].symbol, found["35001"].kind) == ("NIFTY-JUL2026-FUT", "future")
        assert (found["35001"].lot_size, found["35001"].tick_size) == (75, 0.1)
        assert found["35002"].kind == "option"
        assert (found["1234"].key.segment, found["1234"].tick_size) == ("CD", 0.0025)
        assert (found["5678"].key[:2], found["5678"].tick_size) == (("MCX", "CO"), 1.0)

    def test_zerodha(self) -> None:
        master = parse(KITE)
        assert (master.format, master.rows, master.bad_rows) == ("zerodha", 10, [])
        found = by_token(master)
        assert found["3045"] == Instrument(
            InstrumentKey("NSE", "CM", 3045), "SBIN", "EQ", "STATE BANK OF INDIA"
        )
        assert (found["500112"].series, found["500112"].reference_close) == ("", 812.5)
        assert (found["16675"].symbol, found["16675"].series) == ("BAJAJ-AUTO", "EQ")
        assert (found["20286"].symbol, found["20286"].series) == ("JAIPURKURT", "BE")
        assert (found["15099"].series, found["15099"].kind) == ("SG", "debt")
        assert found["754145"].symbol == "SUMEET-RE"
        assert found["1001"].key == ("NSE", "INDEX", 1001)
        assert (found["1001"].kind, found["1001"].tick_size) == ("index", 0.05)
        assert found["1001"].lot_size == 1
        assert (found["48354"].key.segment, found["48354"].kind) == ("FO", "option")
        assert (found["5"].key[:2], found["5"].tick_size) == (("NSE", "CD"), 0.0025)
        assert found["78"].key[:2] == ("MCX", "CO")

    def test_angel(self) -> None:
        master = parse(ANGEL)
        assert (master.format, master.rows, master.bad_rows) == ("angel", 8, [])
        found = by_token(master)
        assert found["1008"] == Instrument(InstrumentKey("NSE", "CM", 1008), "FACT", "EQ", "FACT")
        assert found["2885"].tick_size == 0.1
        assert (found["754145"].symbol, found["754145"].series) == ("SUMEET-RE", "BE")
        assert (found["16669"].symbol, found["16669"].series) == ("BAJAJ-AUTO", "EQ")
        assert found["500325"].key == ("BSE", "CM", 500325)
        assert found["99926000"].key.segment == "INDEX"
        assert (found["99926000"].symbol, found["99926000"].tick_size) == ("NIFTY 50", 0.05)
        assert (found["48354"].key.segment, found["48354"].lot_size) == ("FO", 75)
        assert (found["1234"].key.segment, found["1234"].tick_size) == ("CD", 0.0025)

    def test_upstox_csv(self) -> None:
        master = parse(UPSTOX_CSV)
        assert (master.format, master.rows) == ("upstox", 5)
        assert master.bad_rows == [BadRow(5, "exchange_token was empty")]
        found = by_token(master)
        assert found["2885"] == Instrument(
            InstrumentKey("NSE", "CM", 2885),
            "RELIANCE",
            "EQ",
            "Reliance Industries",
            "INE002A01018",
            reference_close=1365.5,
        )
        assert (found["500112"].isin, found["500112"].series) == ("INE062A01020", "")
        assert found["500112"].reference_close is None
        assert (found["758719"].kind, found["758719"].series) == ("other", "")
        assert (found["54321"].kind, found["54321"].isin) == ("option", "")

    def test_upstox_json(self) -> None:
        master = parse(UPSTOX)
        assert (master.format, master.rows) == ("upstox", 4)
        assert master.bad_rows == [BadRow(3, "exchange_token was empty")]
        found = by_token(master)
        assert found["16927"] == Instrument(
            InstrumentKey("NSE", "CM", 16927),
            "JOCIL",
            "BE",
            "JOCIL LIMITED",
            "INE839G01010",
            tick_size=0.01,
        )
        assert found["13"].key == ("BSE", "INDEX", 13)
        assert (found["36708"].kind, found["36708"].lot_size) == ("option", 80000)

    def test_equity_l(self) -> None:
        master = parse(EQUITY_L)
        assert (master.format, master.rows) == ("nse_equity_l", 3)
        assert master.instruments == master.bad_rows == []
        assert master.details[1] == Detail("SBIN", "EQ", "State Bank, of India", "INE062A01020")

    @pytest.mark.parametrize("content", [DHAN, KITE, ANGEL, UPSTOX_CSV, UPSTOX, EQUITY_L])
    def test_the_container_does_not_matter(self, content: object) -> None:
        plain = content if isinstance(content, str) else json.dumps(content)
        expected = parse(content)
        assert parse_master(gzip.compress(plain.encode())) == expected
        assert parse_master(b"\xef\xbb\xbf" + plain.encode()) == expected
        assert parse_master(plain.replace("\n", "\r\n").encode()) == expected

    def test_columns_may_come_in_another_order_and_with_blanks(self) -> None:
        lines = [line.split(",") for line in KITE.splitlines()]
        turned = "\n".join(" , ".join(line[::-1]) for line in lines)
        assert parse(turned).instruments == parse(KITE).instruments

    def test_blank_lines_do_not_count(self) -> None:
        master = parse("\n\n" + DHAN.replace("\n", "\n\n"))
        assert (master.rows, master.bad_rows) == (9, [])
        assert master.instruments == parse(DHAN).instruments
