"""Ticks on schedule: what every server of the benchmark is fed with.

Tick n is of topic n % TOPICS and is due at t0 + n * 1000 // rate milliseconds: 1 ms slices that
never drift. The market_data message is as large as the product's, and its `volume` is n, so that
the load generator knows from each message when it was due. No dependency but orjson, as peers run
in another environment than the product.
"""

import asyncio
import ctypes
import gc
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

TOPICS = 2_000
FIRST_TOKEN = 10_001
EXCHANGE = "NSE"
SLICE_NS = 1_000_000
MAX_BURST = 256
"""Ticks in one turn of the event loop: a source that is behind must let the loop write."""
PRICES = [round(1365.5 + (step - 200) * 0.05, 2) for step in range(400)]
OPEN, HIGH, LOW, PREV_CLOSE = 1371.8, 1376.0, 1355.3, 1372.6

_CLOCK_REALTIME = 0
_TFD_TIMER_ABSTIME = 1


class _TimerSpec(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "first_s", "first_ns")]


class Schedule:
    """Calls publish(first, end) for the ticks [first, end) when they are due."""

    def __init__(self, publish: Callable[[int, int], None]) -> None:
        self._publish = publish
        self._rate = self._total = self._next = 0
        self.t0_ns = 0

    @property
    def is_done(self) -> bool:
        """Whether there is nothing more to publish."""
        return self._next >= self._total

    def begin(self, command: bytes) -> None:
        """Take the command "run T0_NS RATE TOTAL"."""
        self.t0_ns, self._rate, self._total = map(int, command.split()[1:4])
        self._next = 0
        # What is there now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()

    def turn(self) -> bool:
        """Publish what is due, MAX_BURST ticks at most; return whether that was all of it."""
        slices = (time.time_ns() - self.t0_ns) // SLICE_NS + 1
        end = min(-(-slices * self._rate // 1000), self._total)
        is_all = end <= self._next + MAX_BURST
        first, self._next = self._next, end if is_all else self._next + MAX_BURST
        if self._next > first:
            self._publish(first, self._next)
        else:
            self._next = first
        return is_all


async def follow(schedule: Schedule) -> None:
    """Carry out the commands on standard input until it ends.

    A timerfd wakes the event loop, as a readable feed socket would: uvloop's own timers are
    coarse.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    libc = ctypes.CDLL(None, use_errno=True)
    timer = libc.timerfd_create(_CLOCK_REALTIME, os.O_NONBLOCK)

    def arm(every_ns: int, first_ns: int) -> None:
        spec = _TimerSpec(0, every_ns, *divmod(first_ns, 1_000_000_000))
        libc.timerfd_settime(timer, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None)

    def on_command() -> None:
        command = os.read(0, 256)
        if command:
            schedule.begin(command)
            arm(SLICE_NS, schedule.t0_ns)
        else:
            loop.remove_reader(0)
            ended.set_result(None)

    def on_timer() -> None:
        if schedule.turn():  # else the timer stays readable, and the rest follows next turn
            os.read(timer, 8)
            if schedule.is_done:
                arm(0, 0)

    loop.add_reader(0, on_command)
    loop.add_reader(timer, on_timer)
    await ended


class Messages:
    """Builds the market_data message of a tick, for servers that have no quote board."""

    def __init__(self) -> None:
        import orjson

        self._dumps = orjson.dumps
        self._second = -1
        self._date = ""
        self._bodies = [self._body(topic) for topic in range(TOPICS)]

    @staticmethod
    def _body(topic: int) -> dict[str, Any]:
        name: dict[str, Any] = {
            "symbol": f"BENCH{topic:04}",
            "token": token(topic),
            "exchange": EXCHANGE,
        }
        data = name | {
            "ltp": 0.0,
            "open": OPEN,
            "high": HIGH,
            "low": LOW,
            "close": PREV_CLOSE,
            "prev_close": PREV_CLOSE,
            "volume": 0,
            "percent_change": 0.0,
            "week_52_high": 1551.0,
            "week_52_low": 1115.55,
            "week_52_high_date": "2025-07-09",
            "week_52_low_date": "2025-04-07",
            "day_high": HIGH,
            "day_low": LOW,
            "avg_volume_5d": 8053013,
            "timestamp": 0,
            "last_updated": "",
            "is_new_week_52_high": False,
            "is_new_week_52_low": False,
        }
        return {"type": "market_data"} | name | {"data": data, "timestamp": 0}

    def encode(self, n: int) -> bytes:
        """Return the message of tick n as JSON, stamped with now."""
        second, ns = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second + 19_800))
        body = self._bodies[n % TOPICS]
        data = body["data"]
        data["ltp"] = ltp = PRICES[n * 7919 % 400]
        data["volume"] = n
        data["percent_change"] = (ltp - PREV_CLOSE) / PREV_CLOSE * 100
        data["timestamp"] = body["timestamp"] = second * 1000 + ns // 1_000_000
        data["last_updated"] = f"{self._date}.{ns:09}+05:30"
        return self._dumps(body)


def token(topic: int) -> str:
    """Return the token that a topic's instrument is subscribed by."""
    return str(FIRST_TOKEN + topic)


def topics_of(request: str | bytes) -> list[int]:
    """Return the topics that a subscribe request asks for."""
    import orjson

    return [int(stock) - FIRST_TOKEN for stock in orjson.loads(request)["stocks"]]


REPLY = '{"type":"subscription_response","status":"success"}'


def announce(port: int) -> None:
    """Tell the runner where the server listens."""
    sys.stdout.write(f"ready {port}\n")
    sys.stdout.flush()


def raise_file_limit() -> None:
    """Let the process hold as many sockets as the system allows it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
