"""One step of the model: a batch of rows in, the logits that were asked for out.

In: a `Batch`. Out: float32 logits `[wanted logits, vocab]`; keys and values stay in the
lanes of their slots, which can be copied, saved to the host and loaded back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from libertai_engine.config import Kernels
from libertai_engine.errors import ModelLoadError
from libertai_engine.kernels.library import Library, Unavailable
from libertai_engine.model.attention import use_slot_lanes
from libertai_engine.model.batch import Batch, Row
from libertai_engine.model.features import FeatureTable
from libertai_engine.model.fingerprint import fingerprint
from libertai_engine.model.images import is_image_id
from libertai_engine.model.kv_cache import KVCache, KVPrefix, StepCache
from libertai_engine.model.lean import MAX_TOKENS, LeanDecoder
from libertai_engine.model.lean_choice import choose_decoder, choose_library
from libertai_engine.model.packing import PackedBatch, pack
from libertai_engine.model.rope import check_context, settle_rope
from libertai_engine.model.shift import find_key_shift


class ModelRunner:
    """A model with `num_slots` lanes of `context_size` positions each.

    Invariant: position p of a lane holds what the model makes of the lane's tokens up to p, for
    all positions below the `end` of the last row that ran there; nothing else is promised.
    Not thread-safe: one thread owns it. NOTE: rotary frequencies of `module` are settled for
    `context_size`, so a module serves one runner.
    """

    def __init__(
        self,
        module: PreTrainedModel,
        *,
        num_slots: int,
        context_size: int,
        device: torch.device | str,
        features: FeatureTable | None = None,
        kernels: Kernels = "auto",
    ) -> None:
        """Allocates every lane; `features` are the model's eyes, if it has any.

        Small steps run natively (`lean`) where `kernels` allows and the model proves itself.
        Raises `InvalidRequest` for a context longer than a learned position table,
        `ModelLoadError` if the lanes do not fit into memory or there is no native library though
        it is asked for by name.
        """
        check_context(module, context_size)
        use_slot_lanes(module)
        settle_rope(module, context_size)
        self._module = module
        self._device = torch.device(device)
        self._cache = KVCache(num_slots=num_slots, context_size=context_size)
        self._features = features
        library = choose_library(self._device, kernels)
        self._library = library if isinstance(library, Library) else None
        self._lean: LeanDecoder | Unavailable = Unavailable("the model is being loaded")
        self._vocab_size = 1  # token 0 exists; the first step tells the rest
        self._vocab_size = self._first_step().shape[1]
        self._key_shift = find_key_shift(module, evaluate)
        self._fingerprint = fingerprint(module, context_size)
        self._lean = choose_decoder(module, self._cache, evaluate, library)

    def _first_step(self) -> torch.Tensor:
        try:
            return self.run(Batch((Row(0, 0, (0,), 1),)))
        except (RuntimeError, MemoryError) as error:  # torch reports lack of memory as RuntimeError
            raise ModelLoadError(
                f"no memory for {self.num_slots} slots of {self.context_size} tokens: {error}"
            ) from error

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        return self._vocab_size

    @property
    def context_size(self) -> int:
        """Positions in one lane."""
        return self._cache.context_size

    @property
    def num_slots(self) -> int:
        """Number of lanes."""
        return self._cache.num_slots

    @property
    def cache_nbytes(self) -> int:
        """Size of all lanes in bytes, touched or not."""
        return self._cache.nbytes

    @property
    def can_shift(self) -> bool:
        """True if cached keys can be moved to other positions."""
        return self._key_shift is not None

    @property
    def why_not_lean(self) -> str | None:
        """None if small steps run natively, else the reason why not."""
        return self._lean.reason if isinstance(self._lean, Unavailable) else None

    @property
    def is_steady(self) -> bool:
        """True if an answer stays what it is, whatever is drafted behind it or joins it.

        To the bit where steps are native; in torch's, for float32, so nearly that no answer will
        tell.
        """
        return isinstance(self._lean, LeanDecoder) or self._module.dtype == torch.float32

    @property
    def fingerprint(self) -> str:
        """Names model, weights and precision: lanes may move between runners that share it."""
        return self._fingerprint

    def run(self, batch: Batch) -> torch.Tensor:
        """Evaluate all rows; `[wanted logits, vocab]` float32, in row order.

        The result is an ordinary tensor of its own: callers may write to it. NOTE: native steps and
        torch's round differently. So who evaluates a row must not hang on who else is there.
        """
        self._check(batch)
        if not isinstance(self._lean, LeanDecoder):
            return self._run_module(batch)
        native = tuple(row for row in batch.rows if _is_native(row))
        if len(native) == len(batch.rows):
            return self._lean.run(batch)
        if not native:
            return self._run_module(batch)
        logits = self._lean.run(Batch(native))
        others = self._run_module(Batch(tuple(row for row in batch.rows if not _is_native(row))))
        return _in_row_order(batch.rows, logits, others)

    def _run_module(self, batch: Batch) -> torch.Tensor:
        """The same by transformers' module."""
        packed = pack(batch, self._device, self._library)
        if packed.vector_places:
            assert self._features is not None, "images for a model without eyes"
            packed = replace(packed, vectors=self._features.gather(batch.rows))
        logits = evaluate(self._module, self._cache, packed)
        # NOTE: the copy is made outside inference mode, else nobody could write to it in place.
        return logits.to(torch.float32, copy=True)

    def _check(self, batch: Batch) -> None:
        slots = [row.slot for row in batch.rows]
        assert batch.rows and len(set(slots)) == len(slots), "no row, or a slot twice"
        for row in batch.rows:
            assert 0 <= row.slot < self.num_slots, f"slot {row.slot}"
            assert 0 <= row.start < row.end <= self.context_size, f"[{row.start}, {row.end})"
            assert 0 <= row.num_logits <= len(row.token_ids), f"{row.num_logits} logits"
            # NOTE: on a GPU, an unknown id would end the process.
            ids, size = row.token_ids, self._vocab_size
            assert min(ids) >= 0
            assert max(ids) < size or all(each < size or is_image_id(each) for each in ids)

    @torch.inference_mode()
    def copy_prefix(self, source: int, target: int, length: int, start: int = 0) -> None:
        """Make positions `[start, length)` of slot `target` equal to those of `source`."""
        self._cache.copy(source, target, length, start)

    @torch.inference_mode()
    def save_prefix(self, slot: int, length: int) -> KVPrefix:
        """A host copy of the first `length` positions of a slot."""
        return self._cache.save(slot, length)

    def prefix_nbytes(self, length: int) -> int:
        """Host memory that such a copy takes, in bytes."""
        return self.cache_nbytes // (self.num_slots * self.context_size) * length

    @torch.inference_mode()
    def load_prefix(self, slot: int, prefix: KVPrefix, length: int, start: int = 0) -> None:
        """Put positions `[start, length)` of `prefix` back, into any slot."""
        assert 0 <= start <= length <= prefix.length
        self._cache.load(slot, prefix, length, start)

    @torch.inference_mode()
    def shift(self, slot: int, start: int, count: int, length: int) -> None:
        """Drop positions `[start, start + count)` of a lane that holds `length`.

        What follows moves up, keys being turned, not computed again. Only if `can_shift`.
        """
        assert self._key_shift is not None and 0 <= start < start + count < length
        self._cache.shift(slot, start, count, length, self._key_shift)


