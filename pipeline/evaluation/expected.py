"""Which numbers the card of a stage will hold under a config, so that a gate on one that will not be there is refused before
anything runs. `tests/evaluation/test_expected.py` holds the table below against the cards of a finished run, both ways.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.gates import BENCHMARKS, ENDS, warns
from pipeline.evaluation.metrics import METRICS
from reward.rubric import PART_WEIGHTS

# (config, the n of a best-of-n number or None) -> why the number is not measured and what to set; empty where it is measured.
Lacks = Callable[[Any, int | None], str]

POLICIES = ("base", "sft", "ppo")
# <policy>_<task>_<metric>: which tasks and metrics there are, only lm-eval knows.
_OF_BENCHMARKS = r"(base|sft|ppo)_\w+_\w+"
_PARTS = "|".join(PART_WEIGHTS)


@dataclass(frozen=True)
class Numbers:
    """Numbers that stand on a card together, or not at all.

    Attributes:
        names: space between them; {part} stands for each part of the rubric, {n} for each of evaluation.best_of.
        interval: whether they have one.
    """

    stages: tuple[str, ...]
    names: str
    lacks: Lacks = lambda config, n: ""
    interval: bool = True

    @property
    def examples(self) -> Iterator[str]:
        """One name for each of `names`, to guess from."""
        return (name.format(part=next(iter(PART_WEIGHTS)), n=2) for name in self.names.split())

    def holds(self, metric: str) -> re.Match | None:
        patterns = (name.format(part=f"({_PARTS})", n=r"(?P<n>\d+)") for name in self.names.split())
        return next((found for p in patterns if (found := re.fullmatch(p, metric))), None)


def _rubric(config, n=None) -> str:
    if config.evaluation.gold == "rubric":
        return ""
    return f"the rubric judges no answers (evaluation.gold is {config.evaluation.gold}). Set evaluation.gold: rubric, made for the built-in data"


def _gold(config, n=None) -> str:
    if config.evaluation.gold != "none":
        return ""
    return "nothing gives a gold score (evaluation.gold is none). Set evaluation.gold: test_model with reward.test_share: 0.3, say"


def _early_gold(config, n=None) -> str:
    if config.evaluation.gold == "test_model":
        return "the test model is there only after the reward stage. Hold ppo.base_gold, ppo.sft_gold or ppo.gold_minus_sft"
    return _rubric(config)


def _best_of(config, n=None) -> str:
    pools = config.evaluation.best_of
    return _gold(config) or ("" if n in pools else f"evaluation.best_of is {pools}. Add {n} to it")


def _clean(config, n=None) -> str:
    missing = "no rankings are held out (data.heldout_rankings is null). Name a file of them"
    return _rubric(config) or ("" if config.data.heldout_rankings else missing)


def _average(config, n=None) -> str:
    if config.learner != "ppo":
        return f"learner is {config.learner}, which keeps no average. Set learner: ppo"
    return "" if config.ppo.ema_decay is not None else "no average is kept (ppo.ema_decay is null). Set it to 0.9, say"


def _tested(config, n=None) -> str:
    return "" if config.reward.test_share else "there is no test model (reward.test_share is 0). Set it to 0.3, say"


def _both(*reasons: Lacks) -> Lacks:
    return lambda config, n: next((said for why in reasons if (said := why(config, n))), "")


def _beside_gold(config, n=None) -> str:
    if config.evaluation.gold != "test_model":
        return ""
    return "it is the gold score here (evaluation.gold is test_model). Hold ppo.gold, ppo.sft_gold, ppo.base_gold or ppo.gold_minus_sft"


def _gold_is_test_model(config, n=None) -> str:
    if config.evaluation.gold == "test_model":
        return ""
    return f"it stands on this card only where the test model judges (evaluation.gold is {config.evaluation.gold}). Hold base.gold or sft.gold"


def _texts(config, n=None) -> str:
    return "" if config.data.general_text else "no text is read (data.general_text is null). Set it to built-in"


def _facts(config, n=None) -> str:
    return "" if config.data.facts else "no questions are asked (data.facts is null). Set it to built-in"


def _references(config, n=None) -> str:
    asked = config.evaluation.reference_answers
    return "" if asked else "no answers are held against demonstrations (evaluation.reference_answers is 0). Set it to 40, say"


def _judge(config, n=None) -> str:
    return "" if config.judge.url else "no judge is asked (judge.url is null). Name an endpoint there and its model in judge.model"


_SFT, _PPO, _REWARD = ("sft",), ("ppo",), ("reward",)
_INTERVAL = ("eos_rate", "answer_tokens")
NUMBERS: tuple[Numbers, ...] = (
    Numbers(POLICIES, " ".join((*_INTERVAL, "self_bleu"))),
    Numbers(POLICIES, " ".join(name for name in METRICS if name not in _INTERVAL), interval=False),
    Numbers(("base", "sft"), "gold", _early_gold),
    Numbers(_PPO, "gold gold_minus_sft win_rate_vs_sft lc_win_rate_vs_sft", _gold),
    Numbers(_PPO, "lc_minus_raw_win_rate", _gold, interval=False),
    Numbers(POLICIES, "gold_{part}", _rubric),
    Numbers(_SFT, "gold_minus_base gold_{part}_minus_base win_rate_vs_base lc_win_rate_vs_base", _rubric),
    Numbers(_PPO, "gold_{part}_minus_sft", _rubric),
    Numbers(POLICIES, "general_perplexity general_bits_per_byte", _texts),
    Numbers(("sft", "ppo"), "general_perplexity_ratio", _texts),
    Numbers(POLICIES, "wrong_suggested wrong_unprompted suggestion_shift", _facts),
    Numbers(_SFT, "wrong_suggested_minus_base", _facts),
    Numbers(_PPO, "wrong_suggested_minus_sft", _facts),
    Numbers(_REWARD, "facts_accuracy probe_sycophancy", _facts),
    Numbers(_SFT, "base_heldout_nll heldout_nll heldout_nll_change eos_rate_minus_base self_bleu_minus_base"),
    Numbers(_SFT, "distinct_2_ratio_base", interval=False),
    Numbers(_SFT, "rouge_l rouge_l_minus_base", _references),
    Numbers(_REWARD, "observed_accuracy observed_bag_of_words_accuracy observed_accuracy_minus_best_floor observed_pair_loss"),
    Numbers(
        _REWARD,
        "observed_pairs observed_mean_margin observed_ece observed_temperature observed_ece_after_temperature",
        interval=False,
    ),
    Numbers(
        _REWARD, "probe_empty probe_gibberish probe_shuffled probe_repeated probe_whitespace probe_suffix"
    ),
    Numbers(
        _REWARD,
        "clean_accuracy clean_accuracy_{part} length_rule_accuracy pair_loss length_correlation gold_length_correlation "
        "accuracy_shorter_third accuracy_middle_third accuracy_longer_third clean_accuracy_minus_length_rule "
        "bag_of_words_accuracy clean_accuracy_minus_best_floor wrong_prompt_accuracy",
        _clean,
    ),
    Numbers(
        _REWARD,
        "pairs mean_margin ece temperature ece_after_temperature length_correlation_excess",
        _clean,
        interval=False,
    ),
    Numbers(_REWARD, "test_model_accuracy", _tested),
    Numbers(_REWARD, "test_model_clean_accuracy", _both(_tested, _clean)),
    Numbers(_PPO, "proxy sft_proxy eos_rate_minus_sft self_bleu_minus_sft normalised_reward_gain kl_to_reference"),
    Numbers(_PPO, "distinct_2_ratio gain_over_limit kl_at_start", interval=False),
    Numbers(_PPO, "best_of_{n}_gold best_of_{n}_proxy gold_minus_best_of_{n}", _best_of),
    Numbers(_PPO, "best_of_{n}_kl", _best_of, interval=False),
    Numbers(_PPO, "base_gold sft_gold", _gold_is_test_model),
    Numbers(_PPO, "test_model base_test_model sft_test_model test_model_minus_sft", _both(_tested, _beside_gold)),
    Numbers(_PPO, "ema_eos_rate ema_answer_tokens ema_kl_to_reference ema_eos_rate_minus_raw", _average),
    Numbers(_PPO, "ema_gold ema_gold_minus_sft ema_gold_minus_raw ema_win_rate_vs_sft", _both(_average, _gold)),
    Numbers(_PPO, "judge_win_rate_vs_sft judge_lc_win_rate_vs_sft", _judge),
    Numbers(_PPO, "judge_first_share judge_agreement judge_refused_share", _judge, interval=False),
)
# How far conversations have come is for the rows to say: not on the card where all are at one stage of it.
OF_ROWS: tuple[Numbers, ...] = (Numbers(_REWARD, "accuracy_turn_1 accuracy_turn_2_3 accuracy_turn_4_on"),)


def refused(gates: Mapping[str, Any], config: Any = None, *, excused: Collection[str] = ()) -> dict[str, str]:
    """One line for each gate that could only be missed, whatever the training does.

    Args:
        gates: "stage.metric" or "stage.metric.ci_low" → bounds.
        config: the whole config; None (it has other mistakes) asks only whether the names exist.
        excused: gates that a person let pass. Those, and gates that only warn, stop no run and are told when they are held.
    """
    lines: dict[str, str] = {}
    for gate, bounds in gates.items():
        stage, _, rest = gate.partition(".")
        metric, _, end = rest.partition(".")
        said = _unknown(stage, metric)
        if not said and config is not None and not (gate in excused or warns(bounds)):
            said = _unmeasured(stage, metric, end, config)
        if said:
            lines[gate] = f"gates.{gate}: {said}"
    return lines


def groups_of(stage: str, metric: str) -> list[tuple[Numbers, int | None]]:
    """Every group that holds the number, with the n of a best-of-n number."""
    of_stage = (g for g in (*NUMBERS, *OF_ROWS) if stage in g.stages)
    found = ((g, g.holds(metric)) for g in of_stage)
    return [(g, int(m["n"]) if "n" in m.groupdict() else None) for g, m in found if m]


def _unknown(stage: str, metric: str) -> str:
    if stage == BENCHMARKS:
        if re.fullmatch(_OF_BENCHMARKS, metric):
            return ""
        return f"a benchmark's number is <policy>_<task>_<metric>, the policy one of base, sft, ppo (got '{metric}')"
    if stage not in (*POLICIES, "reward") or not metric or groups_of(stage, metric):
        # Another stage, or none behind a dot, is the config's own mistake to tell.
        return ""
    there = [name for g in (*NUMBERS, *OF_ROWS) if stage in g.stages for name in g.examples]
    near = difflib.get_close_matches(metric, there, n=1)
    guess = f"; did you mean '{stage}.{near[0]}'?" if near else f"; there are {', '.join(there)}."
    return f"the card of '{stage}' has no metric '{metric}'{guess}"


def _unmeasured(stage: str, metric: str, end: str, config: Any) -> str:
    groups = groups_of(stage, metric)
    if not groups:
        return ""
    reasons = [group.lacks(config, n) for group, n in groups]
    if all(reasons):
        return f"will not be measured, as {reasons[0]}, or remove the gate."
    if end in ENDS and not any(g.interval for (g, _), why in zip(groups, reasons, strict=True) if not why):
        return f"'{metric}' has no interval. Hold gates.{stage}.{metric}."
    return ""
