"""A talk on the page: its stream, its end, what fails, and what the next answer is drawn with."""

import json

import pytest
from browsing import answered, ask, off


def test_no_word_is_lost_when_an_event_comes_in_pieces(visit):
    page = visit()
    heard = page.evaluate(
        """async () => {
            const { turn } = await import("/static/api.js");
            const bytes = new TextEncoder().encode('data: {"text": "é 👍"}\\n\\ndata: {"text": "b"}\\n\\n');
            const pieces = new ReadableStream({ start(to) { for (const b of bytes) to.enqueue(new Uint8Array([b])); to.close(); } });
            window.fetch = async () => new Response(pieces);
            const heard = [];
            for await (const event of turn({})) heard.push(event.text);
            return heard;
        }"""
    )
    assert heard == ["é 👍", "b"]


def test_the_cursor_stands_behind_the_last_word(visit):
    page = visit("word HOLD more")
    ask(page)
    page.wait_for_selector(".said p .cursor")
    page.assistant.release.set()
    answered(page)
    assert page.locator(".cursor").count() == 0 and page.inner_text(".answer .said") == "word more"


def test_stop_keeps_what_was_said(visit, store):
    page = visit("one two HOLD never", "next")
    ask(page)
    page.wait_for_selector(".answer .said:has-text('two')")
    page.keyboard.press("Escape")
    answered(page)
    assert "stopped" in page.inner_text(".by") and "never" not in page.inner_text(".answer .said")
    assert store.rows("SELECT content, finish FROM message WHERE author = 'model'") == [("one two ", "stopped")]
    ask(page, "go on")
    answered(page, 2)
    assert page.wrong == []


def test_what_was_heard_stays_until_the_server_is_there_again(visit, store):
    page = visit("one two HOLD three", "next")
    ask(page)
    page.wait_for_selector(".answer .said:has-text('two')")
    page.route("**/api/conversations**", lambda route: route.abort())
    page.assistant.release.set()
    page.wait_for_selector("text=Look again")
    assert page.inner_text(".answer .said") == "one two three"
    # A question waits for what it follows.
    ask(page, "and then?")
    page.wait_for_selector("#notice >> text=The server cannot be reached.")
    assert page.input_value("#question") == "and then?" and store.stats()["answers"] == 1
    page.unroute("**/api/conversations**")
    page.press("#question", "Enter")
    answered(page, 2)
    assert [content for _, content in page.assistant.asked[1][1]] == ["hi", "one two three", "and then?"]
    assert all("Failed to load" in line for line in page.wrong)


def test_an_answer_whose_server_is_gone_is_not_thinking_any_more(visit):
    page = visit("never asked")
    start = {"type": "start", "conversation": "c", "question": "q", "answers": {"only": "a"}, "duel": None}
    page.route("**/api/turn", lambda route: route.fulfill(content_type="text/event-stream", body=f"data: {json.dumps(start)}\n\n"))
    page.route("**/api/conversations**", lambda route: route.abort())
    ask(page)
    page.wait_for_selector("text=Look again")
    assert page.locator("text=thinking").count() == 0 and page.locator(".cursor").count() == 0


def test_how_an_answer_ended_is_told_to_who_does_not_see_it(visit):
    page = visit("all of it", "one two HOLD never", "word " * 200)
    ask(page)
    page.wait_for_selector("#status:text-is('The answer is complete. all of it')", state="attached")
    ask(page, "more")
    page.wait_for_selector(".said:has-text('two')")
    page.keyboard.press("Escape")
    page.wait_for_selector("#status:text-is('The answer is stopped. one two')", state="attached")
    ask(page, "long")
    page.wait_for_selector("#status:has-text('The answer is complete. It begins: word')", state="attached")
    assert len(page.inner_text("#status")) < 450 and page.wrong == []


def test_nothing_jumps_when_an_answer_ends(visit):
    page = visit("one HOLD two")
    ask(page)
    page.wait_for_selector(".answer .said:has-text('one')")
    place = lambda: page.locator(".answer .said").bounding_box()["y"]  # noqa: E731
    before = place()
    page.assistant.release.set()
    answered(page)
    assert place() == before and page.inner_text(".by") == "ppo" and page.wrong == []


