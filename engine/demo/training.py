"""The training loop. In: a recipe, a tokenizer, a folder for the state. Out: a trained Llama.

1. A round makes its documents from the seed and its own number; a restart continues exactly. The
   first rounds teach to copy and to look up, the next everything, the last what is hard.
2. A step adds up the gradients of a few batches and moves the weights: Muon the matrices, AdamW
   the rest. The first token of an answer counts more than the others.
3. After each round the whole state goes to disk; every few rounds the loss on held-out text is
   taken.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from batches import IGNORED, Pass, passes
from checkpoint import load_state, save_state
from corpus.document import Document
from corpus.mixture import BEGINNING, ENDING, MIXTURE, Shape, World, documents, fingerprint
from network import Network
from recipe import Recipe
from vocabulary import fast_tokenizer


@dataclass(slots=True)
class History:
    """What was measured so far. Invariant: `round` is the next round to run."""

    round: int = 0
    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0
    training: list[tuple[int, float]] = field(default_factory=list)  # (tokens, nats per token)
    validation: list[tuple[int, float]] = field(default_factory=list)
    corpora: list[tuple[int, str]] = field(default_factory=list)  # (tokens, checksum from there on)


def new_model(recipe: Recipe, tokenizer: Tokenizer) -> LlamaForCausalLM:
    """Return a model with random weights."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=recipe.positions,
        rope_theta=recipe.rope_theta,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.token_to_id("<s>"),
        eos_token_id=tokenizer.token_to_id("</s>"),
        pad_token_id=tokenizer.token_to_id("<pad>"),
    )
    return LlamaForCausalLM._from_config(config)


def mean_loss(network: Network, held_out: Sequence[Pass]) -> float:
    """Return the mean loss of a learned token, in nats."""
    with torch.no_grad():
        values = [network.losses(each) for each in held_out]
    return torch.cat(values).mean().item()


