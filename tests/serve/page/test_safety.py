"""What an answer cannot do to the page, and who gets in."""

import secrets

import pytest
from browsing import answered, ask

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
