"""The loader reports every mistake of a file at once, each with its place."""

import re
from functools import partial
from pathlib import Path

import pytest

from data.errors import UserError
from pipeline.cli_options import wrong_besides
from pipeline.config import check_files, load_config
from pipeline.config.partial import broken_rules
from pipeline.config.section import Section, rule
from pipeline.evaluation import accepted

ROOT = Path(__file__).resolve().parent.parent
MINIMAL = "data: {demonstrations: d.jsonl, rankings: r.jsonl, heldout_prompts: h.jsonl}\n"


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "my.yaml"
    file.write_text(text + MINIMAL, encoding="utf-8")
    return file


def problems(tmp_path, text, overrides=()) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_config(write(tmp_path, text), overrides)
    return [p.replace(str(tmp_path) + "/", "") for p in caught.value.problems]


def test_a_misspelt_key_is_named_with_its_line_and_a_suggestion(tmp_path):
    assert problems(tmp_path, "seed: 1\nsft:\n  learning_rat: 1e-4\n") == [
        "my.yaml:3: unknown key 'sft.learning_rat'; did you mean 'sft.learning_rate'?"
    ]


def test_every_mistake_is_reported_at_once(tmp_path):
    found = problems(
        tmp_path,
        "seed: seven\nppo:\n  kl_estimator: k9\n  gamma: 2\nsft: {batch_size: true}\n",
        ["lora.rnak=3", "nonsense"],
    )
    assert sorted(found) == sorted(
        [
            "my.yaml:1: 'seed' should be an integer (got 'seven')",
            "my.yaml:3: 'ppo.kl_estimator' should be 'k1' or 'k3' (got 'k9')",
            "my.yaml:4: 'ppo.gamma' should be at most 1.0 (got 2.0)",
            "my.yaml:5: 'sft.batch_size' should be an integer (got True)",
            "command line: unknown key 'lora.rnak'; did you mean 'lora.rank'?",
            "command line: 'nonsense' should read key=value, for example ppo.kl_coef=0.1",
        ]
    )


def test_scientific_notation_that_yaml_reads_as_text_is_a_number(tmp_path):
    config = load_config(
        write(tmp_path, "sft: {learning_rate: 1e-5}\ngates: {sft.gold: {min: 1e-1}}\n"), ["ppo.kl_coef=2e-2"]
    )
    assert (config.sft.learning_rate, config.gates["sft.gold"].min, config.ppo.kl_coef) == (1e-5, 0.1, 0.02)


def test_a_name_that_no_run_can_have_is_told_in_words(tmp_path):
    assert problems(tmp_path, "", ["run_name=../x"]) == [
        "command line: 'run_name' should be letters, digits and . _ - with a letter or digit first (got '../x')"
    ]


def test_a_key_that_stands_twice_is_refused(tmp_path):
    assert problems(tmp_path, "seed: 1\nseed: 2\n") == ["my.yaml:2: 'seed' stands here twice; keep one"]


def test_batches_must_fit_into_each_other(tmp_path):
    assert problems(tmp_path, "ppo: {episodes: 32, minibatch: 5, micro_batch: 5}\n") == [
        "my.yaml:1: 'ppo.minibatch' should divide episodes 32 (got 5)"
    ]
    assert "micro_batch" in problems(tmp_path, "ppo: {minibatch: 8, micro_batch: 16}\n")[0]


def test_a_gate_must_name_a_stage_and_have_a_bound(tmp_path):
    assert "should read stage.metric" in problems(tmp_path, "gates: {foo: {min: 1}}\n")[0]
    assert "min, max or both" in problems(tmp_path, "gates: {sft.gold: {}}\n")[0]
    assert "nothing can pass" in problems(tmp_path, "gates: {sft.gold: {min: 2, max: 1}}\n")[0]
    assert load_config(write(tmp_path, "gates: {ppo.gold_minus_sft.ci_low: {min: 0}}\n")).gates


