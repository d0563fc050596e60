"""Versions on the page, wordings of one's own, and conversations that are opened again."""

import pytest
from browsing import answered, ask, off


def test_versions_edits_and_search(visit, store):
    page = visit("one", "two", "three", "four")
    ask(page)
    answered(page)
    page.click('[aria-label="Another answer"]')
    page.wait_for_selector("text=2/2")
    assert page.inner_text(".answer .said") == "two"
    page.click('[aria-label="Version before"]')
    assert page.inner_text(".answer .said") == "one" and page.inner_text(".versions") == "1/2"
    page.click('[aria-label="Write it better"]')
    page.fill(".editor textarea", "my own words")
    page.click("text=Keep as my answer")
    page.wait_for_selector("text=3/3")
    assert store.rows("SELECT content FROM message WHERE author = 'human-edit'") == [("my own words",)]
    ask(page, "and?")
    answered(page)
    said = [content for _, content in page.assistant.asked[2][1]]
    assert said == ["hi", "my own words", "and?"]
    page.click('.question:first-child [aria-label="Edit and ask again"]')
    page.fill(".editor textarea", "hi, better")
    page.click("text=Ask this instead")
    page.wait_for_selector(".answer .said p:text-is('four')")
    assert page.inner_text(".question .versions") == "2/2" and store.stats()["answers"] == 4
    page.click("#new-chat")
    page.wait_for_selector(".welcome")
    page.fill("#search", "nowhere")
    page.wait_for_selector("text=Nothing found")
    page.fill("#search", "OWN words")
    page.click("#history button")
    page.wait_for_selector(".answer")
    assert page.wrong == []


def test_a_conversation_opened_anew_stands_where_it_was_left(visit):
    page = visit("one", "two", "three")
    ask(page)
    answered(page)
    off(page)
    page.keyboard.press("r")
    page.wait_for_selector(".versions >> text=2/2")
    page.click('[aria-label="Version before"]')
    ask(page, "on from the first")
    answered(page, 2)
    page.reload()
    answered(page, 2)
    assert [e.inner_text() for e in page.query_selector_all(".said")] == ["hi", "one", "on from the first", "three"]
    # The other is still there, and it has nothing after it.
    page.click('.answer [aria-label="Version after"]')
    assert [e.inner_text() for e in page.query_selector_all(".said")] == ["hi", "two"]
    assert page.wrong == []


def test_an_address_put_into_the_tab_opens_its_conversation(visit):
    page = visit("one", "two")
    ask(page, "first")
    answered(page)
    first = page.evaluate("location.hash")
    page.click("#new-chat")
    ask(page, "second")
    answered(page)
    page.evaluate("hash => { location.hash = hash; }", first)
    page.wait_for_selector(".question .said:text-is('first')")
    assert page.wrong == []


def test_a_conversation_is_deleted_after_it_was_asked(visit, store):
    page = visit("one", "two")
    assert page.locator("#delete-open").is_hidden()
    for text in ("first", "second"):
        page.click("#new-chat")
        ask(page, text)
        answered(page)
    page.click("#delete-open")
    page.click("#delete >> text=Keep it")
    page.click("#delete-open")
    page.keyboard.press("Escape")
    assert store.stats()["conversations"] == 2
    page.click("#delete-open")
    page.click("#delete >> button:text-is('Delete')")
    page.wait_for_selector(".welcome")
    page.wait_for_selector("#history li:nth-child(2)", state="detached")
    assert store.rows("SELECT content FROM message WHERE author = 'human'") == [("first",)]
    assert page.locator("#delete-open").is_hidden() and page.wrong == []


def test_the_list_shows_what_was_searched_for_last(visit, store):
    """The answer to the first letters comes after that to the whole word."""
    for text in ("apple", "apricot"):
        store.add_message(store.start_conversation(rater="ann"), parent=None, author="human", content=text)
    page = visit()
    page.wait_for_selector("#history li:nth-child(2)")
    held = []
    page.route("**/api/conversations?*search=ap", lambda route: held.append(route))
    page.fill("#search", "ap")
    page.fill("#search", "apple")
    page.wait_for_selector("#history li:nth-child(2)", state="detached")
    with page.expect_response("**/api/conversations?*search=ap"):
        held[0].continue_()
    page.wait_for_timeout(100)
    assert page.locator("#history button").count() == 1 and page.wrong == []


