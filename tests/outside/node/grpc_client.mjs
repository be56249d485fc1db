// Calls every operation of tierkv.v1 with @grpc/grpc-js, from the .proto files as read by
// @grpc/proto-loader.
//
//     node grpc_client.mjs HOST:PORT FOLDER
//
// Prints "done" and exits with 0 if every operation works as documented in the contract.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import grpc from "@grpc/grpc-js";
import { fromJSON, loadSync } from "@grpc/proto-loader";

const DEADLINE = 20_000;
const BYTES = Buffer.from(Uint8Array.from({ length: 256 }, (_, index) => index));

const [address, folder] = process.argv.slice(2);
const files = ["kv", "admin", "error"].map((name) => `tierkv/v1/${name}.proto`);
const loaded = loadSync(files, {
  includeDirs: [folder],
  keepCase: true,
  // 64-bit integers do not fit a JavaScript number.
  longs: String,
  enums: String,
  defaults: true,
  oneofs: true,
});
const { Kv, Admin } = grpc.loadPackageDefinition(loaded).tierkv.v1;
const kv = new Kv(address, grpc.credentials.createInsecure());
const admin = new Admin(address, grpc.credentials.createInsecure());
const called = new Set();

/** Calls a method with one answer. */
function call(name, request, client = kv) {
  called.add(name);
  return new Promise((resolve, reject) => {
    const deadline = Date.now() + DEADLINE;
    client[name](request, { deadline }, (error, answer) =>
      error ? reject(error) : resolve(answer),
    );
  });
}

/** Opens a stream of answers. */
function open(name, request) {
  called.add(name);
  return kv[name](request, { deadline: Date.now() + DEADLINE });
}

/** The types of a failed call's details: google.rpc.Status and google.protobuf.Any. */
const details = fromJSON({
  nested: {
    Status: { fields: { details: { rule: "repeated", type: "Any", id: 3 } } },
    Any: { fields: { type_url: { type: "string", id: 1 }, value: { type: "bytes", id: 2 } } },
  },
});

/** The tierkv.v1.Error of a failed call. */
function platformError(error) {
  const [bytes] = error.metadata.get("grpc-status-details-bin");
  assert(bytes, `${error} has no details`);
  const [any] = details.Status.deserialize(bytes).details;
  assert.equal(any.type_url, "type.googleapis.com/tierkv.v1.Error");
  return loaded["tierkv.v1.Error"].deserialize(any.value);
}

/** The message of the platform's error of a call that must fail with this status. */
async function refused(status, code, promise) {
  const error = await promise.then(
    (answer) => assert.fail(`the call succeeded: ${JSON.stringify(answer)}`),
    (error) => error,
  );
  assert.equal(error.code, status, error);
  const detail = platformError(error);
  assert.equal(detail.code, code);
  assert.equal(detail.message, error.details);
  return detail.message;
}

const { status } = grpc;

async function singleKeys() {
  const key = Buffer.from("a");
  assert.equal((await call("Get", { key })).found, false);
  const { version } = await call("Put", { key, value: BYTES });
  assert.equal(typeof version, "string");
  const session = { consistency: "CONSISTENCY_SESSION", min_version: version };
  const read = await call("Get", { key, options: session });
  assert.deepEqual([read.found, read.value, read.version], [true, BYTES, version]);
  const latest = { consistency: "CONSISTENCY_LATEST" };
  const explained = await call("Get", { key, options: { ...latest, explain: true } });
  assert.equal(explained.path.at(-1).tier, "datanode");
  assert.equal(explained.source, "SOURCE_MASTER");

  const big = Buffer.alloc(1 << 20, BYTES);
  await call("Put", { key: BYTES, value: big, ttl_ms: 60_000 });
  const found = await call("Get", { key: BYTES, options: latest });
  assert(found.value.equals(big));
  assert(BigInt(found.expires_at_ms) > 0n);
  await call("Touch", { key: BYTES });
  assert.equal((await call("Get", { key: BYTES, options: latest })).expires_at_ms, "0");
  const more = { key, value: Buffer.alloc((1 << 20) + 1) };
  const words = await refused(
    status.INVALID_ARGUMENT,
    "CODE_INVALID_ARGUMENT",
    call("Put", more),
  );
  assert.match(words, /max_value_bytes/);

  const n = Buffer.from("n");
  const large = (2n ** 62n).toString();
  assert.equal((await call("Increment", { key: n, delta: large })).value, large);
  const least = await call("Increment", { key: n, delta: (-(2n ** 62n) - 5n).toString() });
  assert.equal(least.value, "-5");
  const keys = [n, Buffer.from("absent"), BYTES];
  const { answers } = await call("BatchGet", { keys, options: latest });
  assert.deepEqual(answers.map((answer) => answer.found), [true, false, true]);
  assert.equal(answers[0].value.toString(), "-5");
  const absent = call("Touch", { key: Buffer.from("absent"), ttl_ms: 1 });
  await refused(status.NOT_FOUND, "CODE_NOT_FOUND", absent);
  await refused(status.INVALID_ARGUMENT, "CODE_INVALID_ARGUMENT", call("Get", {}));
  assert.equal((await call("Delete", { key: BYTES })).existed, true);
  assert.equal((await call("Delete", { key: BYTES })).existed, false);
}

