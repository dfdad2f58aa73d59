import re
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin.errors import ReferenceDataError
from odin.market.calendar_text import OVERRIDES_EXAMPLE, hh_mm, iso_date, read_calendar

HOUR_MS = 3_600_000
MINUTE_MS = 60_000

CALENDAR = """
exchange = "NSE"
timezone = "Asia/Kolkata"
known_from = 2024-01-01
known_through = 2026-12-31

[[regular]]
from = 2010-10-18
market_hours = ["09:15", "15:30"]
phases = [["pre_open", "09:00", "09:15"], ["open", "09:15", "15:30"]]

[holidays]
2024-01-26 = "Republic Day"

[[session]]
date = 2024-11-01
name = "Muhurat"
pre_open = [["17:45", "18:00"]]
open = [["18:00", "19:00"]]
"""


def problems(text: str, overrides: str = "") -> list[str]:
    """Every problem reported, one an item."""
    with pytest.raises(ReferenceDataError) as caught:
        read_calendar(text, overrides)
    return str(caught.value).split("\n")


def at(hours: int, minutes: int = 0) -> int:
    return hours * HOUR_MS + minutes * MINUTE_MS


def test_a_calendar_is_read_into_facts():
    facts = read_calendar(CALENDAR)
    assert facts.exchange == "NSE"
    assert (facts.known_from, facts.known_through) == (date(2024, 1, 1), date(2026, 12, 31))
    (hours,) = facts.hours
    assert hours.effective == date(2010, 10, 18)
    assert hours.window == (at(9, 15), at(15, 30))
    assert hours.phases == (
        ("pre_open", at(9), at(9, 15)),
        ("open", at(9, 15), at(15, 30)),
    )
    holiday, muhurat = facts.days[date(2024, 1, 26)], facts.days[date(2024, 11, 1)]
    assert (holiday.name, holiday.windows) == ("Republic Day", ())
    assert muhurat.windows == ((at(18), at(19)),)
    assert muhurat.phases == (("pre_open", at(17, 45), at(18)), ("open", at(18), at(19)))


def test_the_example_of_overrides_is_read_verbatim():
    facts = read_calendar(CALENDAR, OVERRIDES_EXAMPLE)
    assert facts.known_through == date(2027, 12, 31)
    assert facts.days[date(2026, 11, 8)].windows == ((at(18), at(19)),)
    assert facts.days[date(2027, 1, 26)].windows == ()
    assert date(2027, 10, 29) not in facts.days, "that entry is BSE's"

    bse = read_calendar(CALENDAR.replace('"NSE"', '"BSE"'), OVERRIDES_EXAMPLE)
    assert bse.known_through == date(2026, 12, 31)
    assert bse.days[date(2027, 10, 29)].windows is None
    assert date(2027, 1, 26) not in bse.days


def test_an_override_wins_over_the_calendar():
    facts = read_calendar(
        CALENDAR,
        """
        [[day]]
        exchange = "nse"
        date = "2024-01-26"
        name = "Trading after all"
        open = [["09:15", "12:00"]]

        [[day]]
        exchange = "NSE"
        date = 2024-11-01
        name = "Flood"
        closed = true
        """,
    )
    assert facts.days[date(2024, 1, 26)].windows == ((at(9, 15), at(12)),)
    assert facts.days[date(2024, 11, 1)] == ("Flood", (), ())


def test_a_byte_order_mark_and_windows_line_ends_are_accepted():
    text = "\ufeff" + CALENDAR.replace("\n", "\r\n")
    assert read_calendar(text) == read_calendar(CALENDAR)


