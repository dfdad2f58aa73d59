"""When a resume token binds, and what is kept of it."""

import pytest

from odin.auth.keys import digest
from odin.errors import ClientError, StoreUnavailable
from odin.protocols.enhanced.resume import ResumeToken


class Store:
    """Rows of clients in memory: a client without one cannot be given a token."""

    def __init__(self, **rows: str | None) -> None:
        self.rows = rows
        self.writes = 0
        self.is_well = True

    async def resume_sha256(self, client_id: str) -> str | None:
        return self.rows.get(client_id)

    async def keep_resume_token(self, client_id: str, resume_sha256: str) -> None:
        self.writes += 1
        if not self.is_well:
            raise StoreUnavailable("it is locked")
        self.rows[client_id] = resume_sha256


def is_refused(resume: ResumeToken, token: str) -> bool:
    try:
        resume.accept(token)
    except ClientError as error:
        assert error.code == "resume_token_required"
        return True
    return False


async def test_until_it_was_seen_to_arrive_each_newcomer_is_offered_another() -> None:
    store = Store(me=None)
    resume = await ResumeToken.read(store, "me")
    first, second = resume.accept(""), resume.accept("nonsense")
    assert first != second
    assert store.writes == 0
    await resume.bind("me", has_row=True)
    assert is_refused(resume, "")
    assert is_refused(resume, first)
    assert resume.accept(second) == ""
    assert store.rows["me"] == digest(second)


async def test_bringing_it_binds_it_too() -> None:
    resume = await ResumeToken.read(Store(), "me")
    token = resume.accept("")
    assert resume.accept(token) == ""
    assert is_refused(resume, "")


async def test_one_that_is_kept_binds_from_the_start() -> None:
    store = Store(me=digest("odin_resume_x"))
    resume = await ResumeToken.read(store, "me")
    assert is_refused(resume, "")
    assert resume.accept("odin_resume_x") == ""
    await resume.bind("me", has_row=True)
    assert store.writes == 0


async def test_it_is_written_once_and_not_for_a_client_without_a_row() -> None:
    stranger, known = Store(), Store(me=None)
    for store, writes in ((stranger, 0), (known, 1)):
        resume = await ResumeToken.read(store, "me")
        resume.accept("")
        for _ in range(3):
            await resume.bind("me", has_row="me" in store.rows)
        assert store.writes == writes
        assert resume.sha256 is not None, "it goes with the first subscription"


async def test_a_database_in_trouble_is_not_the_clients_to_feel() -> None:
    store = Store(me=None)
    store.is_well = False
    resume = await ResumeToken.read(store, "me")
    token = resume.accept("")
    await resume.bind("me", has_row=True)
    assert is_refused(resume, "")
    assert resume.accept(token) == ""


@pytest.mark.parametrize("token", ["", "odin_resume_x", "\ud800", "x" * 60_000])
async def test_any_text_is_a_wrong_token(token: str) -> None:
    resume = await ResumeToken.read(Store(me=digest("odin_resume_right")), "me")
    assert is_refused(resume, token)