async function writes() {
  const batch = {
    conditions: [{ key: Buffer.from("w1"), if_absent: {} }],
    operations: [
      { put: { key: Buffer.from("w1"), value: BYTES } },
      { increment: { key: Buffer.from("w2"), delta: "5" } },
      { delete: { key: Buffer.from("absent") } },
      { touch: { key: Buffer.from("a"), ttl_ms: 60_000 } },
    ],
    return_previous: true,
  };
  const answer = await call("Write", batch);
  assert.equal(answer.results[1].number, "5");
  assert.deepEqual(answer.results[3].previous_value, BYTES);
  const failed = refused(
    status.FAILED_PRECONDITION,
    "CODE_CONDITION_FAILED",
    call("Write", batch),
  );
  assert.match(await failed, /the condition on/);
  // Sent twice, applied once.
  const birth_ms = (BigInt(answer.version) >> 16n).toString();
  const again = {
    conditions: [{ key: Buffer.from("w1"), if_version: answer.version }],
    operations: [{ increment: { key: Buffer.from("w2"), delta: 1 } }],
    request_id: { random: randomBytes(16), birth_ms },
  };
  const [first, second] = [await call("Write", again), await call("Write", again)];
  assert.deepEqual([first.replayed, second.replayed], [false, true]);
  assert.deepEqual([first.results[0].number, second.results[0].number], ["6", "6"]);
  assert.equal(first.version, second.version);
}

/** The items of a scan and its page token. */
async function scan(request) {
  const items = [];
  let token;
  for await (const response of open("Scan", { namespace: "scanned", ...request })) {
    items.push(...response.items);
    token = response.next_page_token;
  }
  return [items.map((item) => item.key.toString()), token, items];
}

async function scans() {
  const keys = Array.from({ length: 150 }, (_, i) => `k${String(i).padStart(3, "0")}`);
  const put = (key) =>
    call("Put", { namespace: "scanned", key: Buffer.from(key), value: BYTES });
  await Promise.all(keys.map(put));
  const prefix = Buffer.from("k");
  const [seen, , items] = await scan({ prefix });
  assert.deepEqual(seen, keys);
  assert(items.every((item) => item.value.equals(BYTES)));
  const paged = [];
  let page_token = Buffer.alloc(0);
  do {
    const [page, token] = await scan({ prefix, limit: 99, page_token });
    paged.push(...page);
    page_token = token;
  } while (page_token.length > 0);
  assert.deepEqual(paged, keys);
  const range = { start: Buffer.from("k010"), end: Buffer.from("k020") };
  assert.equal((await call("Count", { namespace: "scanned", range })).count, "10");
  // The empty prefix selects all keys.
  const all = { namespace: "scanned", prefix: Buffer.alloc(0) };
  assert.equal((await call("Count", all)).count, "150");
  const bad = scan({ prefix, page_token: Buffer.from("nonsense") });
  await refused(status.INVALID_ARGUMENT, "CODE_INVALID_ARGUMENT", bad);
  await refused(status.INVALID_ARGUMENT, "CODE_INVALID_ARGUMENT", scan({}));
}

/** The first `count` events of a watch, and its first resume token. */
async function firstEvents(stream, count, whenOpen) {
  const responses = stream[Symbol.asyncIterator]();
  // The first response arrives at once; the watch reports what is written after it.
  const { value: begin } = await responses.next();
  await whenOpen?.();
  const received = [...begin.events];
  while (received.length < count) received.push(...(await responses.next()).value.events);
  stream.cancel();
  await assert.rejects(responses.next(), { code: status.CANCELLED });
  const events = received.map((event) => [event.key.toString(), event.version, event.kind]);
  return [events, begin.resume_token];
}

