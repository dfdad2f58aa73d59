import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import pytz
from hypothesis import given
from hypothesis import strategies as st

from odin.clock import (
    NS_PER_MS,
    NS_PER_S,
    Clock,
    ManualClock,
    PacedClock,
    Rfc3339,
    SessionClock,
    WallClock,
    ist_date,
    ist_datetime,
    ist_datetime_text,
    ist_time_text,
)

KOLKATA = pytz.timezone("Asia/Kolkata")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR_NS = 3600 * NS_PER_S

instants_ms = st.integers(0, 4_102_444_800_000)
instants_ns = st.integers(0, 4_102_444_800 * NS_PER_S)


class Stopwatch:
    """A monotonic clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_ns = 7_000_000_000_123

    def __call__(self) -> int:
        return self.now_ns


def ist_ns(wall: str) -> int:
    """Epoch ns of a wall time in India."""
    return int(KOLKATA.localize(datetime.fromisoformat(wall)).timestamp()) * NS_PER_S


# Clocks


def test_the_wall_clock_is_the_machines():
    clock: Clock = WallClock()
    before = time.time_ns()
    now_ns, now_ms = clock.now_ns(), clock.now_ms()
    after = time.time_ns()
    assert before <= now_ns <= after
    assert before // NS_PER_MS <= now_ms <= after // NS_PER_MS
    assert not clock.is_simulated


def test_a_manual_clock_stands_still_until_it_is_set():
    clock = ManualClock(5 * NS_PER_S + 1)
    assert (clock.now_ns(), clock.now_ms()) == (5_000_000_001, 5_000)
    assert (clock.now_ns(), clock.now_ms()) == (5_000_000_001, 5_000)
    clock.advance_ms(250)
    assert clock.now_ns() == 5_250_000_001
    clock.set_ms(1_000)
    assert clock.now_ns() == NS_PER_S
    clock.set_ns(3)
    assert (clock.now_ns(), clock.now_ms()) == (3, 0)


def test_a_manual_clock_says_whether_it_is_market_time():
    assert ManualClock().is_simulated
    assert not ManualClock(is_simulated=False).is_simulated


@pytest.mark.parametrize(("speed", "expected_ns"), [(1.0, 3_000), (60.0, 180_000), (0.5, 1_500)])
def test_a_paced_clock_runs_at_its_speed_from_its_start(speed, expected_ns):
    stopwatch = Stopwatch()
    clock = PacedClock(1_000_000, speed=speed, monotonic_ns=stopwatch)
    assert clock.now_ns() == 1_000_000
    stopwatch.now_ns += 3_000
    assert clock.now_ns() == 1_000_000 + expected_ns
    assert clock.is_simulated


def test_a_paced_clock_in_milliseconds():
    stopwatch = Stopwatch()
    clock = PacedClock(10 * NS_PER_S, speed=2.0, monotonic_ns=stopwatch)
    stopwatch.now_ns += 1_999_999
    assert clock.now_ms() == 10_003
    stopwatch.now_ns += 1
    assert clock.now_ms() == 10_004


def test_a_rebased_clock_goes_on_from_there():
    stopwatch = Stopwatch()
    clock = PacedClock(0, speed=10.0, monotonic_ns=stopwatch)
    stopwatch.now_ns += 500
    clock.rebase(42)
    assert clock.now_ns() == 42
    stopwatch.now_ns += 100
    assert clock.now_ns() == 1_042


@given(st.floats(0.01, 10_000), st.lists(st.integers(0, 10**12), max_size=20))
def test_paced_time_never_goes_back(speed, steps):
    stopwatch = Stopwatch()
    clock = PacedClock(0, speed=speed, monotonic_ns=stopwatch)
    last = clock.now_ns()
    for step in steps:
        stopwatch.now_ns += step
        assert clock.now_ns() >= last
        last = clock.now_ns()


def sessions(*windows: tuple[str, str]):
    """A next_session over the windows given as wall times in India."""
    spans = [(ist_ns(opening), ist_ns(closing)) for opening, closing in windows]
    return lambda now_ns: next(span for span in spans if span[1] > now_ns)


FRIDAY = ("2025-09-05 09:15", "2025-09-05 15:30")
MONDAY = ("2025-09-08 09:15", "2025-09-08 15:30")
TUESDAY = ("2025-09-09 09:15", "2025-09-09 15:30")


def test_a_session_clock_passes_the_close_and_jumps_to_the_next_opening():
    stopwatch = Stopwatch()
    clock = SessionClock(
        ist_ns(FRIDAY[0]), sessions(FRIDAY, MONDAY, TUESDAY), monotonic_ns=stopwatch
    )
    assert clock.now_ns() == ist_ns(FRIDAY[0])
    stopwatch.now_ns += 6 * HOUR_NS
    assert clock.now_ns() == ist_ns("2025-09-05 15:15")
    stopwatch.now_ns += HOUR_NS // 4
    assert clock.now_ns() == ist_ns(FRIDAY[1]), "the close is seen"
    stopwatch.now_ns += 5 * NS_PER_S - 1
    assert clock.now_ns() == ist_ns(FRIDAY[1]) + 5 * NS_PER_S - 1, "and five seconds after it"
    stopwatch.now_ns += 1
    assert clock.now_ns() == ist_ns(MONDAY[0])
    stopwatch.now_ns += NS_PER_S
    assert clock.now_ns() == ist_ns(MONDAY[0]) + NS_PER_S
    stopwatch.now_ns += 7 * HOUR_NS
    assert clock.now_ns() == ist_ns(TUESDAY[0]), "each close is followed by a jump"
    assert clock.now_ms() == ist_ns(TUESDAY[0]) // NS_PER_MS
    assert clock.is_simulated


def test_a_session_clock_that_was_not_read_for_days_is_at_one_opening():
    stopwatch = Stopwatch()
    clock = SessionClock(ist_ns(FRIDAY[0]), sessions(FRIDAY, MONDAY), monotonic_ns=stopwatch)
    stopwatch.now_ns += 500 * HOUR_NS
    assert clock.now_ns() == ist_ns(MONDAY[0])


def test_a_session_clocks_pause_is_in_market_time():
    stopwatch = Stopwatch()
    clock = SessionClock(
        ist_ns("2025-09-05 15:29"),
        sessions(FRIDAY, MONDAY),
        pause_s=60.0,
        speed=60.0,
        monotonic_ns=stopwatch,
    )
    stopwatch.now_ns += NS_PER_S
    assert clock.now_ns() == ist_ns(FRIDAY[1])
    stopwatch.now_ns += NS_PER_S
    assert clock.now_ns() == ist_ns(MONDAY[0])


def test_a_session_clock_started_between_sessions_runs_up_to_the_next_one():
    stopwatch = Stopwatch()
    start = ist_ns("2025-09-08 09:00")
    clock = SessionClock(start, sessions(FRIDAY, MONDAY, TUESDAY), monotonic_ns=stopwatch)
    assert clock.now_ns() == start
    stopwatch.now_ns += HOUR_NS
    assert clock.now_ns() == ist_ns("2025-09-08 10:00")


# Times in India


@given(instants_ms)
def test_ist_agrees_with_five_and_a_half_hours(epoch_ms):
    wall = EPOCH + timedelta(milliseconds=epoch_ms) + timedelta(hours=5, minutes=30)
    assert ist_date(epoch_ms) == f"{wall:%Y-%m-%d}"
    assert ist_time_text(epoch_ms) == f"{wall:%H:%M:%S}"
    assert ist_datetime_text(epoch_ms) == f"{wall:%Y-%m-%d %H:%M:%S}"


@given(instants_ms)
def test_ist_datetime_agrees_with_pytz_and_comes_back_exactly(epoch_ms):
    moment = ist_datetime(epoch_ms)
    assert moment.utcoffset() == timedelta(hours=5, minutes=30)
    assert moment == (EPOCH + timedelta(milliseconds=epoch_ms)).astimezone(KOLKATA)
    assert (moment - EPOCH) // timedelta(milliseconds=1) == epoch_ms


def test_midnight_in_india_is_not_midnight_in_greenwich():
    midnight_ms = ist_ns("2025-09-05 00:00") // NS_PER_MS
    assert ist_date(midnight_ms - 1) == "2025-09-04"
    assert ist_date(midnight_ms) == "2025-09-05"
    assert ist_datetime_text(midnight_ms) == "2025-09-05 00:00:00"


# RFC 3339


def test_rfc3339_has_nanoseconds_and_the_offset():
    assert Rfc3339()(ist_ns("2025-09-04 13:09:51") + 42) == "2025-09-04T13:09:51.000000042+05:30"


@given(st.lists(st.one_of(instants_ns, st.integers(0, 3 * NS_PER_S)), min_size=1, max_size=20))
def test_rfc3339_is_right_in_any_order_of_instants(instants):
    form = Rfc3339()
    india = timezone(timedelta(hours=5, minutes=30))
    for epoch_ns in instants:
        written = form(epoch_ns)
        second = datetime.fromisoformat(written[:19] + written[29:])
        assert second == datetime.fromtimestamp(epoch_ns // NS_PER_S, india)
        assert written[19:] == f".{epoch_ns % NS_PER_S:09d}+05:30"
        assert form.epoch_ns(written) == Rfc3339().epoch_ns(written) == epoch_ns


@pytest.mark.parametrize(
    "text", ["", "now", "2025-09-04T13:09:51.", "2025-13-04T13:09:51.000000001"]
)
def test_a_text_that_is_no_instant_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        Rfc3339().epoch_ns(text)


HOST_PROGRAM = """
from odin.clock import Rfc3339, ist_datetime, ist_datetime_text
form = Rfc3339()
for day in range(0, 20000, 13):  # through the clock changes of every zone
    ms = day * 86_400_000 + day * 977_001
    print(form(ms * 1_000_000 + 7), ist_datetime_text(ms), ist_datetime(ms).isoformat())
"""


def test_the_hosts_time_zone_does_not_matter():
    answers = set()
    for zone in ("Asia/Kolkata", "UTC", "America/New_York", "Pacific/Chatham"):
        run = subprocess.run(
            [sys.executable, "-c", HOST_PROGRAM],
            env={**os.environ, "TZ": zone},
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        )
        answers.add(run.stdout)
    (answer,) = answers
    assert len(answer.splitlines()) == 1539
