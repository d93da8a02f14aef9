"""The tokenizer. In: documents. Out: tokenizer.model (SentencePiece) and what transformers reads.

SentencePiece learns the pieces: BPE, byte fallback, every digit on its own, no blank put in front.
The same pieces are then written as a tokenizer.json, so that a fast tokenizer gives the same ids.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from corpus.document import Document

CONTROL = ("<|im_start|>", "<|im_end|>")
# NOTE: text tokens, not control tokens: a client must see them in an answer to find tool calls.
MARKS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
BLANK = "▁"
ASCII = "".join(chr(code) for code in range(33, 127))
LATIN = "äöüßéèêëàâçîïôûùñáíóúìòÄÖÜÉ–…“”‘’€°"


def learn_pieces(documents: Iterable[Document], size: int) -> bytes:
    """Return a SentencePiece model with `size` pieces, the special tokens first."""
    lines = (line for doc in documents for part in doc.segments for line in _plain_lines(part.text))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=model,
        model_type="bpe",
        vocab_size=size,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        character_coverage=1.0,
        required_chars=ASCII + LATIN,
        pad_id=3,
        control_symbols=list(CONTROL),
        user_defined_symbols=list(MARKS),
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


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