async function watches() {
  const watched = { namespace: "watched", prefix: Buffer.from("k") };
  const key = Buffer.from("k1");
  const versions = [];
  const [changes, token] = await firstEvents(open("Watch", watched), 2, async () => {
    const put = { namespace: "watched", key, value: BYTES };
    versions.push((await call("Put", put)).version);
    await call("Put", { ...put, key: Buffer.from("other") });
    versions.push((await call("Delete", { namespace: "watched", key })).version);
  });
  const expected = [
    ["k1", versions[0], "written"],
    ["k1", versions[1], "removed"],
  ];
  assert.deepEqual(changes, expected);
  const [again] = await firstEvents(open("Watch", { ...watched, resume_token: token }), 2);
  assert.deepEqual(again, expected);
  const bad = open("Watch", { ...watched, resume_token: Buffer.from("nonsense") });
  const read = bad[Symbol.asyncIterator]().next();
  await refused(status.INVALID_ARGUMENT, "CODE_INVALID_ARGUMENT", read);
}

async function session() {
  called.add("Session");
  const stream = kv.Session({ deadline: Date.now() + DEADLINE });
  const options = { consistency: "CONSISTENCY_LATEST" };
  const [s, t, n] = ["s", "t", "n2"].map((name) => Buffer.from(name));
  stream.write({
    operations: [
      { id: "1", put: { key: s, value: BYTES } },
      { id: "2", increment: { key: n, delta: 2 } },
      { id: "3", write: { operations: [{ put: { key: t, value: Buffer.from("2") } }] } },
      { id: "18446744073709551615" },
    ],
  });
  const answers = new Map();
  let greeting;
  for await (const response of stream) {
    greeting ??= response.greeting;
    for (const answer of response.answers) answers.set(answer.id, answer);
    if (answers.size === 4 && stream.writable) {
      stream.write({
        operations: [
          { id: "5", get: { key: s, options } },
          { id: "6", batch_get: { keys: [t, n], options } },
          { id: "7", delete: { key: s } },
          { id: "8", touch: { key: t } },
        ],
      });
      stream.end();
    }
  }
  assert.equal(greeting.max_operations, 1_000);
  assert(BigInt(greeting.platform_time_ms) > 0n);
  const ids = ["1", "2", "3", "18446744073709551615", "5", "6", "7", "8"];
  const kinds = ids.map((id) => answers.get(id).answer);
  const expected = ["put", "increment", "write", "error", "get", "batch_get", "delete", "touch"];
  assert.deepEqual(kinds, expected);
  assert.equal(answers.get("18446744073709551615").error.code, "CODE_INVALID_ARGUMENT");
  assert.deepEqual(answers.get("5").get.value, BYTES);
  const many = answers.get("6").batch_get.answers.map((answer) => answer.value.toString());
  assert.deepEqual(many, ["2", "2"]);
}

async function operators() {
  const cluster = await call("GetCluster", {}, admin);
  assert.equal(cluster.clusters[0].members[0].role, "NODE_ROLE_MASTER");
  const set = { max_records: "9007199254740993", policy: "EVICTION_POLICY_LRU" };
  const changed = await call("SetMemory", { set }, admin);
  assert.equal(changed.set.max_records, set.max_records);
  const shown = await call("GetMemory", {}, admin);
  assert.equal(shown.revision, changed.revision);
  assert.equal(shown.nodes.length, 1);
  assert.equal((await call("SetMemory", { reset: {} }, admin)).set?.max_records ?? "0", "0");
  const nothing = call("SetMemory", {}, admin);
  await refused(status.INVALID_ARGUMENT, "CODE_INVALID_ARGUMENT", nothing);
  const { id, master, failover_ms } = cluster.clusters[0];
  const same = { cluster: id, set_failover: { failover_ms } };
  assert.ok(!(await call("ChangeCluster", same, admin)).changed);
  const here = await call("HandOver", { cluster: id, to: master }, admin);
  assert.equal(here.master, master);
  assert.ok(!here.changed);
}

for (const part of [singleKeys, writes, scans, watches, session, operators]) {
  await part();
  console.log(part.name, "as documented");
}
kv.close();
admin.close();
const methods = [Kv, Admin].flatMap(({ service }) => Object.keys(service));
assert.deepEqual([...called].sort(), methods.sort());
console.log("done");