def test_a_long_history_says_that_it_is_not_all(visit, store):
    with store.together():
        for n in range(201):
            store.add_message(store.start_conversation(rater="ann"), parent=None, author="human", content=f"q{n}")
    page = visit()
    page.wait_for_selector("#history >> text=The newest 200; the search finds older ones.")
    assert page.locator("#history button").count() == 200
    page.fill("#search", "q0")
    page.wait_for_selector("#history li >> text=q0")
    assert page.locator("#history li").count() == 1 and page.wrong == []


def test_what_is_deleted_is_what_was_asked_about(visit, store):
    """Another conversation was slow to load, and is shown while the question stands."""
    slow = store.start_conversation(rater="ann")
    store.add_message(slow, parent=None, author="human", content="slow")
    page = visit("one")
    ask(page, "doomed")
    answered(page)
    held = []
    page.route(f"**/api/conversations/{slow}", lambda route: held.append(route))
    page.click("#history >> text=slow")
    page.click("#delete-open")
    held[0].continue_()
    page.wait_for_selector(".question .said:text-is('slow')")
    page.click("#delete >> button:text-is('Delete')")
    page.wait_for_selector("#history li:nth-child(2)", state="detached")
    assert store.rows("SELECT content FROM message WHERE author = 'human'") == [("slow",)]
    # What is shown stays.
    assert page.locator(".question .said").inner_text() == "slow" and page.wrong == []


def test_a_link_to_a_conversation_that_is_gone_opens_the_page_all_the_same(visit, store):
    store.add_message(store.start_conversation(rater="ann"), parent=None, author="human", content="there")
    page = visit("one", fragment="#c=00000000-0000-4000-8000-000000000000")
    page.wait_for_selector("#history >> text=there")
    assert page.locator(".welcome").is_visible() and "no such conversation" in page.locator("#notice").inner_text()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_conversation_that_is_deleted_elsewhere_is_left_and_another_begins(visit, store, share):
    """While an answer is drawn, and while a choice waits."""
    page = visit(*(["one HOLD two", "three"] if not share else ["one", "two", "three"]), comparison_share=share)
    ask(page, "doomed")
    if share:
        page.wait_for_selector("button:text-is('Skip'):enabled")
    else:
        page.wait_for_selector(".answer >> text=one")
    ((doomed,),) = store.rows("SELECT id FROM conversation")
    assert page.evaluate("id => fetch(`/api/conversations/${id}`, { method: 'DELETE' }).then((r) => r.ok)", doomed)
    if share:
        page.click("button:text-is('Skip')")
    page.wait_for_selector("#notice >> text=no such conversation")
    page.wait_for_selector(".welcome")
    assert page.locator("text=Look again").count() == 0
    page.assistant.release.set()
    ask(page, "another")
    page.wait_for_selector(".question .said:text-is('another')")
    page.wait_for_selector(".answer .said")
    assert store.rows("SELECT content FROM message WHERE author = 'human'") == [("another",)]


def test_a_new_chat_stays_where_the_old_one_is_late(visit, store):
    page = visit("one", "two")
    held = []
    page.route("**/api/conversations/*-*", lambda route: route.continue_() if held else held.append(route))
    ask(page, "old")
    while not held:
        page.wait_for_timeout(10)
    page.click("#new-chat")
    page.wait_for_selector(".welcome")
    with page.expect_response("**/api/conversations/*-*"):
        held[0].continue_()
    page.wait_for_timeout(100)
    assert page.locator(".welcome").is_visible()
    ask(page, "new")
    answered(page)
    assert page.locator(".question .said").all_inner_texts() == ["new"] and page.wrong == []
