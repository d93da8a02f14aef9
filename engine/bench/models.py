"""What is measured: the bundled demo model, and a larger Llama with random weights.

In: a folder to write to. Out: model folders that both sides load. Speed does not depend on what the
weights say, so random ones will do; they are made on the spot and need no download.
"""

from __future__ import annotations

import shutil
from pathlib import Path

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
CONTEXT_SIZE = 2048


def demo_folder() -> Path:
    """The folder of the demo model, inside the installed engine."""
    import libertai_engine

    return Path(libertai_engine.__file__).parent / "demo_model"


def make_random_llama(folder: Path) -> Path:
    """Write a Llama of about 60 million random parameters with the demo model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(demo_folder())
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=640,
        intermediate_size=1728,
        num_hidden_layers=13,
        num_attention_heads=10,
        num_key_value_heads=5,
        max_position_embeddings=CONTEXT_SIZE,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (demo_folder() / name).exists():
            shutil.copy(demo_folder() / name, folder)
    return folder
