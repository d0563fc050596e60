"""Every command and option that a message, a docstring of the door or a page suggests is one that the program has."""

import ast
import re
from pathlib import Path

import pytest
import typer

from pipeline.cli import app

ROOT = Path(__file__).resolve().parent.parent
# Whose options a message may name without naming the verb; any other file's message can end up under every verb that opens a run.
OF_FILE = {
    "pipeline/cli_data.py": ("data inspect",),
    "data/inspect.py": ("data inspect",),
    "pipeline/cli_feedback.py": ("feedback stats", "feedback preview", "feedback export", "feedback import"),
    "pipeline/cli_plan.py": ("plan",),
    "pipeline/cli_serve.py": ("serve",),
    "pipeline/serve/": ("serve",),
    "pipeline/planning/show.py": ("plan",),
    "pipeline/evaluation/benchmarks.py": ("evaluate",),
}
OPENS_A_RUN = ("run", "prepare", "sft", "reward", "ppo", "evaluate", "status", "chat", "serve", "round", "rounds", "rollback")
# cli.py: `run` and `evaluate` refuse their own options there.
OF_DOOR = ("run", "evaluate")
# Options of the server that PPO's answers may come from, where a sentence names them; its own command names more.
OTHERS = {"--enable-lora", "--logprobs-mode", "--max-lora-rank", "--max-loras", "--max-model-len"}
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
PROGRAM = re.compile(r"(?:[\w./-]*python[\d.]*|\{\}) run_pipeline\.py ([^`\n#]*)")


def options_of() -> dict[str, set[str]]:
    """verb → its options, verbs of groups as "data check"."""

    def walk(command, name):
        for inner, below in getattr(command, "commands", {}).items():
            yield from walk(below, f"{name} {inner}".strip())
        if not hasattr(command, "commands"):
            yield name, {o for p in command.params for o in p.opts if o.startswith("-")} | {"--help"}

    return dict(walk(typer.main.get_command(app), ""))


VERBS = options_of()
STARTS = {verb.split()[0] for verb in VERBS}


def messages(file: Path):
    """(line, text) of every string that is no docstring; what an f-string fills in is {}."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inside = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and isinstance((node.body or [None])[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in ast.walk(node)}
            yield node.lineno, "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def commands(text: str):
    """What reads like a call of this program: `verb …` between backticks, or … run_pipeline.py verb …"""
    yield from (found.strip() for found in PROGRAM.findall(text))
    spans = [s.strip() for s in re.findall(r"`([^`\n]+)`", text) if "run_pipeline.py" not in s]
    # A stage's name alone is no command; with a setting or an option behind it, it is one.
    yield from (s for s in spans if s.split()[:1] and s.split()[0] in STARTS and ("--" in s or s.split()[0] in ("data", "feedback")))


def wrong_in(command: str) -> list[str]:
    """Why a suggested call would be refused."""
    words = command.split()
    if not words or words[0].startswith(("-", "{")):
        return []
    verb = " ".join(words[:2]) if " ".join(words[:2]) in VERBS else words[0]
    if verb not in VERBS:
        return [f"no verb '{' '.join(words[:2])}'"]
    return [f"'{verb}' has no {option}" for option in OPTION.findall(command) if option not in VERBS[verb]]


def wrong_bare(text: str, verbs) -> list[str]:
    """Options named without a verb which not every verb that may print the message has."""
    # What a message begins with is what was typed.
    bare = re.sub(r"^--[a-z-]+ \{\}|`[^`]*`|vllm serve .*", "", PROGRAM.sub("", text))
    return [
        f"{option} stands without a verb, and {', '.join(lacking)} has none"
        for option in OPTION.findall(bare)
        if option not in OTHERS and (lacking := [v for v in verbs if option not in VERBS[v]])
    ]


def verbs_of(name: str) -> tuple[str, ...]:
    return next((verbs for start, verbs in OF_FILE.items() if name.startswith(start)), OPENS_A_RUN)


SOURCES = [f for part in ("pipeline", "data", "reward") for f in sorted((ROOT / part).rglob("*.py"))]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "configs").glob("*.yaml")), ROOT / "Makefile"]


def test_what_messages_suggest_exists():
    wrong = []
    for file in SOURCES:
        name = str(file.relative_to(ROOT))
        for line, text in messages(file):
            found = [w for command in commands(text) for w in wrong_in(command)]
            # The door's own file declares the options, and holds the refusals of those of two verbs.
            if name not in ("pipeline/cli.py", "pipeline/cli_options.py") and not OPTION.fullmatch(text):
                found += wrong_bare(text, verbs_of(name))
            wrong += [f"{name}:{line}: {w}: {text}" for w in found]
    assert not wrong, "\n".join(wrong)


def test_what_the_pages_suggest_exists():
    wrong = [
        f"{file.name}: {w}: {command}"
        for file in PAGES
        for command in commands(file.read_text(encoding="utf-8"))
        for w in wrong_in(command)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("`run --redo ppo`", []),
        ("`python run_pipeline.py ppo --redo ppo`", ["'ppo' has no --redo"]),
        ("`feedback standing --run r`", ["no verb 'feedback standing'"]),
        ("python run_pipeline.py status --verify --run r", []),
    ],
)
def test_the_reader_of_suggestions_finds_what_is_wrong(text, said):
    assert [w for command in commands(text) for w in wrong_in(command)] == said
    assert wrong_bare("Use --run NEW.", OPENS_A_RUN) == []
    assert wrong_bare("Use --redo ppo.", OPENS_A_RUN) != []
