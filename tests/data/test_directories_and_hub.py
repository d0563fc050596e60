"""A directory is its files by name; a Hub name is a data set at a commit and a split."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UserError
from data.hub import HubName, parse_name
from data.loading import load
from data.sources import files_of


def prompts(path, *texts):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"prompt": t}) + "\n" for t in texts))


def refusals(path) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        load(path, "prompts")
    return caught.value.problems


def test_the_files_of_a_directory_are_read_by_name(tmp_path):
    prompts(tmp_path / "d" / "part-2.jsonl", "c")
    prompts(tmp_path / "d" / "part-1.jsonl", "a", "b")
    (tmp_path / "d" / "README.md").write_text("about")
    (tmp_path / "d" / ".cache").mkdir()
    found = load(tmp_path / "d", "prompts")
    assert [(r.id, r.messages[0].content) for r in found] == [("part-1-1", "a"), ("part-1-2", "b"), ("part-2-1", "c")]


def test_mistakes_of_all_files_name_their_file(tmp_path):
    prompts(tmp_path / "d" / "a.jsonl", "fine", "")
    prompts(tmp_path / "d" / "b.jsonl", "", "fine")
    (tmp_path / "d" / "c.jsonl").write_text("")
    first, second, third = refusals(tmp_path / "d")
    assert first.startswith(f"{tmp_path}/d/a.jsonl row 2: ") and second.startswith(f"{tmp_path}/d/b.jsonl row 1: ")
    assert third == f"{tmp_path}/d/c.jsonl: the file has no rows. Give at least one."


def test_one_id_in_two_files_names_both(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text('{"id": "x", "prompt": "q"}\n')
    (problem,) = refusals(tmp_path)
    assert problem.startswith(f"{tmp_path}/b.jsonl row 1: id 'x' is that of {tmp_path}/a.jsonl row 1 too")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "holds no data file"),
        (("a.jsonl", "b.csv"), "files of more than one kind, .csv and .jsonl"),
        (("a.jsonl", "b.jsonl.gz"), "with b.jsonl.gz in it, which is no data file"),
        (("a.jsonl", "more/b.jsonl"), "with more in it, which is a directory"),
    ],
)
def test_a_directory_that_cannot_be_read_whole_is_refused(tmp_path, names, said):
    for name in names:
        prompts(tmp_path / name, "q")
    with pytest.raises(UserError, match=said):
        files_of(tmp_path)


def test_a_hub_name_says_subset_revision_and_split():
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert parse_name("hub:a/b") == HubName("a/b", None, None, "train")
    assert parse_name("hub:a/b-c.d/sub@refs/convert/parquet:test") == HubName(
        "a/b-c.d", "sub", "refs/convert/parquet", "test"
    )
    assert not parse_name("hub:a/b@main:test").pinned and parse_name(f"hub:a/b@{commit}").pinned


@pytest.mark.parametrize("name", ["hub:", "hub:a", "hub:a/b@", "hub:a/b:", "hub:../b", "hub:a/b/c/d", "hub:a b/c"])
def test_a_hub_name_that_does_not_parse_shows_how(name):
    with pytest.raises(UserError, match="should read hub:owner/name"):
        parse_name(name)


def test_a_hub_set_is_asked_for_by_what_its_name_says(tmp_path, monkeypatch):
    """The library itself reads the rows here, from files that stand in for the download."""
    import datasets

    prompts(tmp_path / "rows.jsonl", "a", "b")
    real, asked = datasets.load_dataset, []

    def from_disk(name, subset, *, split, revision):
        asked.append((name, subset, split, revision))
        return real(
            "json", data_files={split: str(tmp_path / "rows.jsonl")}, split=split, cache_dir=str(tmp_path / "c")
        )

    monkeypatch.setattr(datasets, "load_dataset", from_disk)
    found = load("hub:owner/name/sub@main:test", "prompts")
    assert asked == [("owner/name", "sub", "test", "main")]
    assert [(r.id, r.messages[0].content) for r in found] == [("test-1", "a"), ("test-2", "b")]


def test_a_hub_set_that_is_not_there_is_one_line(monkeypatch):
    import datasets

    def refuse(*args, **kwargs):
        raise ConnectionError("Couldn't reach\nthe Hub")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    (problem,) = refusals("hub:owner/name@main")
    assert problem.startswith("hub:owner/name@main: cannot be loaded: Couldn't reach the Hub. Check the name")


def test_a_directory_of_the_same_name_is_not_taken_for_the_hub(tmp_path, monkeypatch):
    prompts(tmp_path / "owner" / "name" / "train.jsonl", "q")
    monkeypatch.chdir(tmp_path)
    assert "is also a directory here" in refusals("hub:owner/name")[0]


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40) | st.from_regex(r"[a-z./@:]{0,30}", fullmatch=True))
def test_any_hub_name_is_read_or_refused_in_one_line(name):
    try:
        found = parse_name(f"hub:{name}")
    except UserError as error:
        assert error.problems[0].startswith("hub:")
    else:
        assert found.repo.count("/") == 1 and found.split and ".." not in found.repo.split("/")
