// Calls every operation of the REST gateway with openapi-fetch, and with the types that
// openapi-typescript generates from the server's document.
//
//     node rest_client.js HOST:PORT
//
// Prints "done" and exits with 0 if every operation works as documented in docs/rest.md.

import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./tierkv.js";

type Problem = components["schemas"]["Problem"];
type WrittenEvent = components["schemas"]["WrittenEvent"];

const DEADLINE = 20_000;
const BYTES = Uint8Array.from({ length: 256 }, (_, index) => index);
const KEY = "/v1/kv/{namespace}/{key}";

const address = process.argv[2];
assert(address, "HOST:PORT is missing");
const tierkv = createClient<paths>({ baseUrl: `http://${address}` });
const namespace = "default";

/** A binary body: its generated type is `string`, and openapi-fetch would send it as JSON. */
function binary(bytes: Uint8Array) {
  return {
    body: bytes as unknown as string,
    bodySerializer: (body: unknown) => body as Uint8Array<ArrayBuffer>,
    headers: { "content-type": "application/octet-stream" },
  };
}

/** The answer of a call, which must have succeeded. */
function good<T>(answer: { data?: T; error?: unknown; response: Response }): T {
  assert.equal(answer.response.status, 200, JSON.stringify(answer.error));
  assert(answer.data !== undefined);
  return answer.data;
}

/** The problem document of a call, which must have failed with this status. */
function refused(status: number, answer: { error?: Problem; response: Response }): Problem {
  assert.equal(answer.response.status, status);
  assert(answer.error);
  assert.equal(answer.error.status, status);
  assert(answer.error.detail.length > 0);
  return answer.error;
}

function put(key: string, bytes: Uint8Array, header: { [name: string]: string } = {}) {
  return tierkv.PUT(KEY, { params: { path: { namespace, key }, header }, ...binary(bytes) });
}

async function read(key: string): Promise<Uint8Array> {
  const params = { path: { namespace, key }, query: { consistency: "latest" } } as const;
  const answer = await tierkv.GET(KEY, { params, parseAs: "arrayBuffer" });
  if (answer.error) throw new Error(answer.error.detail);
  // openapi-fetch has no `data` for an empty body.
  return new Uint8Array(answer.data ?? 0);
}

async function values() {
  for (const key of ["plain", "a/b c+d%e?ü#"]) {
    const answer = await put(key, BYTES);
    const { version } = good(answer);
    assert.equal(answer.response.headers.get("etag"), `"${version}"`);
    assert.deepEqual(await read(key), BYTES);
    const query = { consistency: "session", min_version: version } as const;
    const params = { path: { namespace, key }, query };
    const found = await tierkv.GET(KEY, { params, parseAs: "arrayBuffer" });
    assert.deepEqual(new Uint8Array(good(found)), BYTES);
  }
  const big = new Uint8Array(1 << 20).map((_, index) => index);
  good(await put("big", big));
  assert.deepEqual(await read("big"), big);
  const problem = refused(400, await put("big", new Uint8Array((1 << 20) + 1)));
  assert.match(problem.detail, /max_value_bytes/);
  const params = { path: { namespace, key: "short" }, query: { ttl: "60s" } };
  good(await tierkv.PUT(KEY, { params, ...binary(new Uint8Array()) }));
  const short = await tierkv.HEAD(KEY, { params: { path: { namespace, key: "short" } } });
  assert(Number(short.response.headers.get("tierkv-expires-at-ms")) > 0);
  assert.equal((await read("short")).length, 0);

  const absent = await tierkv.GET(KEY, {
    params: { path: { namespace, key: "absent" } },
    parseAs: "arrayBuffer",
  });
  assert.equal(refused(404, absent).code, "NotFound");
  assert(BigInt(absent.response.headers.get("tierkv-version") ?? 0) > 0n);
  const bad = { path: { namespace: "NO", key: "key" } };
  const text = await tierkv.GET(KEY, { params: bad, parseAs: "text" });
  assert.equal(refused(400, text).code, "InvalidArgument");
}

async function conditions() {
  const path = { namespace, key: "c" };
  const first = good(await put("c", BYTES, { "If-None-Match": "*" })).version;
  const taken = refused(412, await put("c", BYTES, { "If-None-Match": "*" }));
  assert.equal(taken.code, "ConditionFailed");
  const second = good(await put("c", BYTES, { "If-Match": `"${first}"` })).version;
  assert(BigInt(second) > BigInt(first));
  refused(412, await put("c", BYTES, { "If-Match": `"${first}"` }));
  const same = await tierkv.GET(KEY, {
    params: { path, header: { "If-None-Match": `"${second}"` } },
    parseAs: "arrayBuffer",
  });
  assert.equal(same.response.status, 304);
  const head = await tierkv.HEAD(KEY, { params: { path } });
  assert.equal(head.response.headers.get("etag"), `"${second}"`);
  const old = { path, header: { "If-Match": `"${first}"` } };
  refused(412, await tierkv.DELETE(KEY, { params: old }));
  const held = { path, header: { "If-Match": `"${second}"` } };
  assert.equal(good(await tierkv.DELETE(KEY, { params: held })).existed, true);
  assert.equal(good(await tierkv.DELETE(KEY, { params: { path } })).existed, false);
  assert.equal((await tierkv.HEAD(KEY, { params: { path } })).response.status, 404);
}

