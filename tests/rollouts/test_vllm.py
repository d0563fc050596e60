"""Rollouts from a server: the same policy, the same tokens, and a plain sentence for everything that can go wrong on the way."""

import json
import math
import tempfile

import pytest
import torch
from fake_vllm import FakeVllm

from data.errors import UserError
from data.records import Message, Prompt
from pipeline.adapters import POLICY, REFERENCE, REWARD, VALUE
from pipeline.config import Config, PpoConfig, RolloutConfig
from pipeline.ppo.losses import importance_weights
from pipeline.ppo.rollout import PromptIds
from pipeline.ppo.trainer import PPO
from pipeline.rollouts.engine import InProcess, open_engine
from reward.model import ScalarHead, score

PROMPTS = [PromptIds(Prompt(f"p{i}", (Message("user", f"q {i}"),)), tuple(range(20 + i, 25 + 2 * i))) for i in range(4)]


@pytest.fixture(autouse=True)
def folders_that_pytest_clears(tmp_path_factory, monkeypatch):
    """An engine that no test closes would leave its adapters in the machine's own folder for good."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))


@pytest.fixture
def server(make_base):
    fake = FakeVllm(make_base)
    yield fake
    fake.close()


@pytest.fixture
def settings(server):
    def make(**changes):
        return RolloutConfig(engine="vllm", url=server.url, pause_seconds=0.0, timeout_seconds=20.0, **changes)

    return make


@pytest.fixture
def make_ppo(make_base):
    def make(rollout=None, engine=None, **changes):
        base = make_base(POLICY)
        base.add(REFERENCE, trainable=False, like=POLICY)
        base.add(REWARD, trainable=False)
        base.add(VALUE, trainable=True, like=REWARD)
        torch.manual_seed(0)
        head, reward_head = ScalarHead(base.hidden_size), ScalarHead(base.hidden_size)
        config = PpoConfig(**{
            "updates": 4, "episodes": 8, "minibatch": 8, "micro_batch": 4, "epochs": 1, "max_new_tokens": 8, "temperature": 1.3,
            "learning_rate": 1e-2, "rollout": rollout or RolloutConfig(), **changes,
        })  # fmt: skip
        return PPO(
            base, head, PROMPTS, config, lambda answers, encode: score(encode, reward_head, [a.ids for a in answers]).detach(),
            seed=0, engine=engine,
        )  # fmt: skip

    return make


def opened(settings, longest=64, temperature=None):
    return open_engine(settings, longest=longest, temperature=temperature)


def drawn_by(server) -> list[dict]:
    """Requests for answers; at the door two more ask for log-probabilities alone."""
    return [body for path, body in server.requests if path == "/v1/completions" and body.get("return_token_ids")]


def test_the_server_speaks_for_the_policy_as_it_is_after_every_update(server, settings, make_ppo):
    engine = opened(settings())
    ppo = make_ppo(settings(), engine)
    for update in range(3):
        figures, _ = ppo.update()
        # Another adapter, another prefix or another token would be nats away.
        assert figures["sampler_gap"] < 1e-3 and abs(figures["sampler_kl"]) < 1e-3
        assert figures["kl"] == 0.0 or update > 0
        assert len(set(server.loads)) == update + 1
    # The present policy's and the one before.
    assert len(server.adapters) == 2
    sent = drawn_by(server)
    assert (
        {b["temperature"] for b in sent} == {1.3}
        and {b["top_k"] for b in sent} == {-1}
        and len({b["seed"] for b in sent}) == 24
    )
    folder = engine._folder
    engine.close()
    assert not server.adapters and not folder.exists()


def test_two_runs_of_one_seed_draw_the_same_answers_from_a_server(settings, make_ppo):
    drawn = [[a.ids for a in make_ppo(settings(), opened(settings())).update()[1].answers] for _ in range(2)]
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 4


def test_an_end_that_the_model_names_beside_the_tokenizers_is_a_token_like_any_other(server, settings, make_ppo):
    """Qwen's chat models name two; an answer that the server ended at the other one is none of this policy's."""
    expected = [a.ids for a in make_ppo(settings(), opened(settings())).update()[1].answers]
    server.own_ends = set(range(4, 200))
    assert [a.ids for a in make_ppo(settings(), opened(settings())).update()[1].answers] == expected


def test_without_a_server_nothing_is_weighted_or_logged(make_ppo):
    figures, _ = make_ppo().update()
    assert isinstance(make_ppo().engine, InProcess) and "sampler_kl" not in figures


def test_an_adapter_that_others_may_read(server, settings, make_ppo, tmp_path):
    engine = opened(settings(adapter_dir=str(tmp_path / "shared")))
    make_ppo(settings(), engine).update()
    (name,) = server.adapters
    files = list((tmp_path / "shared" / name).iterdir())
    assert files and all(f.stat().st_mode & 0o044 == 0o044 for f in files)
    engine.close()
    assert (tmp_path / "shared").is_dir() and not list((tmp_path / "shared").iterdir())


def test_a_policy_that_comes_again_is_not_sent_again(server, settings, make_ppo):
    engine = opened(settings())
    base = make_ppo().base
    assert engine._publish(base) == engine._publish(base) and len(server.loads) == 1
    # Another process that had the same bytes: their name is their hash.
    other = opened(settings())
    assert other._publish(base) in server.adapters and len(server.loads) == 1


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [((503, "busy"), 20), ((500, "died"), 20), ((429, "slow"), 20), (4.0, 2), (lambda reply: "{cut o", 20)],
)
def test_a_server_that_stumbles_is_asked_again(server, settings, make_ppo, fault, seconds):
    # One at a time, so that no request waits for another one's turn.
    engine = opened(settings(attempts=3, concurrency=1).model_copy(update={"timeout_seconds": float(seconds)}))
    server.faults["/v1/completions"] = [fault]
    figures, _ = make_ppo(settings(), engine).update()
    assert figures["sampler_gap"] < 1e-3
    assert len(drawn_by(server)) == 9


def test_a_server_that_is_down_is_said_in_one_line(server, settings, make_ppo):
    engine = opened(settings(attempts=2))
    ppo = make_ppo(settings(), engine)
    server.close()
    with pytest.raises(UserError, match=r"did not answer in 2 attempts .*ppo.rollout.engine: hf"):
        ppo.update()
    assert ppo.done == 0
    with pytest.raises(UserError, match="did not answer"):
        opened(settings(attempts=1))
    engine.close()


def test_adapters_that_cannot_be_loaded_are_said_with_the_cure(server, settings, make_ppo, tmp_path):
    server.lora_routes = False
    with pytest.raises(UserError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"):
        make_ppo(settings(), opened(settings())).update()
    server.lora_routes = True
    # As vLLM 0.32 says it: a status that elsewhere is worth another attempt.
    words = "Call to add_lora method failed: Worker failed with error 'LoRA rank 64 is greater than max_lora_rank 16.'"
    server.faults["/v1/load_lora_adapter"] = [(500, json.dumps({"error": {"message": words, "code": 500}}))]
    with pytest.raises(UserError, match=r"refused the adapter .*max_lora_rank 16.*can be the cause.*--max-lora-rank"):
        make_ppo(settings(), opened(settings())).update()
    # What it says is shown, and nothing is claimed that it did not say.
    server.faults["/v1/load_lora_adapter"] = [(500, "EngineDeadError: see the trace above")]
    engine = opened(settings(adapter_dir=str(tmp_path / "shared")))
    with pytest.raises(UserError, match=r"EngineDeadError: see the trace above.*can be the cause.*which its log says"):
        make_ppo(settings(), engine).update()
    assert not server.loads and list((tmp_path / "shared").iterdir())
    engine.close()
    assert not list((tmp_path / "shared").iterdir())


def test_a_server_that_was_started_again_gets_the_adapter_again(server, settings, make_ppo):
    expected = [a.ids for a in make_ppo(settings(), opened(settings())).update()[1].answers]
    server.restart()
    server.loads.clear()
    engine = opened(settings(concurrency=4))
    # In the middle of a rollout: after the adapter was handed over, before the first answer.
    plain, gone = engine._ask, []

    def ask(path, body, **more):
        if path == "/v1/completions" and not gone:
            gone.append(server.restart())
        return plain(path, body, **more)

    engine._ask = ask
    assert [a.ids for a in make_ppo(settings(), engine).update()[1].answers] == expected
    assert len(server.loads) == 2 and len(set(server.loads)) == 1 and set(server.loads) == set(server.adapters)


def test_a_server_that_fails_each_time_is_quoted(server, settings, make_ppo):
    engine = opened(settings(attempts=2, concurrency=1))
    server.faults["/v1/completions"] = [(500, "EngineDeadError")] * 2
    with pytest.raises(UserError, match=r"answered 2 attempts with status 500: EngineDeadError. Look into its log"):
        make_ppo(settings(), engine).update()


def test_log_probabilities_at_another_temperature_than_the_answers_are_found_out_at_the_door(server, settings):
    """vLLM's default. At the quickstart's temperature they would look like a policy some tenths of a nat away."""
    server.raw_logprobs = True
    with pytest.raises(UserError, match="another temperature .*--logprobs-mode processed_logprobs"):
        opened(settings())
    server.faults["/v1/completions"] = [lambda reply: {"choices": [{"logprobs": None}]}]
    with pytest.raises(UserError, match="no log-probabilities"):
        opened(settings())


def test_at_temperature_one_the_default_is_as_good(server, settings, make_ppo):
    """Both kinds of log-probabilities are those of log softmax(z / 1). What is no log-probability stays refused at any temperature."""
    server.raw_logprobs = True
    ppo = make_ppo(settings(), opened(settings(), temperature=1.0), temperature=1.0)
    assert ppo.update()[0]["sampler_gap"] < 1e-3
    for temperature in (1.0000001, 0.7, None):
        with pytest.raises(UserError, match="another temperature"):
            opened(settings(), temperature=temperature)
    server.raw_logprobs = False

    def logits(reply):
        best = reply["choices"][0]["logprobs"]["top_logprobs"][0]
        reply["choices"][0]["logprobs"]["top_logprobs"][0] = {token: x + 12.0 for token, x in best.items()}
        return reply

    for temperature in (1.0, 0.7):
        server.faults["/v1/completions"] = [logits, logits]
        with pytest.raises(UserError, match="no log-probabilities .*--logprobs-mode processed_logprobs"):
            opened(settings(), temperature=temperature)
        server.faults["/v1/completions"].clear()


def started_otherwise(server):
    server.restart()
    server.raw_logprobs = True


@pytest.mark.parametrize("when", ["in a rollout", "between two"])
def test_a_server_that_was_started_again_in_another_way_is_found_out(server, settings, make_ppo, when):
    """In a rollout its models are unknown; between two it takes the next adapter as if nothing had been."""
    engine = opened(settings(concurrency=4))
    ppo = make_ppo(settings(), engine)
    ppo.update()
    policy = ppo.base.state(POLICY)
    if when == "between two":
        started_otherwise(server)
    else:
        plain, gone = engine._ask, []

        def ask(path, body, **more):
            if path == "/v1/completions" and not gone:
                gone.append(started_otherwise(server))
            return plain(path, body, **more)

        engine._ask = ask
    with pytest.raises(UserError, match="another temperature"):
        ppo.update()
    assert ppo.done == 1 and all(torch.equal(value, policy[name]) for name, value in ppo.base.state(POLICY).items())


def test_a_server_that_was_started_again_as_before_is_asked_again_once(server, settings, make_ppo):
    ppo = make_ppo(settings(), opened(settings(concurrency=4)))
    ppo.update()
    asked = len(server.requests)
    ppo.update()
    beside = {path for path, body in server.requests[asked:] if not body.get("return_token_ids")}
    assert beside == {"/v1/models", "/v1/load_lora_adapter"}
    server.restart()
    asked = len(server.requests)
    assert ppo.update()[0]["sampler_gap"] < 1e-3
    at_the_door = [b for path, b in server.requests[asked:] if path == "/v1/completions" and not b.get("return_token_ids")]
    assert len(at_the_door) == 2


def test_a_cut_in_the_models_own_generation_config_is_no_other_temperature(server, settings):
    """Without more, vLLM takes top_p from there, and both of the door's questions would see a token of -9999 nats."""
    server.own_top_p = 1e-4
    opened(settings())
    asked = [body for path, body in server.requests if path == "/v1/completions"]
    assert len(asked) == 2 and {b["top_p"] for b in asked} == {1.0} and {b["repetition_penalty"] for b in asked} == {1.0}