def test_every_problem_of_both_texts_is_reported_at_once_with_its_place():
    broken = """
    exchange = ""
    timezone = "Asia/Tokyo"
    known_from = 2024-01-01
    known_thru = 2026-12-31

    [[regular]]
    from = 2010-10-18
    market_hours = ["15:30", "09:15"]
    phases = [["open", "09:15", "15:30"], ["lunch", "12:00", "13:00"], ["open", "15:00", "16:00"]]

    [[regular]]
    from = 2010-10-18
    market_hours = ["9:15", "15:30"]
    phases = []

    [holidays]
    2024-02-30 = "No such day"
    2024-01-26 = 26

    [[session]]
    date = 2024-01-26
    name = "Listed above"
    open = [["09:15", "10:00"], ["09:45", "12:30"]]

    [[session]]
    name = "Sometime"
    opne = [["09:15", "10:00"]]
    """
    overrides = """
    day = [
        { exchange = "NSE", date = 2024-13, name = "x", closed = true },
    ]
    """
    assert problems(broken, overrides.replace("2024-13", '"2024-13-01"')) == [
        'calendar: unknown key "known_thru", did you mean known_through',
        "calendar: known_through is missing",
        'calendar: timezone: only Asia/Kolkata is supported, was "Asia/Tokyo"',
        'calendar: holidays.2024-02-30: must be a date like 2026-11-08, was "2024-02-30"',
        'calendar: holidays.2024-01-26: must be a text that is not empty, was "26"',
        'calendar: session 1 (2024-01-26): open: must be in order and apart, was "10:00, 09:45"',
        'calendar: session 1 (2024-01-26): a date can be listed only once, was "2024-01-26"',
        'calendar: session 2: unknown key "opne", did you mean open',
        "calendar: session 2: date is missing",
        "calendar: session 2: open is missing",
        'calendar: exchange: must be a text that is not empty, was ""',
        'calendar: regular 1: market_hours: must end after it starts, was "15:30 - 09:15"',
        (
            "calendar: regular 1: phases 2: a phase is one of pre_open, open, closing_auction, "
            'post_close, was "lunch"'
        ),
        'calendar: regular 1: phases: must be in order and apart, was "15:30, 15:00"',
        'calendar: regular 2: from: must be later than the one before, was "2010-10-18"',
        (
            'calendar: regular 2: market_hours: must be two times like ["09:15", "15:30"], '
            "was \"['9:15', '15:30']\""
        ),
        'overrides: day 1 (2024-13-01): date: must be a date like 2026-11-08, was "2024-13-01"',
    ]


def test_a_syntax_error_names_the_document_and_the_line():
    (calendar, overrides) = problems("exchange = ", "[[day]\n")
    assert re.fullmatch(
        r"calendar: not valid TOML: .*line 1, column 12.*|.*end of document.*", calendar
    )
    assert overrides.startswith("overrides: not valid TOML: ")
    assert "line 1" in overrides


def test_nothing_but_missing_keys_is_said_of_an_empty_calendar():
    assert problems("") == [
        f"calendar: {key} is missing"
        for key in ("exchange", "timezone", "known_from", "known_through", "regular")
    ] + ["calendar: regular: needs at least one entry"]


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ('open = [["18:00", "19:00"]]\nclosed = true', ": needs either open or closed = true"),
        ("", ": needs either open or closed = true"),
        ("closed = false", ': closed: can only be true, was "False"'),
        ("open = []", ": open: needs at least one window"),
        ('open = "later"', ': open: must be a list, was "later"'),
        ('open = ["18:00", "19:00"]', ': open 1: must be two times like ["09:15", "15:30"]'),
        ('open = [["18:00", "24:00"]]', ': open 1: must be two times like ["09:15", "15:30"]'),
        ('open = [["18:00", "18:00"]]', ': open 1: must end after it starts, was "18:00 - 18:00"'),
        ("open = [[18:00:00, 19:00:00]]", ': open 1: must be two times like ["09:15", "15:30"]'),
        (
            'open = [["18:00", "19:00"], ["19:00", "20:00"]]',
            ': open: must be in order and apart, was "19:00, 19:00"',
        ),
        (
            'open = [["18:00", "19:00"]]\npre_open = [["17:45", "18:01"]]',
            ': pre_open: must be in order and apart, was "18:01, 18:00"',
        ),
        (
            'closed = true\npre_open = [["17:45", "18:00"]]',
            ": pre_open: needs windows in open",
        ),
        (
            'open = "unknown"\npre_open = [["17:45", "18:00"]]',
            ": pre_open: needs windows in open",
        ),
    ],
)
def test_a_bad_day_in_the_overrides(entry, problem):
    text = f'[[day]]\nexchange = "BSE"\ndate = 2026-11-08\nname = "Muhurat"\n{entry}\n'
    found = problems(CALENDAR, text)
    assert any(p.startswith(f"overrides: day 1 (2026-11-08){problem}") for p in found), found


