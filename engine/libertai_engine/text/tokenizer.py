"""Text to token ids and token ids to bytes, over a fast transformers tokenizer.

In: text, or ids the model produced. Out: token ids, or the exact bytes each id stands for.
Everything else in the engine sees this class only, never the transformers object.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from libertai_engine.errors import InvalidRequest, ModelLoadError
from libertai_engine.text.fim import FimTokens, find_fim_tokens

PieceStyle = Literal["byte_level", "sentencepiece", "other"]

# Tokens that end a turn whatever the configuration files say; the same idea as llama.cpp's list of
# end-of-generation tokens, and like there only control tokens count.
END_OF_TURN = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
)
LONG_TEXT_CHARS = 16 << 10
SPACE_MARK = "\u2581"  # SentencePiece writes a space as this letter


class Tokenizer:
    """One model's tokenizer. Immutable once built, so any number of threads may use it.

    `hf` is a fast transformers tokenizer (one with a `backend_tokenizer`), which belongs to this
    object from now on. `eos_ids` are further ids that end a generation, usually those of the
    model's generation config. Raises `ModelLoadError` for a tokenizer without a fast backend.
    """

    def __init__(self, hf: Any, *, eos_ids: Iterable[int] = ()) -> None:
        backend: Any = getattr(hf, "backend_tokenizer", None)
        if not hasattr(backend, "id_to_token"):
            raise ModelLoadError(f"{type(hf).__name__} is not a fast tokenizer")
        # NOTE: calls on the transformers object switch truncation and padding of the shared
        # backend; a prompt must never be cut or padded here.
        backend.no_truncation()
        backend.no_padding()
        self._backend: Any = backend
        self._literal_backend: Any = None
        self._lock = threading.Lock()
        self._added = _added_tokens(backend)
        self._style = _piece_style(backend)
        self._bytes: dict[int, bytes] = {}
        self.bos_id: int | None = hf.bos_token_id
        self.bos_token: str = hf.bos_token or ""
        self.eos_token: str = hf.eos_token or ""
        self.chat_template: str | None = _default_template(hf.chat_template)
        self.fim: FimTokens | None = find_fim_tokens(backend.token_to_id)
        self.eos_ids: frozenset[int] = self._end_ids(hf.eos_token_id, eos_ids)
        self.adds_bos: bool = self._starts_with_bos(hf)
        self.vocab_size: int = _vocab_size(backend)
        self.newline_id: int | None = self._find_newline()

    @classmethod
    def from_pretrained(cls, source: str | Path, *, local_files_only: bool = True) -> Tokenizer:
        """The tokenizer of a model folder or hub id, with the end ids of its generation config.

        Raises `ModelLoadError` when there is no tokenizer or it has no fast form.
        """
        from transformers import AutoTokenizer, GenerationConfig

        try:
            hf = AutoTokenizer.from_pretrained(str(source), local_files_only=local_files_only)
        except Exception as error:
            raise ModelLoadError(f"no tokenizer in {source}: {error}") from error
        try:
            config = GenerationConfig.from_pretrained(
                str(source), local_files_only=local_files_only
            )
        except OSError:  # the file is optional
            return cls(hf)
        return cls(hf, eos_ids=_as_ids(config.eos_token_id))

    def encode(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        """Token ids of `text`.

        `add_special` puts BOS in front where the model wants one, and never a second one;
        `parse_special` reads `<|im_start|>` and the like as the control tokens they name, else as
        plain text. Raises `InvalidRequest` for text that has no UTF-8 form.
        """
        backend = self._backend if parse_special else self._without_special()
        try:
            ids = _encode(backend, text)
        except (UnicodeError, TypeError) as error:
            raise InvalidRequest(f"the text is not valid Unicode: {error}") from error
        if add_special and self.adds_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            return [self.bos_id, *ids]
        return ids

    def encode_plain(self, text: str) -> list[int]:
        """Token ids of a text in which control tokens are letters like all others, without BOS."""
        return self.encode(text, add_special=False, parse_special=False)

    def encode_behind(self, text: str) -> list[int]:
        """The same for a text that goes on behind other tokens.

        A text of its own gets a space in front from SentencePiece, in the middle there is none.
        """
        anchor = self.encode_plain("\n")
        ids = self.encode_plain("\n" + text)
        is_clean = self._adds_space and ids[: len(anchor)] == anchor
        return ids[len(anchor) :] if is_clean else self.encode_plain(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, leading space kept, control tokens dropped, broken UTF-8 as U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """Ids of the tokens that are marks and never text, by how they are written."""
        return {text: each for each, (text, is_control) in self._added.items() if is_control}

    def find_token(self, text: str) -> int | None:
        """The id of the one token that `text` is, a control token perhaps; None if it is not."""
        ids = self.encode(text, add_special=False)
        return ids[0] if len(ids) == 1 else None

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes `token_id` adds to the text: empty for control tokens and unknown ids."""
        found = self._bytes.get(token_id)
        if found is None:
            found = self._bytes[token_id] = self._spell(token_id)
        return found

    def _spell(self, token_id: int) -> bytes:
        if not 0 <= token_id < self.vocab_size:
            return b""
        content, is_control = self._added.get(token_id, (None, False))
        if is_control:
            return b""
        if content is not None:
            return _sentencepiece_bytes(content) if self._is_sentencepiece else content.encode()
        piece: str | None = self._backend.id_to_token(token_id)
        if piece is None:
            return b""
        if self._style == "byte_level":
            return _byte_level_bytes(piece)
        return _sentencepiece_bytes(piece) if self._is_sentencepiece else self._decoded(token_id)

    @cached_property
    def _adds_space(self) -> bool:
        return self.decode(self.encode_plain("a")) == " a"

    @property
    def _is_sentencepiece(self) -> bool:
        return self._style == "sentencepiece"

    def _decoded(self, token_id: int) -> bytes:
        # The first token of a text may lose its space or gain a mark: look at it in second place.
        anchor: list[int] = self._backend.encode("a", add_special_tokens=False).ids[-1:]
        before: str = self._backend.decode(anchor)
        text: str = self._backend.decode([*anchor, token_id])
        return (text[len(before) :] if text.startswith(before) else text).encode()

    def _without_special(self) -> Any:
        """A second backend that reads control tokens as text, made when first asked for."""
        with self._lock:
            if self._literal_backend is None:
                literal = type(self._backend).from_str(self._backend.to_str())
                literal.encode_special_tokens = True
                self._literal_backend = literal
            return self._literal_backend

    def _starts_with_bos(self, hf: Any) -> bool:
        # NOTE: `add_bos_token` in the configuration may be missing, null or wrong; what counts is
        # what the tokenizer does.
        return self.bos_id is not None and hf.encode("a")[:1] == [self.bos_id]

    def _end_ids(self, eos: int | list[int] | None, more: Iterable[int]) -> frozenset[int]:
        control = self.control_tokens
        names = set(END_OF_TURN)
        if "<|return|>" in control and "<|call|>" in control:
            names.discard("<|end|>")  # there it ends a message, not the turn
        return (
            frozenset(_as_ids(eos))
            | frozenset(more)
            | (self.fim.ends if self.fim else frozenset())
            | {control[name] for name in names if name in control}
        )

    def _find_newline(self) -> int | None:
        ids: list[int] = self._backend.encode("a\na", add_special_tokens=False).ids
        return next((token for token in ids if self.token_bytes(token) == b"\n"), None)