def test_a_new_chat_in_the_middle_of_an_answer_leaves_the_page_alive(visit, store):
    page = visit("one HOLD never", "two", "three HOLD never", "four")
    ask(page, "first")
    page.wait_for_selector(".answer .said:has-text('one')")
    page.click("#new-chat")
    page.wait_for_selector(".welcome")
    page.assistant.release.set()
    ask(page, "second")
    answered(page)
    assert page.inner_text(".answer .said") == "two" and page.locator("#stop").is_hidden()
    # The same by opening another talk: the one that was left keeps what was said.
    page.assistant.release.clear()
    ask(page, "third")
    page.wait_for_selector(".answer .said:has-text('three')")
    page.click("#history button:has-text('first')")
    page.wait_for_selector(".question .said:has-text('first')")
    ask(page, "fourth")
    page.wait_for_selector(".answer .said:has-text('four')")
    answered(page, 2)
    assert page.wrong == []
    assert [row[0] for row in store.rows("SELECT DISTINCT finish FROM message WHERE author = 'model' ORDER BY 1")] == [
        "stop",
        "stopped",
    ]


def test_what_fails_is_told_and_the_question_can_be_answered_again(visit):
    page = visit(RuntimeError("x"), "fine")
    ask(page)
    page.wait_for_selector("#notice:visible")
    assert "failed" in page.inner_text("#notice")
    page.click("text=Answer it")
    answered(page)
    assert page.inner_text("#notice") == "" and page.wrong == []


def test_what_is_too_long_is_told_and_not_cut(visit, store):
    page = visit()
    ask(page, "x" * 40_000)
    page.wait_for_selector("#notice >> text=Too long: at most 32768 characters, got 40000. Shorten it.")
    assert page.locator("#question").bounding_box()["height"] > 200
    assert len(page.input_value("#question")) == 40_000 and store.stats()["conversations"] == 0
    ask(page, "short")
    answered(page)
    off(page)
    page.keyboard.press("b")
    page.fill(".reasons textarea", "y" * 2_001)
    page.click(".reasons >> text=Save")
    page.wait_for_selector("#notice >> text=Too long: at most 2000 characters, got 2001.")
    assert len(page.input_value(".reasons textarea")) == 2_001
    # Chromium itself notes an answer that is no success.
    assert all("422" in line for line in page.wrong)


def test_a_full_queue_is_told_and_the_question_stays(visit, chromium):
    page = visit("one HOLD two", queue_limit=1, batch_rows=1)
    others = [chromium.new_page(), chromium.new_page()]
    for one, sign in zip((page, *others), (".said >> text=one", "text=waiting, 1 before", "#notice"), strict=True):
        one.goto(page.url)
        ask(one, "hi")
        one.wait_for_selector(sign)
    assert others[1].inner_text("#notice").startswith("Too many wait already")
    assert others[1].input_value("#question") == "hi"
    page.assistant.release.set()
    for one in others:
        one.close()


@pytest.mark.parametrize("kept", ["no JSON", "null", "[]", '{"model": "gone", "temperature": "9", "theme": 3}'])
def test_whatever_the_browser_has_kept_the_page_opens(visit, kept):
    page = visit("one")
    page.evaluate("kept => localStorage.setItem('settings', kept)", kept)
    page.reload()
    ask(page)
    answered(page)
    assert page.input_value("#model") == "ppo" and page.input_value("#temperature") == "0.7" and page.wrong == []


def test_numbers_between_the_steps_are_taken_and_wrong_ones_are_told(visit):
    page = visit("one", temperature=0.65)
    page.click("#settings-open")
    page.fill("#top-p", "0.92")
    page.click("#settings-close")
    page.wait_for_selector("#settings:not([open])", state="attached")
    ask(page)
    answered(page)
    sampling = page.assistant.asked[0][2]
    assert (sampling.temperature, sampling.top_p) == (0.65, 0.92)
    page.click("#settings-open")
    page.fill("#temperature", "7")
    page.keyboard.press("Escape")
    # The dialog's end is told to the page a moment after the key.
    page.wait_for_selector("#notice >> text=0 to 2")
    assert page.input_value("#temperature") == "0.65" and page.wrong == []


def test_what_is_not_copied_is_not_said_to_be(visit):
    page = visit("one\n```\ncode\n```")
    ask(page)
    answered(page)
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.click('[aria-label="Copy"]')
    page.wait_for_selector("#notice:has-text('mark the words')")
    page.click(".copy-code")
    page.wait_for_selector(".copy-code:has-text('Not allowed here')")
    assert page.wrong == []