def test_days_listed_twice_in_the_overrides():
    day = '[[day]]\nexchange = "{}"\ndate = 2026-11-08\nname = "Muhurat"\nclosed = true\n'
    assert problems(CALENDAR, day.format("NSE") + day.format("nse")) == [
        'overrides: day 2 (2026-11-08): a date can be listed only once, was "2026-11-08"'
    ]
    read_calendar(CALENDAR, day.format("NSE") + day.format("BSE"))


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            "known_through = 2027-12-31",
            'overrides: known_through: must be a table, was "2027-12-31"',
        ),
        (
            "known_through = { NSE = 2027-12-31T01:00:00 }",
            (
                "overrides: known_through: NSE: must be a date like 2026-11-08, was "
                '"2027-12-31 01:00:00"'
            ),
        ),
        (
            "known_through = { NSE = 2023-12-31 }",
            'known_through: comes before known_from, was "2023-12-31"',
        ),
        ("day = 1", 'overrides: day: must be a list, was "1"'),
        ("day = [1]", 'overrides: day 1: must be a table, was "1"'),
        ("holidays = {}", 'overrides: unknown key "holidays"'),
    ],
)
def test_bad_overrides(overrides, problem):
    assert problem in problems(CALENDAR, overrides)


def test_a_problem_shows_input_shortened_and_on_one_line():
    (problem,) = problems(
        CALENDAR, f'[[day]]\nexchange="NSE"\ndate="{"9" * 500}\\n"\nname="x"\nopen="unknown"'
    )
    assert len(problem) < 250


def test_iso_dates():
    assert iso_date("2024-02-29") == date(2024, 2, 29)
    for text in ("2023-02-29", "20240229", "2024-W09-4", "2024-2-29", "", "today", "0001-01-01"):
        with pytest.raises(ReferenceDataError, match=re.escape(f'was "{text}"')):
            iso_date(text)


@given(st.integers(0, 24 * 60 - 1))
def test_times_of_day_are_written_as_they_are_read(minutes):
    text = hh_mm(minutes * MINUTE_MS)
    hours, rest = map(int, text.split(":"))
    assert len(text) == 5
    assert hours * 60 + rest == minutes


toml_values = st.recursive(
    st.sampled_from(
        ['"NSE"', '"unknown"', '"09:15"', '"15:30"', "2026-11-08", '""', "true", "1", "09:15:00"]
    ),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
    max_leaves=6,
)
lines = st.one_of(
    st.sampled_from(["[[day]]", "[known_through]", "[[regular]]", "[holidays]", "[[session]]"]),
    st.tuples(
        st.sampled_from(
            ["exchange", "date", "name", "open", "pre_open", "closed", "day", "NSE", "2026-11-08"]
        ),
        toml_values,
    ).map(" = ".join),
    st.text(max_size=8),
)


@given(st.lists(lines, max_size=12).map("\n".join))
def test_any_text_is_facts_or_one_error(text):
    for reading in (lambda: read_calendar(text), lambda: read_calendar(CALENDAR, text)):
        try:
            facts = reading()
        except ReferenceDataError:
            continue
        assert facts.exchange == "NSE"
        for day in facts.days.values():
            spans = day.windows or ()
            assert list(spans) == sorted(spans)
            assert all(start < end for start, end in spans)
