"""How the page looks and what a screen reader finds: names, widths, tables."""

from browsing import GOOD, answered, ask


def test_every_control_has_a_name_and_the_drawer_opens_at_380(visit):
    page = visit("one", "two", width=380, dark=True)
    ask(page)
    answered(page)
    page.click(GOOD)
    page.wait_for_selector(".reasons")
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, textarea, a')].filter((e) =>
             !(e.getAttribute('aria-label') || e.labels?.[0]?.textContent.trim() || e.textContent.trim())).map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    page.click("#drawer-open")
    page.wait_for_selector("#history button:visible")
    page.click("#drawer-close")
    page.wait_for_selector("#history button", state="hidden")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 26)"
    assert page.wrong == []


def test_the_system_prompt_of_a_talk_is_shown_and_columns_stand_as_they_should(visit):
    page = visit("| a | b | c |\n|---|:-:|--:|\n| 1 | 2 | 3 |")
    page.click("#settings-open")
    page.fill("#system-prompt", "Be <b>brief</b>.")
    page.click("#settings-close")
    ask(page)
    answered(page)
    assert page.inner_text(".system") == "System prompt: Be <b>brief</b>."
    sides = page.eval_on_selector_all("td", "cells => cells.map((c) => getComputedStyle(c).textAlign)")
    assert [side for side in sides if side != "start"][-2:] == ["center", "right"] and page.wrong == []
