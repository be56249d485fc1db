"""Pages of other web sites try to use a platform, in a headless Chromium.

    web_pages.py CLOSED OPEN PAGES CHROMIUM CHROMEDRIVER FOLDER

CLOSED and OPEN are the REST addresses (127.0.0.1:PORT) of two platforms. OPEN lists the origin
http://app.test:PAGES; PAGES is a free port, on which this script serves an empty page. FOLDER
is an empty folder for the browser's profile. In the browser, the names evil.test, app.test and
rebound.test resolve to 127.0.0.1, and no other name resolves. Prints "done" and exits with 0
if the pages could do everything that is allowed, and nothing else.
"""

import http.client
import http.server
import json
import sys
import threading

from browser import start

NAMES = ["evil.test", "app.test", "rebound.test"]
SECRET = "known to this machine only"


class Page(http.server.BaseHTTPRequestHandler):
    """An empty page at every path."""

    def do_GET(self):
        body = b"<!doctype html><title>a page</title>"
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def ask(address, method, path, body=None):
    """Sends a request without a browser; returns status and body."""
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request(method, path, body=body)
    answer = connection.getresponse()
    reply = answer.status, answer.read().decode()
    connection.close()
    return reply


def refusals(address):
    """The number of requests that were refused for their origin or their host."""
    name = 'tierkv_errors_total{code="PermissionDenied"} '
    lines = ask(address, "GET", "/metrics")[1].splitlines()
    return sum(int(float(line[len(name):])) for line in lines if line.startswith(name))


# Each script returns [result, status, text], as far as the page can see them.
FETCH = """
const [url, options, done] = arguments;
fetch(url, options).then(
  async answer => done([answer.type, answer.status, await answer.text()]),
  error => done(["failed", 0, String(error)]));
"""
BEACON = """
const [url, body, type, done] = arguments;
const blob = type === null ? body : new Blob([body], {type});
done(["beacon", 0, String(navigator.sendBeacon(url, blob))]);
"""
FORM = """
const [url, text, done] = arguments;
const frame = document.createElement("iframe");
frame.name = "answer";
document.body.append(frame);
const form = document.createElement("form");
Object.assign(form, {action: url, method: "post", enctype: "text/plain", target: "answer"});
const field = document.createElement("input");
Object.assign(field, {name: text, value: ""});
form.append(field);
document.body.append(form);
frame.onload = () => done(["form", 0, "sent"]);
form.submit();
"""
EMBED = """
const [tag, url, done] = arguments;
const element = document.createElement(tag);
element.onload = () => done(["loaded", 0, ""]);
element.onerror = () => done(["failed", 0, ""]);
element.src = url;
document.body.append(element);
"""
EVENTS = """
const [url, done] = arguments;
const source = new EventSource(url);
source.onopen = () => done(["open", 0, ""]);
source.onerror = () => { source.close(); done(["failed", 0, ""]); };
"""


class Browser:
    def __init__(self, driver):
        self.driver = driver
        driver.set_script_timeout(30)

    def open(self, url):
        self.driver.get(url)

    def run(self, script, *arguments):
        return self.driver.execute_async_script(script, *arguments)

    def fetch(self, url, **options):
        return self.run(FETCH, url, options)

    def text(self):
        return self.driver.execute_script("return document.documentElement.textContent")


def foreign_page(browser, page, address):
    """A page of another origin can neither write nor read."""
    url = f"http://{address}"
    ask(address, "PUT", "/v1/kv/default/secret", SECRET)
    add = f"{url}/v1/increment/default/n"
    delta = json.dumps({"delta": 1})
    before = refusals(address)
    browser.open(page)
    tries = 0
    for options in [
        {"method": "POST", "mode": "no-cors", "body": delta},
        {
            "method": "POST",
            "mode": "no-cors",
            "body": delta,
            "headers": {"content-type": "application/json"},
        },
        {"method": "POST", "mode": "no-cors", "body": delta, "credentials": "include"},
        {"method": "POST", "body": delta, "headers": {"content-type": "application/json"}},
        {"method": "POST", "body": delta},
    ]:
        kind, status, body = browser.fetch(add, **options)
        assert (kind, status, body != "") in [("opaque", 0, False), ("failed", 0, True)], (
            options,
            kind,
            status,
            body,
        )
        tries += 1
    for value in ["1", SECRET]:
        for options in [{"method": "PUT", "body": value}, {"method": "DELETE"}]:
            reply = browser.fetch(f"{url}/v1/kv/default/secret", **options)
            assert reply[0] == "failed", reply
            tries += 1
    for kind in [None, "text/plain", "application/json", "application/x-www-form-urlencoded"]:
        browser.run(BEACON, add, delta, kind)
        tries += 1
    # The text of a form is NAME=VALUE.
    browser.run(FORM, add, delta[:-1] + ', "x": "')
    tries += 1
    for path in ["/v1/kv/default/secret", "/v1/kv/default", "/metrics", "/v1/cluster", "/"]:
        reply = browser.fetch(url + path)
        assert reply[0] == "failed", (path, reply)
        kind, status, body = browser.fetch(url + path, mode="no-cors")
        assert (kind, status, body) == ("opaque", 0, ""), (path, kind, status, body)
        tries += 2
    for tag, path in [("img", "/v1/kv/default/secret"), ("script", "/openapi.json")]:
        reply = browser.run(EMBED, tag, url + path)
        assert reply[0] == "failed", (tag, reply)
        tries += 1
    reply = browser.run(EVENTS, f"{url}/v1/watch/default")
    assert reply[0] == "failed", reply
    browser.run(EMBED, "iframe", f"{url}/docs/")
    tries += 2
    # All requests reached the platform, which refused them.
    refused = refusals(address) - before
    assert refused >= tries, (refused, tries)
    assert ask(address, "GET", "/v1/kv/default/n?consistency=latest")[0] == 404
    found = ask(address, "GET", "/v1/kv/default/secret?consistency=latest")
    assert found == (200, SECRET), found