def _encode(backend: Any, text: str) -> list[int]:
    # NOTE: `encode` holds the interpreter's lock, for seconds on megabytes; a batch does not.
    if len(text) < LONG_TEXT_CHARS:
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
    else:
        ids = backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
    return ids


def _as_ids(value: int | Iterable[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def _default_template(template: str | dict[str, str] | None) -> str | None:
    return template.get("default") if isinstance(template, dict) else template


def _vocab_size(backend: Any) -> int:
    """One more than the largest id: ids may have holes."""
    return max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def _added_tokens(backend: Any) -> dict[int, tuple[str, bool]]:
    """Added tokens: id -> (text, is a control token)."""
    added = backend.get_added_tokens_decoder()
    return {token_id: (token.content, token.special) for token_id, token in added.items()}


def _piece_style(backend: Any) -> PieceStyle:
    """How the vocabulary spells bytes, read from the steps of its decoder."""
    if backend.decoder is None:
        return "other"
    state = json.loads(backend.decoder.__getstate__())
    steps = state.get("decoders", [state])
    kinds = {step["type"] for step in steps}
    if "ByteLevel" in kinds:
        return "byte_level"
    if kinds & {"ByteFallback", "Metaspace"}:
        return "sentencepiece"
    return "other"


@lru_cache(maxsize=1)
def _byte_of_letter() -> dict[str, int]:
    """GPT-2's table: the letter that stands for each byte in a byte-level vocabulary.

    Printable Latin-1 letters stand for themselves, the other bytes for U+0100 and following.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    moved = {chr(0x100 + index): byte for index, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | moved


def _byte_level_bytes(piece: str) -> bytes:
    table = _byte_of_letter()
    try:
        return bytes(table[letter] for letter in piece)
    except KeyError:  # a piece outside the alphabet is plain text
        return piece.encode()


def _sentencepiece_bytes(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        try:
            return bytes([int(piece[3:5], 16)])
        except ValueError:
            pass
    return piece.replace(SPACE_MARK, " ").encode()
