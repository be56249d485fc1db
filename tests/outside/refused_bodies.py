"""Sends large bodies that the server refuses before it reads them, and reads the answers.

    refused_bodies.py HOST:PORT BYTES '[[METHOD, PATH, [[NAME, VALUE], ...], STATUS], ...]'

Each is sent by http.client and by requests, with a length and in chunks. Prints "done" and
exits with 0 if every answer was read.
"""

import http.client
import json
import sys

import requests

PIECE = b"x" * 65536


def pieces(size):
    for _ in range(size // len(PIECE)):
        yield PIECE


def by_http_client(address, method, path, headers, body, chunked):
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request(method, path, body=body, headers=headers, encode_chunked=chunked)
    answer = connection.getresponse()
    reply = answer.status, json.loads(answer.read())
    connection.close()
    return reply


def by_requests(address, method, path, headers, body):
    answer = requests.request(
        method, f"http://{address}{path}", headers=headers, data=body, timeout=60
    )
    return answer.status_code, answer.json()


def main(address, size, refused):
    size = int(size)
    whole = PIECE * (size // len(PIECE))
    for method, path, headers, status in json.loads(refused):
        headers = dict(headers)
        coded = {**headers, "transfer-encoding": "chunked"}
        for name, (found, problem) in {
            "http.client": by_http_client(address, method, path, headers, whole, False),
            "http.client, chunked": by_http_client(
                address, method, path, coded, pieces(size), True
            ),
            "requests": by_requests(address, method, path, headers, whole),
            "requests, chunked": by_requests(address, method, path, headers, pieces(size)),
        }.items():
            assert found == status, (name, method, path, headers, found, problem)
            assert problem["detail"], (name, method, path, problem)
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
