"""Every way in which our server answers differently on purpose, and why.

In: nothing. Out: `DIFFERENCES` and `ADDITIONAL_KEYS`, the only excuses that the conformance test
accepts; `docs/conformance.md` is made of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.engine.conformance.findings import Finding
from tests.engine.conformance.recordings import Recording

RANDOM_SEED = 2**32 - 1
TEXT = {"pieces", "text"}
COUNTS = {"tokens_predicted", "timings.predicted_n", "tokens_cached"}
STOPS = {"stopped_eos", "stopped_limit", "stopped_word", "stopping_word"}


@dataclass(frozen=True)
class Difference:
    """One deliberate difference.

    It has to show in every recording that `concerns` says, in one of its `aspects` and in the way
    that `fits`, or the table is out of date; if not `is_certain`, in at least one of them. `proof`
    names the test that shows the reason to be true.
    """

    name: str
    there: str
    here: str
    concerns: Callable[[Recording], bool]
    aspects: set[str]
    fits: Callable[[Finding], bool]
    proof: str = ""
    is_certain: bool = True

    def explains(self, recording: Recording, finding: Finding) -> bool:
        return self.concerns(recording) and finding.aspect in self.aspects and self.fits(finding)


def _is_answered(recording: Recording) -> bool:
    return recording.is_completion


def _named(*names: str) -> Callable[[Recording], bool]:
    return lambda recording: recording.name in names


def _anything(finding: Finding) -> bool:
    return True


EVERYWHERE = (
    Difference(
        name="n_predict is exact",
        there="One token more than asked for (N + 1 for N of 3 or more), and `tokens_predicted` "
        "counts one less than were sent.",
        here="N tokens, and `tokens_predicted` counts them. For the comparison our server is asked "
        "for N + 1.",
        concerns=lambda recording: _is_answered(recording) and "n_predict" in recording.body,
        aspects={"generation_settings.n_predict", "tokens_predicted", "timings.predicted_n"},
        fits=lambda finding: finding.ours == finding.theirs + 1,
        proof="test_n_predict_is_exact",
    ),
    Difference(
        name="the seed that was drawn is told",
        there="Echoes 4294967295 for a request without a seed.",
        here="Echoes the seed that was drawn, so that the answer can be had again.",
        concerns=lambda recording: _is_answered(recording) and "seed" not in recording.body,
        aspects={"generation_settings.seed"},
        fits=lambda finding: finding.theirs == RANDOM_SEED and 0 <= finding.ours < RANDOM_SEED,
        proof="test_the_told_seed_repeats_the_answer",
    ),
    Difference(
        name="seeds count",
        there="Ignores `seed`: every answer is drawn from one generator of the whole process. The "
        "text of a sampled answer is chance.",
        here="Each request has random numbers of its own, a function of its seed. Sampled answers "
        "are compared in everything but their text; of streams with probabilities the first "
        "token's distribution is compared number by number.",
        concerns=lambda recording: _is_answered(recording) and recording.is_sampled,
        # What an answer leaves in its slot also decides who gets that slot next.
        aspects=TEXT | COUNTS | STOPS | {"slot_id"},
        fits=_anything,
        proof="test_the_told_seed_repeats_the_answer",
        is_certain=False,
    ),
    Difference(
        name="streams name their charset",
        there="`Content-Type: text/event-stream`.",
        here="`Content-Type: text/event-stream; charset=utf-8`.",
        concerns=lambda recording: _is_answered(recording) and recording.is_stream,
        aspects={"content type"},
        fits=lambda finding: finding.ours == f"{finding.theirs}; charset=utf-8",
    ),
    Difference(
        name="a stream's probabilities are sent once",
        there="The last event of a stream repeats the probabilities of all events.",
        here="Each event has those of its own text; the last one has no text and none.",
        concerns=lambda recording: recording.is_stream and "n_probs" in recording.body,
        aspects={"number of probabilities at the end"},
        fits=lambda finding: finding.theirs > finding.ours == 0,
        proof="test_every_token_has_its_probabilities",
    ),
)

IN_SINGLE_ANSWERS = (
    Difference(
        name="whole answers have probabilities",
        there="`completion_probabilities` is empty unless a stop word ended the answer.",
        here="One entry for each token of `content`.",
        concerns=_named("greedy/neg_temperature"),
        aspects={"number of probabilities at the end"},
        fits=lambda finding: (finding.theirs, finding.ours) == (0, 25),
        proof="test_every_token_has_its_probabilities",
    ),
    Difference(
        name="the model in full precision",
        there="SiLU and the exponentials of attention come from tables of half-precision numbers. "
        "At temperature 0.5 the error of a probability is twice that at 1, and tail-free sampling "
        "ends a token earlier or later where its sum is that near to its limit.",
        here="Single precision throughout. With those tables put into the model our filters give "
        "the recorded numbers, to 1e-4, in all 68 distributions.",
        concerns=_named(
            "dist/t05/0",
            "dist/t05/1",
            "dist/t05/3",
            "dist/tfs095/1",
            "dist/tfs095/2",
            "dist/all/0",
        ),
        aspects={"first distribution"},
        fits=lambda finding: finding.ours is not None and finding.ours < 0.012,
        proof="test_half_precision_explains_every_distribution",
    ),
    Difference(
        name="the longest prefix is found in any slot",
        there="Looks in the slot that was used longest ago, whatever that holds.",
        here="Takes the slot that holds most of the prompt and copies what another one, or the "
        "store of prefixes that lost their slot, holds more of: fewer tokens are evaluated.",
        concerns=_named(
            "greedy/repeat_1.1_64",
            "greedy/repeat_1.1_16",
            "cache/1",
            *(f"dist/{kind}/{number}" for kind in ("penalty", "presence") for number in range(4)),
        ),
        aspects={"timings.prompt_n"},
        fits=lambda finding: 0 < finding.ours < finding.theirs,
        proof="test_cached_and_evaluated_tokens_are_the_prompt",
    ),
    Difference(
        name="another slot",
        there="The slot that was used longest ago.",
        here="The slot that holds most of the prompt, even if nothing of it is used.",
        concerns=_named(
            "stop_stream/2",
            "stop_stream/3",
            "stop_stream/7",
            "context/shift_keep",
            "grammar/digits",
        ),
        aspects={"slot_id"},
        fits=lambda finding: {finding.theirs, finding.ours} == {0, 1},
    ),
    Difference(
        name="the token that is always evaluated is counted",
        there="`prompt_n` 0 for a prompt that is wholly cached, although its last token is "
        "evaluated again (and is in the cache twice from then on).",
        here="`prompt_n` 1; the cache is cut before that token.",
        concerns=_named(
            "greedy/repeat_1.5_64", "greedy/repeat_1.5_16", "greedy/presence", "greedy/frequency"
        ),
        aspects={"timings.prompt_n"},
        fits=lambda finding: (finding.theirs, finding.ours) == (0, 1),
        proof="test_cached_and_evaluated_tokens_are_the_prompt",
    ),
    Difference(
        name="streams send what was held back",
        there="Text that might be the beginning of a stop word is held back with everything before "
        "it, and lost if the answer ends there.",
        here="Only the letters that match are held back, and sent in the end if no stop word came "
        "of them: a stream's text is that of the whole answer.",
        concerns=_named("stop_stream/2", "stop_stream/5", "stop_stream/6", "stop_stream/7"),
        aspects=TEXT,
        fits=lambda finding: "".join(finding.ours).startswith("".join(finding.theirs)),
        proof="test_streams_send_what_was_held_back",
    ),
    Difference(
        name="a cut prompt keeps its BOS",
        there="A prompt that is too long loses its beginning, BOS included.",
        here="BOS is put in front of what is left.",
        concerns=_named("context/truncate"),
        aspects=TEXT | {"tokens_evaluated", "tokens_cached", "timings.prompt_n"},
        fits=lambda finding: (
            isinstance(finding.theirs, (str, list)) or finding.ours == finding.theirs + 1
        ),
        proof="test_without_bos_a_cut_prompt_reads_as_there",
    ),
    Difference(
        name="the context is shifted when it is full",
        there="The cache's list of tokens misses those inside unfinished characters, so that a "
        "context is shifted later by as many tokens (here two).",
        here="The list is exact. With a context of 514 tokens the text is theirs to the last "
        "character.",
        concerns=_named("context/shift", "context/shift_keep"),
        aspects=TEXT | {"tokens_cached"},
        fits=lambda finding: (
            isinstance(finding.theirs, (str, list)) or finding.ours == finding.theirs + 1
        ),
        proof="test_a_shift_two_tokens_later_writes_their_text",
    ),
    Difference(
        name="n_keep is told",
        there="Echoes the server's own `n_keep`, always 0.",
        here="Echoes the request's.",
        concerns=_named("context/truncate_keep", "context/shift_keep"),
        aspects={"generation_settings.n_keep"},
        fits=lambda finding: finding.theirs == 0 < finding.ours,
    ),
    Difference(
        name="ignore_eos is no bias of the request's",
        there="`ignore_eos` shows up in the echoed `logit_bias`, as `[2, null]`.",
        here="`logit_bias` is what the request said; `ignore_eos` is echoed by itself.",
        concerns=_named("greedy/ignore_eos", "context/shift", "context/shift_keep"),
        aspects={"generation_settings.logit_bias"},
        fits=lambda finding: (finding.theirs, finding.ours) == ([[2, None]], []),
    ),
    Difference(
        name="biases in the order given",
        there="Echoes `logit_bias` in the order of a hash table.",
        here="In that of the request.",
        concerns=_named("greedy/logit_bias", *(f"dist/bias/{number}" for number in range(4))),
        aspects={"generation_settings.logit_bias"},
        fits=lambda finding: sorted(finding.theirs) == sorted(finding.ours),
    ),
    Difference(
        name="a space behind control tokens",
        there="Puts a space in front of a text only if it begins one, not behind a control token.",
        here="Reads what is behind a control token as the model's own tokenizer does (Llama's "
        "`<s>[INST]` was trained with that space).",
        concerns=_named("tokenize/9"),
        aspects={"tokens"},
        fits=lambda finding: finding.ours[0] == 1 and finding.ours[2:] == finding.theirs[2:],
        proof="test_text_behind_a_control_token_is_read_as_the_model_reads_it",
    ),
    Difference(
        name="broken UTF-8 is no error",
        there="`/detokenize` answers 500 for tokens that are no valid UTF-8.",
        here="200, with U+FFFD for what is broken.",
        concerns=_named("detokenize/5"),
        aspects={"status"},
        fits=lambda finding: finding.ours.json == {"content": "\ufffd\x7f\ufffd"},
    ),
    Difference(
        name="a finished grammar ends the answer",
        there="Evaluates every token, and samples an end token behind the grammar's last one.",
        here="Ends with the grammar's last token. What the grammar leaves no choice about is "
        "appended without a step for each token: evaluated when something is sampled behind it, "
        "or not at all.",
        concerns=_named("grammar/yesno", "grammar/digits", "grammar/unicode"),
        aspects={"tokens_cached"},
        fits=lambda finding: 0 < finding.ours < finding.theirs,
        proof="test_a_finished_grammar_ends_the_answer",
    ),
)

DIFFERENCES = EVERYWHERE + IN_SINGLE_ANSWERS

# (object, key) -> what it tells
ADDITIONAL_KEYS = {
    ("/completion", "id_slot"): "`slot_id`, as later servers spell it",
    ("/completion", "stop_type"): "`eos`, `word` or `limit`, as later servers say it",
    ("generation_settings", "temperature"): "`temp`, as later servers spell it",
    ("timings", "cache_n"): "prompt tokens that were in the cache",
    ("generation_settings", "samplers"): "which samplers ran, in their order",
    ("generation_settings", "min_keep"): "tokens that every filter leaves",
    ("generation_settings", "dynatemp_range"): "how far the temperature moves",
    ("generation_settings", "dynatemp_exponent"): "how it moves with the entropy",
    ("generation_settings", "top_n_sigma"): "standard deviations below the best logit",
    ("generation_settings", "xtc_probability"): "how often top choices are excluded",
    ("generation_settings", "xtc_threshold"): "what makes a top choice",
    ("generation_settings", "dry_multiplier"): "what a repetition costs",
    ("generation_settings", "dry_base"): "how much more each further token costs",
    ("generation_settings", "dry_allowed_length"): "repetitions that cost nothing",
    ("generation_settings", "dry_penalty_last_n"): "tokens in which repetitions are looked for",
    ("generation_settings", "dry_sequence_breakers"): "what ends a repetition",
    ("/props", "bos_token"): "the model's text for BOS",
    ("/props", "build_info"): "name and version of this server",
    ("/props", "chat_template"): "the model's chat template",
    ("/props", "default_generation_settings"): "the context of a slot",
    ("/props", "embedding"): "the embedding model, if there is one",
    ("/props", "eos_token"): "the model's text for EOS",
    ("/props", "modalities"): "what else than text the model reads",
    ("/props", "model_alias"): "what the model is called",
    ("/props", "model_path"): "the same name, since a path is nobody's business",
    ("/props", "total_slots"): "requests that run at once",
}
