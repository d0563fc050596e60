"""What is wrong with a configuration, in words: the place, what was expected, what stands there, and a guess at what was meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from pipeline.config.whole import Config


def broken(place: Sequence[str | int], text: str, lines: Mapping[str, str], path: Path) -> str:
    """The line for a rule of the section at `place` that is broken: `text` is `'key' should …`, or says so of the section."""
    section = [str(part) for part in place]
    named = re.match(r"'([\w.]+)'", text)
    # The complaint is about one key of the section: its own place says more than the section's.
    where = _place([*section, *named[1].split(".")] if named else section, lines, path)
    name = ".".join(section)
    if name:
        text = re.sub(r"^'", f"'{name}.", text) if named else f"'{name}' {text}"
    return f"{where}: {text}"


def _place(location: Sequence[str], lines: Mapping[str, str], path: Path) -> str:
    """Where the innermost key that was written stands."""
    names = (".".join(location[:n]) for n in range(len(location), 0, -1))
    return next((lines[name] for name in names if name in lines), str(path))


def explain(error: Mapping[str, Any], lines: Mapping[str, str], path: Path) -> str:
    """The line for a setting that is wrong by itself, as pydantic tells it."""
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
        if location[:1] == ["gates"] and len(location) > 1 and want.startswith("a section"):
            want = "bounds, as in {min: 0.5}"
            # What lacks its metric is told that too.
            want += f"; on the command line {name}.min=0.5 or {name}.max=0.5" if "." in location[1] else ""
    elif kind == "literal_error":
        want = context["expected"]
    elif kind == "string_pattern_mismatch" and name == "run_name":
        want = "letters, digits and . _ - with a letter or digit first"
    elif kind in ranges:
        want = ranges[kind].format(**context)
    else:
        said = error["msg"].removeprefix("Input should be ").removeprefix("String should ")
        want = said[:1].lower() + said[1:]
    return f"{place}: '{name}' should be {want} (got {got!r:.80})"


def _known_names() -> Iterator[str]:
    for name, field in Config.model_fields.items():
        yield name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from (f"{name}.{inner}" for inner in field.annotation.model_fields)


def not_yaml(error: yaml.YAMLError, text: str) -> str:
    """Behind the file's name: the line, and what is wrong there."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f": not YAML: {getattr(error, 'reason', error)}."
    line = text.split("\n")[mark.line] if mark.line < text.count("\n") + 1 else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return f":{mark.line + 1}: begins with a tab, which YAML does not take. Indent with spaces."
    return f":{mark.line + 1}: not YAML: {error.problem}."


def meant(word: str) -> str:
    """A guess at a word that stands where a setting should."""
    if Path(word).suffix in (".yaml", ".yml"):
        return f"; did you mean --config {word}?"
    return f"; did you mean --run {word}?" if (Path("runs") / word).is_dir() else ""
