/** `log`, `emit` and `console`: log lines and events for the app's log. */

import { Writable } from 'node:stream';
import { format, inspect } from 'node:util';

import { NotSerialisable, TooLarge } from './errors.mjs';
import { send } from './output.mjs';

const MAX_MESSAGE_CHARS = 8192;

/**
 * Send one log line, cut at 8192 characters.
 *
 * @param {'debug'|'info'|'warn'|'error'} level
 * @param {string} message
 */
export function writeLog(level, message) {
  send({ type: 'log', level, message: message.slice(0, MAX_MESSAGE_CHARS) });
}

/** Formats like `console.log` does. */
const at =
  (level) =>
  (...parts) =>
    writeLog(level, format(...parts));

/** The global `log` and `ctx.log`. */
export const log = Object.freeze({
  debug: at('debug'),
  info: at('info'),
  log: at('info'),
  warn: at('warn'),
  warning: at('warn'),
  error: at('error'),
});

/**
 * Send an event to the app's log.
 *
 * @param {string} name
 * @param {unknown} [data]
 * @throws {TypeError} the name is not text, or the data has no JSON form or is too large.
 */
export function emit(name, data = {}) {
  if (typeof name !== 'string' || name === '') throw new TypeError('event name must be text');
  try {
    send({ type: 'event', name, data });
  } catch (error) {
    if (error instanceof NotSerialisable) {
      throw new TypeError('event data is not JSON serialisable', { cause: error });
    }
    if (error instanceof TooLarge) throw new TypeError('event data too large', { cause: error });
    throw error;
  }
}

/** Send what goes to the console to the log. */
export function rerouteConsole() {
  const { console } = globalThis;
  const rest = new console.Console({ stdout: new LogSink(), stderr: new LogSink() });
  for (const name of ['table', 'count', 'countReset', 'time', 'timeLog', 'timeEnd']) {
    console[name] = (...args) => rest[name](...args);
  }
  console.log = console.info = console.debug = console.group = at('info');
  console.warn = at('warn');
  console.error = at('error');
  console.dir = (value, options) => writeLog('info', inspect(value, options));
  console.trace = (...parts) => writeLog('error', traceOf(format(...parts)));
  console.assert = (holds, ...parts) => {
    if (holds) return;
    const text = parts.length > 0 ? `: ${format(...parts)}` : '';
    writeLog('warn', `Assertion failed${text}`);
  };
}

/** Takes whole texts of a Console; each becomes one log line. */
class LogSink extends Writable {
  _write(chunk, _encoding, done) {
    writeLog('info', chunk.toString().replace(/\n$/, ''));
    done();
  }
}

/** The calling code's stack under a heading, as Node prints it. */
function traceOf(text) {
  const frames = (new Error().stack ?? '').split('\n').filter((line) => /^\s+at /.test(line));
  return [text === '' ? 'Trace' : `Trace: ${text}`, ...frames.slice(2)].join('\n');
}
