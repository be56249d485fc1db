"""Calls every operation of tierkv.v1 with a client that shares no code with the platform.

    grpc_client.py proto HOST:PORT FOLDER    from the .proto files in FOLDER
    grpc_client.py reflection HOST:PORT      from the server's reflection

Prints "done" and exits with 0 if every operation works as documented in the contract.
"""

import os
import subprocess
import sys
import tempfile
import threading

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

DEADLINE = 20
# A client's default message limit, and the option for a client that asks for large answers.
DEFAULT_LIMIT = 4 << 20
LARGE_ANSWERS = [("grpc.max_receive_message_length", 17 << 20)]


class Contract:
    """The messages and methods of a service, from either source."""

    def __init__(self, pool, channel, address):
        self.pool = pool
        self.channel = channel
        self.address = address

    def message(self, name):
        found = self.pool.FindMessageTypeByName("tierkv.v1." + name)
        return message_factory.GetMessageClass(found)

    def method(self, name, service="tierkv.v1.Kv"):
        method = self.pool.FindServiceByName(service).methods_by_name[name]
        kinds = {
            (False, False): self.channel.unary_unary,
            (False, True): self.channel.unary_stream,
            (True, True): self.channel.stream_stream,
        }
        make = kinds[(method.client_streaming, method.server_streaming)]
        answer = message_factory.GetMessageClass(method.output_type)
        return make(
            f"/{service}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )

    def call(self, name, **fields):
        method = self.pool.FindServiceByName("tierkv.v1.Kv").methods_by_name[name]
        request = message_factory.GetMessageClass(method.input_type)(**fields)
        return self.method(name)(request, timeout=DEADLINE)


def from_files(channel, address, folder):
    """Compiles the .proto files with grpcio's own compiler."""
    with tempfile.TemporaryDirectory() as out:
        files = ["tierkv/v1/kv.proto", "tierkv/v1/admin.proto", "tierkv/v1/error.proto"]
        described = os.path.join(out, "set")
        command = [sys.executable, "-m", "grpc_tools.protoc", "-I", folder]
        command += ["--include_imports", f"--descriptor_set_out={described}"]
        command += [f"--python_out={out}", f"--grpc_python_out={out}"]
        subprocess.run(command + files, check=True)
        from google.protobuf import descriptor_pb2

        with open(described, "rb") as file:
            files = descriptor_pb2.FileDescriptorSet.FromString(file.read())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return Contract(pool, channel, address)


def from_reflection(channel, address):
    database = ProtoReflectionDescriptorDatabase(channel)
    services = set(database.get_services())
    assert {"tierkv.v1.Kv", "tierkv.v1.Admin", "grpc.health.v1.Health"} <= services, services
    return Contract(descriptor_pool.DescriptorPool(database), channel, address)


def refused(code, call, *arguments, **fields):
    """The message of a call that must fail with `code` and carry tierkv.v1.Error."""
    try:
        answer = call(*arguments, **fields)
        answer = list(answer) if hasattr(answer, "__next__") else answer
    except grpc.RpcError as error:
        assert error.code() == code, error
        details = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
        assert b"tierkv.v1.Error" in details, error
        return error.details()
    raise AssertionError(f"the call succeeded: {answer}")


def single_keys(contract):
    call = contract.call
    assert not call("Get", key=b"a").found
    version = call("Put", key=b"a", value=b"1").version
    read = call("Get", key=b"a", options={"consistency": 2, "min_version": version})
    assert (read.found, read.value, read.version) == (True, b"1", version), read
    explained = call("Get", key=b"a", options={"consistency": 3, "explain": True})
    assert [hop.tier for hop in explained.path][-1] == "datanode", explained
    assert call("Increment", key=b"a", delta=41).value == 42
    expiring = call("Put", key=b"short", value=b"x", ttl_ms=60_000)
    read = call("Get", key=b"short", options={"consistency": 3})
    assert read.expires_at_ms == (expiring.version >> 16) + 60_000, read
    touched = call("Touch", key=b"short")
    read = call("Get", key=b"short", options={"consistency": 3})
    assert (read.value, read.expires_at_ms) == (b"x", 0), read
    assert read.version == touched.version > expiring.version, read
    refused(grpc.StatusCode.NOT_FOUND, call, "Touch", key=b"absent", ttl_ms=1)
    many = call("BatchGet", keys=[b"a", b"absent", b"a"], options={"consistency": 3})
    assert [answer.found for answer in many.answers] == [True, False, True], many
    assert many.answers[0].value == b"42"
    assert call("Delete", key=b"short").existed
    assert not call("Delete", key=b"short").existed
    words = refused(grpc.StatusCode.INVALID_ARGUMENT, call, "Get", key=b"")
    assert "empty" in words, words


def writes(contract):
    call = contract.call
    batch = {
        "conditions": [{"key": b"w1", "if_absent": {}}],
        "operations": [
            {"put": {"key": b"w1", "value": b"one"}},
            {"increment": {"key": b"w2", "delta": 5}},
            {"delete": {"key": b"absent"}},
            {"touch": {"key": b"a", "ttl_ms": 60_000}},
        ],
        "return_previous": True,
    }
    answer = call("Write", **batch)
    assert [result.number for result in answer.results] == [0, 5, 0, 0], answer
    words = refused(grpc.StatusCode.FAILED_PRECONDITION, call, "Write", **batch)
    assert "the condition on 'w1' does not hold" in words, words
    # Sent twice, applied once.
    request_id = {"random": os.urandom(16), "birth_ms": answer.version >> 16}
    batch = {
        "conditions": [{"key": b"w1", "if_version": answer.version}],
        "operations": [{"increment": {"key": b"w2", "delta": 1}}],
        "request_id": request_id,
    }
    first, again = call("Write", **batch), call("Write", **batch)
    assert (first.replayed, again.replayed) == (False, True)
    assert first.results[0].number == again.results[0].number == 6
    assert first.version == again.version


def scans(contract):
    call = contract.call
    for number in range(250):
        call("Put", namespace="scanned", key=f"k{number:03}".encode(), value=b"v")
    keys = []
    for response in call("Scan", namespace="scanned", prefix=b""):
        keys += [item.key for item in response.items]
    assert keys == [f"k{number:03}".encode() for number in range(250)], keys
    paged, token = [], b""
    while True:
        request = {"namespace": "scanned", "prefix": b"k", "limit": 99, "page_token": token}
        for response in call("Scan", **request):
            paged += [item.key for item in response.items]
            token = response.next_page_token
        if not token:
            break
    assert paged == keys, paged
    part = {"start": b"k010", "end": b"k020"}
    assert call("Count", namespace="scanned", range=part).count == 10
    assert call("Count", namespace="scanned", prefix=b"k1").count == 100
    words = refused(grpc.StatusCode.INVALID_ARGUMENT, call, "Scan", namespace="scanned")
    assert "prefix" in words, words
    bad = {"namespace": "scanned", "prefix": b"", "page_token": b"nonsense"}
    refused(grpc.StatusCode.INVALID_ARGUMENT, call, "Scan", **bad)


def watches(contract):
    request = contract.message("WatchRequest")
    watch = contract.method("Watch")
    stream = watch(request(namespace="watched", prefix=b"k"), timeout=DEADLINE)
    begin = next(stream)
    assert not begin.events and begin.resume_token, begin
    first = contract.call("Put", namespace="watched", key=b"k1", value=b"v").version
    contract.call("Put", namespace="watched", key=b"other", value=b"v")
    second = contract.call("Delete", namespace="watched", key=b"k1").version

    def events(stream, count):
        seen = []
        while len(seen) < count:
            response = next(stream)
            seen += [
                (event.key, event.version, event.WhichOneof("kind")) for event in response.events
            ]
        return seen

    expected = [(b"k1", first, "written"), (b"k1", second, "removed")]
    assert events(stream, 2) == expected
    stream.cancel()
    again = request(namespace="watched", prefix=b"k", resume_token=begin.resume_token)
    stream = watch(again, timeout=DEADLINE)
    assert events(stream, 2) == expected
    stream.cancel()
    bad = request(namespace="watched", resume_token=b"nonsense")
    refused(grpc.StatusCode.INVALID_ARGUMENT, watch, bad, timeout=DEADLINE)


def large(contract):
    """A client with the default limit can read all answers but those named in the contract."""
    address = contract.address
    with grpc.insecure_channel(address) as channel:
        plain = Contract(contract.pool, channel, address)
        request = contract.message("WatchRequest")(namespace="large")
        stream = plain.method("Watch")(request, timeout=DEADLINE)
        next(stream)
        keys = [f"k{number:03}".encode() for number in range(1_000)]
        puts = [{"put": {"key": key, "value": bytes(4_100)}} for key in keys]
        version = plain.call("Write", namespace="large", operations=puts).version
        seen, partial = [], []
        while len(seen) < len(keys):
            response = next(stream)
            assert response.ByteSize() < DEFAULT_LIMIT
            assert all(event.version == version for event in response.events)
            seen += [event.key for event in response.events]
            if response.events:
                partial.append(response.is_partial)
        assert seen == keys and partial == [True] * (len(partial) - 1) + [False], partial
        stream.cancel()
        more = {"put": {"key": b"more", "value": bytes(1 << 20)}}
        plain.call("Write", namespace="large", operations=[more])
        reads = {"namespace": "large", "keys": [*keys[1:], b"more"]}
        try:
            plain.call("BatchGet", **reads)
            raise AssertionError("the answer did not exceed the client's default limit")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
    answer = contract.call("BatchGet", **reads)
    assert answer.ByteSize() > DEFAULT_LIMIT and all(read.found for read in answer.answers)


def session(contract):
    frame = contract.message("SessionRequest")
    answered = threading.Event()

    def frames():
        yield frame(
            operations=[
                {"id": 1, "put": {"key": b"s", "value": b"1"}},
                {"id": 2, "increment": {"key": b"n", "delta": 2}},
                {"id": 3, "write": {"operations": [{"put": {"key": b"t", "value": b"2"}}]}},
                {"id": 4},
            ]
        )
        answered.wait(DEADLINE)
        latest = {"consistency": 3}
        yield frame(
            operations=[
                {"id": 5, "get": {"key": b"s", "options": latest}},
                {"id": 6, "batch_get": {"keys": [b"t", b"n"], "options": latest}},
                {"id": 7, "delete": {"key": b"s"}},
                {"id": 8, "touch": {"key": b"t"}},
            ]
        )

    answers, greeting = {}, None
    for response in contract.method("Session")(frames(), timeout=DEADLINE):
        if response.HasField("greeting"):
            greeting = response.greeting
        for answer in response.answers:
            answers[answer.id] = answer
        if len(answers) == 4:
            answered.set()
    assert greeting.max_operations == 1_000 and greeting.platform_time_ms > 0, greeting
    kinds = [answers[id].WhichOneof("answer") for id in range(1, 9)]
    expected = ["put", "increment", "write", "error", "get", "batch_get", "delete", "touch"]
    assert kinds == expected, answers
    assert answers[5].get.value == b"1"
    assert [found.value for found in answers[6].batch_get.answers] == [b"2", b"2"]


def others(contract):
    request = contract.message("GetClusterRequest")()
    cluster = contract.method("GetCluster", "tierkv.v1.Admin")(request, timeout=DEADLINE)
    assert cluster.ListFields(), cluster


def main():
    how, address, *rest = sys.argv[1:]
    with grpc.insecure_channel(address, options=LARGE_ANSWERS) as channel:
        if how == "proto":
            contract = from_files(channel, address, rest[0])
        else:
            contract = from_reflection(channel, address)
        for part in [single_keys, writes, scans, watches, large, session, others]:
            part(contract)
            print(part.__name__, "as documented", flush=True)
    print("done")


if __name__ == "__main__":
    main()
