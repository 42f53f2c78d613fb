// BullMQ: jobs in Redis; 16 at a time, and 64 for calls that are waited for.
import { main, note, require, url } from "./protocol.mjs";

const { Queue, QueueEvents, Worker } = require("bullmq");
const connection = { url, maxRetriesPerRequest: null };
const options = { removeOnComplete: true, removeOnFail: true };
let queue;
const jobs = (name) => (queue ??= new Queue(name, { connection }));

// Calls per second and latencies of CLIENTS callers that wait for each answer.
async function rpc(clients, seconds) {
  const events = new QueueEvents("echo", { connection });
  await events.waitUntilReady();
  const latencies = [];
  let failed = 0;
  const until = performance.now() + seconds * 1000;
  const call = async () => {
    do {
      const began = performance.now();
      const job = await jobs("echo").add("echo", { n: 1 }, options);
      const answer = await job.waitUntilFinished(events).catch(() => null);
      latencies.push(performance.now() - began);
      if (answer?.n !== 1) failed++;
    } while (performance.now() < until);
  };
  const began = performance.now();
  await Promise.all(Array.from({ length: clients }, call));
  const elapsed = (performance.now() - began) / 1000;
  return { rate: latencies.length / elapsed, latencies, failed };
}

await main({
  setup: () => undefined,
  work: () => {
    new Worker("note", async ({ data }) => note(data.number), { connection, concurrency: 16 });
    new Worker("echo", async ({ data }) => data, { connection, concurrency: 64 });
  },
  send: (number) => jobs("note").add("note", { number }, options),
  rpc,
});
