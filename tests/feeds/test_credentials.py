import asyncio
import json
import os
import shlex
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odin.errors import FeedUnavailable
from odin.feeds.credentials import MAX_CREDENTIALS_BYTES, CredentialSource

SECRET = "hunter2-the-real-one"


def command(code: str) -> str:
    """Return the spec of a command that runs this Python code."""
    return f"command:{shlex.join([sys.executable, '-c', code])}"


def written(path: Path, text: str | bytes) -> str:
    """Return the spec of a file with this text."""
    file = path / "credentials"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return f"file:{file}"


# ---------------------------------------------------------------------- the three sources


async def test_variables_are_named_by_prefix_and_read_on_every_call() -> None:
    environ = {"KITE_API_KEY": " abc ", "KITE_ACCESS_TOKEN": "today", "OTHER_API_KEY": "no"}
    source = CredentialSource("env:KITE", environ=environ)
    names = ["api_key", "access_token"]
    assert await source.read(names) == {"api_key": "abc", "access_token": "today"}
    environ["KITE_ACCESS_TOKEN"] = "tomorrow"
    assert (await source.read(names))["access_token"] == "tomorrow"


async def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODINTEST_USER", "me")
    assert await CredentialSource("env:ODINTEST").read(["user"]) == {"user": "me"}


async def test_a_file_in_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path, "user=me")
    assert await CredentialSource("file:~/credentials").read(["user"]) == {"user": "me"}


async def test_a_command_is_run_without_a_shell_on_every_call(tmp_path: Path) -> None:
    counter = tmp_path / "a b;$(touch c)"
    code = (
        f"import pathlib; p = pathlib.Path({str(counter)!r}); "
        "n = len(p.read_text()) if p.exists() else 0; p.write_text('x' * (n + 1)); "
        "print(f'token={n}')"
    )
    source = CredentialSource(command(code))
    assert await source.read(["token"]) == {"token": "0"}
    assert await source.read(["token"]) == {"token": "1"}
    assert sorted(os.listdir(tmp_path)) == [counter.name]


# ---------------------------------------------------------------------- what they may hold


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user=me\napi_key=abc\n", {"user": "me", "api_key": "abc"}),
        ("USER = me \r\nApi_Key = abc\r\n", {"user": "me", "api_key": "abc"}),
        ("# a comment = no\n\nnonsense\nuser=me\napi_key='a b'", {"user": "me", "api_key": "a b"}),
        ('user="me"\napi_key=a=b==', {"user": "me", "api_key": "a=b=="}),
        ("user=me\napi_key=ends-in'", {"user": "me", "api_key": "ends-in'"}),
        ('user=me\napi_key="', {"user": "me", "api_key": '"'}),
        ("user=me\napi_key=''quoted''", {"user": "me", "api_key": "'quoted'"}),
        ('{"user": " me ", "API_KEY": "abc", "more": ""}', {"user": "me", "api_key": "abc"}),
        ('\n {"user": "me", "api_key": "ü"}', {"user": "me", "api_key": "ü"}),
        (b"\xef\xbb\xbfuser=me\napi_key=abc", {"user": "me", "api_key": "abc"}),
        (b'\xef\xbb\xbf{"user": "me", "api_key": "abc"}', {"user": "me", "api_key": "abc"}),
    ],
)
async def test_lines_and_json(tmp_path: Path, text: str | bytes, expected: dict[str, str]) -> None:
    source = CredentialSource(written(tmp_path, text))
    assert await source.read(["user", "api_key"]) == expected


VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1).filter(
    lambda value: value[0] not in "\"'"
)


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from(["user", "api_key", "totp"]), VALUES, min_size=1))
def test_both_forms_carry_any_value(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, str]
) -> None:
    lines = "\n".join(f"{name}={value}" for name, value in values.items())
    for text in (lines, json.dumps(values)):
        source = CredentialSource(written(tmp_path_factory.getbasetemp(), text))
        assert asyncio.run(source.read(list(values))) == values


async def test_optional_names_may_be_missing_and_others_may_not(tmp_path: Path) -> None:
    source = CredentialSource(written(tmp_path, f"user=me\napi_key={SECRET}\ntotp=\n"))
    assert await source.read(["user"], ["group"]) == {"user": "me", "group": ""}
    with pytest.raises(FeedUnavailable, match=r"lack password, totp \(file:.*credentials\)") as why:
        await source.read(["user", "password", "totp"])
    assert SECRET not in str(why.value)


async def test_nothing_set_is_missing() -> None:
    with pytest.raises(FeedUnavailable, match=r"lack user \(env:ODINFEED\)"):
        await CredentialSource("env:ODINFEED", environ={}).read(["user"])


# ---------------------------------------------------------------------- what may go wrong


@pytest.mark.parametrize("spec", ["", "env", "env:", "file: ", "vault:x", SECRET, f"me:{SECRET}"])
def test_another_form_is_refused_without_repeating_what_may_be_the_secret(spec: str) -> None:
    with pytest.raises(ValueError) as why:
        CredentialSource(spec)
    assert str(why.value) == "credentials must be env:PREFIX, file:PATH or command:PROGRAM"


