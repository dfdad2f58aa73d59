"""instruments and calendar, on small files and the shipped sample."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.support.shared import shared

DHAN = (
    "SEM_EXM_EXCH_ID,SEM_SEGMENT,SEM_SMST_SECURITY_ID,SEM_INSTRUMENT_NAME,SEM_EXPIRY_CODE,"
    "SEM_TRADING_SYMBOL,SEM_LOT_UNITS,SEM_CUSTOM_SYMBOL,SEM_EXPIRY_DATE,SEM_STRIKE_PRICE,"
    "SEM_OPTION_TYPE,SEM_TICK_SIZE,SEM_EXPIRY_FLAG,SEM_EXCH_INSTRUMENT_TYPE,SEM_SERIES,"
    "SM_SYMBOL_NAME\n"
)
SBIN = "NSE,E,3045,EQUITY,0,SBIN,1,State Bank of India,,,,5,NA,ES,EQ,STATE BANK OF INDIA\n"
SBIN_BSE = "BSE,E,500112,EQUITY,0,SBIN,1,State Bank of India,,,,5,NA,ES,A,STATE BANK OF INDIA\n"
OLDNAME = "NSE,E,77,EQUITY,0,OLDNAME,1,Some Company,,,,5,NA,ES,EQ,SOME COMPANY\n"
NEWNAME = OLDNAME.replace("OLDNAME", "NEWNAME")

DAILY = (
    "date,symbol,series,open,high,low,close,volume\n"
    "2025-09-03,SBIN,EQ,800,810,795,805,1000\n"
    "2025-09-04,SBIN,EQ,805,815,800,812,2000\n"
)


@pytest.fixture
def master(tmp_path: Path) -> Path:
    path = tmp_path / "master.csv"
    path.write_text(DHAN + SBIN + SBIN_BSE + OLDNAME)
    return path


# -------------------------------------------------------------------- instruments


def test_import_tells_what_changed(run: Run, master: Path) -> None:
    first = run("instruments", "import", master)
    assert first.exit_code == 0
    assert first.stdout.splitlines()[1:] == [
        "3 added, 0 changed, 0 renamed",
        "0 removed, 0 unchanged",
        "3 instruments are known now",
    ]
    master.write_text(DHAN + SBIN + SBIN_BSE + NEWNAME)
    assert "  OLDNAME is now NEWNAME (NSE)\n" in run("instruments", "import", master).stdout


def test_import_of_something_else_is_an_error_and_changes_nothing(run: Run, master: Path) -> None:
    run("instruments", "import", master)
    bad = Path("bad.csv")
    bad.write_text("a,b\n1,2\n")
    result = run("instruments", "import", bad)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: bad.csv is in no known format")
    assert run("instruments", "show", "OLDNAME").exit_code == 0


def test_import_of_a_file_that_is_not_there_is_wrong_usage(run: Run) -> None:
    assert run("instruments", "import", "no.csv").exit_code == 2
    assert run("instruments", "history", "no.csv").exit_code == 2


def test_import_into_a_database_that_is_named(run: Run, master: Path) -> None:
    assert run("instruments", "import", master, "--db", "other.db").exit_code == 0
    assert not Path("odin.db").exists()
    assert run("instruments", "show", "OLDNAME", "--db", "other.db").exit_code == 0


def test_history_saves_daily_bars(run: Run, master: Path) -> None:
    run("instruments", "import", master)
    daily = Path("daily.csv")
    daily.write_text(DAILY + "2025-09-04,NOBODY,EQ,1,1,1,1,1\n")
    result = run("instruments", "history", daily)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "1 files, 3 rows, 2 daily bars saved"
    assert "  NSE:NOBODY\n" in result.stdout
    assert json.loads(run("db", "status", "--json").stdout)["daily_bars"] == 2


def test_history_without_a_usable_row_is_an_error(run: Run) -> None:
    Path("daily.csv").write_text("x,y\n")
    result = run("instruments", "history", "daily.csv")
    assert result.exit_code == 1
    assert "no known columns of daily prices" in result.stderr


def test_search(run: Run, master: Path) -> None:
    run("instruments", "import", master)
    result = run("instruments", "search", "state bank")
    assert result.exit_code == 0
    heading, first, second = result.stdout.splitlines()
    assert heading.split() == [
        "SYMBOL", "EXCHANGE", "SEGMENT", "SERIES", "TOKEN", "KIND", "ISIN", "NAME",
    ]  # fmt: skip
    assert first.split()[:5] == ["SBIN", "NSE", "CM", "EQ", "3045"]
    assert second.split()[:5] == ["SBIN", "BSE", "CM", "A", "500112"]
    assert result.stderr == ""


def test_search_as_json_with_a_limit(run: Run, master: Path) -> None:
    run("instruments", "import", master)
    result = run("instruments", "search", "sbin", "--json", "--limit", "1")
    [line] = result.stdout.splitlines()
    row = json.loads(line)
    assert (row["symbol"], row["exchange"], row["segment"], row["token"]) == (
        "SBIN",
        "NSE",
        "CM",
        3045,
    )
    assert row["tick_size"] == 0.05


def test_search_without_a_match_names_what_is_near(run: Run) -> None:
    result = run("instruments", "search", "RELIANEC")
    assert result.exit_code == 1
    assert "error: No instrument matches RELIANEC; near: RELIANCE" in result.stderr


def test_without_a_database_the_sample_is_shown_and_none_is_made(run: Run) -> None:
    result = run("instruments", "show", "SBIN")
    assert result.exit_code == 0
    assert result.stderr == "No instrument master was imported: this is the built-in sample\n"
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("name", ["SBIN", "sbin", "3045", "NSE:SBIN", "SBIN (NSE)", "1_3045"])
def test_show_understands_what_the_server_understands(name: str, run: Run, master: Path) -> None:
    run("instruments", "import", master)
    lines = run("instruments", "show", name).stdout.splitlines()
    fields = dict(line.split(None, 1) for line in lines[: lines.index("")] if " " in line)
    assert (fields["symbol"], fields["exchange"], fields["token"]) == ("SBIN", "NSE", "3045")
    assert (fields["series"], fields["isin"]) == ("EQ", "-")
    assert lines[lines.index("") + 1] == "With the same symbol:"
    assert lines[-1].split()[:5] == ["SBIN", "BSE", "CM", "A", "500112"]


def test_show_what_is_listed_once(run: Run, master: Path) -> None:
    run("instruments", "import", master)
    assert "With the same symbol" not in run("instruments", "show", "77").stdout


def test_show_as_json(run: Run, master: Path) -> None:
    run("instruments", "import", master)
    shown = json.loads(run("instruments", "show", "BSE:500112", "--json").stdout)
    assert (shown["symbol"], shown["exchange"], shown["token"]) == ("SBIN", "BSE", 500112)
    assert [other["token"] for other in shown["others"]] == [3045]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("SBIM", "error: No instrument is called SBIM; near: SBIN"),
        ("99999999", "error: No instrument has the token 99999999"),
        ("XYZ:SBIN", "error: No exchange or segment is called "),
        ("", "error: A stock is a symbol or token of 1 to 64 characters"),
    ],
)
def test_show_what_is_not_known(name: str, problem: str, run: Run) -> None:
    result = run("instruments", "show", name)
    assert result.exit_code == 1
    assert problem in result.stderr


def test_a_whole_master_is_imported_and_found(run: Run) -> None:
    path = shared("data/instruments/dhan_scrip_master_2026-07-01.csv")
    assert run("instruments", "import", path).exit_code == 0
    shown = json.loads(run("instruments", "show", "RELIANCE", "--json").stdout)
    assert shown["token"] == 2885
    assert {"exchange": "BSE", "token": 500325}.items() <= shown["others"][0].items()


# -------------------------------------------------------------------- calendar


@pytest.mark.parametrize(
    ("date", "first", "more"),
    [
        ("2025-09-04", "2025-09-04 Thursday: trading", "hours: 09:15 - 15:30 IST"),
        ("2025-09-06", "2025-09-06 Saturday: closed", ""),
        ("2024-11-01", "2024-11-01 Friday: trading, ", "18:00 - 19:00"),
        ("2025-10-02", "2025-10-02 Thursday: closed, ", ""),
        ("2031-01-01", "2031-01-01 Wednesday: trading", "not known: "),
    ],
)
def test_calendar_show_tells_what_a_day_is(date: str, first: str, more: str, run: Run) -> None:
    result = run("calendar", "show", date)
    assert result.exit_code == 0
    assert result.stdout.startswith(first)
    assert more in result.stdout
    assert "\nknown until" in result.stdout


def test_calendar_show_without_a_date_is_today(run: Run) -> None:
    result = run("calendar", "show")
    assert result.exit_code == 0
    assert "\nnow " in result.stdout


def test_calendar_show_as_json(run: Run) -> None:
    day = json.loads(run("calendar", "show", "2024-03-02", "--json").stdout)
    assert day["date"] == "2024-03-02"
    assert day["is_trading"] is True
    assert len(day["windows"]) == 2
    assert day["known_through"] >= "2026-12-31"


@pytest.mark.parametrize("by_setting", [False, True])
def test_days_of_an_operators_file(by_setting: bool, run: Run) -> None:
    Path("days.toml").write_text(
        '[[day]]\nexchange = "NSE"\ndate = 2026-12-01\nname = "Election"\nclosed = true\n'
    )
    if by_setting:
        result = run(
            "calendar", "show", "2026-12-01", env={"ODIN_MARKET__CALENDAR_FILE": "days.toml"}
        )
    else:
        result = run("calendar", "show", "2026-12-01", "--file", "days.toml")
    assert result.stdout.startswith("2026-12-01 Tuesday: closed, Election\n")


@pytest.mark.parametrize("exchange", ["BSE", "bse", "nse"])
def test_every_exchange_has_its_calendar(exchange: str, run: Run) -> None:
    assert run("calendar", "show", "2025-09-04", "--exchange", exchange).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("2025-13-01",), "2025-13-01"),
        (("soon",), "soon"),
        (("--exchange", "LSE"), "There is no calendar for LSE"),
    ],
)
def test_calendar_show_of_what_is_none(arguments: tuple[str, ...], problem: str, run: Run) -> None:
    result = run("calendar", "show", *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert problem in result.stderr


def test_every_problem_of_an_operators_file_is_told(run: Run) -> None:
    Path("days.toml").write_text('[[day]]\nexchange = "NSE"\n[[days]]\n')
    result = run("calendar", "show", "--file", "days.toml")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) >= 2
