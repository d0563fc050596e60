"""From a YAML file and overrides to a checked configuration, and back; every mistake of a file at once, with its line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from data.errors import UserError
from data.hub import is_hub, parse_name
from pipeline.config.data import DataConfig
from pipeline.config.judging import Gate
from pipeline.config.whole import Config

Besides = Callable[[Mapping[str, Any]], Mapping[str, str]]


def load_config(path: Path, overrides: Sequence[str] = (), *, also: Besides | None = None) -> Config:
    """The config of a YAML file with dotted overrides (`ppo.kl_coef=0.1`) on top.

    Args:
        also: looks through the settings as they were written for what is wrong besides, dotted key → line. Asked only where they are
            refused anyway, so that all is told at once; of a config that can be used, `check_files` and the gates' own check tell it.

    Raises:
        UserError: every mistake of the file and the command line, each with its place.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = sorted(str(p) for p in Path("configs").glob("*.yaml"))
        raise UserError(f"{path}: no such file. Configs at hand: {', '.join(near) or 'none'}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from None
    try:
        node = yaml.compose(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{place}: not YAML: {getattr(error, 'problem', error)}.") from None
    if node is not None and not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}:1: should hold 'key: value' lines (got something else).")
    lines: dict[str, str] = {}
    problems: list[str] = []
    raw = _plain(node, "", lines, problems, path) if node is not None else {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not all(key.split(".")):
            problems.append(f"command line: '{override}' should read key=value, for example ppo.kl_coef=0.1")
            continue
        try:
            _put(raw, key.split("."), yaml.safe_load(value))
        except (yaml.YAMLError, TypeError) as error:
            problems.append(f"command line: '{override}' cannot be used ({str(error).splitlines()[0]})")
        lines = {k: v for k, v in lines.items() if k != key and not k.startswith(key + ".")}
        lines[key] = "command line"
    raw = _numbers(raw, Config)
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        problems += [line for e in error.errors() for line in _explain(e, lines, path)]
    if problems:
        for name, line in (also(raw) if also is not None else {}).items():
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
        return yaml.SafeLoader("").construct_object(node, deep=True)
    out: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        name = f"{prefix}{key}"
        place = f"{path}:{key_node.start_mark.line + 1}"
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


def _explain(error: Mapping[str, Any], lines: Mapping[str, str], path: Path) -> list[str]:
    """A line for each mistake: what was checked by hand may find several at one place."""
    if error["type"] != "value_error":
        return [_of_type(error, lines, path)]
    location = [str(part) for part in error["loc"]]
    name = ".".join(location)
    place = _place(location, lines, path)
    found = []
    for text in str(error["ctx"]["error"]).split("\n"):
        # The complaint is about one key of the section: its own place says more than the section's.
        named = re.match(r"'([\w.]+)'", text)
        own = lines.get(f"{name}.{named[1]}" if name else named[1], place) if named else place
        if name:
            text = re.sub(r"^'", f"'{name}.", text) if named else f"'{name}' {text}"
        found.append(f"{own}: {text}")
    return found


def _place(location: Sequence[str], lines: Mapping[str, str], path: Path) -> str:
    """Where the innermost key that was written stands."""
    names = (".".join(location[:n]) for n in range(len(location), 0, -1))
    return next((lines[name] for name in names if name in lines), str(path))


def _of_type(error: Mapping[str, Any], lines: Mapping[str, str], path: Path) -> str:
    location = [str(part) for part in error["loc"] if not str(part).startswith(("literal[", "list["))]
    name = ".".join(location)
    place = _place(location, lines, path)
    got = error.get("input")
    kind = error["type"]
    if kind == "extra_forbidden":
        known = list(_known_names())
        siblings = (
            [k for k in known if k.rsplit(".", 1)[0] == name.rsplit(".", 1)[0]]
            if "." in name
            else [k for k in known if "." not in k]
        )
        close = difflib.get_close_matches(name, siblings, n=1) or difflib.get_close_matches(name, known, n=1)
        return f"{place}: unknown key '{name}'" + (f"; did you mean '{close[0]}'?" if close else "")
    if kind == "missing":
        return f"{place}: '{name}' is missing; it has no default"
    wants = {
        "int_type": "an integer",
        "float_type": "a number",
        "bool_type": "true or false",
        "string_type": "text",
        "list_type": "a list",
        "dict_type": "a section of 'key: value' lines",
        "model_type": "a section of 'key: value' lines",
        "model_attributes_type": "a section of 'key: value' lines",
    }
    context = error.get("ctx", {})
    ranges = {
        "greater_than": "above {gt}",
        "greater_than_equal": "at least {ge}",
        "less_than": "below {lt}",
        "less_than_equal": "at most {le}",
    }
    if kind in wants:
        want = wants[kind]
    elif kind == "literal_error":
        want = context["expected"]
    elif kind in ranges:
        want = ranges[kind].format(**context)
    else:
        want = error["msg"].removeprefix("Input should be ").lower()
    return f"{place}: '{name}' should be {want} (got {got!r:.80})"


def _known_names() -> Iterator[str]:
    for name, field in Config.model_fields.items():
        yield name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from (f"{name}.{inner}" for inner in field.annotation.model_fields)
