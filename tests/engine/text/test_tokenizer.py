"""Tokenizers of every spelling: ids, exact bytes, special tokens, BOS and end tokens."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from libertai_engine.errors import InvalidRequest, ModelLoadError
from libertai_engine.text.tokenizer import Tokenizer
from tests.fakes import BOS, EOS, IM_END, IM_START, tiny_tokenizer


def byte_level(**names: str) -> PreTrainedTokenizerFast:
    """GPT-2's way: 256 letters for bytes, one merge, two control tokens, one plain added token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: index for index, letter in enumerate([*letters, "he"])}
    backend = Backend(models.BPE(vocab, [("h", "e")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True) for t in ("<|endoftext|>", IM_END)])
    backend.add_tokens([AddedToken("<é tool>", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def unigram() -> PreTrainedTokenizerFast:
    """T5's way: pieces with a mark for the space, no bytes."""
    pieces = [("<unk>", 0.0), ("▁", -2.0), ("▁a", -1.0), ("b", -2.0), ("<0x41>", -9.0)]
    backend = Backend(models.Unigram(pieces, 0, False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def word_piece() -> PreTrainedTokenizerFast:
    """BERT's way: a space before every piece but those that continue a word."""
    vocab = {"[UNK]": 0, "a": 1, "##b": 2, "cat": 3}
    backend = Backend(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


@pytest.fixture(scope="module")
def llama() -> Tokenizer:
    """SentencePiece BPE with byte fallback, BOS and a chat template."""
    return Tokenizer(tiny_tokenizer())


@pytest.fixture(scope="module")
def gpt() -> Tokenizer:
    """Byte-level BPE without BOS."""
    return Tokenizer(byte_level(eos_token="<|endoftext|>", bos_token="<|endoftext|>"))


any_text = st.text(st.characters(codec="utf-8"), max_size=40)


@settings(deadline=None)
@given(any_text)
def test_byte_level_text_comes_back(gpt: Tokenizer, text: str) -> None:
    """Whatever the text: ids and back is the identity."""
    assert gpt.decode(gpt.encode(text, add_special=False)) == text


@settings(deadline=None)
@given(any_text)
def test_sentencepiece_text_comes_back_behind_a_space(llama: Tokenizer, text: str) -> None:
    """The leading space the model sees is kept: a completion goes on where the prompt ended."""
    ids = llama.encode(text, add_special=False, parse_special=False)
    assert llama.decode(ids) == (f" {text}" if text and text[0] != " " else text)


@settings(deadline=None)
@given(any_text)
def test_text_behind_other_tokens_gets_no_space(
    llama: Tokenizer, gpt: Tokenizer, text: str
) -> None:
    """It goes on where they ended, whatever the vocabulary does at the start of a text."""
    for tokenizer in (llama, gpt):
        assert tokenizer.decode(tokenizer.encode_behind(text)) == text


def test_bytes_of_every_spelling(llama: Tokenizer, gpt: Tokenizer) -> None:
    """A letter's share of a character, a byte token, a marked piece, a continued word."""
    euro = gpt.encode("€", add_special=False)
    assert [gpt.token_bytes(token) for token in euro] == [b"\xe2", b"\x82", b"\xac"]
    emoji = llama.encode("😀", add_special=False)
    assert b"".join(llama.token_bytes(token) for token in emoji) == b" \xf0\x9f\x98\x80"
    assert llama.token_bytes(3 + 0x0A) == b"\n"
    t5 = Tokenizer(unigram())
    assert [t5.token_bytes(token) for token in range(1, 4)] == [b" ", b" a", b"b"]
    bert = Tokenizer(word_piece())
    assert [bert.token_bytes(token) for token in (2, 3)] == [b"b", b" cat"]


def test_control_tokens_and_unknown_ids_are_empty(llama: Tokenizer, gpt: Tokenizer) -> None:
    """Padding rows of the model's vocabulary included."""
    for tokenizer in (llama, gpt):
        assert all(tokenizer.token_bytes(token) == b"" for token in tokenizer.eos_ids)
        assert tokenizer.token_bytes(tokenizer.vocab_size) == b""
        assert tokenizer.token_bytes(-1) == b""
    assert llama.decode([1, *llama.encode("a", add_special=False), 2]) == " a"


def test_plain_added_tokens_are_text(gpt: Tokenizer) -> None:
    """They are not in the byte alphabet: é is two bytes, the space one."""
    (token,) = gpt.encode("<é tool>", add_special=False)
    assert gpt.token_bytes(token) == "<é tool>".encode()


def test_special_text_is_a_token_only_if_parsed(llama: Tokenizer) -> None:
    """Not parsed it is letters, which come back as they were."""
    im_end = llama.vocab_size - 1
    text = f"{IM_START}user{IM_END}"
    assert im_end in llama.encode(text, add_special=False)
    literal = llama.encode(text, add_special=False, parse_special=False)
    assert not {im_end, im_end - 1} & set(literal)
    assert llama.decode(literal) == f" {text}"


def test_bos_is_added_once(llama: Tokenizer, gpt: Tokenizer) -> None:
    """Not to a text that brings it, except where its letters are not to be parsed."""
    assert llama.adds_bos
    assert llama.encode("a", add_special=True) == [1, *llama.encode("a", add_special=False)]
    assert llama.encode(f"{BOS}a", add_special=True).count(1) == 1
    assert llama.encode(f"{BOS}a", add_special=True, parse_special=False)[0] == 1
    assert llama.encode("", add_special=True) == [1]
    assert not gpt.adds_bos
    assert gpt.encode("", add_special=True) == []


def test_bos_follows_what_the_tokenizer_does(tmp_path: Path) -> None:
    """Not what a flag in its configuration says."""
    hf = tiny_tokenizer()
    hf.backend_tokenizer.post_processor = processors.TemplateProcessing("$A")
    hf.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"add_bos_token": None}))
    assert not Tokenizer.from_pretrained(tmp_path).adds_bos


def test_end_ids_are_collected_from_everywhere(llama: Tokenizer, gpt: Tokenizer) -> None:
    """The tokenizer's own, the generation config's, and well-known control tokens."""
    im_end = llama.vocab_size - 1
    assert llama.eos_ids == {2, im_end}
    assert Tokenizer(tiny_tokenizer(), eos_ids=[7]).eos_ids == {2, 7, im_end}
    assert len(gpt.eos_ids) == 2


def test_a_message_end_is_no_turn_end_where_a_turn_has_its_own() -> None:
    """With <|return|> and <|call|> in the vocabulary <|end|> only closes a message."""
    hf = byte_level(eos_token="<|return|>")
    hf.add_special_tokens({"additional_special_tokens": ["<|end|>", "<|call|>"]})
    end, call = hf.convert_tokens_to_ids(["<|end|>", "<|call|>"])
    assert end not in Tokenizer(hf).eos_ids
    assert call not in Tokenizer(hf).eos_ids


def test_facts_about_the_model(llama: Tokenizer, gpt: Tokenizer) -> None:
    """Names and ids others ask for."""
    assert (llama.bos_id, llama.bos_token, llama.eos_token) == (1, BOS, EOS)
    assert llama.vocab_size == 400
    for tokenizer in (llama, gpt):
        assert tokenizer.newline_id in tokenizer.encode("one\ntwo", add_special=False)
        assert tokenizer.newline_id is not None
        assert tokenizer.token_bytes(tokenizer.newline_id) == b"\n"
    assert Tokenizer(word_piece()).newline_id is None
    assert llama.chat_template is not None
    assert gpt.chat_template is None


def test_one_of_several_templates_is_the_default() -> None:
    """Some models bring named ones."""
    hf = byte_level()
    hf.chat_template = {"tool_use": "tools", "default": "plain"}
    assert Tokenizer(hf).chat_template == "plain"


def test_long_texts_have_the_same_ids(gpt: Tokenizer) -> None:
    """However they are encoded, and cut nowhere."""
    hf = byte_level()
    hf("a", truncation=True, max_length=5)
    text = "he said hé " * 5000
    ids = Tokenizer(hf).encode(text, add_special=False)
    assert ids == gpt.encode("he said hé ", add_special=False) * 5000


def test_text_without_utf8_form_is_refused(llama: Tokenizer) -> None:
    """Half a surrogate pair, as JSON may bring it; short or long."""
    for text in ("\ud83d", "a" * 20_000 + "\ud83d"):
        for parse_special in (True, False):
            with pytest.raises(InvalidRequest, match="Unicode"):
                llama.encode(text, add_special=True, parse_special=parse_special)


def test_threads_may_share_one() -> None:
    """The second backend is made once, and neither disturbs the other."""
    tokenizer = Tokenizer(tiny_tokenizer())
    text = f"{IM_START}user\nthe quick brown fox{IM_END}"

    def both(_: int) -> tuple[list[int], list[int]]:
        return (
            tokenizer.encode(text, add_special=True),
            tokenizer.encode(text, add_special=True, parse_special=False),
        )

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(both, range(200)))
    assert all(pair == both(0) for pair in found)


def test_a_folder_brings_its_generation_config(tiny_model: Path, tmp_path: Path) -> None:
    """A list of end ids there counts; without the file the tokenizer's own do."""
    assert Tokenizer.from_pretrained(tiny_model).eos_ids >= {2}
    tiny_tokenizer().save_pretrained(tmp_path)
    assert Tokenizer.from_pretrained(tmp_path).eos_ids == {2, 399}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 17]}')
    assert Tokenizer.from_pretrained(tmp_path).eos_ids == {2, 17, 399}


def test_a_tokenizer_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    """No fast backend, or nothing there at all."""
    with pytest.raises(ModelLoadError, match="not a fast tokenizer"):
        Tokenizer(object())
    with pytest.raises(ModelLoadError, match="no tokenizer in"):
        Tokenizer.from_pretrained(tmp_path)
