/** Operations: what the process asks of the host, and the host's answers. */

import { CALL_OVER, CallOver, HostError, HostTimeout, NotSerialisable, TooLarge } from './errors.mjs';
import { send } from './output.mjs';

/** Above 256 open operations the host stops reading; the rest waits here instead. */
const MAX_OPEN = 128;

/** Types of the host's answers. */
export const ANSWERS = new Set([
  'collection_op_result',
  'sql_query_result',
  'sql_exec_result',
  'sql_begin_result',
  'sql_end_result',
  'self_action_result',
  'storage_upload_url',
  'job_enqueue_result',
  'job_extend_result',
  'job_progress_result',
  'agent_tool_result',
]);

/** Actions of the platform that take as long as there is work. */
const UNHURRIED = new Set(['syncConnectedUsers']);

/** Time limit of an operation in ms; the host's `discover` may change it. */
export const timing = { answerMs: 30_000 };

const open = new Map();
const waiting = [];
let lastId = 0;

/**
 * Ask the host for something on behalf of a call.
 *
 * @param {?{token: ?string, over: boolean}} call the call it works for; null in a protocol-1
 *   script, whose only call in flight the host knows.
 * @param {string} type type of the operation.
 * @param {object} fields its other fields.
 * @returns {Promise<object>} the host's whole answer.
 * @throws {CallOver} the call has ended.
 * @throws {HostError} the host's error text.
 * @throws {HostTimeout} no answer in time.
 * @throws {TypeError} the fields have no JSON form or are too large.
 */
export async function request(call, type, fields) {
  if (open.size >= MAX_OPEN) await new Promise((resolve) => waiting.push(resolve));
  if (call?.over) {
    waiting.shift()?.();
    throw new CallOver();
  }
  const id = fields.call_id ?? `o${(lastId += 1)}`;
  const named = fields.call_id ? {} : { id };
  const token = call ? { call: call.token } : {};
  return new Promise((resolve, reject) => {
    // A tool call has its own name on the wire, and may wait for a person.
    const forever = fields.call_id || UNHURRIED.has(fields.action);
    const timer = forever ? null : setTimeout(() => expire(id), timing.answerMs);
    open.set(id, { resolve, reject, timer });
    try {
      send({ ...fields, type, ...named, ...token });
    } catch (error) {
      close(id)?.reject(unsendable(error));
    }
  });
}

/**
 * Hand an answer to the operation that waits for it; late and unknown ones are dropped.
 *
 * @param {object} message one of the `ANSWERS`.
 */
export function settle(message) {
  const operation = close(message.call_id ?? message.id);
  if (!operation) return;
  if (message.error === undefined || message.error === null) operation.resolve(message);
  else if (message.error === CALL_OVER) operation.reject(new CallOver());
  else operation.reject(new HostError(String(message.error)));
}

function close(id) {
  const operation = open.get(id);
  if (!operation) return undefined;
  open.delete(id);
  clearTimeout(operation.timer);
  waiting.shift()?.();
  return operation;
}

function expire(id) {
  const seconds = timing.answerMs / 1000;
  close(id)?.reject(new HostTimeout(`no answer from the host within ${seconds} s`));
}

function unsendable(error) {
  if (error instanceof NotSerialisable) {
    return new TypeError('arguments are not JSON serialisable', { cause: error });
  }
  return error instanceof TooLarge ? new TypeError(error.message) : error;
}
