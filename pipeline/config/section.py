"""What every section of a configuration has in common, and the rules that its settings keep among each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

Rule = Callable[[Any], Iterator[str]]


def rule(check: Rule) -> Rule:
    """Marks a method of a section as a rule: it yields a line for each mistake, which begins with the key, `'key' should …`.

    All rules are asked, whichever is broken first. Of a file with other mistakes too, those are asked that read no mistaken
    setting (`pipeline.config.partial`).
    """
    check.is_rule = True
    return check


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def rules(cls) -> list[Rule]:
        """In the order in which they are written."""
        return [check for check in vars(cls).values() if getattr(check, "is_rule", False)]

    @model_validator(mode="after")
    def _keeps_its_rules(self) -> Section:
        if broken := [line for check in self.rules() for line in check(self)]:
            raise ValueError("\n".join(broken))
        return self
