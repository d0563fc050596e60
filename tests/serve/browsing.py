"""What a person does on the page, for a Playwright `page`."""

GOOD, BAD = '[aria-label="Good answer"]', '[aria-label="Bad answer"]'


def ask(page, text="hi"):
    page.fill("#question", text)
    page.press("#question", "Enter")


def answered(page, count=1):
    # The page's policy forbids what `wait_for_function` does.
    page.locator(f".answer {GOOD}").nth(count - 1).wait_for()


def off(page):
    page.evaluate("document.activeElement.blur()")