def test_a_reply_that_breaks_off_is_asked_for_again(server, settings, make_ppo):
    """A server that was killed has announced more than it sent."""
    engine = opened(settings(concurrency=1))
    server.faults["/v1/completions"] = ["breaks off"]
    figures, _ = make_ppo(settings(), engine).update()
    assert figures["sampler_gap"] < 1e-3 and len(drawn_by(server)) == 9


def test_a_server_that_is_gone_when_an_old_adapter_is_taken_off_is_waited_for(server, settings, make_ppo):
    engine = opened(settings())
    ppo = make_ppo(settings(), engine)
    for _ in range(2):
        ppo.update()
    server.faults["/v1/unload_lora_adapter"] = ["breaks off"]
    assert ppo.update()[0]["sampler_gap"] < 1e-3 and not server.faults["/v1/unload_lora_adapter"]


def test_a_server_over_another_base_is_never_learnt_from(server, settings, make_ppo, make_base):
    """Every adapter fits it: only the distance of the log-probabilities tells."""

    def elsewhere(*roles):
        base = make_base(*roles)
        with torch.no_grad():
            for name, weight in base.causal_lm.named_parameters():
                if "lora" not in name and weight.dim() > 1:
                    weight.mul_(40.0)
        return base

    server.make_base = elsewhere
    ppo = make_ppo(settings(), opened(settings()))
    before = {name: value.clone() for name, value in ppo.base.state(POLICY).items()}
    with pytest.raises(UserError, match=r"nats a token .*ppo.rollout.max_sampler_kl.*another base"):
        ppo.update()
    assert ppo.done == 0 and all(torch.equal(value, before[name]) for name, value in ppo.base.state(POLICY).items())


