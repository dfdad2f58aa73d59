import json
import os
import subprocess
import sys
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
import pytz
from hypothesis import given
from hypothesis import strategies as st

import odin.market
from odin.errors import ReferenceDataError
from odin.market.calendar_text import OVERRIDES_EXAMPLE, read_calendar
from odin.market.sessions import DAY_MS, Calendar, MarketClock, describe
from tests.support.shared import shared

KOLKATA = pytz.timezone("Asia/Kolkata")
CALENDARS = Path(odin.market.__file__).parent / "calendars"
NSE_TEXT = (CALENDARS / "nse.toml").read_text(encoding="utf-8")
BSE_TEXT = (CALENDARS / "bse.toml").read_text(encoding="utf-8")
NSE = Calendar.parse(NSE_TEXT)
BSE = Calendar.parse(BSE_TEXT)
CORRECTED = Calendar.parse(NSE_TEXT, OVERRIDES_EXAMPLE)

NEVER_OPEN = Calendar.parse(
    'exchange = "NSE"\ntimezone = "Asia/Kolkata"\nknown_from = 2024-01-01\n'
    "known_through = 2024-12-31\n[[regular]]\nfrom = 2010-10-18\n"
    'market_hours = ["09:15", "15:30"]\nphases = []\n[holidays]\n'
    + "".join(f'{date(2024, 1, 1) + timedelta(n)} = "Shut"\n' for n in range(1500))
)


def ms(wall: str) -> int:
    """Epoch ms of a wall time in India."""
    return int(KOLKATA.localize(datetime.fromisoformat(wall)).timestamp() * 1000)


def ist(epoch_ms: int | None) -> str | None:
    """Wall time in India to the minute, the inverse of `ms`."""
    if epoch_ms is None:
        return None
    return datetime.fromtimestamp(epoch_ms / 1000, KOLKATA).strftime("%Y-%m-%d %H:%M")


# The days


def test_every_real_trading_day_and_no_other():
    real = shared("data/nse_trading_days_2024-01-01_2026-08-21.txt").read_text().split()
    assert len(real) == 656
    assert NSE.trading_days("2024-01-01", "2026-08-21") == real
    assert BSE.trading_days("2024-01-01", "2026-08-21") == real
    days = [NSE.day(date(2024, 1, 1) + timedelta(n)) for n in range(964)]
    assert days[-1].date == "2026-08-21"
    assert all(day.is_known for day in days)
    for day in days:
        assert day.is_trading == (day.date in real)
        assert (day.holiday is None) == day.is_trading


def test_the_files_hold_every_fact_of_the_reference_data():
    reference = json.loads(shared("data/nse_calendar_2024_2026.json").read_text())
    assert NSE.known_through.isoformat() == reference["known_through"]
    for year in reference["holidays"].values():
        for on, name in year.items():
            for calendar in (NSE, BSE):
                assert calendar.day(on).holiday == name
                assert not calendar.day(on).windows
    for session in reference["special_sessions"]:
        for calendar in (NSE, BSE):
            day = calendar.day(session["date"])
            assert day.session
            assert [[ist(a)[11:], ist(b)[11:]] for a, b in day.windows] == (session["open"] or [])
            pre_open = [[ist(a)[11:], ist(b)[11:]] for p, a, b in day.phases if p == "pre_open"]
            if "pre_open" in session:
                assert pre_open == session["pre_open"]
    for on in reference["trade_dates_on_weekend_before_2024"]:
        assert NSE.day(on).session == "Weekend session"
    for regular in reference["regular"]:
        # Both sets of regular hours begin on a Monday that trades.
        day = NSE.day(regular["from"])
        phases = [[p, ist(a)[11:], ist(b)[11:]] for p, a, b in day.phases]
        assert phases == regular["phases"]


def test_bse_closes_when_nse_does():
    nse, bse = read_calendar(NSE_TEXT), read_calendar(BSE_TEXT)
    assert nse.days == bse.days
    assert (nse.known_from, nse.known_through) == (bse.known_from, bse.known_through)
    assert (NSE.exchange, BSE.exchange) == ("NSE", "BSE")
    assert "closing_auction" not in {p for p, _, _ in BSE.day("2026-08-03").phases}


def test_an_ordinary_day():
    day = NSE.day("2025-09-04")
    assert day.date == "2025-09-04"
    assert day.start_ms == ms("2025-09-04 00:00")
    assert (day.is_trading, day.is_known, day.holiday, day.session) == (True, True, None, None)
    assert day.windows == ((ms("2025-09-04 09:15"), ms("2025-09-04 15:30")),)
    assert day.market_hours == "09:15 - 15:30 IST"
    assert NSE.day(date(2025, 9, 4)) == day


