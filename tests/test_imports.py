"""Who may import whom: data <- reward <- pipeline <- run_pipeline.py, never back."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("data", "reward", "pipeline")
PURE = ("masking", "logprobs", "kl", "advantages", "losses")


def imported(file: Path) -> set[str]:
    """Every module that the file imports, wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def top_level(file: Path) -> set[str]:
    """What is imported as soon as the file is."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize(
    ("package", "allowed"), [("data", {"data"}), ("reward", {"data", "reward"}), ("pipeline", set(OURS))]
)
def test_packages_import_only_what_lies_below_them(package, allowed):
    for file in (ROOT / package).rglob("*.py"):
        ours = {name.split(".")[0] for name in imported(file)} & {*OURS, "run_pipeline", "scripts", "benchmarks"}
        assert ours <= allowed, f"{file} imports {ours - allowed}"


@pytest.mark.parametrize("module", PURE)
def test_the_pure_modules_import_torch_and_each_other_only(module):
    names = imported(ROOT / "pipeline" / "ppo" / f"{module}.py")
    ours = {n for n in names if n.startswith(OURS)}
    assert all(n.split(".")[2] in PURE for n in ours if n.count(".") >= 2 and n.startswith("pipeline.ppo")), ours
    assert {n.split(".")[0] for n in names} <= {"torch", "pipeline", "__future__", "collections", "dataclasses", "math"}


@pytest.mark.parametrize("package", ["chat", "serve", "evaluation", "report"])
def test_chat_evaluation_and_report_never_import_stages(package):
    for file in (ROOT / "pipeline" / package).rglob("*.py"):
        assert not any(n.startswith("pipeline.stages") for n in imported(file)), file


def test_what_measures_knows_nothing_of_the_page_that_shows_it():
    for file in (ROOT / "pipeline" / "evaluation").rglob("*.py"):
        assert not any(n.startswith("pipeline.report") for n in imported(file)), file


def test_the_door_answers_without_loading_torch():
    light = [
        "cli.py",
        "cli_data.py",
        "cli_feedback.py",
        "cli_standings.py",
        "cli_plan.py",
        "planning/shapes.py",
        "planning/memory.py",
        "planning/plan.py",
        "planning/show.py",
        "planning/here.py",
        "cli_rounds.py",
        "rounds.py",
        "service.py",
        "verdicts.py",
        "snapshot.py",
        "cli_serve.py",
        "serve/settings.py",
        "errors.py",
        "run.py",
        "step.py",
        "manifest.py",
        "attempt.py",
        "environment.py",
        "progress.py",
        "conductor.py",
        "beforehand.py",
        "evaluation/gates.py",
    ]
    files = [ROOT / "pipeline" / name for name in light] + [*(ROOT / "data").glob("*.py"), *(ROOT / "pipeline" / "config").glob("*.py")]
    for file in files:
        assert not top_level(file) & {"torch", "transformers", "trl", "peft", "datasets", "numpy", "fastapi"}, file


def test_nothing_unpickles():
    for package in OURS:
        for file in (ROOT / package).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            assert "pickle" not in imported(file) and "torch.load(" not in text, file


def test_the_parts_of_the_door_never_import_the_door():
    for file in (ROOT / "pipeline").rglob("*.py"):
        assert "pipeline.cli" not in imported(file), file
