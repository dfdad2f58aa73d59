"""API keys: made once, kept as a hash, recognised exactly."""

import hmac
from typing import Any

import pytest

from odin.auth import keys
from odin.auth.keys import KeyIndex, create, digest


def test_a_key_is_kept_without_its_secret() -> None:
    key, text = create("dashboard", ["stream"], 5)
    prefix, key_id, secret = text.split("_", 2)
    assert (prefix, key_id) == ("odin", key.id)
    assert key.secret_sha256 == digest(secret)
    assert len(secret) == 43  # 256 bits
    assert secret not in repr(key)


def test_no_two_keys_are_alike() -> None:
    texts = {create("a", ["stream"], 0)[1] for _ in range(100)}
    assert len(texts) == 100


def test_the_index_finds_the_key_a_text_is() -> None:
    index = KeyIndex()
    (one, first), (other, second) = create("a", ["stream"], 0), create("b", ["admin"], 0)
    assert index.replace([one, other]) == set()
    assert index.find(first) == one
    assert index.find(second) == other
    assert index.get(one.id) == one


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: "odin_",
        lambda text: text[:-1],
        lambda text: text + "A",
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text.upper(),
        lambda text: text.replace("odin", "Odin"),
        lambda text: "odin_00000000_" + text[14:],
        lambda text: text[:14] + "A" * 43,
        lambda text: text[14:],
        lambda text: "\ud800" + text[1:],
        lambda text: "é" * 57,
        lambda text: text * 1000,
    ],
)
def test_what_is_not_quite_a_key_is_none(change: Any) -> None:
    index = KeyIndex()
    key, text = create("a", ["stream"], 0)
    index.replace([key])
    assert index.find(change(text)) is None


def test_every_answer_costs_one_hash_and_one_constant_time_comparison(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work: list[str] = []
    compare = hmac.compare_digest

    def hashing(secret: str) -> str:
        work.append("hash")
        return digest(secret)

    def comparing(a: str, b: str) -> bool:
        work.append("compare")
        return compare(a, b)

    key, text = create("a", ["stream"], 0)
    index = KeyIndex()
    index.replace([key])
    monkeypatch.setattr(keys, "digest", hashing)
    monkeypatch.setattr(hmac, "compare_digest", comparing)
    for sent in (text, text[:14] + "A" * 43, "odin_00000000_" + text[14:], "nothing"):
        work.clear()
        index.find(sent)
        assert work == ["hash", "compare"]


def test_replacing_names_the_keys_that_are_gone() -> None:
    index = KeyIndex()
    (one, first), (other, second) = create("a", ["stream"], 0), create("b", ["stream"], 0)
    index.replace([one, other])
    assert index.replace([one, other]) == set()
    assert index.replace([one._replace(revoked_ms=9), other]) == {one.id}
    assert index.find(first) is None
    assert index.find(second) == other
    assert index.replace([other._replace(scopes=frozenset({"admin"}))]) == {other.id}
    assert index.replace([]) == {other.id}
    assert len(index) == 0