def test_holidays_and_weekends_say_why():
    assert NSE.day("2026-01-26").holiday == "Republic Day"
    assert NSE.day("2026-01-24").holiday == "Saturday"
    assert NSE.day("2026-01-25").holiday == "Sunday"
    assert NSE.day("2026-01-25").market_hours == "09:15 - 15:30 IST"
    assert NSE.day("2026-01-25").phases == ()


def test_muhurat_is_its_evening_hour_only():
    day = NSE.day("2024-11-01")
    assert (day.session, day.holiday) == ("Muhurat (Diwali Laxmi Pujan)", None)
    assert day.market_hours == "18:00 - 19:00 IST"
    assert [(p, ist(a)[11:], ist(b)[11:]) for p, a, b in day.phases] == [
        ("pre_open", "17:45", "18:00"),
        ("open", "18:00", "19:00"),
    ]


def test_a_full_special_day_has_the_regular_phases():
    sunday, monday = NSE.day("2026-02-01"), NSE.day("2026-02-02")
    assert (sunday.session, monday.session) == ("Union Budget", None)
    assert [(p, a + DAY_MS, b + DAY_MS) for p, a, b in sunday.phases] == list(monday.phases)


def test_a_session_without_known_hours_is_shown_but_closed_and_unknown():
    day = NSE.day("2026-11-08")
    assert (day.is_trading, day.is_known) == (False, False)
    assert (day.session, day.holiday) == ("Muhurat (Diwali Laxmi Pujan)", "Sunday")
    assert NSE.day("2026-11-07").is_known
    assert NSE.day("2026-11-09").is_known

    weekday = '[[day]]\nexchange = "NSE"\ndate = 2026-11-09\nname = "Muhurat"\nopen = "unknown"\n'
    day = Calendar.parse(NSE_TEXT, weekday).day("2026-11-09")
    assert (day.is_trading, day.is_known, day.holiday) == (False, False, "Muhurat")


@pytest.mark.parametrize(
    "on", ["2027-01-04", "2027-01-26", "2023-12-29", "2023-08-15", "1995-03-06"]
)
def test_days_without_facts_follow_the_weekday_rule_and_say_so(on):
    day = NSE.day(on)
    assert (day.is_trading, day.is_known, day.holiday) == (True, False, None)
    assert day.market_hours == "09:15 - 15:30 IST"
    weekend = NSE.day(date.fromisoformat(on) + timedelta(5 - date.fromisoformat(on).weekday()))
    assert (weekend.is_trading, weekend.is_known, weekend.holiday) == (False, False, "Saturday")


def test_the_ends_of_what_is_known():
    assert [NSE.day(d).is_known for d in ("2023-12-31", "2024-01-01")] == [False, True]
    assert [NSE.day(d).is_known for d in ("2026-12-31", "2027-01-01")] == [True, False]


def test_previous_and_latest_trading_days():
    assert NSE.latest_trading_day("2026-02-02") == "2026-02-02"
    assert NSE.previous_trading_day("2026-02-02") == "2026-02-01", "the budget Sunday"
    assert NSE.latest_trading_day("2026-01-26") == "2026-01-23"
    assert NSE.previous_trading_day(date(2024, 1, 23)) == "2024-01-20", "the Saturday"
    assert NSE.latest_trading_day("2026-11-08") == "2026-11-06"


def test_a_calendar_that_never_trades():
    with pytest.raises(
        ReferenceDataError, match="no trading day in the two years before 2027-06-01"
    ):
        NEVER_OPEN.latest_trading_day("2027-06-01")
    with pytest.raises(ReferenceDataError, match="no session in the two years from 2024-01-01"):
        NEVER_OPEN.next_session(ms("2024-01-01 12:00"))
    status = MarketClock(NEVER_OPEN).status(ms("2024-01-01 12:00"))
    assert (status.next_open_ms, status.next_close_ms) == (None, None)
    assert status.next_change_ms == ms("2024-01-02 00:00")


def test_a_date_that_is_none():
    with pytest.raises(ReferenceDataError, match='was "2026-02-30"'):
        NSE.day("2026-02-30")


def test_trading_days_include_both_ends():
    assert NSE.trading_days("2026-01-23", "2026-01-27") == ["2026-01-23", "2026-01-27"]
    assert NSE.trading_days("2026-01-24", "2026-01-26") == []
    assert NSE.trading_days("2026-01-27", "2026-01-23") == []


