"""The tokenizer. In: documents. Out: tokenizer.model (SentencePiece) and what transformers reads.

SentencePiece learns the pieces: BPE, byte fallback, every digit on its own, no blank put in front.
The same pieces are then written as a tokenizer.json, so that a fast tokenizer gives the same ids.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from corpus.document import Document
from corpus.values import COMPANY, FIRST
from corpus.words import table_words

CONTROL = ("<|im_start|>", "<|im_end|>")
# NOTE: text tokens, not control tokens: a client must see them in an answer to find tool calls.
MARKS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
BLANK = "▁"
ASCII = "".join(chr(code) for code in range(33, 127))
ALWAYS = ("is", "a", "an", '"', '{"')
LATIN = "äöüßéèêëàâçîïôûùñáíóúìòÄÖÜÉ–…“”‘’€°"


def learn_pieces(documents: Iterable[Document], size: int, blank_words: int) -> bytes:
    """Return a SentencePiece model with `size` pieces, the special tokens first.

    A blank is a piece of its own, so that a word is cut in the same way wherever it stands and can
    be copied piece by piece; only the `blank_words` most frequent words have one in front.
    """
    chunks: Counter[str] = Counter()
    for document in documents:
        for part in document.segments:
            chunks.update(chunk for line in _plain_lines(part.text) for chunk in line.split(" "))
    # NOTE: other scripts stay bytes, so that any of their characters can be copied.
    known = {*ASCII, *LATIN}
    chunks = Counter({each: n for each, n in chunks.items() if each and known.issuperset(each)})
    model = io.BytesIO()
    # NOTE: a chunk stands as often as in the text up to a limit, so that rare words have pieces.
    lines = (chunk for chunk, times in sorted(chunks.items()) for _ in range(min(times, 300)))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=model,
        model_type="bpe",
        vocab_size=size - blank_words,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        character_coverage=1.0 - 1e-9,
        required_chars=ASCII + LATIN + BLANK,
        pad_id=3,
        control_symbols=list(CONTROL),
        user_defined_symbols=list(MARKS),
        num_threads=1,
        minloglevel=2,
    )
    return _with_blank_words(model.getvalue(), chunks, blank_words)


def _with_blank_words(model: bytes, chunks: Counter[str], count: int) -> bytes:
    """Add pieces of a blank and a frequent word, joined after all others."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    known = {each.piece for each in proto.pieces}
    copied = table_words() | {part for text in (*FIRST, *COMPANY) for part in text.split()}
    frequent = [
        word for word, _ in chunks.most_common()
        if word in known and word.isalpha() and word not in copied
    ]  # fmt: skip
    chosen = [*(word for word in ALWAYS if word in known), *frequent][:count]
    lowest = min(each.score for each in proto.pieces)
    for place, word in enumerate(chosen, start=1):
        proto.pieces.add(piece=BLANK + word, score=lowest - place)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    written: bytes = proto.SerializeToString()
    return written


def _plain_lines(text: str) -> list[str]:
    for token in CONTROL:
        text = text.replace(token, "\n")
    return [line for line in text.split("\n") if line]


def _merges(pieces: dict[str, int]) -> list[tuple[str, str]]:
    """Return every way to put a piece together from two others, pieces learned first in front."""
    merges = []
    for piece in sorted(pieces, key=pieces.__getitem__):
        cuts = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        known = [cut for cut in cuts if cut[0] in pieces and cut[1] in pieces]
        merges += sorted(known, key=lambda cut: (pieces[cut[0]], pieces[cut[1]]))
    return merges


def fast_tokenizer(model: bytes) -> Tokenizer:
    """Return a tokenizer of the `tokenizers` library that cuts text as SentencePiece does."""
    learned = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = {learned.id_to_piece(i): i for i in range(learned.vocab_size())}
    own = {*SPECIAL.values(), *CONTROL, *MARKS}
    ordinary = {p: i for p, i in ids.items() if p not in own and not learned.is_byte(i)}
    bpe = models.BPE(ids, _merges(ordinary), byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Replace(" ", BLANK)
    parts = [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(parts)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", ids["<s>"])]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False) for token in (*SPECIAL.values(), *CONTROL)]
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in MARKS])
    return tokenizer


def tokenizer_config(tokenizer: Tokenizer, positions: int) -> dict[str, Any]:
    """Return the contents of tokenizer_config.json."""
    added = {
        str(index): {
            "content": token.content,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token.special,
        }
        for index, token in sorted(tokenizer.get_added_tokens_decoder().items())
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **SPECIAL,
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": positions,
        "added_tokens_decoder": added,
    }


def write_tokenizer(folder: Path, model: bytes, positions: int) -> Tokenizer:
    """Write the three files of the tokenizer; return the fast one."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = fast_tokenizer(model)
    (folder / "tokenizer.model").write_bytes(model)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.dumps(tokenizer_config(tokenizer, positions), indent=1, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(config + "\n", encoding="utf-8")
    return tokenizer
