"""Which part of a transformers model is the language model.

In: a model, of text alone or of images and text. Out: the part that reads lanes.
"""

from __future__ import annotations

from transformers import PretrainedConfig, PreTrainedModel


def has_vision_tower(config: PretrainedConfig) -> bool:
    """True if the configuration describes a model that is shown images."""
    return getattr(config, "vision_config", None) is not None


def language_model(module: PreTrainedModel) -> PreTrainedModel:
    """The part whose attention looks at slot lanes: all of it, or what stands behind a tower."""
    if not has_vision_tower(module.config):
        return module
    decoder: PreTrainedModel = module.get_decoder()
    return decoder
