"""Thumbs on the page, with their reasons, and taking back what was said last."""

from browsing import BAD, GOOD, answered, ask, off


def test_a_talk_with_votes_reasons_and_undo_by_the_keyboard(visit, store):
    page = visit("Hello **there**.", "Again.")
    ask(page, "a <b>question</b>")
    answered(page)
    assert page.inner_text(".question .said") == "a <b>question</b>"
    assert page.inner_text(".answer strong") == "there"
    off(page)
    page.keyboard.press("b")
    page.wait_for_selector(".reasons")
    assert page.get_attribute(BAD, "aria-pressed") == "true"
    page.click(".tag:has-text('too short')")
    page.fill(".reasons textarea", "more, please")
    page.click(".reasons >> text=Save")
    page.wait_for_selector(".reasons", state="detached")
    (answer,) = (row[0] for row in store.rows("SELECT id FROM message WHERE author = 'model'"))
    vote = store.vote(answer, "ann")
    assert (vote.value, vote.tags, vote.comment) == (-1, ("too short",), "more, please")
    off(page)
    page.keyboard.press("u")
    page.wait_for_selector(f'{BAD}[aria-pressed="false"]')
    assert store.rating(answer, "ann") == 0
    page.reload()
    answered(page)
    assert page.inner_text("#history button").split("\n")[0] == "a <b>question</b>"
    assert page.wrong == []


def test_the_undo_key_takes_back_what_was_said_last(visit, store):
    page = visit("one", "two", comparison_share=0.0)
    ask(page)
    answered(page)
    page.click(GOOD)
    page.click('[aria-label="Another answer"]')
    page.wait_for_selector("text=2/2")
    page.click(BAD)
    page.click("text=Compare with a second answer")
    page.wait_for_selector(".choices button:not([disabled])")
    off(page)
    page.keyboard.press("1")
    page.wait_for_selector(".note")
    off(page)
    page.keyboard.press("u")
    page.wait_for_selector("text=The choice is taken back")
    assert store.stats() | {"up": 1, "down": 1, "comparisons": 0} == store.stats() and page.wrong == []


def test_votes_are_there_after_a_reload_with_their_reasons_and_can_be_changed(visit, store):
    page = visit("one", "two")
    ask(page)
    answered(page)
    page.click(BAD)
    page.click(".tag:has-text('too short')")
    page.fill(".reasons textarea", "more, please")
    page.click(".reasons >> text=Save")
    page.reload()
    page.click("text=too short · more, please")
    page.fill(".reasons textarea", "much more")
    page.click(".reasons >> text=Save")
    page.wait_for_selector("text=too short · much more")
    page.click(".why")
    page.click("text=Compare with a second answer")
    page.wait_for_selector(".choices button:not([disabled])")
    page.click(".choices >> text=A is better")
    page.wait_for_selector(".note")
    page.reload()
    assert page.inner_text(".note").startswith("You chose A.")
    page.click("text=Take it back")
    page.wait_for_selector("text=The choice is taken back")
    assert store.stats()["comparisons"] == 0 and store.stats()["down"] == 1
    page.reload()
    answered(page)
    assert page.query_selector(".note") is None and page.wrong == []


def test_a_persons_own_wording_takes_no_thumb_by_key(visit, store):
    page = visit("one")
    ask(page)
    answered(page)
    page.click('[aria-label="Write it better"]')
    page.fill(".editor textarea", "mine")
    page.click("text=Keep as my answer")
    page.wait_for_selector("text=2/2")
    off(page)
    page.keyboard.press("b")
    page.keyboard.press("/")
    page.wait_for_selector("#question:focus")
    assert store.rows("SELECT * FROM rating") == [] and page.wrong == []