@pytest.mark.parametrize("factor", [1.5, 0.5])
def test_a_gap_is_one_in_either_direction_and_never_one_in_this_process(server, settings, make_ppo, factor):
    """Log-probabilities that are too low make the estimate of the KL negative; those of this process are whatever rounding makes of them."""

    def off(reply):
        choice = reply["choices"][0]
        choice["logprobs"]["token_logprobs"] = [factor * x for x in choice["logprobs"]["token_logprobs"]]
        return reply

    served = make_ppo(settings(max_sampler_kl=1.0), opened(settings()))
    server.faults["/v1/completions"] = [off] * 8
    # A random model over 260 tokens: half of about ln 260 nats, above or below.
    with pytest.raises(UserError, match=rf"are {'-' if factor > 1 else ''}2\.\d\d nats a token .* at most 1 "):
        served.update()
    figures, _ = make_ppo(RolloutConfig(importance_cap=5.0, max_sampler_kl=1e-12)).update()
    assert abs(figures["sampler_kl"]) > 1e-12


def changed(**changes):
    def change(reply):
        reply["choices"][0].update(changes)
        return reply

    return change


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (changed(token_ids=[]), "0 tokens where 1 to 8"),
        (changed(token_ids=list(range(20, 29))), "9 tokens where 1 to 8"),
        (changed(token_ids=[20, 21], logprobs={"token_logprobs": [-1.0]}), "1 log-probabilities for 2 tokens"),
        (changed(token_ids=[20], logprobs={"token_logprobs": [float("nan")]}), "no number"),
        (changed(token_ids=[20], logprobs={"token_logprobs": [0.5]}), "above 0"),
        (changed(token_ids=[20, 21], logprobs={"token_logprobs": [-1.0, -1.0]}), "not the end of an answer"),
        (changed(token_ids=[2, 21], logprobs={"token_logprobs": [-1.0, -1.0]}), "stands inside"),
        (changed(prompt_token_ids=[1, 2, 3]), "read a prompt of 3 tokens"),
        (changed(logprobs=None), "TypeError"),
        (lambda reply: {"choices": []}, "IndexError"),
        (lambda reply: {"message": "hello"}, "KeyError"),
    ],
)
def test_an_answer_that_cannot_be_one_is_never_learnt_from(server, settings, make_ppo, fault, words):
    engine = opened(settings())
    server.faults["/v1/completions"] = [fault]
    with pytest.raises(UserError, match=words):
        make_ppo(settings(), engine).update()


