/** `log`, `emit` and `console`: log lines and events for the app's log. */

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
  console.log = console.info = console.debug = at('info');
  console.warn = at('warn');
  console.error = at('error');
  console.dir = (value, options) => writeLog('info', inspect(value, options));
  console.trace = (...parts) => {
    const trace = { name: 'Trace', message: format(...parts) };
    Error.captureStackTrace(trace, console.trace);
    writeLog('error', trace.stack);
  };
  console.assert = (holds, ...parts) => {
    if (holds) return;
    const text = parts.length > 0 ? `: ${format(...parts)}` : '';
    writeLog('warn', `Assertion failed${text}`);
  };
  // The rest (table, count, group, timers) calls these on `console`.
}
