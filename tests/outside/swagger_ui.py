"""Sets and reads a key on the page /docs, in a headless Chromium.

    swagger_ui.py HOST:PORT CHROMIUM CHROMEDRIVER FOLDER

FOLDER is an empty folder for the browser's profile. The browser can reach only 127.0.0.1.
Prints "done" and exits with 0 if the page shows the value that was set.
"""

import sys

from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from browser import start

DEADLINE = 60


class Page:
    """The operations of the page at /docs."""

    def __init__(self, browser):
        self.browser = browser
        self.wait = WebDriverWait(browser, DEADLINE)

    def find(self, selector, within=None):
        return self.wait.until(
            lambda browser: next(
                iter((within or browser).find_elements(By.CSS_SELECTOR, selector)), None
            ),
            f"the page has no {selector}",
        )

    def click(self, element):
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        self.wait.until(lambda _: element.is_displayed() and element.is_enabled())
        element.click()

    def open(self, tag, name):
        """Unfolds an operation; its fields then contain the examples of the document."""
        operation = self.find(f"#operations-{tag}-{name}")
        self.click(self.find(".opblock-summary-control", operation))
        self.find(".execute", operation)
        return operation

    def execute(self, operation):
        """Presses the button; returns the status and the body that the page shows."""
        self.click(self.find(".execute", operation))
        live = ".live-responses-table .response"
        status = self.find(f"{live} .response-col_status", operation)
        body = self.find(f"{live} .response-col_description .highlight-code", operation)
        return status.text.split()[0], body.text


def check(page, address):
    page.browser.get(f"http://{address}/docs")
    put = page.open("keys", "put")
    value = page.find("textarea.body-param__text", put)
    page.wait.until(lambda _: value.get_attribute("value") == "hello", "no example value")
    value.clear()
    value.send_keys("set by a browser")
    status, body = page.execute(put)
    assert status == "200" and '"version"' in body, (status, body)

    get = page.open("keys", "get")
    status, body = page.execute(get)
    assert status == "200" and "set by a browser" in body, (status, body)

    failures = [
        entry
        for entry in page.browser.get_log("browser")
        if entry["level"] == "SEVERE"
    ]
    assert not failures, failures


def main(address, chromium, chromedriver, folder):
    browser = start(chromium, chromedriver, folder, "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    try:
        check(Page(browser), address)
    finally:
        browser.quit()
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