@pytest.mark.parametrize(
    ("now", "opening", "closing"),
    [
        ("2025-09-04 03:00", "2025-09-04 09:15", "2025-09-04 15:30"),
        ("2025-09-04 09:15", "2025-09-04 09:15", "2025-09-04 15:30"),
        ("2025-09-05 15:30", "2025-09-08 09:15", "2025-09-08 15:30"),
        ("2024-03-02 10:00", "2024-03-02 11:30", "2024-03-02 12:30"),
        ("2024-11-01 12:00", "2024-11-01 18:00", "2024-11-01 19:00"),
    ],
)
def test_next_session(now, opening, closing):
    assert NSE.next_session(ms(now)) == (ms(opening), ms(closing))


def test_days_are_right_however_many_have_been_asked_for():
    calendar = Calendar.parse(NSE_TEXT)
    calendar.trading_days("2015-01-01", "2026-12-31")
    assert calendar.day("2026-02-01") == NSE.day("2026-02-01")


# Overrides


def test_overrides_change_days_and_what_is_known():
    assert CORRECTED.day("2026-11-08").market_hours == "18:00 - 19:00 IST"
    assert CORRECTED.day("2026-11-08").is_known
    assert CORRECTED.day("2026-11-08").holiday is None
    assert CORRECTED.day("2027-01-26").holiday == "Republic Day"
    assert CORRECTED.day("2027-01-27").is_known
    assert not CORRECTED.day("2028-01-03").is_known
    assert CORRECTED.day("2026-02-01") == NSE.day("2026-02-01")


def test_an_override_makes_its_own_day_known_and_no_other():
    closed = '[[day]]\nexchange = "NSE"\ndate = 2027-03-01\nname = "Flood"\nclosed = true\n'
    calendar = Calendar.parse(NSE_TEXT, closed)
    assert calendar.day("2027-03-01").is_known
    assert not calendar.day("2027-03-02").is_known


def test_a_clock_goes_by_the_calendar_it_was_last_given():
    evening = ms("2026-11-08 18:30")
    clock = MarketClock(NSE)
    before = clock.status(evening)
    assert (before.is_open, before.is_calendar_known) == (False, False)
    assert before.holiday == "Sunday"
    assert before.session == "Muhurat (Diwali Laxmi Pujan)"
    clock.use(CORRECTED)
    assert clock.calendar is CORRECTED
    assert clock.is_open(evening)
    assert clock.status(evening).is_calendar_known
    clock.use(NSE)
    assert not clock.is_open(evening)


# The clock


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("2025-09-04 09:15", "2025-09-04 15:30"),
        ("2026-08-03 09:15", "2026-08-03 15:30"),
        ("2024-11-01 18:00", "2024-11-01 19:00"),
        ("2025-10-21 13:45", "2025-10-21 14:45"),
        ("2024-03-02 09:15", "2024-03-02 10:00"),
        ("2024-03-02 11:30", "2024-03-02 12:30"),
        ("2024-05-18 11:30", "2024-05-18 12:30"),
        ("2026-02-01 09:15", "2026-02-01 15:30"),
    ],
)
def test_windows_are_half_open_to_the_millisecond(opening, closing):
    start, end = ms(opening), ms(closing)
    clock = MarketClock(NSE)
    answers = [clock.is_open(t) for t in (start - 1, start, end - 1, end)]
    assert answers == [False, True, True, False]
    assert clock.status(start - 1).next_change_ms == start
    assert clock.status(end - 1).next_close_ms == end


@pytest.mark.parametrize(
    ("now", "is_open", "phase"),
    [
        ("2026-07-31 08:59", False, "closed"),
        ("2026-07-31 09:00", False, "pre_open"),
        ("2026-07-31 09:15", True, "open"),
        ("2026-07-31 15:29", True, "open"),
        ("2026-07-31 15:30", False, "closed"),
        ("2026-07-31 15:40", False, "post_close"),
        ("2026-07-31 16:00", False, "closed"),
        ("2026-08-03 15:14", True, "open"),
        ("2026-08-03 15:15", True, "closing_auction"),
        ("2026-08-03 15:20", True, "closing_auction"),
        ("2026-08-03 15:30", False, "closing_auction"),
        ("2026-08-03 15:32", False, "closing_auction"),
        ("2026-08-03 15:35", False, "closed"),
        ("2026-08-03 15:50", False, "post_close"),
        ("2026-08-03 16:00", False, "closed"),
        ("2024-11-01 09:30", False, "closed"),
        ("2024-11-01 17:45", False, "pre_open"),
        ("2024-11-01 18:00", True, "open"),
        ("2024-03-02 10:30", False, "closed"),
        ("2024-03-02 11:45", True, "open"),
        ("2026-01-26 10:00", False, "closed"),
    ],
)
def test_phases(now, is_open, phase):
    clock = MarketClock(NSE)
    assert clock.is_open(ms(now)) == is_open
    assert clock.phase(ms(now)) == phase


