"""The table of deliberate differences as a document.

In: recordings and differences. Out: Markdown; `python -m tests.engine.conformance.report` writes
`docs/conformance.md`, and a test says when that is due.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.engine.conformance.differences import (
    ADDITIONAL_KEYS,
    DIFFERENCES,
    EVERYWHERE,
    IN_SINGLE_ANSWERS,
    Difference,
)
from tests.engine.conformance.findings import ABSOLUTE, RELATIVE
from tests.engine.conformance.recordings import Recording, load_recordings

PAGE = Path(__file__).resolve().parents[3] / "docs" / "conformance.md"
MEASURED = {
    "tokenize": "`/tokenize` of words, spaces, scripts, emoji, control tokens",
    "detokenize": "`/detokenize`",
    "greedy": "greedy text, with penalties and biases too",
    "stop": "stop words",
    "stop_stream": "stop words in streams",
    "dist": "the first token's distribution after each filter and after all of them",
    "grammar": "grammars",
    "context": "prompts and answers longer than the context",
    "cache": "a prompt that grows and shrinks",
    "stream": "streams",
    "props": "`/props`",
    "mirostat": "mirostat 1 and 2",
    "defaults": "a request without options",
}


def render(recordings: list[Recording]) -> str:
    """The whole page."""
    parts = [
        "# Conformance",
        _intro(recordings),
        "This page is made by `python -m tests.engine.conformance.report`.",
        "## What is measured",
        _table("what|requests|same|with a difference of its own", _kinds(recordings)),
        "## Differences in all answers of a kind",
        _table("difference|there|here|answers|proof", _rows(EVERYWHERE, recordings)),
        "## Differences in single answers",
        _table("difference|there|here|answers|proof", _rows(IN_SINGLE_ANSWERS, recordings)),
        "## Samplers of later servers",
        _later(),
        "## Keys that only our answers have",
        _table("in|key|meaning", (_key_row(*key, text) for key, text in ADDITIONAL_KEYS.items())),
    ]
    return "\n\n".join(parts) + "\n"


def _intro(recordings: list[Recording]) -> str:
    text = f"""
        `cassettes/reference/` holds what llama.cpp's server of December 2023 answered to
        {len(recordings)} requests, and the small model that it ran. `tests/engine/conformance/`
        puts the same requests to our server, over HTTP, and compares: text, tokens, counts, flags
        and settings exactly, probabilities to {RELATIVE:g} relative or {ABSOLUTE:g} absolute, and
        that no key is missing. The {len(DIFFERENCES)} differences below are the only ones, and each
        still shows: a test fails for any other, and for one of these that is no longer there.
        """
    return " ".join(text.split())


def _later() -> str:
    text = f"""
        What the server of 2023 did not have (`samplers`, `min_keep`, `dynatemp_*`, `top_n_sigma`,
        `xtc_*`, `dry_*`) is compared with today's llama-server on the same model:
        {len(load_recordings("later.json"))} distributions to 1e-4 relative, and the names, defaults
        and values of the settings (`test_later.py`). Two things differ. `samplers` may not put
        `penalties` or `dry` behind a filter: that is a 400. And a sequence breaker ends a
        repetition wherever its letters stand, however they are cut into tokens.
        """
    return " ".join(text.split())


def _kinds(recordings: list[Recording]) -> Iterator[tuple[str, ...]]:
    total, total_same = 0, 0
    for kind, meaning in MEASURED.items():
        members = [each for each in recordings if each.kind == kind]
        same = sum(not _has_own_difference(each) for each in members)
        total, total_same = total + len(members), total_same + same
        yield meaning, str(len(members)), str(same), str(len(members) - same)
    yield "together", str(total), str(total_same), str(total - total_same)


def _has_own_difference(recording: Recording) -> bool:
    return any(each.concerns(recording) for each in IN_SINGLE_ANSWERS)


def _rows(
    differences: tuple[Difference, ...], recordings: list[Recording]
) -> Iterator[tuple[str, ...]]:
    for each in differences:
        names = [recording.name for recording in recordings if each.concerns(recording)]
        answers = str(len(names)) if len(names) > 4 else ", ".join(f"`{name}`" for name in names)
        yield each.name, each.there, each.here, answers, each.proof and f"`{each.proof}`"


def _key_row(place: str, key: str, meaning: str) -> tuple[str, ...]:
    return f"`{place}`", f"`{key}`", meaning


def _table(head: str, rows: Iterator[tuple[str, ...]]) -> str:
    columns = head.split("|")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render(load_recordings()), encoding="utf-8")


if __name__ == "__main__":
    main()
