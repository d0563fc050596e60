"""What counts as running out of memory, and what is done then."""

import pytest
import torch

from data.errors import UserError
from pipeline.memory import MicroBatch, is_out_of_memory


def test_a_real_allocation_that_fails_is_recognised():
    with pytest.raises(RuntimeError) as failure:
        torch.empty(1 << 50, dtype=torch.float32)
    assert is_out_of_memory(failure.value) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match")) and not is_out_of_memory(OSError("out of memory"))


def test_rows_are_halved_until_it_fits():
    said = []
    micro = MicroBatch(8, "ppo.micro_batch", "ppo.max_new_tokens", said.append)

    def needs_three_rows(size):
        if size > 3:
            raise MemoryError
        return size

    assert micro.attempt(needs_three_rows) == 2 and micro.size == 2
    assert [line.split(";")[0].split(" rows")[0] for line in said] == ["out of memory: 4", "out of memory: 2"]


def test_one_row_that_does_not_fit_says_what_to_lower():
    def never(size):
        raise MemoryError

    with pytest.raises(UserError, match="out of memory with one row a forward pass. Lower ppo.max_new_tokens"):
        MicroBatch(2, "ppo.micro_batch", "ppo.max_new_tokens", lambda line: None).attempt(never)


def test_another_error_passes_through():
    def wrong(size):
        raise RuntimeError("shapes do not match")

    micro = MicroBatch(4, "s", "t", lambda line: None)
    with pytest.raises(RuntimeError, match="shapes"):
        micro.attempt(wrong)
    assert micro.size == 4


def test_a_library_without_its_working_memory_is_out_of_memory_too():
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))


@pytest.mark.parametrize(("batch", "micro", "tried"), [(18, 9, [9, 3, 1]), (12, 6, [6, 3, 1]), (16, 8, [8, 4, 2, 1])])
def test_a_batch_stays_a_whole_number_of_passes(batch, micro, tried):
    """As in SFT, where the passes of a step are counted in advance: 9 rows halved to 4 would have made 18 rows into 16."""
    sizes = []

    def never(size):
        sizes.append(size)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(UserError):
        MicroBatch(micro, "s", "t", lambda line: None, divides=batch).attempt(never)
    assert sizes == tried


def test_rows_are_gone_through_once_each_in_their_order():
    done = []

    def at_most_three(part):
        if len(part) > 3:
            raise MemoryError
        done.append(list(part))

    micro = MicroBatch(8, None, "t", lambda line: None)
    micro.over(range(10), at_most_three)
    assert done == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]] and micro.size == 2


class Small:
    """A card with room for so many rows at once: below the adapters, and where answers are drawn."""

    def __init__(self, monkeypatch, rows):
        from pipeline.adapters import SharedBase
        from pipeline.decoder import Decoder

        self.rows, self.most, self.refused = rows, 0, 0
        for kind, name, count in (
            (SharedBase, "trunk", lambda args: len(args[0].ids)),
            (SharedBase, "list_trunk", lambda args: len(args[0].ids)),
            (Decoder, "join", lambda args: len(args[0])),
        ):
            monkeypatch.setattr(kind, name, self.guarded(getattr(kind, name), count))

    def guarded(self, plain, count):
        def call(owner, *args, **kwargs):
            if count(args) > self.rows:
                self.refused += 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            self.most = max(self.most, count(args))
            return plain(owner, *args, **kwargs)

        return call


@pytest.fixture
def reading(make_base):
    """What every reader says of some texts: the reward model, one by one and in lists, and a policy's likelihoods."""
    from pipeline.adapters import REWARD
    from pipeline.evaluation.likelihood import Texts
    from pipeline.roles import RewardModel
    from reward.model import ScalarHead
    from reward.scale import Scale

    base = make_base(REWARD)
    torch.manual_seed(0)
    model = RewardModel(base, ScalarHead(base.hidden_size), Scale())
    texts = [list(range(5, 8 + i)) for i in range(11)]
    likelihoods = Texts(base, [t[:2] for t in texts], [t[2:] for t in texts], keep_trunk=True)

    def read():
        lists = model.score_lists([((5, 6), (t[:2], t[1:])) for t in texts])
        # Twice: the second time from the trunk that was kept.
        found = [likelihoods.logprobs(REWARD) for _ in range(2)]
        return [*model.score_all(texts), *(s for row in lists for s in row), *(x for f in found for row in f for x in row)]

    return read


def test_readers_say_the_same_on_a_card_with_room_for_three_rows(reading, monkeypatch, capsys):
    whole = reading()
    card = Small(monkeypatch, 3)
    assert reading() == pytest.approx(whole, abs=1e-4)
    assert 1 < card.most <= 3 and card.refused > 2
    assert "out of memory: 16 rows a forward pass from now on" in capsys.readouterr().err