class Trainer:
    """A model in training. Invariant: weights, optimizers and history are those of one moment."""

    def __init__(self, recipe: Recipe, pieces: bytes, folder: Path, *, bf16: bool) -> None:
        self.recipe, self.pieces, self.folder = recipe, pieces, folder
        self.tokenizer = fast_tokenizer(pieces)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = new_model(recipe, self.tokenizer).to(device)
        self.network = Network(self.model, bf16=bf16)
        self.history = History()
        self.world = World.load("train")
        # What the state on disk must agree with to be continued.
        self.identity = {"recipe": asdict(recipe), "corpus": fingerprint()}
        named = dict(self.model.named_parameters())
        matrices = {n: p for n, p in named.items() if p.ndim == 2 and ".layers." in n}
        others = [parameter for name, parameter in named.items() if name not in matrices]
        decay = recipe.weight_decay
        muon = torch.optim.Muon(
            list(matrices.values()),
            lr=recipe.matrix_rate,
            weight_decay=decay,
            adjust_lr_fn="match_rms_adamw",
            ns_steps=4,
        )
        adam = torch.optim.AdamW(others, lr=recipe.other_rate, betas=(0.9, 0.95), weight_decay=0.0)
        self.optimizers: dict[str, torch.optim.Optimizer] = {"muon": muon, "adam": adam}
        self.rates = {"muon": recipe.matrix_rate, "adam": recipe.other_rate}

    def resume(self, *, changed: bool = False) -> None:
        """Continue from the state on disk, if any.

        Raises ValueError for another recipe or corpus, unless `changed` allows it; the history
        then keeps both.
        """
        found = load_state(self.folder, self.model, self.optimizers, self.identity, changed=changed)
        if found:
            self.history = History(**found)
        corpora = self.history.corpora
        if not corpora or corpora[-1][1] != self.identity["corpus"]:
            corpora.append((self.history.tokens, str(self.identity["corpus"])))

    def save(self) -> None:
        """Write the state to disk."""
        save_state(self.folder, self.model, self.optimizers, self.identity, asdict(self.history))

    def run(self) -> None:
        """Train to the end of the recipe."""
        held_out = self._held_out()
        total = self.recipe.tokens + self.recipe.ending_tokens
        with tqdm(
            total=total, mininterval=5, initial=self.history.tokens, unit="tok", unit_scale=True
        ) as bar:
            while self.history.tokens < total:
                before, began = self.history.tokens, time.monotonic()
                value = self._round()
                history = self.history
                history.training.append((history.tokens, value))
                due = history.round % self.recipe.rounds_per_validation == 1
                if due or history.tokens >= total:
                    history.validation.append((history.tokens, mean_loss(self.network, held_out)))
                history.seconds += time.monotonic() - began
                self.save()
                bar.update(history.tokens - before)
                bar.set_postfix(loss=f"{value:.3f}", held_out=f"{history.validation[-1][1]:.3f}")

    def _held_out(self) -> list[Pass]:
        recipe = self.recipe
        chosen = islice(documents(recipe.seed, World.load("heldout")), recipe.validation_documents)
        return self._passes(chosen, random.Random(recipe.seed))

    def _passes(self, chosen: Iterable[Document], rng: random.Random) -> list[Pass]:
        recipe = self.recipe
        return passes(
            chosen,
            self.tokenizer,
            rng,
            size=recipe.tokens_per_pass,
            group=recipe.tokens_per_group,
            positions=recipe.positions,
            bos_share=recipe.bos_share,
        )

    def _phase(self) -> tuple[tuple[Shape, ...], int]:
        """Return what the next round is made of, and where it ends at the latest, in tokens."""
        done, recipe = self.history.tokens, self.recipe
        if done >= recipe.tokens:
            return ENDING, recipe.tokens + recipe.ending_tokens
        return (BEGINNING if done < recipe.beginning_tokens else MIXTURE), recipe.tokens

    def _round(self) -> float:
        """Learn one round of documents; return its mean loss."""
        recipe = self.recipe
        seed = recipe.seed * 1_000_000 + self.history.round
        mixture, end = self._phase()
        chosen = islice(documents(seed, self.world, mixture), recipe.documents_per_round)
        waiting = self._passes(chosen, random.Random(seed))
        values: list[torch.Tensor] = []
        while waiting and self.history.tokens < end:
            values.append(self._step(self._take(waiting)))
        self.history.round += 1
        return torch.cat(values).mean().item()

    def _take(self, waiting: list[Pass]) -> list[Pass]:
        count = self.recipe.passes_per_step
        return [waiting.pop() for _ in range(min(count, len(waiting)))]

    def _step(self, group: Sequence[Pass]) -> torch.Tensor:
        """Move the weights once; return the losses of the learned tokens."""
        weights = [self._weights(each) for each in group]
        total = sum(float(each.sum()) for each in weights)
        values = []
        for each, weight in zip(group, weights, strict=True):
            loss = self.network.losses(each)
            ((loss * weight).sum() / total).backward()
            values.append(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        for name, optimizer in self.optimizers.items():
            for settings in optimizer.param_groups:
                settings["lr"] = self.rates[name] * self._schedule()
            optimizer.step()
            optimizer.zero_grad()
        self.history.tokens += sum(each.tokens for each in group)
        self.history.steps += 1
        return torch.cat(values)

    def _weights(self, given: Pass) -> torch.Tensor:
        """Return what each learned token counts: [learned tokens] float32."""
        opening = given.opening[given.labels != IGNORED].to(self.network.device)
        return 1.0 + opening.float() * (self.recipe.opening_weight - 1.0)

    def _schedule(self) -> float:
        """Return the share of the full rate: a short rise, and a cosine down to zero."""
        done, recipe = self.history.tokens, self.recipe
        if done < recipe.warmup_tokens:
            return (done + 1) / (recipe.warmup_tokens + 1)
        total = recipe.tokens + recipe.ending_tokens
        return _cosine((done - recipe.warmup_tokens) / (total - recipe.warmup_tokens))


def _cosine(share: float) -> float:
    """Return a value that falls from 1 to 0 while the share done rises from 0 to 1."""
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, share))