@pytest.mark.parametrize(
    ("place", "problem"),
    [("missing", "No such file"), (".", "Is a directory"), ("a\0b", "it is not a path")],
)
async def test_a_file_that_cannot_be_read(tmp_path: Path, place: str, problem: str) -> None:
    with pytest.raises(FeedUnavailable, match=problem):
        await CredentialSource(f"file:{tmp_path}/{place}").read(["user"])


@pytest.mark.parametrize(
    "text",
    [
        f'{{"user": "{SECRET}"',
        f'{{"user": "{SECRET}", "id": 7}}',
        f'{{"data": {{"user": "{SECRET}"}}}}',
        b"user=" + SECRET.encode() + b"\xff",
    ],
)
async def test_what_makes_no_sense_is_told_without_showing_it(
    tmp_path: Path, text: str | bytes
) -> None:
    with pytest.raises(FeedUnavailable, match="could not be understood") as why:
        await CredentialSource(written(tmp_path, text)).read(["user"])
    assert SECRET not in str(why.value)
    assert why.value.__suppress_context__


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (command(f"print('user={SECRET}'); raise SystemExit(3)"), "ended with 3"),
        (command(f"print('user={SECRET}'); import os; os.abort()"), "ended with -6"),
        (f"command:/nowhere/at/all --password {SECRET}", "could not be started"),
        (f"command:echo '{SECRET}", "could not be started"),
        (command(f"print('nothing {SECRET}')"), r"lack user \(command\)"),
        (
            command(f"print('x' * {MAX_CREDENTIALS_BYTES + 1})"),
            f"printed more than {MAX_CREDENTIALS_BYTES} bytes",
        ),
        (command("while True: print('user=me')"), "printed more than"),
    ],
)
async def test_a_command_that_fails_is_told_without_what_it_holds(spec: str, problem: str) -> None:
    source = CredentialSource(spec)
    with pytest.raises(FeedUnavailable, match=problem) as why:
        await source.read(["user"])
    assert SECRET not in str(why.value)
    assert SECRET not in repr(source)


@pytest.mark.parametrize(
    "code",
    [
        "import time; print('user=me', flush=True); {ready}; time.sleep(60)",
        # Its child holds the pipe open after the command itself has ended.
        """import subprocess, sys
subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
{ready}""",
    ],
)
async def test_a_command_that_takes_too_long_is_killed_with_its_children(
    tmp_path: Path, code: str
) -> None:
    note = tmp_path / "group"
    ready = f"import os; open({str(note)!r}, 'w').write(str(os.getpgrp()))"
    source = CredentialSource(command(code.format(ready=ready)), timeout_s=2)
    with pytest.raises(FeedUnavailable, match="took too long"):
        await source.read(["user"])
    await _until_gone(int(note.read_text()))


async def test_a_command_is_killed_when_nobody_waits_for_it_any_more(tmp_path: Path) -> None:
    note = tmp_path / "group"
    code = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpgrp())); time.sleep(60)"
    task = asyncio.create_task(CredentialSource(command(code)).read(["user"]))
    while not (note.exists() and note.read_text()):
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await _until_gone(int(note.read_text()))


async def _until_gone(group: int) -> None:
    """Wait until no process of the group runs. One that was killed may wait to be reaped."""
    async with asyncio.timeout(5):
        while True:
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                return
            if all(state == "Z" for state in _states(group)):
                return
            await asyncio.sleep(0.01)


def _states(group: int) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            found.append(fields[0])
    return found


# ---------------------------------------------------------------------- changes


async def test_a_change_is_one_of_the_values_that_were_read(tmp_path: Path) -> None:
    source = CredentialSource(written(tmp_path, "user=me\ntoken=old\n"))
    assert await source.has_changed() is True, "nothing was read yet"
    await source.read(["token"], ["totp"])
    assert await source.has_changed() is False
    written(tmp_path, "user=another\ntoken='old'\n")
    assert await source.has_changed() is False
    written(tmp_path, "user=me\ntoken=new\n")
    assert await source.has_changed() is True
    await source.read(["token"], ["totp"])
    assert await source.has_changed() is False
    written(tmp_path, "user=me\ntoken=new\ntotp=7\n")
    assert await source.has_changed() is True


async def test_a_source_that_cannot_be_read_now_has_not_changed(tmp_path: Path) -> None:
    source = CredentialSource(written(tmp_path, "token=old"))
    await source.read(["token"])
    (tmp_path / "credentials").unlink()
    assert await source.has_changed() is False


async def test_variables_of_another_process_would_be_noticed() -> None:
    environ = {"KITE_TOKEN": "old"}
    source = CredentialSource("env:KITE", environ=environ)
    await source.read(["token"])
    assert await source.has_changed() is False
    environ["KITE_TOKEN"] = "new"
    assert await source.has_changed() is True


async def test_what_was_read_is_the_callers_to_change() -> None:
    source = CredentialSource("env:KITE", environ={"KITE_TOKEN": "old"})
    (await source.read(["token"]))["token"] = "scribbled"
    assert await source.has_changed() is False


@pytest.mark.parametrize("spec", ["env:KITE", "file:/etc/odin/secret", command("print(1)")])
async def test_no_secret_is_in_its_repr(spec: str) -> None:
    source = CredentialSource(spec, environ={"KITE_USER": SECRET})
    assert repr(source) == f"CredentialSource({spec.partition(':')[0]}:…)"