def _is_native(row: Row) -> bool:
    """True for what belongs to an answer, or to a prompt of few new tokens and no image."""
    num_new = len(row.token_ids) if row.num_new is None else row.num_new
    return num_new == 0 or (num_new <= MAX_TOKENS and not row.images)


def _in_row_order(rows: Sequence[Row], native: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """The logits `[wanted logits, vocab]` of all rows, of which some were evaluated natively."""
    whose = [_is_native(row) for row in rows for _ in range(row.num_logits)]
    places = torch.tensor(whose, dtype=torch.bool)  # [wanted logits]
    logits = native.new_empty(len(places), native.shape[1])
    logits[places], logits[~places] = native, others
    return logits


@torch.inference_mode()
def evaluate(module: PreTrainedModel, cache: KVCache, packed: PackedBatch) -> torch.Tensor:
    """One forward pass over packed rows; `[wanted logits, vocab]` in the model's dtype."""
    output = module(
        **_tokens(module, packed),
        position_ids=packed.position_ids,
        past_key_values=StepCache(cache, packed),
        use_cache=True,
        logits_to_keep=packed.logits_to_keep,
        packed=packed,
    )
    logits: torch.Tensor = output.logits[0]  # [wanted logits, vocab]
    if logits.shape[0] != packed.logits_to_keep.shape[0]:  # a model that keeps all T
        logits = logits[packed.logits_to_keep]
    return logits


def _tokens(module: PreTrainedModel, packed: PackedBatch) -> dict[str, torch.Tensor]:
    """What a model reads: ids, or their embeddings with the vectors of images among them."""
    if packed.vectors is None:
        return {"input_ids": packed.input_ids}
    embedded = module.get_input_embeddings()(packed.input_ids)  # [1, T, hidden]
    places = torch.tensor(packed.vector_places, device=embedded.device)
    embedded[0, places] = packed.vectors.to(embedded.dtype)
    return {"inputs_embeds": embedded}
