"""How the page looks and what a screen reader finds: names, widths, tables."""

from browsing import BAD, GOOD, answered, ask


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


def test_words_run_as_their_writing_does(visit):
    """Hebrew from the right, in a page that else runs from the left, a paragraph at a time; the tab bears the question."""
    page = visit("שלום לך.\n\nHello to you.")
    ask(page, "שלום")
    answered(page)
    assert page.title() == "שלום · Thumbloop"
    starts = page.evaluate(
        """() => [...document.querySelectorAll('.answer p')].map((p) => {
             const range = document.createRange(); range.selectNodeContents(p);
             const [words, block] = [range.getBoundingClientRect(), p.getBoundingClientRect()];
             return block.right - words.right < 1 ? 'right' : words.left - block.left < 1 ? 'left' : 'neither'; })"""
    )
    assert starts == ["right", "left"]
    page.click("#new-chat")
    assert page.title() == "Thumbloop" and page.wrong == []


def test_enter_begins_a_line_where_there_is_only_a_touch_screen(visit, chromium):
    home = visit("one").url
    context = chromium.new_context(viewport={"width": 380, "height": 700}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(home)
    page.wait_for_selector(".welcome")
    page.fill("#question", "first")
    page.press("#question", "Enter")
    page.type("#question", "second")
    assert page.input_value("#question") == "first\nsecond"
    page.tap("#send")
    answered(page)
    assert page.inner_text(".question .said") == "first\nsecond"
    context.close()


def test_the_open_drawer_keeps_the_focus_and_gives_it_back(visit):
    page = visit("one", width=380)
    ask(page)
    answered(page)
    page.click("#drawer-open")
    for _ in range(12):
        page.keyboard.press("Tab")
        assert not page.evaluate("document.querySelector('main').contains(document.activeElement)")
    page.focus("#search")
    page.keyboard.press("Escape")
    page.wait_for_selector("#drawer-open:focus")
    # Made wide, the list stands beside the page, which is to be used.
    page.click("#drawer-open")
    page.set_viewport_size({"width": 1000, "height": 700})
    page.wait_for_selector("#shade", state="hidden")
    ask(page, "more")
    answered(page, 2)
    assert page.wrong == []


def test_the_focus_stays_where_something_was_done(visit):
    page = visit("one")
    ask(page)
    answered(page)
    page.focus(BAD)
    page.keyboard.press("Enter")
    page.focus(".reasons textarea")
    page.keyboard.press("Escape")
    page.wait_for_selector(f"{BAD}:focus")
    page.focus('[aria-label="Write it better"]')
    page.keyboard.press("Enter")
    page.wait_for_selector(".editor textarea:focus")
    page.keyboard.press("Escape")
    page.wait_for_selector(".editor", state="detached")
    # Not at the top of the page again.
    assert page.evaluate("document.getElementById('talk').contains(document.activeElement)")
    assert page.wrong == []


def test_the_system_prompt_of_a_talk_is_shown_and_columns_stand_as_they_should(visit):
    page = visit("| a | b | c |\n|---|:-:|--:|\n| 1 | 2 | 3 |")
    page.click("#settings-open")
    page.fill("#system-prompt", "Be <b>brief</b>.")
    page.click("#settings-close")
    ask(page)
    answered(page)
    assert page.inner_text(".system") == "System prompt: Be <b>brief</b>."
    # It holds for the next chat too, also of a page that was loaded anew, and says so beforehand.
    page.reload()
    page.click("#new-chat")
    assert page.inner_text(".welcome >> text=System prompt") == "System prompt: Be <b>brief</b>."
    page.click("#history button")
    answered(page)
    sides = page.eval_on_selector_all("td", "cells => cells.map((c) => getComputedStyle(c).textAlign)")
    assert [side for side in sides if side != "start"][-2:] == ["center", "right"] and page.wrong == []