def test_a_request_that_is_refused_for_good_is_not_repeated(server, settings, make_ppo):
    engine = opened(settings())
    server.faults["/v1/completions"] = [(400, "max_tokens is too large")] * 8
    with pytest.raises(UserError, match="max_tokens is too large"):
        make_ppo(settings(), engine).update()


def test_a_context_too_short_is_refused_before_anything_is_drawn(settings):
    with pytest.raises(UserError, match="--max-model-len 2000"):
        opened(settings(), longest=2000)


def test_log_probabilities_of_another_engine_are_never_the_old_policys():
    with pytest.raises(ValueError, match="recompute where another engine draws"):
        PpoConfig(old_logprobs="generation", rollout=RolloutConfig(engine="vllm"))


def test_where_the_server_stands_is_no_part_of_a_run():
    data = {"demonstrations": "-", "rankings": "-", "heldout_prompts": "-"}
    keys = [
        Config(data=data, ppo=PpoConfig(rollout=RolloutConfig(url=url, **more))).subset(["ppo"])
        for url, more in (
            ("http://a:1", {}),
            ("http://b:2", {"concurrency": 3, "max_sampler_kl": 1.0}),
            ("http://a:1", {"importance_cap": 2.0}),
        )
    ]
    assert keys[0] == keys[1] != keys[2]