def test_evaluation_draws_the_answers_that_the_smaller_batch_would(make_base, monkeypatch, namespace, capsys):
    from data.records import Message, Prompt
    from pipeline.adapters import POLICY
    from pipeline.evaluation.answers import answer_prompts
    from pipeline.progress import track

    base = make_base(POLICY)
    prompts = [Prompt(f"p{i}", (Message("user", "why " * (i + 1)),)) for i in range(5)]

    def drawn(batch):
        evaluation = namespace(max_new_tokens=6, temperature=1.0, batch_size=batch, gold="none")
        config = namespace(
            model=namespace(system_prompt=None), data=namespace(max_prompt_tokens=99), evaluation=evaluation, seed=3
        )
        return answer_prompts(base, POLICY, prompts, config, samples=2, progress=track, label="")

    expected, other = drawn(2), drawn(8)
    card = Small(monkeypatch, 3)
    assert drawn(8) == expected != other and card.refused == 2
    assert "evaluation.batch_size=2 avoids the loss of time" in capsys.readouterr().err


def test_a_look_of_the_judge_takes_no_more_at_once_than_a_rollout(make_base, monkeypatch):
    from data.records import Message, Prompt
    from pipeline.adapters import POLICY, REFERENCE, REWARD, VALUE
    from pipeline.config import DetectorsConfig, PpoConfig
    from pipeline.ppo.rollout import PromptIds
    from pipeline.ppo.trainer import PPO
    from pipeline.ppo.watch import Watch
    from reward.model import ScalarHead, score

    base = make_base(POLICY, REFERENCE, REWARD, VALUE)
    prompts = [PromptIds(Prompt(f"p{i}", (Message("user", str(i)),)), (20 + i, 21, 22)) for i in range(9)]
    head = ScalarHead(base.hidden_size).requires_grad_(False)
    settings = PpoConfig(episodes=4, minibatch=4, micro_batch=2, max_new_tokens=4, rollout={"batch": 2})
    ppo = PPO(
        base, ScalarHead(base.hidden_size), prompts, settings, lambda answers, encode: score(encode, head, [a.ids for a in answers]),
        seed=0,
    )  # fmt: skip
    watch = Watch(DetectorsConfig(), prompts, lambda answers: [float(len(a.ids)) for a in answers], seed=0)
    whole = watch._look(ppo)
    # All nine are read at once where there is room for nine, never drawn so.
    drawn = Small(monkeypatch, 9)
    assert watch._look(ppo) == whole and drawn.refused == 0
    drawn.rows = 2
    again = watch._look(ppo)
    assert again.judge == whole.judge and again.proxy == pytest.approx(whole.proxy, abs=1e-5)
    assert drawn.most == 9 and drawn.refused > 0


def test_memory_that_runs_out_anywhere_else_is_one_line(monkeypatch, capsys, tmp_path):
    import sys

    from pipeline import cli, conductor
    from pipeline.step import Step

    def body(ctx):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    name = "bodies_of_memory_test"
    monkeypatch.setitem(sys.modules, name, type(sys)(name))
    sys.modules[name].body = body
    step = Step("prepare", (), ("seed",), 1, f"{name}:body")
    monkeypatch.setattr(conductor, "registry", lambda: ((step,), {}))
    monkeypatch.setattr(sys, "argv", ["x", "run", "--run", str(tmp_path / "r"), "--config", "configs/smoke.yaml"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "run_pipeline.py plan" in said and "Tried to allocate 2.00 GiB" in said


def test_each_steps_peak_on_a_card_is_its_own(monkeypatch, tmp_path):
    """Two steps of which the first takes more: the manifests say what each took."""
    import json
    import sys

    from pipeline import cli, conductor, environment
    from pipeline.step import Step

    held = {"peak": 0}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: held.update(peak=0))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: held["peak"])
    plain = environment.describe

    def as_on_a_card(*args):
        return {**plain(*args), "peak_gpu_bytes": torch.cuda.max_memory_allocated()}

    def taking(size):
        def body(ctx):
            held["peak"] = max(held["peak"], size)
            return {}

        return body

    monkeypatch.setattr(environment, "describe", as_on_a_card)
    name = "bodies_of_peaks_test"
    monkeypatch.setitem(sys.modules, name, type(sys)(name))
    sys.modules[name].large, sys.modules[name].small = taking(9), taking(4)
    steps = (Step("prepare", (), ("seed",), 1, f"{name}:large"), Step("sft", ("prepare",), ("sft",), 1, f"{name}:small"))
    monkeypatch.setattr(conductor, "registry", lambda: (steps, {}))
    monkeypatch.setattr(sys, "argv", ["x", "run", "--run", str(tmp_path / "r"), "--config", "configs/smoke.yaml"])
    cli.main()
    peaks = [json.loads((tmp_path / "r" / s.folder / "manifest.json").read_text())["environment"]["peak_gpu_bytes"] for s in steps]
    assert peaks == [9, 4]
