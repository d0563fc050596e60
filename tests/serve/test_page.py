"""The page in a real browser, over a scripted assistant. Needs Playwright and a Chromium; skipped, with a word, where they are not."""

import os
import secrets
import shutil
import threading

import pytest
import uvicorn
from scripted import Scripted

from pipeline.serve.app import create_app
from pipeline.serve.settings import ServeSettings

CHROMIUM = os.environ.get("THUMBLOOP_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="THE PAGE IS NOT TESTED: no Playwright (pip install '.[browser]')"
)
if CHROMIUM is None:
    pytest.skip("THE PAGE IS NOT TESTED: no Chromium (name one in THUMBLOOP_CHROMIUM)", allow_module_level=True)

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
GOOD, BAD = '[aria-label="Good answer"]', '[aria-label="Bad answer"]'
PAYLOADS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "![x](https://evil.example/x.png)",
    "![x](javascript:alert(1))",
    "[click](javascript:alert(1))",
    "[click](JaVaScRiPt:alert(1))",
    "[click](data:text/html,<script>alert(1)</script>)",
    "[click](vbscript:x) [a](//evil.example) [b]( javascript:alert(1))",
    '[x](https://a.example/"onmouseover="alert(1))',
    "<https://evil.example/<script>>",
    "<style>@import 'https://evil.example/x.css'</style><iframe src=https://evil.example></iframe>",
    "```html\n<script>alert(1)</script>\n```",
    "```</code></pre><script>alert(1)</script>",
    "| <b>a</b> | b |\n|---|---|\n| <img src=x onerror=alert(1)> | c |",
    "&lt;script&gt;alert(1)&lt;/script&gt; &#x3C;img src=x&#x3E;",
    "> " * 500 + "deep",
    "*" * 5000 + "[" * 5000 + "`" * 3001,
)


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, store):
    """The page of a new server, opened: visit("one", "two", comparison_share=1.0); what went wrong in it is in `page.wrong`."""
    servers, pages = [], []

    def start(*texts, width=1200, dark=False, fragment="", **settings):
        assistant = Scripted(*texts or ("Hello there.",))
        app = create_app(
            assistant, store, ServeSettings(**{"rater": "ann", "port": 0, "comparison_share": 0.0, **settings})
        )
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run)
        thread.start()
        servers.append((assistant, server, thread))
        while not server.started:
            thread.join(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        home = f"http://127.0.0.1:{port}/"
        page = chromium.new_page(
            viewport={"width": width, "height": 760}, color_scheme="dark" if dark else "light", base_url=home
        )
        page.set_default_timeout(10_000)
        page.wrong = []
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("console", lambda line: page.wrong.append(line.text))
        page.on("dialog", lambda dialog: (page.wrong.append("a dialog"), dialog.dismiss()))
        page.on("request", lambda r: r.url.startswith(home) or page.wrong.append(r.url))
        page.goto(home + fragment)
        page.assistant = assistant
        pages.append(page)
        return page

    yield start
    for page in pages:
        page.close()
    for assistant, server, thread in servers:
        assistant.release.set()
        server.should_exit = True
        thread.join(10)


def ask(page, text="hi"):
    page.fill("#question", text)
    page.press("#question", "Enter")


def answered(page, count=1):
    # The page's policy forbids what `wait_for_function` does.
    page.locator(f".answer {GOOD}").nth(count - 1).wait_for()


def off(page):
    page.evaluate("document.activeElement.blur()")


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


def test_a_blind_choice_by_key_and_taking_it_back(visit, store):
    page = visit("same words", comparison_share=1.0)
    page.select_option("#model", "ppo")
    page.click("#settings-open")
    page.select_option("#other-model", "sft")
    page.click("#settings-close")
    ask(page)
    page.wait_for_selector(".choices button:not([disabled])")
    duel = page.inner_text(".duel").lower()
    assert "ppo" not in duel and "sft" not in duel and "base" not in duel
    page.keyboard.press("2")
    note = page.inner_text(".note")
    assert note.startswith("You chose B.") and "ppo" in note and "sft" in note
    assert store.rows("SELECT winner, blind FROM comparison") == [("right", 1)]
    page.click("text=Take it back")
    page.wait_for_selector("text=The choice is taken back")
    assert store.stats()["comparisons"] == 0 and page.wrong == []


def test_a_bad_answer_offers_another_beside_it(visit, store):
    page = visit("one", "two")
    ask(page)
    answered(page)
    page.click(BAD)
    page.click("text=Compare with a second answer")
    page.wait_for_selector(".choices button:not([disabled])")
    page.click(".choices >> text=Both bad")
    page.wait_for_selector(".note")
    assert store.rows("SELECT winner FROM comparison") == [("both_bad",)]
    assert page.wrong == []


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


def test_what_fails_is_told_and_the_question_can_be_answered_again(visit):
    page = visit(RuntimeError("x"), "fine")
    ask(page)
    page.wait_for_selector("#notice:visible")
    assert "failed" in page.inner_text("#notice")
    page.click("text=Answer it")
    answered(page)
    assert page.inner_text("#notice") == "" and page.wrong == []


@pytest.mark.parametrize("width", [1200, 380])
def test_payloads_stay_text_and_reach_nothing(visit, width):
    page = visit(*PAYLOADS, width=width)
    for number, payload in enumerate(PAYLOADS):
        ask(page, payload)
        answered(page, number + 1)
    assert page.query_selector("#talk script, #talk img, #talk iframe, #talk style, #talk svg[onload]") is None
    targets = page.eval_on_selector_all("#talk a", "links => links.map((a) => a.protocol)")
    assert set(targets) <= {"http:", "https:"}
    attributes = page.eval_on_selector_all("#talk *", "all => all.flatMap((e) => e.getAttributeNames())")
    assert not [name for name in attributes if name.startswith("on")]
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") == 0
    assert page.wrong == []


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


def test_the_token_in_the_address_becomes_a_cookie_that_scripts_cannot_read(visit):
    token = secrets.token_urlsafe(24)
    page = visit(token=token, fragment=f"#token={token}")
    page.wait_for_selector("#model option", state="attached")
    assert token not in page.url and page.evaluate("document.cookie") == ""
    page.context.clear_cookies()
    page.wrong.clear()
    page.reload()
    page.wait_for_selector("#login[open]")
    page.fill("#token", "wrong")
    page.press("#token", "Enter")
    page.wait_for_selector("#login-error:not(:empty)")
    page.fill("#token", token)
    page.press("#token", "Enter")
    page.wait_for_selector("#login:not([open])", state="attached")
    page.click("#consent button[value=train]")
    ask(page)
    answered(page)


def test_each_of_several_is_asked_once_what_may_be_done_with_their_words(visit, store):
    token = secrets.token_urlsafe(24)
    page = visit(token=token, fragment=f"#token={token}", width=380)
    page.wait_for_selector("#consent[open]")
    page.keyboard.press("Escape")
    # Not answered is not allowed, and it is asked again.
    assert store.rows("SELECT level FROM consent") == []
    page.reload()
    page.click("#consent button[value=publish]")
    page.wait_for_selector(".welcome >> text=may be part of exports")
    page.reload()
    page.wait_for_selector(".welcome")
    assert page.query_selector("#consent[open]") is None
    page.click("#settings-open")
    page.select_option("#consent-level", "local")
    page.click("#settings-close")
    page.wait_for_selector(".welcome >> text=stay in this chat")
    assert store.rows("SELECT level FROM consent ORDER BY id") == [("publish",), ("local",)] and page.wrong == []


def test_at_home_nobody_is_asked(visit):
    page = visit()
    page.wait_for_selector(".welcome >> text=may be part of exports")
    assert page.query_selector("#consent[open]") is None


@pytest.mark.parametrize("width", [1200, 380])
def test_two_answers_grow_side_by_side_from_their_first_words(visit, width):
    page = visit("one HOLD end", "two HOLD end", comparison_share=1.0, width=width)
    ask(page)
    for word in ("one", "two"):
        page.wait_for_selector(f".pair .said:has-text('{word}')")
    assert page.query_selector(".choices button:not([disabled])") is None
    heading = page.locator(".duel h2").bounding_box()
    assert heading["y"] > 0, "the first of the two has not been carried away"
    page.assistant.release.set()
    page.wait_for_selector(".choices button:not([disabled])")
    assert page.locator(".pair .said:has-text('end')").count() == 2 and page.wrong == []


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


def test_a_choice_stands_under_the_two_answers_it_was_between_and_under_no_other(visit):
    page = visit("one", "two", "three", comparison_share=1.0)
    ask(page)
    page.wait_for_selector(".choices button:not([disabled])")
    page.click(".choices >> text=B is better")
    assert page.inner_text(".note").startswith("You chose B. Both were ppo. This is B.")
    page.click("#settings-open")
    page.select_option("#compare", "never")
    page.keyboard.press("Escape")
    off(page)
    page.keyboard.press("r")
    page.wait_for_selector(".versions >> text=3/3")
    assert page.locator(".note").count() == 0
    notes = []
    for _ in range(2):
        page.click('[aria-label="Version before"]')
        notes.append(page.inner_text(".note").split("ppo. ")[1])
    assert sorted(note.split(".")[0] for note in notes) == ["This is A", "This is B"]
    page.click(".note button")
    page.wait_for_selector(".note >> text=The choice is taken back.")
    page.reload()
    answered(page)
    assert page.locator(".note").count() == 0 and page.wrong == []


def test_the_cursor_stands_behind_the_last_word(visit):
    page = visit("word HOLD more")
    ask(page)
    page.wait_for_selector(".said p .cursor")
    page.assistant.release.set()
    answered(page)
    assert page.locator(".cursor").count() == 0 and page.inner_text(".answer .said") == "word more"


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
