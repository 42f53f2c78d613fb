/** The way to the host: whole lines on descriptor 1, written synchronously. */

import { writeSync } from 'node:fs';
import { Writable } from 'node:stream';

import { toJSON } from './json.mjs';
import { TooLarge } from './errors.mjs';

const STDOUT = 1;
const FULL_PIPE_WAIT_MS = 2;
const sleeper = new Int32Array(new SharedArrayBuffer(4));

/** Longest line in bytes; the host's `discover` may lower or raise it. */
export const limits = { lineBytes: 8 * 1024 * 1024 };

/**
 * Write bytes to the host, waiting while the pipe is full.
 *
 * Blocking keeps memory bounded when a worker logs faster than the host reads, and lets nothing
 * get lost in a process that is about to exit.
 *
 * @param {Uint8Array} bytes
 */
function writeAll(bytes) {
  let rest = bytes;
  while (rest.length > 0) {
    try {
      rest = rest.subarray(writeSync(STDOUT, rest));
    } catch (error) {
      if (error.code === 'EPIPE') return; // the host is gone; the end of stdin ends us too
      if (error.code !== 'EAGAIN') throw error;
      // Somebody who shares the pipe made it non-blocking.
      Atomics.wait(sleeper, 0, 0, FULL_PIPE_WAIT_MS);
    }
  }
}

/**
 * Send one protocol message.
 *
 * @param {object} message
 * @throws {NotSerialisable} the message has no JSON form.
 * @throws {TooLarge} its line is over the limit.
 */
export function send(message) {
  const text = toJSON(message);
  // The first LF ends what a child process or native code may have written without one; the
  // host ignores blank lines.
  const line = Buffer.from(`\n${text}\n`);
  if (line.length - 2 > limits.lineBytes) throw new TooLarge();
  writeAll(line);
}

/** Stand-in for `process.stdout`: what is written to it reaches the host as it is. */
export class RawStdout extends Writable {
  constructor() {
    super({ decodeStrings: true });
    this.fd = STDOUT;
    this.isTTY = false;
  }

  _write(chunk, _encoding, done) {
    writeAll(chunk);
    done();
  }
}
