"""A real Chromium (Debian's, driven by playwright), and a report page in it that may ask for nothing but itself."""

import os
import shutil
from dataclasses import dataclass, field

import pytest

from tests.data.report import write_run
from vlfm.report.write import write_report

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


@pytest.fixture(scope="package")
def browser():
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        why = "no chromium here (Debian: apt-get install chromium): the report page is not tried in a browser"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    """The page of a small run, as a path; the run's folder is beside it."""
    folder = tmp_path_factory.mktemp("report")
    config = write_run(folder / "results")
    write_report(config, folder / "results", folder / "index.html")
    return folder / "index.html"


@dataclass
class Watch:
    """What a page did: every request that is not for the page itself, and every complaint."""

    address: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def request(self, request) -> None:
        # blob: and data: lie in the page.
        if request.url.split("#")[0] != self.address and not request.url.startswith(("blob:", "data:")):
            self.requests.append(request.url)

    def console(self, message) -> None:
        self.complaints.append(f"{message.type}: {message.text}")


@pytest.fixture
def open_page(browser, report):
    """`open_page(path=…, **options of the context)` → a page that is watched until the test ends."""
    contexts, watches = [], []

    def open_page(path=report, **options):
        options.setdefault("viewport", {"width": 1280, "height": 800})
        context = browser.new_context(**options)
        context.set_default_timeout(15_000)
        contexts.append(context)
        page = context.new_page()
        watch = Watch(path.as_uri())
        watches.append(watch)
        page.on("request", watch.request)
        page.on("console", watch.console)
        page.on("pageerror", lambda error: watch.complaints.append(str(error)))
        page.route(
            "**/*",
            lambda route: (
                route.continue_() if route.request.url.startswith(("file:", "blob:", "data:")) else route.abort()
            ),
        )
        page.goto(watch.address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    for watch in watches:
        assert watch.requests == []
        assert watch.complaints == []
