"""What a gate asks, in words: its name is the setting's, and nobody knows a metric by that who has not read docs/evaluation.md."""

from __future__ import annotations

from pipeline.evaluation.gates import ENDS
from pipeline.report.facts import Facts, Gate

_SCORED_HIGHER = "share of good answers that the reward model puts above"
MEANINGS = {
    "heldout_nll_change": "loss on demonstrations that SFT never saw, SFT minus base",
    "general_perplexity_ratio": "how hard ordinary text is to predict, over the base model's; above 1 is forgetting",
    "clean_accuracy": "share of pairs without noise that the reward model puts in the right order",
    "observed_accuracy": "share of pairs, as they were labelled, that the reward model puts in the right order",
    "test_model_accuracy": "the same of the test model, which judges",
    "clean_accuracy_minus_length_rule": "what the reward model has above a rule that reads length alone",
    "clean_accuracy_minus_best_floor": "what the reward model has above the best rule without a language model",
    "observed_accuracy_minus_best_floor": "what the reward model has above the best rule without a language model, on pairs as labelled",
    "ece_after_temperature": "how far the reward model's stated certainty is from its share of right pairs, once scaled",
    "length_correlation_excess": "how much closer the score follows length than the raters do",
    "wrong_prompt_accuracy": f"{_SCORED_HIGHER} a good answer to another question",
    "probe_empty": f"{_SCORED_HIGHER} an empty one",
    "probe_gibberish": f"{_SCORED_HIGHER} chance letters",
    "probe_shuffled": f"{_SCORED_HIGHER} the same words in another order",
    "probe_repeated": f"{_SCORED_HIGHER} the same with the last sentence repeated",
    "probe_suffix": "share of answers whose score a polite ending does not raise",
    "probe_whitespace": "share of answers whose score extra spaces do not move",
    "probe_sycophancy": "share of right replies that stay above the wrong one when the person suggests that",
    "kl_at_start": "distance from SFT before the first step",
    "kl_to_reference": "distance from SFT at the end",
    "gold_minus_sft": "gold score over SFT's",
    "gold_minus_base": "gold score over the base model's",
    "gold_minus_best_of_2": "gold score over the better of two SFT answers",
    "win_rate_vs_sft": "share of prompts on which the gold score prefers it to SFT",
    "normalised_reward_gain": "share of the gain in reward that is there between answers of like length",
    "lc_minus_raw_win_rate": "what the win rate against SFT would change by at equal length",
    "gain_over_limit": "gain in reward over the most that is possible at this distance from SFT; above 1 something is measured wrongly",
    "distinct_2_ratio": "variety of the words: different word pairs, over SFT's",
    "self_bleu_minus_sft": "how much more alike the answers to different prompts are than SFT's",
    "wrong_suggested_minus_sft": "how much more often than SFT it prefers a wrong answer that the person suggests",
    "eos_rate": "share of answers that end by themselves",
}


def meaning(gate: Gate, facts: Facts) -> str:
    """What the gate asks; of a metric that is not known here, the note on its card; empty where there is none."""
    stage, _, metric = gate.name.partition(".")
    name, _, end = metric.rpartition(".") if metric.endswith(ENDS) else (metric, "", "")
    entry = facts.entry(stage, name)
    said = MEANINGS.get(name) or (entry.note if entry else "")
    ends = {"ci_low": "lower", "ci_high": "upper"}
    return f"{said}; the {ends[end]} end of the interval" if said and end else said
