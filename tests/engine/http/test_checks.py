"""The checks in front of every route, one table each."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from libertai_engine.config import ServerConfig
from libertai_engine.http.answers import Refusal
from libertai_engine.http.checks import check_head, check_host, check_key, cors_headers, is_loopback

KEYS = ("first-key", "ключ")


def headers(*pairs: tuple[str, str]) -> Headers:
    return Headers(raw=[(name.lower().encode(), value.encode()) for name, value in pairs])


@pytest.mark.parametrize(
    "given",
    [
        [("Authorization", "Bearer first-key")],
        [("Authorization", "bEaReR   first-key ")],
        [("Authorization", "Bearer ключ")],
        [("X-Api-Key", "first-key")],
        [("X-Api-Key", "first-key"), ("Authorization", "Bearer first-key")],
    ],
)
def test_known_keys_pass(given: list[tuple[str, str]]) -> None:
    """Any of the configured keys, under either header."""
    check_key(headers(*given), KEYS)


@pytest.mark.parametrize(
    "given",
    [
        [],
        [("Authorization", "first-key")],
        [("Authorization", "Basic first-key")],
        [("Authorization", "Bearer ")],
        [("Authorization", "Bearer first-keyX")],
        [("Authorization", "Bearer first-ke")],
        [("Authorization", "Bearer first-key"), ("Authorization", "Bearer wrong")],
        [("X-Api-Key", "")],
        [("X-Api-Key", "wrong"), ("Authorization", "Bearer first-key")],
        [("X-Api-Key", "é" * 10_000)],
    ],
)
def test_anything_else_is_refused(given: list[tuple[str, str]]) -> None:
    """401, and the answer says nothing about the key."""
    with pytest.raises(Refusal) as caught:
        check_key(headers(*given), KEYS)
    assert (caught.value.status, caught.value.type) == (401, "authentication_error")
    assert str(caught.value) == "Invalid API Key"


def test_a_key_may_be_any_bytes() -> None:
    """As a command line brings them, in UTF-8 or not."""
    key = b"k\xff".decode(errors="surrogateescape")
    check_key(Headers(raw=[(b"x-api-key", b"k\xff")]), (key,))
    with pytest.raises(Refusal):
        check_key(Headers(raw=[(b"x-api-key", b"k")]), (key,))


def test_no_keys_means_open() -> None:
    """Without configured keys nobody is asked for one, and a superfluous one does not hurt."""
    check_key(headers(), ())
    check_key(headers(("Authorization", "Bearer x")), ())


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.168.1.2", False),
        ("localhost.evil.com", False),
        ("127.0.0.1.evil.com", False),
        ("", False),
    ],
)
def test_loopback(host: str, is_local: bool) -> None:
    """Names that merely begin like this machine's are foreign."""
    assert is_loopback(host) is is_local


@pytest.mark.parametrize(
    ("given", "is_allowed"),
    [
        ("127.0.0.1:8080", True),
        ("LOCALHOST", True),
        ("[::1]:8080", True),
        ("proxy.example", True),
        ("evil.com", False),
        ("127.0.0.1@evil.com", False),
        ("localhost.evil.com:80", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_host_of_a_loopback_server(given: str, is_allowed: bool) -> None:
    """Only this machine's names and the configured ones, with or without a port."""
    config = ServerConfig(allowed_hosts=("proxy.example",))
    if is_allowed:
        check_host(headers(("Host", given)), config)
        return
    with pytest.raises(Refusal) as caught:
        check_host(headers(("Host", given)), config)
    assert caught.value.status == 403


def test_a_public_server_answers_to_any_host() -> None:
    """Who binds to the network decides about names elsewhere."""
    check_host(headers(("Host", "anything.example")), ServerConfig(host="0.0.0.0"))


@pytest.mark.parametrize(
    ("origin", "allowed", "is_allowed"),
    [
        ("http://localhost:3000", (), True),
        ("https://127.0.0.1", (), True),
        ("http://[::1]:5173", (), True),
        ("http://localhost.evil.com", (), False),
        ("http://localhost:80@evil.com", (), False),
        ("https://evil.com", (), False),
        ("null", (), False),
        ("https://app.example", ("https://app.example",), True),
        ("http://localhost", ("https://app.example",), False),
        ("https://evil.com", ("*",), True),
    ],
)
def test_cors(origin: str, allowed: tuple[str, ...], is_allowed: bool) -> None:
    """Allowed origins are named, others get no CORS header; caches always learn of `Origin`."""
    answer = cors_headers(origin, ServerConfig(cors_origins=allowed))
    assert answer["vary"] == "Origin"
    assert answer.get("access-control-allow-origin") == (origin if is_allowed else None)


def test_heads() -> None:
    """A target over 8 KiB is 414, headers over 16 KiB are 431, two framings of the body are 400."""
    fine = {"raw_path": b"/" * 8192, "query_string": b"", "headers": [(b"a", b"b" * 16_000)]}
    check_head(fine)
    two_framings = [(b"content-length", b"3"), (b"transfer-encoding", b"chunked")]
    for change, status in (
        ({"query_string": b"x"}, 414),
        ({"headers": [(b"a", b"b" * 16_400)]}, 431),
        ({"headers": two_framings}, 400),
    ):
        with pytest.raises(Refusal) as caught:
            check_head(fine | change)
        assert caught.value.status == status