async function numbers() {
  const path = { namespace, key: "n" };
  const named = { path, header: { "Idempotency-Key": "6a2b9c1d" } };
  const increment = (delta: number | string, params: typeof named | { path: typeof path }) =>
    tierkv.POST("/v1/increment/{namespace}/{key}", { params, body: { delta } });
  const large = (2n ** 62n).toString();
  const once = good(await increment(large, named));
  assert.deepEqual(good(await increment(large, named)), once);
  assert.equal(once.value, large);
  assert.equal(good(await increment((-(2n ** 62n) - 5n).toString(), { path })).value, "-5");
  assert.equal(good(await increment(7, { path })).value, "2");
  const other = await put("n", BYTES, { "Idempotency-Key": "6a2b9c1d" });
  assert.equal(refused(422, other).code, "AlreadyExists");

  const touch = (key: string) =>
    tierkv.POST("/v1/touch/{namespace}/{key}", {
      params: { path: { namespace, key }, query: { ttl: "1h" } },
    });
  good(await put("t", BYTES));
  assert(BigInt(good(await touch("t")).version) > 0n);
  assert.deepEqual(await read("t"), BYTES);
  refused(404, await touch("absent"));
}

async function batches() {
  const base64 = Buffer.from(BYTES).toString("base64");
  const batch: components["schemas"]["WriteRequest"] = {
    conditions: [{ key: "bn", if_absent: true }],
    operations: [
      { put: { key_base64: "/w==", value_base64: base64 } },
      { increment: { key: "bn", delta: 3 } },
      { delete: { key: "t" } },
      { touch: { key: "n", ttl_ms: 60_000 } },
    ],
    return_previous: true,
  };
  const written = good(await tierkv.POST("/v1/write", { body: batch }));
  assert.equal(written.results[1]?.number, "3");
  assert.equal(written.results[2]?.previous_value_base64, base64);
  const problem = refused(412, await tierkv.POST("/v1/write", { body: batch }));
  assert.match(problem.detail, /the condition on/);

  const keys = [{ key_base64: "/w==" }, { key: "bn" }, { key: "." }];
  const body = { keys, consistency: "latest" } as const;
  const { answers } = good(await tierkv.POST("/v1/batch-get", { body }));
  assert.deepEqual(answers.map(({ found }) => found), [true, true, false]);
  assert.equal(answers[0]?.value_base64, base64);
  assert.equal(answers[1]?.version, written.version);
  refused(400, await tierkv.POST("/v1/batch-get", { body: { keys: [{ key: "" }] } }));
}

async function listings() {
  const path = { namespace: "listed" };
  const keys = Array.from({ length: 25 }, (_, number) => `k${String(number).padStart(2, "0")}`);
  for (const key of keys) {
    good(await tierkv.PUT(KEY, { params: { path: { ...path, key } }, ...binary(BYTES) }));
  }
  const seen: (string | undefined)[] = [];
  let token: string | undefined;
  do {
    const query = { prefix: "k", limit: 10, ...(token && { page_token: token }) };
    const page = good(await tierkv.GET("/v1/kv/{namespace}", { params: { path, query } }));
    seen.push(...page.items.map((item) => item.key));
    token = page.next_page_token;
  } while (token);
  assert.deepEqual(seen, keys);
  const count = (query: { prefix?: string; start?: string }) =>
    tierkv.GET("/v1/count/{namespace}", { params: { path, query } });
  assert.equal(good(await count({ prefix: "k1" })).count, 10);
  assert.equal(good(await count({ start: "k20" })).count, 5);
  refused(400, await count({ prefix: "k", start: "k" }));
}

/** The events of a watch, as they arrive. */
async function* events(stream: ReadableStream<Uint8Array>) {
  let text = "";
  const decoder = new TextDecoder();
  for await (const bytes of stream as ReadableStream<Uint8Array> & AsyncIterable<Uint8Array>) {
    text += decoder.decode(bytes, { stream: true });
    const parts = text.split("\n\n");
    text = parts.pop() ?? "";
    for (const part of parts) {
      const fields = part.split("\n").map((line) => line.split(/: (.*)/s, 2));
      yield new Map(fields.map(([name, value]) => [name, value]));
    }
  }
}

async function watches() {
  const watch = await tierkv.GET("/v1/watch/{namespace}", {
    params: { path: { namespace }, query: { prefix: "watched" } },
    parseAs: "stream",
    signal: AbortSignal.timeout(DEADLINE),
  });
  const stream = good(watch);
  assert(stream);
  let version: string | undefined;
  for await (const event of events(stream)) {
    // The first event arrives at once; the watch reports what is written after it.
    if (event.get("event") === "progress") {
      version ??= good(await put("watched", new TextEncoder().encode("new"))).version;
    }
    if (event.get("event") === "written") {
      const change = JSON.parse(event.get("data") ?? "") as WrittenEvent;
      assert.deepEqual(change, { key: "watched", value: "new", version });
      return;
    }
  }
  assert.fail("the watch ended");
}

async function operators() {
  const cluster = good(await tierkv.GET("/v1/cluster"));
  assert.equal(cluster.clusters[0]?.members[0]?.role, "master");
  assert.equal(good(await tierkv.GET("/health/live", { parseAs: "text" })), "live\n");
  assert.equal(good(await tierkv.GET("/health/ready", { parseAs: "text" })), "ready\n");
  assert.match(good(await tierkv.GET("/metrics", { parseAs: "text" })), /tierkv_/);
}

for (const part of [values, conditions, numbers, batches, listings, watches, operators]) {
  await part();
  console.log(part.name, "as documented");
}
console.log("done");
