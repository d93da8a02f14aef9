"""Fill-in-the-middle: whose tokens are found, and how the prompt around a gap is laid out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libertai_engine.text.fim import File, FimTokens, Gap, encode_gap
from libertai_engine.text.tokenizer import Tokenizer
from tests.engine.text.test_tokenizer import byte_level
from tests.fakes import EOS, tiny_tokenizer

QWEN = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
QWEN_MORE = ("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")
CODE_LLAMA = ("▁<PRE>", "▁<SUF>", "▁<MID>")
PLENTY = 10_000


def with_tokens(*names: str) -> Tokenizer:
    """The tiny SentencePiece tokenizer and these control tokens, from id 400 on."""
    hf = tiny_tokenizer()
    hf.add_special_tokens({"additional_special_tokens": list(names)})
    return Tokenizer(hf)


@pytest.fixture(scope="module")
def code_llama() -> Tokenizer:
    return with_tokens(*CODE_LLAMA, "▁<EOT>")


@pytest.fixture(scope="module")
def qwen() -> Tokenizer:
    hf = byte_level(eos_token="<|endoftext|>")
    hf.add_tokens([*QWEN, *QWEN_MORE])  # as there, they are no control tokens
    return Tokenizer(hf)


def fim_of(tokenizer: Tokenizer) -> FimTokens:
    assert tokenizer.fim is not None
    return tokenizer.fim


@pytest.mark.parametrize(
    ("names", "ends"),
    [
        (QWEN, QWEN_MORE),
        (QWEN, ("<|file_separator|>",)),
        (("<fim_prefix>", "<fim_suffix>", "<fim_middle>"), ("<file_sep>", "<repo_name>")),
        (("<fim-prefix>", "<fim-suffix>", "<fim-middle>"), ("<fim-pad>",)),
        (("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"), ()),
        (CODE_LLAMA, ("▁<EOT>",)),
        (("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"), ()),
    ],
    ids=lambda names: names[0] if names else "none",
)
def test_every_familys_tokens_are_found(names: tuple[str, ...], ends: tuple[str, ...]) -> None:
    """By name, in their roles; what ends a filling ends a generation."""
    tokenizer = with_tokens(*ends, *names)
    fim = fim_of(tokenizer)
    first = 400 + len(ends)
    assert (fim.prefix, fim.suffix, fim.middle) == (first, first + 1, first + 2)
    assert fim.ends == set(range(400, first)) and tokenizer.eos_ids == {2, 399, *fim.ends}


@pytest.mark.parametrize("names", [(), QWEN[:2], (*QWEN[:2], CODE_LLAMA[2])])
def test_a_model_without_all_three_has_none(names: tuple[str, ...]) -> None:
    """Nothing is made up from the tokens of two families."""
    assert with_tokens(*names).fim is None


def test_the_order_of_code_llama(code_llama: Tokenizer) -> None:
    """Prefix, suffix, middle; SentencePiece's space before the prefix only, none in the middle."""
    fim = fim_of(code_llama)
    gap = Gap(prefix="def add(", suffix="second): return", start="fir")
    prompt, is_cut = encode_gap(gap, fim, code_llama, PLENTY)
    before = code_llama.encode("def add(", add_special=False)
    places = [prompt.index(token) for token in (fim.prefix, fim.suffix, fim.middle)]
    assert places == [0, len(before) + 1, len(prompt) - 1 - len(code_llama.encode_behind("fir"))]
    assert code_llama.decode(before) == " def add("
    assert prompt[1 : places[1]] == before
    assert code_llama.decode(prompt[places[1] : places[2]]) == "second): return"
    assert code_llama.decode(prompt[places[2] :]) == "fir"
    assert not is_cut


def test_an_empty_gap_is_three_tokens(code_llama: Tokenizer, qwen: Tokenizer) -> None:
    """Nothing around it is no reason for anything else in the prompt."""
    for tokenizer in (code_llama, qwen):
        fim = fim_of(tokenizer)
        whole = [fim.prefix, fim.suffix, fim.middle], False
        assert encode_gap(Gap(), fim, tokenizer, PLENTY) == whole


def test_control_tokens_in_code_are_letters(code_llama: Tokenizer) -> None:
    """A web page's <s> and </s> strike text through; they do not end the sequence."""
    fim = fim_of(code_llama)
    gap = Gap(prefix=f"<s>old{EOS}", suffix=f"{EOS}▁<MID>", start=EOS)
    prompt, _ = encode_gap(gap, fim, code_llama, PLENTY)
    assert not set(prompt) & {1, 2} and prompt.count(fim.middle) == 1


def test_other_files_stand_in_front_under_their_names(qwen: Tokenizer) -> None:
    """The repository, each file, then the current one, as llama-server writes them."""
    files = (File(name="a.py", text="A = 1\n"), File(text="B = 2\n"))
    prompt, _ = encode_gap(Gap(prefix="x = ", files=files), fim_of(qwen), qwen, PLENTY)
    assert qwen.decode(prompt) == (
        "<|repo_name|>myproject\n<|file_sep|>a.py\nA = 1\n<|file_sep|>tmp\nB = 2\n"
        "<|file_sep|>filename\n<|fim_prefix|>x = <|fim_suffix|><|fim_middle|>"
    )


def test_other_files_of_a_model_without_names(code_llama: Tokenizer) -> None:
    """They are told apart by a line of text."""
    files = (File(name="a.py", text="A = 1"), File(text="B = 2"))
    prompt, _ = encode_gap(Gap(prefix="x", files=files), fim_of(code_llama), code_llama, PLENTY)
    line = "\n\n--- snippet ---\n\n"
    assert code_llama.decode(prompt) == f"{line}A = 1{line}B = 2 x"


words = st.lists(st.sampled_from("abc"), max_size=30).map("".join)


@settings(deadline=None, max_examples=200)
@given(words, words, st.lists(words, max_size=3), st.integers(0, 140))
def test_what_is_too_long_is_cut_where_it_matters_least(
    qwen: Tokenizer, before: str, behind: str, texts: list[str], room: int
) -> None:
    """Whole files first, then the ends that are far from the gap; the prompt then fits."""
    files = tuple(File(name="f", text=text) for text in texts)
    gap = Gap(prefix=before, suffix=behind, files=files)
    whole, _ = encode_gap(gap, fim_of(qwen), qwen, PLENTY)
    prompt, is_cut = encode_gap(gap, fim_of(qwen), qwen, room)
    assert is_cut == (prompt != whole)
    assert is_cut == (len(whole) > max(room, 3))
    assert len(prompt) <= max(room, 3)
    front, rest = qwen.decode(prompt).split("<|fim_prefix|>")
    kept_before, kept_behind = rest.removesuffix("<|fim_middle|>").split("<|fim_suffix|>")
    assert before.endswith(kept_before) and behind.startswith(kept_behind)
    if (kept_before, kept_behind) != (before, behind):
        assert not front and len(prompt) == max(room, 3)
        assert len(kept_behind) >= min(len(behind), (room - 3) // 4)
    num_kept = front.count("<|file_sep|>f\n")
    expected = "".join(f"<|file_sep|>f\n{text}" for text in texts[len(texts) - num_kept :])
    name = "<|repo_name|>myproject\n", "<|file_sep|>filename\n"
    assert front == (expected.join(name) if num_kept else "")