def test_truncated_importance_weights_by_hand():
    """exp of the difference, at most the cap, 1 under the mask; KL(μ‖π) by its k1 estimate."""
    logprobs = torch.tensor([[-1.0, -2.0, -3.0], [-0.5, 9.0, 9.0]])
    sampled = torch.tensor([[-1.5, -2.0, -2.0], [-2.5, 1.0, 1.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    weights, figures = importance_weights(logprobs, sampled, mask, cap=2.0)
    assert torch.allclose(weights, torch.tensor([[1.6487, 1.0, 0.3679], [2.0, 1.0, 1.0]]), atol=1e-4)
    assert figures["sampler_kl"] == pytest.approx((-0.5 + 0.0 + 1.0 - 2.0) / 4) and figures["importance_capped"] == 0.25
    plain, figures = importance_weights(logprobs, sampled, mask, cap=None)
    assert torch.equal(plain, torch.ones(2, 3)) and "importance_capped" not in figures


def test_weighted_advantages_under_the_sampler_are_the_plain_ones_under_the_policy():
    """Over a vocabulary that can be listed: Σ μ·min(π/μ, ∞)·A = Σ π·A."""
    generator = torch.Generator().manual_seed(0)
    policy, sampler = (torch.randn(6, generator=generator).log_softmax(0) for _ in range(2))
    advantages = torch.randn(6, generator=generator)
    weights, _ = importance_weights(policy[None], sampler[None], torch.ones(1, 6, dtype=torch.bool), cap=1e9)
    assert float((sampler.exp() * weights[0] * advantages).sum()) == pytest.approx(
        float((policy.exp() * advantages).sum()), abs=1e-5
    )


def test_a_sampler_that_is_off_is_measured_and_weighed_in_the_update(server, settings, make_ppo):
    """The server doubles every log-probability: tokens that look rarer than they are get less weight, and the gap is told."""

    def off(reply):
        choice = reply["choices"][0]
        choice["logprobs"]["token_logprobs"] = [2 * x for x in choice["logprobs"]["token_logprobs"]]
        return reply

    ppo = make_ppo(settings(importance_cap=1.5, max_sampler_kl=10.0), opened(settings()))
    server.faults["/v1/completions"] = [off] * 8
    figures, rollout = ppo.update()
    apart = (rollout.generated - rollout.logprobs)[rollout.mask]
    assert figures["sampler_kl"] == pytest.approx(float(apart.mean()), abs=1e-5) and figures["sampler_kl"] < -1
    assert figures["importance_capped"] == 1.0


def test_the_weights_reach_the_advantages_that_are_learnt_from(server, settings, make_ppo):
    """The same rollout with and without them; the server takes every token for likelier than it is."""

    def off(reply):
        choice = reply["choices"][0]
        choice["logprobs"]["token_logprobs"] = [0.9 * x for x in choice["logprobs"]["token_logprobs"]]
        return reply

    # A random model is near the uniform distribution over 260 tokens: some weights are held by this cap, and some are not.
    cap, learnt, rollouts = 260**-0.1, [], []
    for chosen in (None, cap):
        ppo = make_ppo(settings(importance_cap=chosen, max_sampler_kl=1.0), opened(settings()))
        server.faults["/v1/completions"] = [off] * 8
        plain = ppo._learn

        def note(rollout, advantages, returns, plain=plain):
            learnt.append(advantages.clone())
            return plain(rollout, advantages, returns)

        ppo._learn = note
        rollouts.append(ppo.update()[1])
    r = rollouts[1]
    by_hand = torch.tensor([[min(math.exp(0.1 * x), cap) for x in row] for row in r.logprobs.tolist()])
    assert (
        torch.equal(rollouts[0].tokens, r.tokens)
        and (by_hand[r.mask] < cap - 1e-4).any()
        and (by_hand[r.mask] > cap - 1e-6).any()
    )
    assert torch.allclose(learnt[1][r.mask], (learnt[0] * by_hand)[r.mask], atol=1e-3)
