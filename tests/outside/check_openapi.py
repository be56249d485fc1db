"""Checks that a server's /openapi.json is a valid OpenAPI document.

    check_openapi.py HOST:PORT

Prints "done" and exits with 0 if it is valid.
"""

import json
import sys
import urllib.request

from openapi_spec_validator import OpenAPIV31SpecValidator

DEADLINE = 20


def main(address):
    with urllib.request.urlopen(f"http://{address}/openapi.json", timeout=DEADLINE) as answer:
        document = json.load(answer)
    broken = list(OpenAPIV31SpecValidator(document).iter_errors())
    for error in broken:
        print(f"{'/'.join(map(str, error.absolute_path))}: {error.message}", file=sys.stderr)
    if broken:
        return 1
    print("done")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
