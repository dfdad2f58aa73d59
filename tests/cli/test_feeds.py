"""odin feed check and capture: what an operator sees, and the exit codes for scripts."""

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from odin.clock import NS_PER_MS, ManualClock
from odin.errors import FeedRejected, FeedUnavailable
from odin.feeds.base import Emit, Report
from odin.feeds.captured import CapturedRecording
from odin.model import Tick
from odin.settings import KiteSettings
from tests.cli.conftest import Run
from tests.feeds.fake_venue import SBIN, TCS, FakeDecoder, FakeVenueFeed, Script, install
from tests.support.server import CLOSED_MS, OPEN_MS


@pytest.fixture(autouse=True)
def _open_market(monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, OPEN_MS)


def at(monkeypatch: pytest.MonkeyPatch, now_ms: int) -> None:
    monkeypatch.setattr("odin.clock.WallClock", lambda: ManualClock(now_ms * NS_PER_MS))


def sending(*ticks: Tick) -> Script:
    async def script(feed: FakeVenueFeed, emit: Emit, report: Report) -> None:
        report("login")
        report("ready")
        for tick in ticks:
            emit(tick)

    return script


def failing(error: Exception) -> Script:
    async def script(feed: FakeVenueFeed, emit: Emit, report: Report) -> None:
        report("login")
        raise error

    return script


GOOD = sending(Tick(SBIN, OPEN_MS, 800.0), Tick(TCS, OPEN_MS, 3000.0))


# ---------------------------------------------------------------------- check


def test_a_feed_that_works_is_exit_code_0(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, GOOD)
    result = run("feed", "check", "SBIN", "TCS", "--feed", "kite")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "connected after 0.0 s, logging in"
    assert "SBIN (NSE)  800" in lines[2]
    assert lines[-1].startswith("kite works: 2 ticks of 2 of 2 instruments")