@pytest.mark.parametrize(
    ("now", "next_open", "next_close"),
    [
        ("2025-09-04 09:14", "2025-09-04 09:15", "2025-09-04 15:30"),
        ("2025-09-04 09:15", "2025-09-05 09:15", "2025-09-04 15:30"),
        ("2025-09-05 15:30", "2025-09-08 09:15", "2025-09-08 15:30"),
        ("2026-01-30 16:00", "2026-02-01 09:15", "2026-02-01 15:30"),
        ("2024-03-02 09:30", "2024-03-02 11:30", "2024-03-02 10:00"),
        ("2024-03-02 10:30", "2024-03-02 11:30", "2024-03-02 12:30"),
        ("2024-10-31 15:30", "2024-11-01 18:00", "2024-11-01 19:00"),
        ("2024-11-01 19:00", "2024-11-04 09:15", "2024-11-04 15:30"),
        ("2025-10-20 15:30", "2025-10-21 13:45", "2025-10-21 14:45"),
        ("2025-10-21 14:45", "2025-10-23 09:15", "2025-10-23 15:30"),
        ("2026-11-06 15:30", "2026-11-09 09:15", "2026-11-09 15:30"),
        ("2026-12-31 15:30", "2027-01-01 09:15", "2027-01-01 15:30"),
    ],
)
def test_next_open_and_close_across_weekends_and_diwali(now, next_open, next_close):
    status = MarketClock(NSE).status(ms(now))
    assert (ist(status.next_open_ms), ist(status.next_close_ms)) == (next_open, next_close)


def test_a_status_in_full():
    assert MarketClock(NSE).status(ms("2024-03-02 10:30"))._asdict() == {
        "exchange": "NSE",
        "is_open": False,
        "phase": "closed",
        "holiday": None,
        "session": "Switch-over to the disaster recovery site",
        "market_hours": "09:15 - 10:00, 11:30 - 12:30 IST",
        "next_open_ms": ms("2024-03-02 11:30"),
        "next_close_ms": ms("2024-03-02 12:30"),
        "next_change_ms": ms("2024-03-02 11:30"),
        "is_calendar_known": True,
    }


def test_the_changes_of_a_day_in_order():
    clock, now, changes = MarketClock(NSE), ms("2026-08-03 00:00"), []
    while now < ms("2026-08-04 00:00"):
        now = clock.status(now).next_change_ms
        changes.append(ist(now)[11:])
    assert " ".join(changes) == "09:00 09:15 15:15 15:30 15:35 15:50 16:00 00:00"


def test_unknown_years_are_flagged():
    clock = MarketClock(NSE)
    assert clock.status(ms("2026-12-31 12:00")).is_calendar_known
    new_year = clock.status(ms("2027-01-01 12:00"))
    assert (new_year.is_open, new_year.is_calendar_known) == (True, False)


def test_days_known():
    clock = MarketClock(NSE)
    assert clock.days_known(ms("2026-12-31 23:59")) == 0
    assert clock.days_known(ms("2026-12-01 00:00")) == 30
    assert clock.days_known(ms("2027-01-02 00:00")) == -2


instants = st.one_of(
    st.integers(ms("2023-12-20 00:00"), ms("2027-02-10 00:00")),
    # A millisecond either side of the times at which something happens.
    st.builds(
        lambda day, minute, delta: ms("2024-01-01 00:00") + day * DAY_MS + minute * 60_000 + delta,
        st.integers(0, 1100),
        st.sampled_from([0, 540, 555, 600, 690, 750, 915, 930, 935, 940, 950, 960, 1080, 1140]),
        st.integers(-1, 1),
    ),
)
calendars = st.sampled_from([NSE, BSE, CORRECTED])


