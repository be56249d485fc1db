#!/usr/bin/env python3
"""Turns a Debian package index into lines for `tierkv import`.

    apt-cache dumpavail | ops/packages-to-json.py | tierkv import --namespace packages -

Reads records separated by blank lines on standard input and prints one JSON line for
each: {"key": package name, "value": the unchanged record with its last newline}.
Keys and values that are not UTF-8 are in "key_base64" and "value_base64".

A package may be in the index several times: `apt-cache dumpavail` prints the candidate
version once for every architecture, the machine's own first. The first record of a name
wins, as at the top of `apt-cache show`; later ones are left out.

Memory holds one record and the names seen so far. Records without a name, or larger than
the limit of values, are left out and reported on standard error; the exit status is then 1.
"""

import base64
import json
import os
import sys

# The largest value that the platform accepts.
MAX_RECORD_BYTES = 1 << 20


def records(lines):
    """Yields (number of its first line, record) for each run of lines that aren't blank."""
    first, record = 1, []
    for number, line in enumerate(lines, 1):
        if line != b"\n":
            if not record:
                first = number
            record.append(line)
        elif record:
            yield first, b"".join(record)
            record = []
    if record:
        yield first, b"".join(record)


def name_of(record):
    """The value of the record's field Package, or None."""
    for line in record.split(b"\n"):
        if line[:8].lower() == b"package:":
            return line[8:].strip() or None
    return None


def field(name, data):
    """The data as a JSON field: text if it is UTF-8, else base64."""
    try:
        return name, data.decode("utf-8")
    except UnicodeDecodeError:
        return name + "_base64", base64.b64encode(data).decode("ascii")


def convert(source, target, complaints):
    """Converts all records; returns how many had to be left out."""
    seen, left_out = set(), 0
    for number, record in records(source):
        name = name_of(record)
        problem = None
        if name is None:
            problem = "the record has no field Package"
        elif len(record) > MAX_RECORD_BYTES:
            problem = f"the record has {len(record)} bytes, a value has at most {MAX_RECORD_BYTES}"
        if problem:
            print(f"line {number}: {problem}; it is left out", file=complaints)
            left_out += 1
        elif name not in seen:
            seen.add(name)
            line = dict((field("key", name), field("value", record)))
            target.write(json.dumps(line, ensure_ascii=False).encode("utf-8") + b"\n")
    return left_out


def main():
    try:
        left_out = convert(sys.stdin.buffer, sys.stdout.buffer, sys.stderr)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader closed the pipe; nothing more can be written, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 1 if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
