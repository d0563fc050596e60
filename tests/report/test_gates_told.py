"""The verdict and the gates, in both reports."""

import pytest
from made_up_run import Document, fabricate_run, make_config, read

from pipeline.evaluation import accepted
from pipeline.evaluation.cards import Card, Entry, write_card
from pipeline.report import facts, sentences


def test_gates_are_shown_with_value_interval_bound_and_what_to_do(run):
    markdown, html = read(run)
    plain = markdown.replace("\\_", "_")
    assert "| ppo.kl_to_reference | distance from SFT at the end | 6.00 nats/sequence | 5.50 to 6.50 | 1 to 5 nats/sequence | missed |" in plain
    right = "share of pairs without noise that the reward model puts in the right order"
    assert f"| reward.clean_accuracy | {right} | 75.0 % | 72.0 % to 78.0 % | at least 65 % | passed |" in plain
    assert "The policy drifted; raise ppo.kl_coef." in plain
    assert "The policy drifted; raise ppo.kl_coef." in Document(html).text


def test_a_gate_that_was_not_reached_shows_its_bound_and_no_number(tmp_path):
    markdown, html = read(fabricate_run(tmp_path / "r", "sft"))
    assert "| ppo.kl_to_reference | distance from SFT at the end | – | – | 1 to 5 | not reached |" in markdown.replace("\\_", "_")
    assert "1 to 5 · not reached" in Document(html).text


def test_an_accepted_gate_is_shown_with_its_reason(run):
    accepted.accept(run, "ppo.kl_to_reference", "a <b>pilot</b>")
    markdown, html = read(run)
    assert "3 of 4 gates passed, accepted although missed: ppo.kl_to_reference" in markdown.replace("\\_", "_")
    assert "Accepted: a <b>pilot</b>" in Document(html).text
    assert "a &lt;b&gt;pilot&lt;/b&gt;" in markdown


def test_a_gate_on_benchmarks_that_nobody_asked_says_so(run):
    gate = "benchmarks.ppo_gsm8k_exact_match.ci_low"
    markdown, html = read(run, make_config(gates={gate: {"min": 0.1}, "sft.eos_rate": {"min": 0.3}}))
    assert f"| {gate} | – | – | – | at least 0.1 | not measured yet |" in markdown.replace("\\_", "_")
    assert "the one gate passed, 1 not measured yet." in markdown and 'class="state not-measured-yet"' in html


def test_a_gate_that_only_warned_is_neither_passed_nor_missed(run):
    gates_now = {"ppo.gold_minus_sft": {"min": 9.0, "warn": True}, "ppo.kl_to_reference": {"min": 1.0}}
    markdown, html = read(run, make_config(gates=gates_now))
    assert (
        "1 of 2 gates passed, 1 warned" in markdown
        and "| warned |" in markdown
        and "missed" not in markdown.split("## Gates")[0]
    )
    assert 'class="state warned"' in html


def test_the_verdict_is_one_sentence_with_interval_and_missed_gate(run):
    sentence = (
        "PPO beats SFT by 1.50 points on the gold score (95 % interval 1.20 to 1.80, 120 held-out questions); "
        "3 of 4 gates passed, missed: ppo.kl_to_reference."
    )
    markdown, html = read(run)
    assert sentence in markdown.replace("\\_", "_")
    assert sentence in Document(html).text


@pytest.mark.parametrize(
    ("value", "spread", "said"),
    [
        (
            -1.0,
            0.5,
            "PPO is worse than SFT by 1.00 points on the gold score (95 % interval −1.50 to −0.500, 120 held-out",
        ),
        (
            0.2,
            0.5,
            "PPO cannot be told apart from SFT on the gold score: +0.200 points (95 % interval −0.300 to 0.700, 1",
        ),
        (0.5, None, "PPO scores 0.500 points above SFT on the gold score, without an interval"),
    ],
)
def test_the_verdict_does_not_flatter(run, value, spread, said):
    low, high = (None, None) if spread is None else (value - spread, value + spread)
    card = Card("ppo", (Entry("gold_minus_sft", value, 120, low, high, "points"),))
    write_card(run / "evaluation/ppo/card.json", card)
    assert sentences.verdict(facts.gather(run, make_config(gates={}))).startswith(said)