@given(calendars, instants)
def test_nothing_changes_before_next_change(calendar, now):
    status = MarketClock(calendar).status(now)
    assert now < status.next_change_ms <= now + DAY_MS
    last = status.next_change_ms - 1
    assert MarketClock(calendar).status(last) == status
    assert MarketClock(calendar).status((now + last) // 2) == status


@given(calendars, instants)
def test_open_means_inside_a_window(calendar, now):
    clock = MarketClock(calendar)
    on = datetime.fromtimestamp(now // 1000, KOLKATA).date()
    day = calendar.day(on)
    assert clock.is_open(now) == any(start <= now < end for start, end in day.windows)
    assert clock.is_open(now) == clock.status(now).is_open
    expected = [p for p, start, end in day.phases if start <= now < end] or ["closed"]
    assert [clock.phase(now)] == expected


@given(calendars, instants)
def test_the_next_opening_opens_and_the_next_close_closes(calendar, now):
    clock = MarketClock(calendar)
    status = clock.status(now)
    assert status.next_open_ms > now
    assert clock.is_open(status.next_open_ms)
    assert not clock.is_open(status.next_open_ms - 1)
    assert status.next_close_ms > now
    assert not clock.is_open(status.next_close_ms)
    assert clock.is_open(status.next_close_ms - 1)
    assert status.is_open == (status.next_close_ms < status.next_open_ms)


@given(calendars, instants, st.integers(0, 40 * DAY_MS))
def test_openings_and_closes_never_go_back(calendar, now, later):
    clock = MarketClock(calendar)
    first, second = clock.status(now), clock.status(now + later)
    assert first.next_open_ms <= second.next_open_ms
    assert first.next_close_ms <= second.next_close_ms
    assert first.next_change_ms <= second.next_change_ms


@given(calendars, st.lists(instants, min_size=2, max_size=12))
def test_a_clock_that_jumps_about_answers_like_a_fresh_one(calendar, jumps):
    clock = MarketClock(calendar)
    for now in jumps:
        assert clock.is_open(now) == MarketClock(calendar).is_open(now)
        assert clock.status(now) == MarketClock(calendar).status(now)


@given(calendars, instants)
def test_a_session_holds_its_instant_or_is_the_next(calendar, now):
    opening, closing = calendar.next_session(now)
    status = MarketClock(calendar).status(now)
    assert closing == status.next_close_ms
    assert (opening <= now) == status.is_open
    assert opening <= now or opening == status.next_open_ms


HOST_PROGRAM = """
import sys
from odin.market.sessions import Calendar, MarketClock
calendar = Calendar.parse(open(sys.argv[1], encoding="utf-8").read())
clock = MarketClock(calendar)
for day in ("2024-03-02", "2024-11-01", "2026-08-03", "2026-11-08"):
    print(calendar.day(day))
now = 1_700_000_000_000
for _ in range(300):
    print(status := clock.status(now))
    now = status.next_change_ms + 977 * 60_000
"""


def test_the_hosts_time_zone_does_not_matter():
    answers = set()
    for zone in ("Asia/Kolkata", "UTC", "America/New_York", "Pacific/Chatham"):
        run = subprocess.run(
            [sys.executable, "-c", HOST_PROGRAM, str(CALENDARS / "nse.toml")],
            env={**os.environ, "TZ": zone},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        answers.add(run.stdout)
    (answer,) = answers
    assert len(answer.splitlines()) == 304


# For people


@pytest.mark.parametrize(
    ("on", "lines"),
    [
        (
            "2024-03-02",
            """\
2024-03-02 Saturday: trading, Switch-over to the disaster recovery site
hours: 09:15 - 10:00, 11:30 - 12:30 IST
phases: open 09:15 - 10:00, open 11:30 - 12:30""",
        ),
        ("2026-08-23", "2026-08-23 Sunday: closed"),
        ("2026-01-26", "2026-01-26 Monday: closed, Republic Day"),
        (
            "2026-11-08",
            """\
2026-11-08 Sunday: closed, Muhurat (Diwali Laxmi Pujan)
not known: the hours of this session, so it counts as closed""",
        ),
        (
            "2027-01-02",
            """\
2027-01-02 Saturday: closed
not known: no facts for this date, only the rule that weekdays trade""",
        ),
    ],
)
def test_a_day_described(on, lines):
    assert describe(NSE.day(on)) == lines


def test_phases_described():
    assert describe(NSE.day("2026-08-03")).splitlines()[-1] == (
        "phases: pre_open 09:00 - 09:15, open 09:15 - 15:15, closing_auction 15:15 - 15:35, "
        "post_close 15:50 - 16:00"
    )
