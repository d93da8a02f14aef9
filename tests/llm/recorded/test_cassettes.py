"""What is in the cassettes: no secret, no host, nothing that no test uses.

In: every file under cassettes/. Out: a failure that names the file.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
CASSETTES = sorted((ROOT / "cassettes").rglob("*.yaml"))
LEAKS = {
    "an absolute path": re.compile(r"/(home|root|work|tmp|usr|mnt|Users)/"),
    "a key": re.compile(r"recorded-key|Bearer (?!SCRUBBED)"),
    "another host": re.compile(r"https?://(?!127\.0\.0\.1/)"),
}
REQUEST_HEADERS = {"content-type", "cookie", "authorization"}
RESPONSE_HEADERS = {"content-type", "retry-after", "server", "set-cookie"}


def test_there_are_recordings_of_every_server(known_servers: frozenset[str]) -> None:
    """An empty folder would let every test here pass without a look at anything."""
    folders = {path.relative_to(ROOT / "cassettes").parts[0] for path in CASSETTES}
    assert folders == known_servers


@pytest.mark.parametrize("path", CASSETTES, ids=lambda path: path.stem)
def test_cassette_holds_no_secret(path: Path) -> None:
    """Neither machine, key nor user can be told from a recording."""
    text = path.read_text(encoding="utf-8")
    for what, pattern in LEAKS.items():
        assert not pattern.search(text), f"{what} in {path.name}"
    for interaction in yaml.safe_load(text)["interactions"]:
        assert set(interaction["request"]["headers"]) <= REQUEST_HEADERS
        assert set(interaction["response"]["headers"]) <= RESPONSE_HEADERS


@pytest.mark.parametrize("path", CASSETTES, ids=lambda path: path.stem)
def test_cassette_belongs_to_a_test(path: Path) -> None:
    """A test that was renamed leaves no recording behind."""
    module = Path(__file__).with_name(path.parent.name + ".py")
    assert f"def {path.stem.split('-')[0]}(" in module.read_text(encoding="utf-8")