@pytest.mark.parametrize("metric", ["proxy", "sft_proxy", "best_of_2_proxy", "proxy.ci_low"])
def test_no_gate_lets_a_policy_pass_for_the_reward_that_it_raises(tmp_path, metric):
    head = "data: {demonstrations: a, rankings: b, heldout_prompts: c}\ngates:\n"
    file = tmp_path / "c.yaml"
    file.write_text(f"{head}  ppo.{metric}: {{min: 0.5, max: 2}}\n")
    with pytest.raises(UserError, match=f"gates.ppo.{metric}' should have no min: PPO raises this number itself"):
        load_config(file)
    # KTO raises no reward.
    assert load_config(file, ["learner=kto"]).gates
    # That it is not suspiciously high may be asked, and the reward model's own card is not PPO's.
    file.write_text(f"{head}  ppo.{metric}: {{max: 2}}\n  ppo.gold_minus_sft: {{min: 0}}\n")
    assert len(load_config(file).gates) == 2


def test_the_rubric_is_no_judge_where_ppo_is_paid_by_it(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("data: {demonstrations: a, rankings: b, heldout_prompts: c}\nevaluation: {gold: rubric}\n")
    assert load_config(file).judged_by == "rubric"
    assert load_config(file, ["ppo.reward_sources={model: 1.0, rubric: 0.0}"]).judged_by == "rubric"
    assert load_config(file, ["ppo.reward_sources={model: 1.0, rubric: 0.1}"]).judged_by is None
    assert load_config(file, ["evaluation.gold=none"]).judged_by is None


@pytest.mark.parametrize("metric", ["gold", "gold_minus_sft.ci_low", "gold_concise_minus_sft", "win_rate_vs_sft", "ema_gold_minus_sft"])
def test_no_gate_asks_ppo_for_more_of_what_it_is_paid_by(tmp_path, metric):
    file = tmp_path / "c.yaml"
    head = "data: {demonstrations: a, rankings: b, heldout_prompts: c}\nreward: {test_share: 0.5}\nevaluation: {gold: rubric}\n"
    file.write_text(f"{head}gates:\n  ppo.{metric}: {{min: 0}}\n")
    assert load_config(file).gates
    paid = ["ppo.reward_sources={model: 1.0, rubric: 0.5}"]
    with pytest.raises(UserError, match="pays by the rubric, so PPO raises the gold score itself"):
        load_config(file, paid)
    # Another judge may be asked, by the test model or of thumbs alone.
    assert load_config(file, [*paid, "evaluation.gold=test_model"]).gates
    assert load_config(file, [*paid, "learner=kto"]).gates
    file.write_text(f"{head}gates:\n  ppo.test_model_minus_sft: {{min: 0}}\n  ppo.{metric}: {{max: 9}}\n")
    assert len(load_config(file, paid).gates) == 2


def test_gates_and_missing_files_are_told_with_the_other_mistakes(tmp_path):
    """Everything that would stop the run, not what the first round of reading finds."""
    file = tmp_path / "c.yaml"
    file.write_text(
        "sft: {learning_rat: 1}\ndata:\n  demonstrations: configs/smoke.yaml\n  rankings: nowhere.jsonl\n"
        "  heldout_prompts: configs/smoke.yaml\ngates:\n  sft.gold_minus_bas: {min: 0}\n  rewards.ece: {min: 0}\n"
        "  ppo.proxy: {min: 1}\n"
    )
    with pytest.raises(UserError) as caught:
        load_config(file, also=wrong_besides)
    places = [p.removeprefix(f"{file}:").split(": ")[0] for p in caught.value.problems]
    assert sorted(places) == ["1", "4", "7", "8", "9"], caught.value.problems


def test_a_gate_on_a_number_that_is_not_measured_is_told_with_the_other_mistakes(tmp_path):
    head = "data: {demonstrations: configs/smoke.yaml, rankings: configs/smoke.yaml, heldout_prompts: configs/smoke.yaml, facts: null}\n"
    gates = "gates:\n  ppo.wrong_suggested: {max: 1}\n  ppo.gold: {min: 0}\n  sft.gold_minus_base: {min: 0, warn: true}\n"
    file = tmp_path / "c.yaml"

    def told(text, **more):
        file.write_text(head + gates + text)
        with pytest.raises(UserError) as caught:
            load_config(file, also=partial(wrong_besides, **more))
        return [re.sub(r" .*", "", p.removeprefix(f"{file}:")) for p in caught.value.problems]

    assert sorted(told("seed: x\n")) == ["3:", "4:", "6:"]
    # Whether there is a gold score follows from the very setting that is wrong.
    assert sorted(told("evaluation: {gold: rubrik}\n")) == ["3:", "6:"]
    # What a person let pass, now or in the run, stops nothing.
    (tmp_path / "r").mkdir()
    accepted.accept(tmp_path / "r", "ppo.gold", "a pilot")
    assert told("seed: x\n", accept=["ppo.wrong_suggested"], named=f"{tmp_path}/r") == ["6:"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"seed: 1\nppo:\n\tepochs: 2\n", ":3: begins with a tab, which YAML does not take. Indent with spaces."),
        (b"\xff\xfe", ": not UTF-8 at byte 0. Save it as UTF-8 text"),
        (b"- a\n- b\n", ":1: should hold 'key: value' lines (got a list)."),
        (b"just words\n", ":1: should hold 'key: value' lines (got 'just words')."),
        (b"a: \"\x01\"\n", ": not YAML: special characters are not allowed."),
        (b"a: *nobody\n", ":1: not YAML: found undefined alias 'nobody'."),
        (b"? [a, b]\n: c\n", ":1: a key should be plain text"),
        (b"seed: 2024-13-45\n", ":1: 'seed' is no value (month must be in 1..12). Put text in quotes."),
        (b"seed: !mine 3\n", ":1: 'seed' is no value (could not determine a constructor for the tag '!mine'). Put text in quotes."),
        (b"gates:\n  sft.gold: 3\n", ":2: 'gates.sft.gold' should be bounds, as in {min: 0.5}"),
    ],
)
def test_a_file_that_is_no_config_is_told_with_its_line_and_what_to_do(tmp_path, content, said):
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_config(file)
    assert any(problem.startswith(f"{file}{said}") for problem in caught.value.problems), caught.value.problems


