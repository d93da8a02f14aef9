"""Pictures through a model's own image processor, vision tower and projector.

In: the bytes of a picture. Out: a `PromptImage` for the prompt, and later, when its ids come up in
a step, its feature vectors. Everything model-specific is transformers' own.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from transformers import PreTrainedModel

from libertai_engine.errors import EngineUnavailable
from libertai_engine.model.images import PromptImage, UnusableImage
from libertai_engine.model.picture import read_picture

logger = logging.getLogger(__name__)

MAX_WAITING_BYTES = 1 << 30
"""Host memory that the images of all open requests may take."""

# What a processor returns for the text; the rest is for the model's eyes.
_TEXT_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})


class Vision:
    """A model's eyes. `read` may be called from any thread, `features` from the engine's only.

    Invariant: one picture is decoded at a time, so that the memory this takes is bounded; the
    same bytes, asked for again while somebody holds their image, give that image.
    """

    def __init__(
        self, module: PreTrainedModel, processor: Any, *, max_waiting: int = MAX_WAITING_BYTES
    ) -> None:
        """`processor` is transformers' own for this model, and belongs to this object."""
        self.placeholder: str = processor.image_token
        self.placeholder_id: int = processor.tokenizer.convert_tokens_to_ids(self.placeholder)
        self._module = module
        self._processor = processor
        self.vector_id: int = module.config.image_token_id
        self._taken = frozenset(inspect.signature(module.forward).parameters) - _TEXT_INPUTS
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._read: WeakValueDictionary[bytes, PromptImage] = WeakValueDictionary()

    def save(self, folder: Path) -> None:
        """Write the settings of the image processor to a model's folder."""
        self._processor.save_pretrained(folder)

    def read(self, data: bytes) -> PromptImage:
        """The image in `data`, decoded and brought to the size that the model looks at.

        Raises `UnusableImage`, and `EngineUnavailable` if too many images are waiting already.
        """
        key = hashlib.sha256(data).digest()
        with self._lock:
            known = self._read.get(key)
            if known is not None:
                return known
            if sum(image.nbytes for image in self._read.values()) >= self._max_waiting:
                raise EngineUnavailable("too many images are waiting, try again later")
            image = self._process(data)
            self._read[key] = image
            return image

    def process(self, text: str, pictures: list[Any]) -> Mapping[str, Any]:
        """What the processor makes of a text with placeholders and as many pictures."""
        outputs: Mapping[str, Any] = self._processor(
            images=pictures, text=text, return_tensors="pt", add_special_tokens=False
        )
        return outputs

    @torch.inference_mode()
    def features(self, image: PromptImage) -> torch.Tensor:
        """Feature vectors `[vector, hidden]` of an image, on the model's device.

        Raises `RuntimeError` if the model makes another number of them than the prompt has ids.
        """
        output = self._module.get_image_features(
            **{name: self._on_device(tensor) for name, tensor in image.inputs.items()}
        )
        pooled = output.pooler_output
        vectors = torch.cat(list(pooled)) if isinstance(pooled, (list, tuple)) else pooled
        vectors = vectors.reshape(-1, vectors.shape[-1])  # [vector, hidden]
        if len(vectors) != len(image.vector_ids):
            raise RuntimeError(f"{len(vectors)} features for {len(image.vector_ids)} image tokens")
        return vectors

    def _process(self, data: bytes) -> PromptImage:
        picture = read_picture(data)
        try:
            outputs = self.process(self.placeholder, [picture])
        # NOTE: what processors cannot take differs from one to the next, and is not written down.
        except Exception:
            logger.exception("the image processor failed")
            raise UnusableImage("cannot be shown to this model") from None
        inputs = {name: outputs[name] for name in outputs if name in self._taken}
        return PromptImage(inputs, outputs["input_ids"][0].tolist(), self.vector_id)

    def _on_device(self, tensor: torch.Tensor) -> torch.Tensor:
        dtype = self._module.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.to(self._module.device, dtype)
