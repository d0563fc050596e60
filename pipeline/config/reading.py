"""From a YAML file and overrides to a checked configuration, and back; every mistake of a file at once, with its line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from data.errors import UserError
from data.hub import is_hub, parse_name
from pipeline.config.data import DataConfig
from pipeline.config.judging import Gate
from pipeline.config.mistakes import broken, explain, meant, not_yaml
from pipeline.config.partial import Place, broken_rules, right_part
from pipeline.config.whole import Config

Besides = Callable[[Mapping[str, Any], Config], Mapping[str, str]]


def load_config(path: Path, overrides: Sequence[str] = (), *, also: Besides | None = None) -> Config:
    """The config of a YAML file with dotted overrides (`ppo.kl_coef=0.1`) on top.

    Args:
        also: looks through the settings as they were written, and their right part, for what is wrong besides, dotted key → line.
            Asked only where they are refused anyway, so that all is told at once; of a config that can be used, `check_files` and the
            gates' own check tell it.

    Raises:
        UserError: every mistake of the file and the command line, each with its place.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = ", ".join(sorted(str(p) for p in Path("configs").glob("*.yaml")))
        there = f"Configs at hand: {near}" if near else "There is no configs/ here: go to the project's directory"
        raise UserError(f"{path}: no such file. {there}, or name one with --config.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}. Save it as UTF-8 text, or name another file.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Name a YAML file.") from None
    try:
        node = yaml.compose(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path}{not_yaml(error, text)}") from None
    if node is not None and not isinstance(node, yaml.MappingNode):
        got = "a list" if isinstance(node, yaml.SequenceNode) else f"{node.value!r:.40}"
        raise UserError(f"{path}:1: should hold 'key: value' lines (got {got}).")
    lines: dict[str, str] = {}
    problems: list[str] = []
    raw = _plain(node, "", lines, problems, path) if node is not None else {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not all(key.split(".")):
            problems.append(f"command line: '{override}' should read key=value, for example ppo.kl_coef=0.1{meant(override)}")
            continue
        try:
            _put(raw, key.split("."), yaml.safe_load(value))
        except (yaml.YAMLError, TypeError, ValueError) as error:
            why = getattr(error, "problem", None) or str(error).splitlines()[0]
            problems.append(f"command line: '{override}' cannot be used ({why})")
        lines = {k: v for k, v in lines.items() if k != key and not k.startswith(key + ".")}
        lines[key] = "command line"
    raw = _numbers(raw, Config)
    mistaken: set[Place] = set()
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        # What a rule between settings says is asked anew, of the right part: pydantic asks only where all of a section is right.
        single = [e for e in error.errors() if e["type"] != "value_error"]
        mistaken = {e["loc"] for e in single}
        problems += [explain(e, lines, path) for e in single]
        problems += [broken(*rule, lines, path) for rule in broken_rules(Config, raw, mistaken)]
    if problems:
        for name, line in (also(raw, right_part(Config, raw, mistaken)) if also is not None else {}).items():
            problems.append(f"{lines[name]}: {line}" if name in lines else line)
        raise UserError(list(dict.fromkeys(problems)))
    return config.model_copy(update={"run_name": config.run_name or path.stem})


def check_files(config: Config) -> list[str]:
    """One problem for each source that the config names and that is not there, or whose rows could change under its name."""
    return list(source_problems(config.data).values())


def source_problems(data: DataConfig) -> dict[str, str]:
    """The same by dotted key."""
    named = data.sources() + [(key, str(file)) for key, file in data.yardsticks()]
    return {f"data.{name}": problem for name, source in named if (problem := _source_problem(name, source))}


def _source_problem(name: str, source: str) -> str | None:
    if not is_hub(source):
        if Path(source).exists():
            return None
        return f"data.{name}: no file {source}. Check the path; it is taken from where the command runs."
    try:
        if parse_name(source).pinned:
            return None
    except UserError as error:
        return f"data.{name}: {error.problems[0]}"
    return (
        f"data.{name}: {source} names no commit, so its rows could change under a run. Write hub:owner/name@COMMIT:split; "
        f"`python run_pipeline.py data inspect {source}` prints the line."
    )


def dump(config: Config) -> str:
    """The whole config as YAML, every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _plain(node: yaml.Node, prefix: str, lines: dict[str, str], problems: list[str], path: Path) -> Any:
    """A node's value, noting the line of every key and complaining about keys that stand twice."""
    if not isinstance(node, yaml.MappingNode):
        try:
            return yaml.SafeLoader("").construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            why = getattr(error, "problem", None) or error
            problems.append(f"{path}:{node.start_mark.line + 1}: '{prefix.rstrip('.')}' is no value ({why}). Put text in quotes.")
            return None
    out: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = f"{path}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append(f"{place}: a key should be plain text, as in 'key: value'")
            continue
        key = str(key_node.value)
        name = f"{prefix}{key}"
        if key in out:
            problems.append(f"{place}: '{name}' stands here twice; keep one")
        lines[name] = place
        out[key] = _plain(value_node, f"{name}.", lines, problems, path)
    return out


def _put(raw: dict[str, Any], keys: list[str], value: Any) -> None:
    # A gate's own name holds dots: gates.sft.gold.min=1 sets 'min' of the gate 'sft.gold'.
    if keys[0] == "gates" and len(keys) > 2:
        keys = (
            ["gates", ".".join(keys[1:-1]), keys[-1]]
            if keys[-1] in ("min", "max", "warn")
            else ["gates", ".".join(keys[1:])]
        )
    for key in keys[:-1]:
        raw = raw.setdefault(key, {})
        if not isinstance(raw, dict):
            raise TypeError(f"'{key}' holds a value, not a section")
    raw[keys[-1]] = value


def _numbers(value: Any, model: Any) -> Any:
    """YAML reads 1e-5 as text and 1 as an integer; where a float is wanted, both are one."""
    if not isinstance(value, dict):
        return value
    if isinstance(model, type) and issubclass(model, BaseModel):
        fields = model.model_fields
        return {k: _number(v, fields[k].annotation) if k in fields else v for k, v in value.items()}
    return value


def _number(value: Any, kind: Any) -> Any:
    if isinstance(value, dict):
        if kind == dict[str, Gate]:
            return {k: _numbers(v, Gate) for k, v in value.items()}
        if kind == dict[str, float]:
            return {k: _number(v, float) for k, v in value.items()}
        return _numbers(value, kind)
    if "float" not in str(kind):
        return value
    if isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+", value):
        return float(value)
    return float(value) if type(value) is int else value
