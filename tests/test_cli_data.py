"""`data inspect` and `data check`, called as the door calls them."""

import json
from pathlib import Path

import pytest
import yaml

from data.errors import UserError
from pipeline.cli_data import check, inspect
from pipeline.config import DataConfig, check_files, load_config

SEEDS = {"demonstrations": "messages", "rankings": "ranked", "heldout_prompts": "prompts"}


def write(path, *rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(("name", "format_name"), SEEDS.items())
def test_the_config_lines_that_inspect_prints_are_a_config(name, format_name, capsys):
    inspect(f"data/seed/{name}.jsonl", None, None, 100_000)
    said = capsys.readouterr().out
    assert f"format {format_name} (a guess" in said
    pasted = yaml.safe_load(said[said.rindex("\ndata:\n") :])["data"]
    needed = dict.fromkeys(SEEDS, "x") | pasted
    config = DataConfig.model_validate(needed)
    assert getattr(config, name) == f"data/seed/{name}.jsonl" and getattr(config, f"{name}_format") == format_name


def test_the_config_lines_name_a_file_once_and_in_its_own_letters(tmp_path, capsys):
    folder = tmp_path / "mein Ordner mit Lücken"
    folder.mkdir()
    for name, row, other in (
        ("prompts", {"prompt": "q"}, "heldout_prompts"),
        ("rankings", {"prompt": "q", "chosen": "a", "rejected": "b"}, "heldout_rankings"),
    ):
        path = write(folder / f"{name}.jsonl", row)
        inspect(str(path), None, None, 100_000)
        said = capsys.readouterr().out
        lines = said[said.rindex("\ndata:\n") :]
        # A file that trains and measures is a leak, which `data check` refuses: the second stands there as a comment.
        (one,) = (key for key, value in yaml.safe_load(lines)["data"].items() if value == str(path))
        assert {one, lines.split("# ")[1].split(":")[0]} == {name, other}
        assert f": {path}\n" in lines


def test_inspect_says_what_would_stop_a_run_and_shows_three_rows(tmp_path, capsys):
    rows = [{"prompt": "x" * n, "completion": "a\x1b[31mb"} for n in (4, 5, 6, 7)] + [{"prompt": "", "completion": "a"}]
    inspect(str(write(tmp_path / "r.jsonl", *rows)), None, None, 100_000)
    said = capsys.readouterr().out
    assert "4 demonstrations" in said and "1 problem, which would stop a run" in said and "r.jsonl row 5: " in said
    assert "prompts: 4 to 7, half up to 6" in said
    assert said.count("answer: ") == 3
    # A file cannot write to the terminal what the terminal would obey.
    assert "\x1b" not in said and r"a\x1b[31mb" in said


def test_inspect_counts_tokens_when_a_model_is_named(tmp_path, capsys):
    inspect(str(write(tmp_path / "r.jsonl", {"prompt": "café"}, {"prompt": "ab"})), "prompts", "tiny-random", 100_000)
    # A token of the tiny model is a byte, and é is two.
    assert "prompts: 2 to 5" in capsys.readouterr().out


def test_only_the_first_rows_are_read_when_so_asked(tmp_path, capsys):
    path = write(tmp_path / "r.jsonl", *({"prompt": f"q{i}"} for i in range(9)), {"prompt": ""})
    inspect(str(path), "prompts", None, 9)
    said = capsys.readouterr().out
    assert "9 prompts (of at most 9 rows)" in said and "problems" not in said


def test_a_file_that_no_format_reads_names_its_fields(tmp_path):
    with pytest.raises(UserError, match="fields found: context, response. Rename the fields.*mend what stands below"):
        inspect(str(write(tmp_path / "r.jsonl", {"context": "a", "response": "b"})), None, None, 100)
    with pytest.raises(UserError, match="fields found: Antwort, Frage. Rename the fields") as refused:
        inspect(str(write(tmp_path / "r.jsonl", {"Frage": "a", "Antwort": "b"})), None, None, 100)
    # Nothing stands below, so nobody is sent there.
    assert len(refused.value.problems) == 1 and "below" not in refused.value.problems[0]


def test_thumbs_have_a_config_line_that_a_config_takes_and_say_what_learns_from_them(tmp_path, capsys):
    file = write(tmp_path / "r.jsonl", {"prompt": "q", "completion": "a", "label": True})
    inspect(str(file), None, None, 100)
    said = capsys.readouterr().out
    assert "thumbs_ranked" in said and "learner: kto" in said and "reward.thumbs_weight" in said and "up: a" in said
    lines = yaml.safe_load(said[said.index("data:") : said.index("\nThumbs")])["data"]
    assert lines == {"thumbs": str(file), "thumbs_format": "thumbs"}
    loaded = load_config(Path("configs/smoke.yaml"), [f"data.{key}={value}" for key, value in lines.items()])
    assert check_files(loaded) == [] and loaded.data.thumbs == str(file)


def test_check_prints_counts_and_shared_questions(capsys):
    check(["data.limit=40"], Path("configs/smoke.yaml"))
    said = capsys.readouterr().out
    assert "heldout_prompts                   40" in said and "rankings train / prompts train: 37" in said
    assert "The data can be trained on" in said


def test_check_tells_of_files_that_are_not_there(tmp_path):
    with pytest.raises(UserError) as caught:
        check(["data.rankings=nope", "data.demonstrations=hub:a/b"], Path("configs/smoke.yaml"))
    assert [p.split(":")[0] for p in caught.value.problems] == ["data.demonstrations", "data.rankings"]


def test_the_first_rows_of_a_directory_are_counted_over_its_files(tmp_path, capsys):
    for name in "ab":
        write(tmp_path / f"{name}.jsonl", *({"prompt": f"{name}{i}"} for i in range(5)))
    inspect(str(tmp_path), "prompts", None, 7)
    assert "7 prompts (of at most 7 rows)" in capsys.readouterr().out
