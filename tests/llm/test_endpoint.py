"""Addresses, credentials and redirects, without a network."""

from __future__ import annotations

import json

import pytest

from libertai_llm.endpoint import Endpoint, HTTPRequest, encode_body
from libertai_llm.errors import ConnectError, InvalidOption, InvalidReply


@pytest.mark.parametrize(
    ("given", "base", "origin"),
    [
        ("http://h", "http://h", "http://h:80"),
        ("http://h/", "http://h", "http://h:80"),
        ("https://h/vm/abc/", "https://h/vm/abc", "https://h:443"),
        ("https://h/vm/abc/completion", "https://h/vm/abc", "https://h:443"),
        ("http://h:8080/completion/", "http://h:8080", "http://h:8080"),
        ("http://user:p@h:8080/x", "http://h:8080/x", "http://h:8080"),
        ("http://[::1]:80/x", "http://[::1]:80/x", "http://::1:80"),
    ],
)
def test_addresses(given: str, base: str, origin: str) -> None:
    """A base, with or without the route people copy along; passwords go nowhere."""
    endpoint = Endpoint(given)
    assert (endpoint.base_url, endpoint.origin) == (base, origin)
    assert endpoint.request("GET", "/props", None).url == base + "/props"


@pytest.mark.parametrize(
    "given",
    ["", "h:8080", "ftp://h", "http://", "http://h?x=1", "http://h/#a", "http://h:99999",
     "http://h:x", "http://h/\n", "http://us\ner:secret@h"],
)  # fmt: skip
def test_what_is_no_address(given: str) -> None:
    """Refused without repeating it, since it may hold a password."""
    with pytest.raises(InvalidOption, match="base_url") as caught:
        Endpoint(given)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["a\nb", "ключ", " x", "a\x00"])
def test_keys_that_no_header_carries(key: str) -> None:
    """Refused without repeating them."""
    with pytest.raises(InvalidOption, match="api_key") as caught:
        Endpoint("http://h", api_key=key)
    assert key not in str(caught.value)


def test_one_way_to_be_authorised() -> None:
    """A key, a password in the address and a header of one's own exclude each other."""
    for arguments in (
        {"base_url": "http://u:p@h", "api_key": "k"},
        {"base_url": "http://h", "api_key": "k", "headers": {"authorization": "x"}},
    ):
        with pytest.raises(InvalidOption, match="exclude"):
            Endpoint(**arguments)  # type: ignore[arg-type]


def test_secrets_are_not_shown() -> None:
    """Neither by the endpoint nor by its requests."""
    endpoint = Endpoint("http://h", api_key="secret-key", headers={"X-Other": "secret-too"})
    request = endpoint.request("POST", "/completion", {"prompt": "secret-prompt"})
    assert request.all_headers["Authorization"] == "Bearer secret-key"
    assert request.all_headers["X-Other"] == "secret-too"
    assert "secret" not in repr(endpoint) + repr(request)


@pytest.mark.parametrize(
    ("here", "location", "there", "is_home"),
    [
        ("http://h/a/completion", "/b", "http://h/b", True),
        ("http://h/a/completion", "b", "http://h/a/b", True),
        ("http://h/a", "http://h:80/b", "http://h:80/b", True),
        ("http://h/a", "https://h/b", "https://h/b", True),
        ("http://h:8080/a", "https://h/b", "https://h/b", False),
        ("http://h/a", "http://h:81/b", "http://h:81/b", False),
        ("http://h/a", "http://other/b", "http://other/b", False),
        ("http://h/a", "//other/b", "http://other/b", False),
        ("http://h/a", "http://h.evil.com/b", "http://h.evil.com/b", False),
        ("http://h/a", "http://h@evil.com/b", "http://evil.com/b", False),
        ("https://h/a", "https://h/b", "https://h/b", True),
    ],
)
def test_redirects(here: str, location: str, there: str, is_home: bool) -> None:
    """Secrets stay within the origin; http may become https on the standard ports."""
    request = HTTPRequest(method="POST", url=here, body=b"x", secrets={"Authorization": "s"})
    moved = request.redirected(location)
    assert (moved.url, moved.is_home, moved.body) == (there, is_home, b"x")
    assert bool(moved.secrets) is is_home


def test_a_way_home_brings_no_secrets_back() -> None:
    """Who was sent abroad stays a stranger, also at home."""
    request = HTTPRequest(method="POST", url="http://h/a", secrets={"Authorization": "s"})
    back = request.redirected("http://other/").redirected("http://h/a")
    assert not back.secrets and not back.is_home


def test_redirects_that_are_refused() -> None:
    """From https to http, and to what is no address."""
    request = HTTPRequest(method="POST", url="https://h/a")
    with pytest.raises(ConnectError, match="https to http") as caught:
        request.redirected("http://h/a")
    assert not caught.value.is_retryable
    for location in (None, "", "ftp://h/", "mailto:x@h"):
        with pytest.raises(InvalidReply):
            request.redirected(location)


def test_bodies_are_strict_json() -> None:
    """UTF-8, no NaN, no lone surrogates; what JSON cannot carry is our error."""
    assert encode_body({"prompt": "é"}) == json.dumps({"prompt": "é"}, ensure_ascii=False).encode()
    for bad in (float("nan"), "\ud800", object(), {1, 2}):
        with pytest.raises(InvalidOption):
            encode_body({"x": bad})
