"""What to change when a gate is missed, one sentence a gate and bound, in the settings of the learner that ran."""

from __future__ import annotations

Hints = dict[tuple[str, str], str]
# (gate, which bound was missed) -> what to change. `*` stands for any stage; what names PPO's settings is for PPO alone.
HINTS: Hints = {
    ("sft.gold_minus_base", "min"): "SFT did not beat the base model; raise sft.epochs or look at data.demonstrations.",
    (
        "sft.heldout_nll",
        "max",
    ): "SFT fits held-out answers badly; raise sft.epochs, or lower sft.learning_rate if the loss rises.",
    ("*.eos_rate", "min"): "Answers are cut off; raise evaluation.max_new_tokens or train on shorter demonstrations.",
    ("ppo.eos_rate", "min"): "Answers are cut off; raise ppo.missing_eos_penalty or ppo.max_new_tokens.",
    ("ppo.eos_rate_minus_sft", "min"): "Answers end less often than after SFT; raise ppo.missing_eos_penalty.",
    ("reward.clean_accuracy", "min"): "The reward model would mislead PPO; add rankings, or raise reward.epochs.",
    (
        "reward.observed_accuracy",
        "min",
    ): "The reward model does not follow its labels; add rankings, or raise reward.epochs.",
    ("reward.ece", "max"): "The reward model is badly calibrated; lower reward.epochs or raise reward.weight_decay.",
    ("reward.length_rule_accuracy", "max"): "Length alone predicts the labels; balance the lengths in data.rankings.",
    (
        "*.probe_sycophancy",
        "min",
    ): "The reward model likes what the person seems to think; add rankings in which that is wrong.",
    (
        "*.probe_whitespace",
        "min",
    ): "Spaces move the score; vary them in data.rankings, or strip answers before they are ranked.",
    (
        "*.clean_accuracy_minus_length_rule",
        "min",
    ): "Length alone does as well as the reward model; add rankings whose better answer is the longer one.",
    (
        "*.clean_accuracy_minus_best_floor",
        "min",
    ): "A rule without a language model does as well as the reward model; the note on its card names the rule. Add rankings, or raise "
    "reward.epochs.",
    (
        "*.observed_accuracy_minus_best_floor",
        "min",
    ): "A rule without a language model does as well as the reward model; the note on its card names the rule. Add rankings, or raise "
    "reward.epochs.",
    (
        "*.length_correlation_excess",
        "max",
    ): "The score follows length more than the raters do; balance the lengths in data.rankings.",
    ("*.wrong_prompt_accuracy", "min"): "The reward model hardly reads the question; set reward.mismatched_negatives.",
    (
        "ppo.normalised_reward_gain",
        "min",
    ): "The reward was gained by length; read answers of like length, then look at the reward's taste.",
    ("ppo.lc_minus_raw_win_rate", "min"): "Part of the wins comes with length; ask whether raters want that length.",
    (
        "ppo.gain_over_limit",
        "max",
    ): "No policy can gain that much so near to SFT; the KL or the scores are measured wrongly.",
    (
        "benchmarks.*",
        "min",
    ): "What is asked elsewhere got worse than allowed; raise ppo.kl_coef or set ppo.ptx_coef, or change the gate and say why.",
    ("ppo.kl_to_reference", "max"): "The policy drifted; raise ppo.kl_coef.",
    (
        "ppo.kl_to_reference",
        "min",
    ): "The policy hardly moved; lower ppo.kl_coef, or raise ppo.updates or ppo.learning_rate.",
    ("ppo.kl_at_start", "max"): "The policy must start as its reference; the adapters were loaded wrongly.",
    (
        "ppo.gold_minus_sft",
        "min",
    ): "PPO did not beat SFT; check reward.clean_accuracy first, then ppo.updates and ppo.kl_coef.",
    (
        "ppo.gold_minus_best_of_2",
        "min",
    ): "Choosing the better of two SFT answers does as well; raise ppo.updates or lower ppo.kl_coef.",
    (
        "ppo.win_rate_vs_sft",
        "min",
    ): "PPO did not beat SFT; check reward.clean_accuracy first, then ppo.updates and ppo.kl_coef.",
    (
        "sft.general_perplexity_ratio",
        "max",
    ): "SFT cost the model its general language; lower sft.learning_rate or sft.epochs.",
    (
        "ppo.general_perplexity_ratio",
        "max",
    ): "PPO cost the model its general language; set ppo.ptx_coef, raise ppo.kl_coef or lower ppo.learning_rate.",
    (
        "ppo.wrong_suggested_minus_sft",
        "max",
    ): "PPO learnt to agree with whoever asks; look for rankings that reward agreement.",
    (
        "ppo.self_bleu_minus_sft",
        "max",
    ): "Answers to different prompts grew alike; raise ppo.kl_coef or ppo.entropy_coef, and read a few side by side.",
    ("ppo.distinct_2_ratio", "min"): "Answers repeat themselves; raise ppo.kl_coef or ppo.entropy_coef.",
    ("*.distinct_2", "min"): "Answers repeat themselves; train for fewer epochs or raise evaluation.temperature.",
    ("*.answer_tokens", "max"): "Answers grew long; look for a reward that pays for length.",
    ("*.answer_tokens", "min"): "Answers shrank; look for a reward that pays for brevity alone.",
    (
        "*.speaker_share",
        "max",
    ): "Answers go on with the person's turn; look for such turns in data.demonstrations, and at model.chat_template.",
    (
        "sft.rouge_l",
        "min",
    ): "SFT's answers hardly resemble the demonstrations; raise sft.epochs or look at data.demonstrations.",
    (
        "sft.rouge_l_minus_base",
        "min",
    ): "SFT's answers are no nearer to the demonstrations than the base model's; raise sft.epochs or look at data.demonstrations.",
    ("*.gold", "min"): "The answers score too low by the gold score; look at its parts, if it has any, and at the answers in report.md.",
}


