"""The tokenizer of embedding models: marks around texts, cuts between them, nothing padded."""

from __future__ import annotations

import pytest

from libertai_engine.errors import InvalidRequest
from libertai_engine.text.passages import PassageTokenizer
from tests.fake_encoders import CLS, SEP, WORDS, word_tokenizer

HF = word_tokenizer()
MARKS = (HF.convert_tokens_to_ids(CLS), HF.convert_tokens_to_ids(SEP))


def test_each_text_has_the_models_marks() -> None:
    """As the tokenizer's own template has them, texts of all lengths in one call."""
    tokenizer = PassageTokenizer(HF, max_tokens=8)
    texts = ["the cat", "", " ".join(WORDS)]
    rows = tokenizer.encode(texts, truncate=False)
    assert [len(row) for row in rows] == [4, 2, len(WORDS) + 2]
    assert all((row[0], row[-1]) == MARKS for row in rows)
    assert rows == HF(texts)["input_ids"]


def test_cutting_keeps_the_marks() -> None:
    """The last mark is what a model that pools its last token looks at."""
    tokenizer = PassageTokenizer(HF, max_tokens=8)
    (row,) = tokenizer.encode([" ".join(WORDS)], truncate=True)
    assert len(row) == 8 and (row[0], row[-1]) == MARKS
    assert tokenizer.encode(["the cat"], truncate=True) == tokenizer.encode(
        ["the cat"], truncate=False
    )


def test_settings_of_the_shared_backend_do_not_matter() -> None:
    """A call on the transformers object leaves padding and cuts switched on in its backend."""
    hf = word_tokenizer()
    hf(["the cat", "a"], padding=True, truncation=True, max_length=3)
    rows = PassageTokenizer(hf, max_tokens=8).encode(["the cat sat", "a"], truncate=False)
    assert [len(row) for row in rows] == [5, 3]


def test_lower_case_if_the_model_wants_it() -> None:
    """The vocabulary has no capitals."""
    texts = ["The CAT"]
    lowered = PassageTokenizer(HF, max_tokens=8, lower_case=True).encode(texts, truncate=False)
    as_is = PassageTokenizer(HF, max_tokens=8).encode(texts, truncate=False)
    assert lowered == PassageTokenizer(HF, max_tokens=8).encode(["the cat"], truncate=False)
    assert lowered != as_is


def test_pieces_have_no_marks() -> None:
    """They stand between other tokens."""
    tokenizer = PassageTokenizer(HF, max_tokens=8)
    assert (
        tokenizer.encode_piece("the cat") == tokenizer.encode(["the cat"], truncate=False)[0][1:-1]
    )


def test_text_without_utf8_is_refused() -> None:
    """A lone surrogate is no text."""
    with pytest.raises(InvalidRequest):
        PassageTokenizer(HF, max_tokens=8).encode(["a \ud800"], truncate=False)
