"""The page in a real browser, over a scripted assistant. Needs Playwright and a Chromium; skipped, with a word, where they are not."""

import importlib.util
import os
import shutil
import threading
from pathlib import Path

import pytest
import uvicorn
from scripted import Scripted

from pipeline.serve.app import create_app
from pipeline.serve.settings import ServeSettings

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
CHROMIUM = os.environ.get("THUMBLOOP_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


def pytest_collection_modifyitems(items):
    # Marked, and not skipped one by one: the summary then has a line for each file.
    missing = None if CHROMIUM else "no Chromium (name one in THUMBLOOP_CHROMIUM)"
    if importlib.util.find_spec("playwright") is None:
        missing = "no Playwright (pip install '.[browser]')"
    for item in items:
        if missing and item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.skip(reason=f"THE PAGE IS NOT TESTED: {missing}"))


# Not for the session: its event loop would be in the way of tests that run one of their own.
@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
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