# In place of the above where KTO learns in the stage `ppo`.
OF_KTO: Hints = {
    ("ppo.eos_rate", "min"): "Answers are cut off; raise evaluation.max_new_tokens, or add thumbs up on answers that end.",
    ("ppo.eos_rate_minus_sft", "min"): "Answers end less often than after SFT; add thumbs up on answers that end, or raise kto.beta.",
    ("reward.clean_accuracy", "min"): "The reward model misleads whoever reads its figures; add rankings, or raise reward.epochs.",
    ("benchmarks.*", "min"): "What is asked elsewhere got worse than allowed; raise kto.beta or lower kto.learning_rate, or change the gate "
    "and say why.",
    ("ppo.kl_to_reference", "max"): "The policy drifted; raise kto.beta, or lower kto.learning_rate or kto.epochs.",
    ("ppo.kl_to_reference", "min"): "The policy hardly moved; lower kto.beta, or raise kto.learning_rate or kto.epochs.",
    ("ppo.gold_minus_sft", "min"): "KTO did not beat SFT; look at data.thumbs first, then at kto.epochs and kto.beta.",
    ("ppo.gold_minus_best_of_2", "min"): "Choosing the better of two SFT answers does as well; raise kto.epochs or lower kto.beta.",
    ("ppo.win_rate_vs_sft", "min"): "KTO did not beat SFT; look at data.thumbs first, then at kto.epochs and kto.beta.",
    ("ppo.general_perplexity_ratio", "max"): "KTO cost the model its general language; raise kto.beta, or lower kto.learning_rate or "
    "kto.epochs.",
    ("ppo.wrong_suggested_minus_sft", "max"): "KTO learnt to agree with whoever asks; look for thumbs up on agreement in data.thumbs.",
    ("ppo.self_bleu_minus_sft", "max"): "Answers to different prompts grew alike; raise kto.beta or lower kto.epochs, and read a few side by "
    "side.",
    ("ppo.distinct_2_ratio", "min"): "Answers repeat themselves; raise kto.beta, or lower kto.learning_rate or kto.epochs.",
    ("ppo.normalised_reward_gain", "min"): "The reward was gained by length; read answers of like length, then look at which thumbs are up.",
    ("ppo.answer_tokens", "max"): "Answers grew long; look whether long answers have the thumbs up.",
    ("ppo.answer_tokens", "min"): "Answers shrank; look whether short answers have the thumbs up.",
}
_BY_LEARNER: dict[str, tuple[Hints, ...]] = {"ppo": (HINTS,), "kto": (OF_KTO, HINTS)}


def hint(stage: str, metric: str, side: str, learner: str = "ppo") -> str:
    """For a gate that missed its "min" or "max"; where nothing is known of it, where to look.

    Args:
        learner: what trains the policy in the stage `ppo`, as `Config.learner`.
    """
    for hints in _BY_LEARNER[learner]:
        for key in (f"{stage}.{metric}", f"*.{metric}", f"{stage}.*"):
            if (key, side) in hints:
                return hints[key, side]
    return f"Look at {stage} in report.md, or change gates.{stage}.{metric} and say why."
