"""Text on the report and on the chat page can be read: contrast as WCAG 2.2 defines it, 4.5 at least (success criterion 1.4.3)."""

import re
from pathlib import Path

import pytest

REPORT = Path("pipeline/report/report.css").read_text(encoding="utf-8")
CHAT = Path("pipeline/serve/static/style.css").read_text(encoding="utf-8")


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb."""
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def colours() -> dict[str, dict[str, str]]:
    """Name to colour, for each page by day and by night."""
    day, night = (re.findall(r"--(\w[\w-]*): (#[0-9a-f]{6})", part) for part in REPORT.split("@media", 2)[:2])
    chat = re.findall(r"--(\w[\w-]*): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", CHAT)
    return {
        "report by day": dict(day),
        "report by night": dict(night),
        "chat by day": {name: light for name, light, _ in chat},
        "chat by night": {name: dark for name, _, dark in chat},
    }


def test_contrast_is_that_of_the_standard():
    assert contrast("#000000", "#ffffff") == pytest.approx(21) and contrast("#777777", "#777777") == 1
    # The lightest grey that is just dark enough on white, and the next, by the tables that W3C's examples are checked with.
    assert contrast("#767676", "#ffffff") > 4.5 > contrast("#777777", "#ffffff")


@pytest.mark.parametrize("page", colours())
def test_text_stands_out_from_what_it_is_on(page):
    of = colours()[page]
    grounds = [of[name] for name in ("paper", "card")]
    # On the chat page soft is a ground.
    report = {"ink", "soft", "base", "sft", "best", "ppo", "good", "bad", "warn"}
    texts = report if page.startswith("report") else {"ink", "quiet", "accent", "bad"}
    weak = {(name, ground): contrast(of[name], ground) for name in texts for ground in grounds}
    if "on-accent" in of:
        weak["on-accent", of["accent"]] = contrast(of["on-accent"], of["accent"])
        # The delete button's word, the notes in the list of conversations, and what is set off.
        weak |= {("paper", "bad"): contrast(of["paper"], of["bad"])}
        weak |= {(n, g): contrast(of[n], of[g]) for n in ("ink", "quiet") for g in ("side", "soft")}
    assert {pair: round(c, 2) for pair, c in weak.items() if c < 4.5} == {}
