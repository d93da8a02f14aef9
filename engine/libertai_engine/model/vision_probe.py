"""Does a model see images as slot lanes show them? Found out by running it, not by its name.

In: a loaded transformers model, still with its own attention, its `Vision` and its tokenizer.
Out: nothing, or a `Blind` error that says what the model would need.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from libertai_engine.model.attention import use_slot_lanes
from libertai_engine.model.batch import Batch, Row
from libertai_engine.model.images import FIRST_IMAGE_ID, is_image_id
from libertai_engine.model.kv_cache import KVCache
from libertai_engine.model.packing import pack
from libertai_engine.model.probe import difference, tolerance
from libertai_engine.model.runner import evaluate
from libertai_engine.model.vision import Vision

_BEFORE, _AFTER = (1, 2, 3), (4, 5)
_STAND_INS = (6, 7, 8, 9)  # tokens whose embeddings play the features of an image
_SIZE = (48, 36)

# NOTE: a model takes these to treat image tokens otherwise than text; in bf16, rounding could hide
# the difference that this makes.
_KINDS = frozenset({"token_type_ids", "mm_token_type_ids"})


class Blind(Exception):
    """The vision tower cannot be used here. Says why, in words that clients may read."""


def check_forward(module: PreTrainedModel) -> None:
    """Raise `Blind` if the model wants to know which of its tokens are those of images."""
    if _KINDS & set(inspect.signature(module.forward).parameters):
        raise Blind("its image tokens look ahead, or have positions of their own")


def check_vision(module: PreTrainedModel, vision: Vision, tokenizer: Any) -> None:
    """Raise `Blind` unless an image is a run of vectors among tokens, and nothing else.

    The prompt of two small pictures must be the one of transformers' processor, and a step with
    vectors in it must give the logits of the model's own forward pass. Models that mark image
    tokens otherwise, or show features to several layers, fail here.
    """
    try:
        _check_prompt(vision, tokenizer)
        own = _own_logits(module, vision.vector_id)
        use_slot_lanes(module)
        lanes = _lane_logits(module)
    except Blind:
        raise
    except Exception as error:
        raise Blind(f"it cannot be tried out ({type(error).__name__})") from error
    apart = [difference(*each) for each in zip(own, lanes, strict=True)]
    if not max(apart) <= tolerance(module.dtype):
        raise Blind("it treats the tokens of an image in a way of its own")


def _check_prompt(vision: Vision, tokenizer: Any) -> None:
    """Tokens of a text around single placeholders, with the images put in, as the processor's."""
    text = f"one {vision.placeholder} two{vision.placeholder}\n three"
    picture = Image.new("RGB", _SIZE, "navy")
    expected = vision.process(text, [picture, picture])["input_ids"][0].tolist()
    layout = vision.process(vision.placeholder, [picture])["input_ids"][0].tolist()
    if vision.vector_id not in layout:
        raise Blind("its processor gives no tokens to an image")
    found: list[int] = []
    for each in tokenizer.encode(text, add_special_tokens=False):
        found.extend(layout if each == vision.placeholder_id else [each])
    if found != expected:
        raise Blind("its processor writes an image otherwise alone than between words")


@torch.inference_mode()
def _own_logits(module: PreTrainedModel, vector_id: int) -> torch.Tensor:
    """Logits `[T, vocab]` behind every token, by the model's own way to put features in."""
    ids = [*_BEFORE, *[vector_id] * len(_STAND_INS), *_AFTER]
    features = _stand_ins(module)
    error: Exception | None = None
    for pooled in ([features], features[None]):  # towers return one or the other
        try:
            output = module(
                input_ids=torch.tensor([ids], device=module.device),
                mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=pooled)},
                use_cache=False,
            )
            own: torch.Tensor = output.logits[0].float()
            return own
        except Exception as failure:
            error = failure
    raise Blind("it takes no features of images") from error


def _lane_logits(module: PreTrainedModel) -> torch.Tensor:
    """The same logits through slot lanes: one row for each beginning of the tokens."""
    ids = (*_BEFORE, *[FIRST_IMAGE_ID] * len(_STAND_INS), *_AFTER)
    rows = [Row(slot, 0, ids[: slot + 1], 1) for slot in range(len(ids))]
    shown = [sum(map(is_image_id, row.token_ids)) for row in rows]
    features = _stand_ins(module)
    packed = pack(Batch(tuple(rows)), module.device)
    packed = dataclasses.replace(packed, vectors=torch.cat([features[:n] for n in shown]))
    cache = KVCache(num_slots=len(rows), context_size=len(ids))
    return evaluate(module, cache, packed).float()


@torch.inference_mode()
def _stand_ins(module: PreTrainedModel) -> torch.Tensor:
    """Something of the size of features, `[vector, hidden]`: the embeddings of some tokens."""
    ids = torch.tensor(_STAND_INS, device=module.device)
    embedded: torch.Tensor = module.get_input_embeddings()(ids)
    return embedded
