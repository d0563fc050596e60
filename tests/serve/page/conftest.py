"""The page in a real browser, over a scripted assistant. Needs Playwright and a Chromium; skipped, with a word, where they are not."""

import os
import shutil
import threading

import pytest
import uvicorn
from scripted import Scripted

from pipeline.serve.app import create_app
from pipeline.serve.settings import ServeSettings

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="session")
def chromium():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="THE PAGE IS NOT TESTED: no Playwright (pip install '.[browser]')"
    )
    found = os.environ.get("THUMBLOOP_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("THE PAGE IS NOT TESTED: no Chromium (name one in THUMBLOOP_CHROMIUM)")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=QUIET)
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
