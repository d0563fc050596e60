"""Of settings with mistakes, those that have none: what the rules between settings are asked of, so that they are told with the
mistakes of single settings and not after these are mended."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pipeline.config.judging import Gate
from pipeline.config.section import Section

# The keys that lead to a setting, as pydantic's errors name it.
Place = tuple[str | int, ...]


def broken_rules(kind: type[Section], raw: Mapping[str, Any], mistaken: Collection[Place]) -> list[tuple[Place, str]]:
    """(section, line) for each rule that is broken, left out those that read a mistaken setting.

    Args:
        raw: the settings as they were written.
        mistaken: places of settings that are wrong by themselves.
    """
    return [found for section, made in _sections((), right_part(kind, raw, mistaken)) for found in _asked(section, made)]


def is_mistaken(error: AttributeError) -> bool:
    """Whether what was asked for is a setting, which `right_part` left out as mistaken. If not, it is a slip in the code that asked."""
    return isinstance(error.obj, Section) and error.name in type(error.obj).model_fields


def right_part(kind: type[Section], raw: Mapping[str, Any], mistaken: Collection[Place], at: Place = ()) -> Any:
    """A section of the right settings and of the defaults of those that are not given. It has no attribute for a mistaken one."""
    values, wrong = {}, []
    for name, field in kind.model_fields.items():
        place = (*at, name)
        if place in mistaken or (not _holds_sections(field.annotation) and any(m[: len(place)] == place for m in mistaken)):
            wrong.append(name)
        elif name in raw:
            values[name] = _value(field.annotation, raw[name], mistaken, place)
    made = kind.model_construct(**values)
    for name in wrong:
        made.__dict__.pop(name, None)
    return made


def _holds_sections(annotation: Any) -> bool:
    return annotation == dict[str, Gate] or (isinstance(annotation, type) and issubclass(annotation, Section))


def _value(annotation: Any, raw: Any, mistaken: Collection[Place], place: Place) -> Any:
    if annotation == dict[str, Gate]:
        # A gate that is no section has a name all the same.
        return {
            name: right_part(Gate, inner, mistaken, (*place, name)) if (*place, name) not in mistaken else None
            for name, inner in raw.items()
        }
    return right_part(annotation, raw, mistaken, place) if _holds_sections(annotation) else raw


def _sections(at: Place, value: Any) -> Iterator[tuple[Place, Section]]:
    if isinstance(value, Section):
        yield at, value
    inner = value.__dict__ if isinstance(value, Section) else value if isinstance(value, dict) else {}
    for name, held in inner.items():
        yield from _sections((*at, name), held)


def _asked(place: Place, section: Section) -> Iterator[tuple[Place, str]]:
    for check in section.rules():
        try:
            for line in check(section):
                yield place, line
        except AttributeError as error:
            if not is_mistaken(error):
                raise
            # There is no value to hold it against.
