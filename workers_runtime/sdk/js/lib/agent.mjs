/** Agent handlers: text chunks out while they run, the whole text at the end. */

import { send } from './output.mjs';

/**
 * Run an agent handler in whichever of its forms it has: a function that returns text, a promise
 * of it, or an (async) generator of chunks whose return value, if any, is the final text.
 *
 * @param {(invoke: object, ctx: object) => unknown} handler
 * @param {object} invoke the host's `agent_invoke` message.
 * @param {object} ctx
 * @param {object} call its `finished` is what `ctx.agentDone` set.
 * @returns {Promise<{response: string, tokens: ?number}>}
 */
export async function runAgent(handler, invoke, ctx, call) {
  const chunks = [];
  let returned = await handler(invoke, ctx);
  if (typeof returned?.next === 'function') {
    returned = await drain(returned, (text) => {
      chunks.push(text);
      send({ type: 'agent_chunk', invoke_id: invoke.invoke_id, delta: text });
    });
  }
  return call.finished ?? { response: finalText(returned, chunks), tokens: null };
}

/** Hand every chunk on as text; return what the generator returned. */
async function drain(generator, emit) {
  for (;;) {
    const { done, value } = await generator.next();
    if (done) return value;
    emit(String(value));
  }
}

function finalText(returned, chunks) {
  return returned === undefined || returned === null ? chunks.join('') : String(returned);
}