def test_a_directory_and_an_empty_place_are_told_with_the_way_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\). Name a YAML file."):
        load_config(tmp_path)
    with pytest.raises(UserError, match="go to the project's directory, or name one with --config"):
        load_config(Path("configs/quickstart.yaml"))


def test_a_name_where_a_setting_should_stand_is_guessed_at(tmp_path, monkeypatch):
    """`status quickstart` and `data check configs/my.yaml` are what one types first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "trial").mkdir(parents=True)
    found = problems(tmp_path, "", ["trial", "configs/my.yaml", "ppo"])
    assert [line.partition("kl_coef=0.1")[2] for line in found] == [
        "; did you mean --run trial?",
        "; did you mean --config configs/my.yaml?",
        "",
    ]


def test_overrides_win_and_reach_into_gates(tmp_path):
    file = write(tmp_path, "ppo: {kl_coef: 0.5}\n")
    config = load_config(file, ["ppo.kl_coef=0.1", "gates.ppo.gold.min=2"])
    assert config.ppo.kl_coef == 0.1 and config.gates["ppo.gold"].min == 2.0


def test_broken_yaml_and_missing_files_are_one_line(tmp_path):
    broken = tmp_path / "b.yaml"
    broken.write_text("a: [1,\nb: 2", encoding="utf-8")
    with pytest.raises(UserError, match=r"b\.yaml:2: not YAML"):
        load_config(broken)
    with pytest.raises(UserError, match="no such file"):
        load_config(tmp_path / "absent.yaml")
    assert check_files(load_config(write(tmp_path, "")))[0].startswith("data.demonstrations: no file d.jsonl")


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda f: f.name)
def test_every_shipped_config_loads_and_finds_its_files(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    fetched = set(re.findall(r"fetch_rows.py \w+ (\S+)", file.read_text(encoding="utf-8")))
    # What a script fetches need not be there; test_shipped_configs.py holds that it would be.
    assert [p for p in check_files(load_config(file)) if not any(folder in p for folder in fetched)] == []


def test_a_subset_holds_the_named_sections_only(tmp_path):
    config = load_config(write(tmp_path, ""))
    assert set(config.subset(["seed", "sft.epochs"])) == {"seed", "sft.epochs"}
    assert all(k.startswith("lora.") for k in config.subset(["lora"]))


def test_a_source_may_be_a_directory_or_a_data_set_at_a_commit(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.jsonl").touch()
    commit = "0123456789abcdef0123456789abcdef01234567"
    text = f"data: {{demonstrations: {tmp_path}/d, rankings: 'hub:a/b@{commit}:test', heldout_prompts: {tmp_path}/d/a.jsonl}}\n"
    (tmp_path / "c.yaml").write_text(text)
    assert check_files(load_config(tmp_path / "c.yaml")) == []
    from pipeline.stages import STAGES

    named = STAGES[0].files(load_config(tmp_path / "c.yaml"))
    assert named == [tmp_path / "d" / "a.jsonl", tmp_path / "d" / "a.jsonl"]


def test_a_data_set_without_a_commit_could_change_under_a_run(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "data: {demonstrations: 'hub:a/b@main', rankings: 'hub:a', heldout_prompts: c.yaml}\n"
    )
    first, second, third = check_files(load_config(tmp_path / "c.yaml"))
    assert first.startswith("data.demonstrations: hub:a/b@main names no commit")
    assert second.startswith("data.rankings: hub:a: should read hub:owner/name") and third.endswith("runs.")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # What numpy takes as a seed, which TRL's trainers pass on to it.
        ("seed: 4294967296\n", "1: 'seed' should be below 4294967296 (got 4294967296)"),
        ("threads: 100000\n", "1: 'threads' should be at most 1024 (got 100000)"),
        ("lora: {target_modules: []}\n", "1: 'lora.target_modules' should name at least one linear layer, or be all-linear (got none)"),
        ("ppo: {reward_sources: {model: 0}}\n", "1: 'ppo.reward_sources' should give at least one source a weight other than 0 (got {'model': 0.0})"),
        ("ppo: {reward_sources: {}}\n", "1: 'ppo.reward_sources' should give at least one source a weight other than 0 (got none)"),
        ("model: {name: tiny-random, quantization: 4bit}\n", "1: 'model.quantization' should be left out where the model is tiny-random"),
        ("model: {name: tiny-random, chat_template: x}\n", "1: 'model.chat_template' should be left out where the model is tiny-random"),
    ],
)
def test_what_would_stop_a_run_later_or_be_passed_over_is_refused(tmp_path, text, said):
    (found,) = problems(tmp_path, text)
    assert found.startswith(f"my.yaml:{said}")


def test_a_gate_without_a_metric_and_without_bounds_is_told_both(tmp_path):
    file = write(tmp_path, "")
    with pytest.raises(UserError) as caught:
        load_config(file, ["gates.ppo=3"], also=wrong_besides)
    assert [p for p in caught.value.problems if "gates" in p] == [
        "command line: 'gates.ppo' should be bounds, as in {min: 0.5} (got 3)",
        "command line: 'gates.ppo' should read stage.metric, stage one of base, sft, reward, ppo, benchmarks (got 'ppo')",
    ]


def test_what_kto_would_pass_over_is_refused(tmp_path):
    found = problems(tmp_path, "learner: kto\nrounds: {continue_policy: true}\n")
    assert found == ["my.yaml:2: 'rounds.continue_policy' needs learner ppo: kto always starts from SFT (got true)"]


def test_all_rules_of_a_section_are_told_at_once(tmp_path):
    text = (
        "ppo:\n  episodes: 30\n  minibatch: 7\n  micro_batch: 9\n  kl_coef: 0\n  kl_target: 5\n  kl_horizon: 20\n"
        "  old_logprobs: generation\n  rollout: {engine: vllm, importance_cap: 2}\n  reward_sources: {}\n"
        "detectors: {warn_only: [eos_los, value_failur]}\n"
    )
    head = MINIMAL.replace("}", ", prompts_format: promts, rankings_format: rankd}")
    (tmp_path / "my.yaml").write_text(text + head)
    with pytest.raises(UserError) as caught:
        load_config(tmp_path / "my.yaml")
    lines = [p.removeprefix(f"{tmp_path}/my.yaml:") for p in caught.value.problems]
    assert sorted(line.split(" should ")[0] for line in lines) == sorted(
        [
            "3: 'ppo.minibatch'",
            "4: 'ppo.micro_batch'",
            "5: 'ppo.kl_coef'",
            "7: 'ppo.kl_horizon'",
            "8: 'ppo.old_logprobs'",
            "8: 'ppo.old_logprobs'",
            "10: 'ppo.reward_sources'",
            "11: 'detectors.warn_only'",
            "11: 'detectors.warn_only'",
            "12: 'data.prompts_format'",
            "12: 'data.rankings_format'",
        ]
    )
    assert [name for name in ("eos_los'", "value_failur'") if any(line.endswith(f"(got '{name})") for line in lines)]


def test_rules_between_settings_are_told_with_the_mistakes_of_single_ones(tmp_path):
    """Also where a setting of the same section, or of another, is wrong by itself."""
    found = problems(
        tmp_path,
        "seed: x\nppo: {episodes: 32, minibatch: 5, micro_batch: 5, gamma: 2, gama: 1}\nevaluation: {gold: test_model, limit: no}\n"
        "gates: {ppo.proxy: {min: 1}, sft.gold: {min: 2, max: 1, mix: 1}, nothing: {min: 1}, ppo.gold: {max: x}}\n",
    )
    assert sorted(re.sub(r" (should|needs) .*", "", line) for line in found) == sorted(
        [
            "my.yaml:1: 'seed'",
            "my.yaml:2: 'ppo.gamma'",
            "my.yaml:2: unknown key 'ppo.gama'; did you mean 'ppo.gamma'?",
            "my.yaml:2: 'ppo.minibatch'",
            "my.yaml:3: 'evaluation.gold'",
            "my.yaml:3: 'evaluation.limit'",
            "my.yaml:4: 'gates.ppo.proxy'",
            "my.yaml:4: unknown key 'gates.sft.gold.mix'",
            "my.yaml:4: 'gates.sft.gold' min",
            "my.yaml:4: 'gates.nothing'",
            "my.yaml:4: 'gates.ppo.gold.max'",
        ]
    )


def test_no_rule_is_asked_of_a_setting_that_is_wrong_by_itself(tmp_path):
    """Of what stands there in its place, its default, nothing can be said."""
    found = problems(tmp_path, "ppo: {episodes: 30, minibatch: x, micro_batch: 4000}\nreward: 3\nevaluation: {gold: test_model}\n")
    assert sorted(line.split(" should ")[0] for line in found) == ["my.yaml:1: 'ppo.minibatch'", "my.yaml:2: 'reward'"]
    # The same settings without that mistake break the rules which were not asked.
    assert len(problems(tmp_path, "ppo: {episodes: 30, minibatch: 7, micro_batch: 4000}\nevaluation: {gold: test_model}\n")) == 3


def test_a_slip_in_a_rule_shows_and_is_not_taken_for_a_mistaken_setting():
    """Passed over, it would never tell anything where another setting is wrong too."""

    class Inner(Section):
        width: int = 1

    class Outer(Section):
        inner: Inner = Inner()
        height: int = 2

        @property
        def area(self) -> int:
            return self.inner.width * self.height

        @rule
        def _small(self):
            if self.area > 9:
                yield "'height' should be smaller"

        @rule
        def _flat(self):
            if self.height > 4 and self.inner.widht:
                yield "'height' should be small"

    assert broken_rules(Outer, {"height": 10, "inner": {"width": "x"}}, {("height",)}) == []
    assert broken_rules(Outer, {"height": 4, "inner": {"width": "x"}}, {("inner", "width")}) == []
    with pytest.raises(AttributeError, match="widht"):
        broken_rules(Outer, {"height": 5, "inner": {"width": "x"}}, {("inner", "width")})


def test_whichever_setting_is_mistaken_nothing_that_is_asked_of_the_others_slips():
    """Rules, gates and files, with each setting of a shipped config wrong in turn, and each section."""
    file = Path("configs/quickstart.yaml")
    whole = load_config(file).model_dump(mode="json")
    names = [*whole, *(f"{section}.{name}" for section, value in whole.items() if isinstance(value, dict) for name in value if section != "gates")]
    assert len(names) > 150
    for name in names:
        with pytest.raises(UserError) as caught:
            load_config(file, [f"{name}=[[1]]"], also=wrong_besides)
        assert any(f"'{name}" in line for line in caught.value.problems), name
