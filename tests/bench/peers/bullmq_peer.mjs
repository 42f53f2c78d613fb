// BullMQ: jobs in Redis; 16 at a time, and 64 for calls that are waited for.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { main, note, require, url } from "./protocol.mjs";

const { Queue, QueueEvents, Worker } = require("bullmq");
const connection = { url, maxRetriesPerRequest: null };
const options = { removeOnComplete: 1000, removeOnFail: 1000 };
let queue;
const jobs = (name) => (queue ??= new Queue(name, { connection }));

// Calls per second and latencies of CLIENTS callers that wait for each answer.
async function rpc(clients, seconds) {
  const events = new QueueEvents("echo", { connection });
  await events.waitUntilReady();
  let latencies = [];
  let failed = 0;
  let until = 0;
  const call = async () => {
    do {
      const began = performance.now();
      const job = await jobs("echo").add("echo", { n: 1 }, options);
      const answer = await job.waitUntilFinished(events).catch(() => null);
      latencies.push(performance.now() - began);
      if (answer?.n !== 1) failed++;
    } while (performance.now() < until);
  };
  const all = () => Promise.all(Array.from({ length: clients }, call));
  await all();
  latencies = [];
  const began = performance.now();
  until = began + seconds * 1000;
  await all();
  const elapsed = (performance.now() - began) / 1000;
  return { rate: latencies.length / elapsed, latencies, failed };
}

// Milliseconds from the start of a worker process to its first answer.
async function cold(starts) {
  const events = new QueueEvents("echo", { connection });
  await events.waitUntilReady();
  const found = [];
  for (let n = 0; n < starts; n++) {
    const began = performance.now();
    const worker = spawn(process.execPath, [process.argv[1], "work"], { stdio: "ignore" });
    const job = await jobs("echo").add("echo", { n: 1 }, options);
    await job.waitUntilFinished(events);
    found.push(performance.now() - began);
    worker.kill();
    await once(worker, "exit");
  }
  return found;
}

await main({
  setup: () => undefined,
  work: () => {
    new Worker("note", async ({ data }) => note(data.number), { connection, concurrency: 16 });
    new Worker("echo", async ({ data }) => data, { connection, concurrency: 64 });
  },
  send: (number) => jobs("note").add("note", { number }, options),
  rpc,
  cold,
});
