// What all peers from npm do alike; see protocol.py. The packages are those of the working folder.
import fs from "node:fs";
import { createRequire } from "node:module";

export const require = createRequire(`${process.cwd()}/`);
export const url = process.env.PEER_URL;
const notes = fs.openSync(process.env.PEER_NOTES, "a");
const now = () => (performance.timeOrigin + performance.now()) / 1000;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export function note(number) {
  fs.writeSync(notes, `${number} ${now().toFixed(6)}\n`);
}

// Returns once it is written: on a pipe console.log alone would lose what exit() overtakes.
const answer = (value) =>
  new Promise((resolve) => process.stdout.write(`${JSON.stringify(value)}\n`, resolve));

// Calls one(k) for k of [from, to), several at a time.
async function each(from, to, parallel, one) {
  let next = from;
  const lane = async () => {
    while (next < to) await one(next++);
  };
  await Promise.all(Array.from({ length: parallel }, lane));
}

export async function main({ setup, work, send, ...more }) {
  const [command, ...numbers] = process.argv.slice(2);
  const [count, parallel] = numbers.map(Number);
  if (command === "fill") {
    await each(-parallel, 0, parallel, send);
    const began = performance.now();
    await each(0, count, parallel, send);
    await answer((performance.now() - began) / 1000);
  } else if (command === "trickle") {
    const begun = [];
    for (let number = 0; number < count; number++) {
      begun.push(now());
      await send(number);
      await sleep(20);
    }
    await answer(begun);
  } else {
    const result = await { setup, work, ...more }[command](...numbers.map(Number));
    if (result !== undefined) await answer(result);
  }
  if (command !== "work") process.exit(0);
}