def rebound_name(browser, address):
    """A page whose name resolves to the platform's address can neither read nor write."""
    port = address.rsplit(":", 1)[1]
    url = f"http://rebound.test:{port}"
    browser.open(f"{url}/v1/kv/default/secret")
    reply = browser.text()
    assert SECRET not in reply and "rest.allowed_hosts" in reply, reply
    for path in ["/v1/kv/default/secret", "/v1/kv/default", "/v1/cluster", "/docs/"]:
        kind, status, body = browser.fetch(path)
        assert (kind, status) == ("basic", 403) and SECRET not in body, (path, kind, status, body)
    kind, status, _ = browser.fetch("/v1/kv/default/secret", method="PUT", body="mine")
    assert (kind, status) == ("basic", 403), (kind, status)
    found = ask(address, "GET", "/v1/kv/default/secret?consistency=latest")
    assert found == (200, SECRET), found


def own_page(browser, page, address):
    """The platform's own pages work under the names of this machine, and by links to them."""
    port = address.rsplit(":", 1)[1]
    for host in ["127.0.0.1", "localhost"]:
        browser.open(f"http://{host}:{port}/")
        assert "/docs" in browser.text()
        reply = browser.fetch("/v1/kv/default/own", method="PUT", body=host)
        assert reply[:2] == ["basic", 200], reply
        reply = browser.fetch("/v1/kv/default/own")
        assert reply == ["basic", 200, host], reply
    browser.open(page)
    browser.driver.execute_script(f"location.assign('http://{address}/')")
    browser.run("const done = arguments[0]; setTimeout(() => done(0), 0)")
    for _ in range(300):
        if browser.driver.current_url == f"http://{address}/":
            break
        browser.run("const done = arguments[0]; setTimeout(() => done(0), 100)")
    assert "/docs" in browser.text(), browser.text()


def listed_page(browser, page, address):
    """A page whose origin is listed can do everything."""
    url = f"http://{address}"
    browser.open(page)
    reply = browser.fetch(f"{url}/v1/kv/default/app", method="PUT", body="hello")
    assert reply[:2] == ["cors", 200], reply
    tag = browser.run(
        "const [url, done] = arguments;"
        "fetch(url).then(answer => done(answer.headers.get('etag')), error => done(String(error)))",
        f"{url}/v1/kv/default/app",
    )
    assert tag == f'"{json.loads(reply[2])["version"]}"', (tag, reply)
    headers = {"if-match": tag, "idempotency-key": "once"}
    for _ in range(2):
        reply = browser.fetch(
            f"{url}/v1/kv/default/app", method="PUT", body="again", headers=headers
        )
        assert reply[:2] == ["cors", 200], reply
    reply = browser.fetch(
        f"{url}/v1/increment/default/n",
        method="POST",
        body='{"delta": 1}',
        headers={"content-type": "application/json"},
    )
    assert reply[:2] == ["cors", 200] and json.loads(reply[2])["value"] == "1", reply
    reply = browser.run(EVENTS, f"{url}/v1/watch/default")
    assert reply[0] == "open", reply
    reply = browser.fetch(f"{url}/v1/kv/default/app", method="DELETE")
    assert reply[:2] == ["cors", 200], reply
    # A page can read why a request failed.
    reply = browser.fetch(f"{url}/v1/kv/default/app")
    assert reply[:2] == ["cors", 404] and "absent" in reply[2], reply


def main(closed, opened, port, chromium, chromedriver, folder):
    pages = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Page)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    rules = [f"MAP {name} 127.0.0.1" for name in NAMES]
    rules += ["MAP * ~NOTFOUND", "EXCLUDE 127.0.0.1", "EXCLUDE localhost"]
    driver = start(chromium, chromedriver, folder, ", ".join(rules))
    try:
        browser = Browser(driver)
        # A page of another site, and one of this machine with another port.
        for page in [f"http://evil.test:{port}/", f"http://127.0.0.1:{port}/"]:
            foreign_page(browser, page, closed)
        rebound_name(browser, closed)
        own_page(browser, f"http://evil.test:{port}/", closed)
        foreign_page(browser, f"http://evil.test:{port}/", opened)
        listed_page(browser, f"http://app.test:{port}/", opened)
    finally:
        driver.quit()
        pages.shutdown()
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