def test_the_feed_of_the_settings_is_tried_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the settings say of others, whose credentials may be missing, is no hindrance."""
    install(monkeypatch, GOOD)
    Path("odin.toml").write_text(
        "[feed]\nkind = 'kite'\nroutes = ['MCX=odin']\nstandby = 'odin'\n"
        "[kite]\ncredentials = 'env:MINE'\n"
    )
    result = run("feed", "check", "SBIN", "TCS")
    assert (result.exit_code, "kite works" in result.stdout) == (0, True), result.output


def test_without_stocks_a_few_are_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, GOOD)
    result = run("feed", "check", "--feed", "kite")
    assert "accepted after 0.0 s, 5 asked for" in result.stdout
    assert "nothing came of RELIANCE (NSE)" in result.stdout


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (failing(FeedRejected("HTTP 403")), "kite refused: HTTP 403; renew the credentials"),
        (failing(FeedUnavailable("no route to host")), "kite could not be used: no route to host"),
        (sending(), "nothing was sent though the market is open"),
    ],
)
def test_a_feed_that_does_not_is_exit_code_1(
    run: Run, monkeypatch: pytest.MonkeyPatch, script: Script, text: str
) -> None:
    install(monkeypatch, script)
    result = run("feed", "check", "--feed", "kite")
    assert result.exit_code == 1
    assert text in result.stdout.splitlines()[-1]
    assert "Traceback" not in result.output


def test_silence_at_night_is_exit_code_0(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, CLOSED_MS)
    install(monkeypatch, sending())
    result = run("feed", "check", "--feed", "kite")
    assert result.exit_code == 0
    assert "the market is closed" in result.stdout


def test_a_stock_that_is_not_known_is_named_and_the_others_are_tried(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, GOOD)
    result = run("feed", "check", "SBIN", "NOSUCH", "TCS", "\x1b[2J", "--feed", "kite")
    assert result.exit_code == 0
    first, second, *_ = result.stdout.splitlines()
    assert first == "NOSUCH: No instrument is called NOSUCH"
    assert second.startswith(r"\x1b[2J: ")
    assert "\x1b" not in result.output
    assert "2 of 2 instruments" in result.stdout


def test_without_a_known_stock_nothing_is_tried(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, failing(AssertionError("it was started")))
    result = run("feed", "check", "NOSUCH", "--feed", "kite")
    assert result.exit_code == 1
    assert "none of the stocks is known" in result.output


def test_what_a_venue_says_cannot_colour_the_terminal(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, failing(FeedRejected("no\x1b[31m\nkite works: all is well\u2028")))
    result = run("feed", "check", "--feed", "kite")
    assert result.exit_code == 1
    assert "\x1b" not in result.output
    assert result.stdout.splitlines()[-1] == (
        r"kite refused: no\x1b[31m\nkite works: all is well\u2028; renew the credentials"
    )


@pytest.mark.parametrize("name", ["simulator", "none", "upstox", "\x1b[2J"])
def test_what_cannot_be_tried(run: Run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    install(monkeypatch)
    result = run("feed", "check", "--feed", name)
    assert result.exit_code == 78
    assert "cannot be tried: name odin or kite" in result.output
    assert "\x1b" not in result.output


def test_settings_that_cannot_be_used_are_exit_code_78(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    result = run("feed", "check", "--feed", "odin")
    assert result.exit_code == 78
    assert "odin.url: must be set" in result.output
    result = run("feed", "check", "--feed", "kite", env={"ODIN_KITE__CREDENTIALS": "SECRET"})
    assert (result.exit_code, "kite.credentials" in result.output) == (78, True)


@pytest.mark.parametrize("seconds", ["0", "-1", "1e9", "x"])
def test_the_time_it_takes_has_limits(run: Run, seconds: str) -> None:
    assert run("feed", "check", "--seconds", seconds).exit_code == 2


# ---------------------------------------------------------------------- capture


def listening(*messages: str) -> Script:
    """A feed that is connected to a real socket, where these messages are sent."""

    async def script(feed: FakeVenueFeed, emit: Emit, report: Report) -> None:
        async def serve(request: web.Request) -> web.WebSocketResponse:
            ws = web.WebSocketResponse()
            await ws.prepare(request)
            for text in messages:
                await ws.send_str(text)
            async for _ in ws:
                pass
            return ws

        app = web.Application()
        app.router.add_get("/", serve)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            port = runner.addresses[0][1]
            decoder = FakeDecoder(KiteSettings(), {})
            async with feed.connector.open(f"ws://127.0.0.1:{port}/") as socket:
                report("ready")
                for _ in messages:
                    data, _ = await socket.receive()
                    await socket.deliver(decoder.ticks(data, OPEN_MS), emit)
        finally:
            await runner.cleanup()

    return script


def test_capture_keeps_what_a_replay_plays(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, listening("3045 800", "3045 +1\n11536 3000"))
    result = run("feed", "capture", "SBIN", "TCS", "--feed", "kite", "--dir", "kept/here")
    assert result.exit_code == 0, result.output
    assert "kite works: 3 ticks" in result.stdout
    assert "SBIN" not in result.stdout, "the ticks themselves are not shown"
    [path] = Path("kept/here").iterdir()
    recording = CapturedRecording.load([path], lambda feed: FakeDecoder(KiteSettings(), {}))
    assert [tick.ltp for _, tick in recording.timeline()] == [800.0, 801.0, 3000.0]


def test_a_capture_of_a_feed_that_does_not_work_says_so(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, failing(FeedRejected("HTTP 403")))
    result = run("feed", "capture", "--feed", "kite", "--dir", "kept")
    assert result.exit_code == 1
    assert "renew the credentials" in result.stdout
    assert not Path("kept").exists()


def test_a_capture_needs_a_folder(run: Run) -> None:
    assert run("feed", "capture", "--feed", "kite").exit_code == 2


def test_the_time_is_that_of_the_option(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(feed: FakeVenueFeed, emit: Emit, report: Report) -> None:
        report("ready")
        emit(Tick(SBIN, OPEN_MS, 800.0))
        await asyncio.Event().wait()

    install(monkeypatch, script)
    result = run("feed", "check", "SBIN", "--feed", "kite", "--seconds", "0.05")
    assert result.exit_code == 0, result.output
