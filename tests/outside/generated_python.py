"""Generates a client from a server's document with openapi-python-client; calls every operation.

    generated_python.py HOST:PORT EXAMPLE

Generates the client in the current folder, and also runs the program EXAMPLE, which uses it.
Prints "done" and exits with 0 if the generator left nothing out and every operation works as
documented in docs/rest.md.
"""

import base64
import importlib
import io
import json
import os
import runpy
import subprocess
import sys
import urllib.request

DEADLINE = 20
BYTES = bytes(range(256))


def generate(address):
    """Generates the package `tierkv_client` and checks that there was no warning."""
    programs = os.path.dirname(sys.executable)
    command = [os.path.join(programs, "openapi-python-client"), "generate"]
    command += ["--url", f"http://{address}/openapi.json", "--meta", "none"]
    command += ["--output-path", "tierkv_client", "--fail-on-warning"]
    path = programs + os.pathsep + os.environ["PATH"]
    made = subprocess.run(
        command,
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert made.returncode == 0 and "arning" not in made.stdout, made.stdout
    sys.path.insert(0, os.getcwd())


class Api:
    """The generated functions, by the operation ids of the document."""

    def __init__(self, address):
        from tierkv_client import Client

        with urllib.request.urlopen(f"http://{address}/openapi.json", timeout=DEADLINE) as answer:
            document = json.load(answer)
        self.modules, self.called = {}, set()
        for operations in document["paths"].values():
            for operation in operations.values():
                (tag,), name = operation["tags"], operation["operationId"]
                # The generator adds an underscore to `list`, the name of a built-in.
                file = "list_" if name == "list" else name
                module = importlib.import_module(f"tierkv_client.api.{tag}.{file}")
                self.modules[name] = module
        self.client = Client(base_url=f"http://{address}", raise_on_unexpected_status=True)

    def __call__(self, name, *arguments, status=200, **fields):
        """Calls the operation; checks the status; returns the answer and its headers."""
        self.called.add(name)
        call = self.modules[name].sync_detailed
        answer = call(*arguments, client=self.client, **fields)
        assert answer.status_code == status, (name, answer)
        if status >= 400 and name != "head":
            problem = answer.parsed
            assert (problem.status, bool(problem.detail)) == (status, True), problem
        return answer.parsed, answer.headers


def values(api):
    from tierkv_client.models import Consistency
    from tierkv_client.types import File

    def put(key, value, **fields):
        return api("put", "default", key, body=File(payload=io.BytesIO(value)), **fields)

    for key in ["plain", "a/b c+d%e?ü#"]:
        written, headers = put(key, BYTES)
        assert headers["etag"] == f'"{written.version}"', headers
        read, headers = api("get", "default", key, consistency=Consistency.LATEST)
        assert read.payload.read() == BYTES
        assert headers["tierkv-source"] == "master", headers
        session = {"consistency": Consistency.SESSION, "min_version": written.version}
        read, _ = api("get", "default", key, **session)
        assert read.payload.read() == BYTES
    big = BYTES * 4096
    put("big", big, ttl="60s")
    read, headers = api("get", "default", "big")
    assert read.payload.read() == big and "tierkv-expires-at-ms" in headers, headers
    problem, _ = put("big", big + b".", status=400)
    assert "max_value_bytes" in problem.detail, problem
    put("empty", b"")
    read, _ = api("get", "default", "empty")
    assert read.payload.read() == b""

    problem, headers = api("get", "default", "absent", status=404)
    assert problem.code == "NotFound" and int(headers["tierkv-version"]) > 0, problem
    problem, _ = api("get", "NO", "key", status=400)
    assert problem.code == "InvalidArgument", problem
    return put


def conditions(api, put):
    first = put("c", b"1", if_none_match="*")[0].version
    problem, _ = put("c", b"2", if_none_match="*", status=412)
    assert problem.code == "ConditionFailed", problem
    second = put("c", b"2", if_match=f'"{first}"')[0].version
    assert int(second) > int(first)
    put("c", b"3", if_match=f'"{first}"', status=412)
    api("get", "default", "c", if_none_match=f'"{second}"', status=304)
    api("get", "default", "c", if_match=f'"{first}"', status=412)
    _, headers = api("head", "default", "c")
    assert headers["etag"] == f'"{second}"', headers
    api("head", "default", "absent", status=404)
    api("delete", "default", "c", if_match=f'"{first}"', status=412)
    assert api("delete", "default", "c", if_match=f'"{second}"')[0].existed
    assert not api("delete", "default", "c")[0].existed


def numbers(api, put):
    from tierkv_client.models import IncrementRequest

    body, name = IncrementRequest(delta=2**62), "4b0f8a5e"
    once = api("increment", "default", "n", body=body, idempotency_key=name)[0]
    again = api("increment", "default", "n", body=body, idempotency_key=name)[0]
    assert once.value == again.value == str(2**62), (once, again)
    body = IncrementRequest(delta=str(-(2**62) - 5))
    assert api("increment", "default", "n", body=body)[0].value == "-5"
    put("text", b"no number")
    api("increment", "default", "text", body=body, status=400)
    problem, _ = put("n", b"", idempotency_key=name, status=422)
    assert problem.code == "AlreadyExists", problem

    put("t", b"kept")
    touched = api("touch", "default", "t", ttl="1h")[0]
    read, headers = api("get", "default", "t", min_version=touched.version)
    assert read.payload.read() == b"kept" and "tierkv-expires-at-ms" in headers, headers
    api("touch", "default", "absent", ttl="1h", status=404)


def batches(api):
    from tierkv_client import models

    named = base64.b64encode(BYTES).decode()
    operations = [
        models.WritePut(put=models.PutOperation(key_base64="/w==", value_base64=named)),
        models.WriteIncrement(increment=models.IncrementOperation(key="bn", delta=3)),
        models.WriteDelete(delete=models.KeyName(key="t")),
        models.WriteTouch(touch=models.TouchOperation(key="n", ttl_ms=60_000)),
    ]
    absent = models.Condition(key="bn", if_absent=True)
    request = models.WriteRequest(
        operations=operations, conditions=[absent], return_previous=True
    )
    written = api("write", body=request)[0]
    assert [result.number for result in written.results[1:2]] == ["3"], written
    assert written.results[2].previous_value == "kept" and not written.replayed, written
    problem, _ = api("write", body=request, status=412)
    assert "the condition on 'bn' does not hold" in problem.detail, problem

    keys = [models.KeyName(key_base64="/w=="), models.KeyName(key="bn"), models.KeyName(key=".")]
    request = models.BatchGetRequest(keys=keys, consistency=models.Consistency.LATEST)
    many = api("batch_get", body=request)[0].answers
    assert [answer.found for answer in many] == [True, True, False], many
    assert base64.b64decode(many[0].value_base64) == BYTES
    assert (many[1].value, many[1].version) == ("3", written.version), many
    request = models.BatchGetRequest(keys=[models.KeyName(key="")])
    api("batch_get", body=request, status=400)


def listings(api):
    from tierkv_client.types import UNSET, File

    for number in range(25):
        api("put", "listed", f"k{number:02}", body=File(payload=io.BytesIO(BYTES)))
    keys, token = [], UNSET
    while True:
        page = api("list", "listed", prefix="k", limit=10, page_token=token)[0]
        assert all(base64.b64decode(item.value_base64) == BYTES for item in page.items)
        keys += [item.key for item in page.items]
        token = page.next_page_token
        if not token:
            break
    assert keys == [f"k{number:02}" for number in range(25)], keys
    page = api("list", "listed", start="k03", end_base64=base64.b64encode(b"k05").decode())[0]
    assert [item.key for item in page.items] == ["k03", "k04"], page
    assert api("count", "listed", prefix="k1")[0].count == 10
    assert api("count", "listed", start="k20")[0].count == 5
    api("count", "listed", prefix="k", start="k", status=400)


def watches(api, put):
    """A watch does not end, so the generated request is sent as a stream."""
    from tierkv_client.models import WrittenEvent

    api.called.add("watch")
    request = api.modules["watch"]._get_kwargs("default", prefix="watched")
    client = api.client.get_httpx_client()
    with client.stream(**request, timeout=DEADLINE) as answer:
        assert answer.headers["content-type"] == "text/event-stream", answer.headers
        lines, written, kind = answer.iter_lines(), None, None
        for line in lines:
            # The first event arrives at once; the watch reports what is written after it.
            if written is None and line.startswith("event: progress"):
                written = put("watched", b"new")[0]
            name, _, data = line.partition(": ")
            kind = data if name == "event" else kind
            if name == "data" and kind == "written":
                break
    event = WrittenEvent.from_dict(json.loads(data))
    assert (event.key, event.value) == ("watched", "new"), event
    assert event.version == written.version, event


def operators(api):
    cluster = api("cluster")[0]
    assert cluster.clusters[0].members[0].role.value == "master", cluster
    assert api("live")[0] == "live\n"
    assert api("ready")[0] == "ready\n"
    assert "tierkv_" in api("metrics")[0]


def main(address, example):
    generate(address)
    api = Api(address)
    put = values(api)
    conditions(api, put)
    numbers(api, put)
    batches(api)
    listings(api)
    watches(api, put)
    operators(api)
    left_out = set(api.modules) - api.called
    assert not left_out, f"never called: {left_out}"
    print(f"{len(api.called)} operations", flush=True)
    runpy.run_path(example)
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
