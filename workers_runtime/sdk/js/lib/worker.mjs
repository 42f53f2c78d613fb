/** The worker: answers the host's messages with the registered handlers. */

import { AsyncLocalStorage } from 'node:async_hooks';

import { runAgent } from './agent.mjs';
import { makeContext } from './context.mjs';
import { NotSerialisable, Reject, Retry, TooLarge, errorDetail, errorText } from './errors.mjs';
import { readHandlers } from './handlers.mjs';
import { writeLog } from './logging.mjs';
import { ANSWERS, settle, timing } from './operations.mjs';
import { limits, send } from './output.mjs';
import { uploadFile } from './upload.mjs';

/** The host allows 5 s from `shutdown` to exit. */
const SHUTDOWN_MS = 4500;

/** State and behaviour of this process towards the host. */
export class Worker {
  #app = null;
  #handlers = null;
  #announced = false;
  #stopping = false;
  #startMs = 30_000;
  #running = new Set();
  #current = new AsyncLocalStorage();
  #started = null;

  /** Whether `serve` was called; if not, this is a protocol-1 script. */
  get serving() {
    return this.#handlers !== null;
  }

  /**
   * Register the handlers.
   *
   * @throws {Error} called a second time.
   * @throws {TypeError} the arguments are none of the accepted forms.
   */
  serve(args) {
    if (this.serving) throw new Error('serve() called twice');
    this.#handlers = readHandlers(args, (text) => writeLog('warn', text));
    this.#announce();
  }

  /** Store a file for the call that the calling code runs in. */
  async uploadFile(content, name, type) {
    const call = this.#current.getStore() ?? null;
    if (!call && this.serving) throw new Error('uploadFile() called outside a call');
    return uploadFile(call, this.#app?.runtime_url, content, name, type);
  }

  /**
   * Handle one line of the host.
   *
   * @param {string} line
   */
  receive(line) {
    const message = parse(line);
    if (message === null) return;
    if (ANSWERS.has(message.type)) settle(message);
    else if (message.type === 'discover') this.#discover(message);
    else if (this.serving) this.#dispatch(message);
  }

  /** Run `onShutdown`, let open calls finish within the grace, and exit. */
  async shutdown() {
    if (this.#stopping) return;
    this.#stopping = true;
    const { onShutdown } = this.#handlers;
    const hook = this.#guard('onShutdown', async () => onShutdown?.());
    const all = Promise.allSettled([hook, ...this.#running]);
    await Promise.race([all, sleep(SHUTDOWN_MS)]);
    process.exit(0);
  }

  #discover(message) {
    if (this.#app !== null) return;
    this.#app = { ...message, credentials: Object.freeze({ ...message.credentials }) };
    limits.lineBytes = message.limits?.max_line_bytes ?? limits.lineBytes;
    timing.answerMs = message.limits?.call_timeout_ms ?? timing.answerMs;
    this.#startMs = message.limits?.rpc_timeout_ms ?? this.#startMs;
    this.#announce();
  }

  /** Answer `discover` once both it and the handlers are here, then run `onStart`. */
  #announce() {
    if (this.#announced || this.#app === null || !this.serving) return;
    this.#announced = true;
    surviveRejections();
    const capabilities = this.#handlers.agent ? ['agent'] : [];
    send({ type: 'discover', protocol: 2, methods: [...this.#handlers.rpc.keys()], capabilities });
    this.#started = this.#start();
  }

  async #start() {
    const { onStart } = this.#handlers;
    let failure = null;
    if (onStart && this.#app.run_onstart === true) {
      const call = makeCall(this.#app);
      const work = this.#guard('onStart', () => this.#run(call, (ctx) => onStart(ctx)));
      failure = await Promise.race([work, this.#startLimit()]);
      call.over = true;
    }
    send(failure === null ? { type: 'started' } : { type: 'started', error: failure });
  }

  /** A start that hangs must not hold back every call for good. */
  async #startLimit() {
    await sleep(this.#startMs);
    return `onStart did not finish within ${this.#startMs / 1000} s`;
  }

  #dispatch(message) {
    if (message.type === 'rpc') this.#track(this.#rpc(message));
    else if (message.type === 'job') this.#track(this.#job(message));
    else if (message.type === 'shutdown') this.shutdown();
    else if (message.type === 'agent_invoke') this.#track(this.#agent(message));
  }

  #track(work) {
    this.#running.add(work);
    work.finally(() => this.#running.delete(work));
  }

  async #rpc(message) {
    const method = this.#handlers.rpc.get(message.method);
    const answer = { type: 'rpc_response', id: message.id };
    if (!method) {
      send({ ...answer, error: `unknown method: ${message.method}` });
      return;
    }
    const call = makeCall(message);
    const handle = (ctx) => method(message.params, call.caller, ctx);
    await this.#answer(answer, message.method, call, handle);
  }

  async #job(message) {
    const { onJob } = this.#handlers;
    const answer = { type: 'job_result', id: message.id, call: message.call };
    if (!onJob) {
      writeLog('warn', `job ${message.id} acknowledged: this worker has no onJob`);
      send({ ...answer, result: { ok: true } });
      return;
    }
    const call = makeCall(message, message);
    const handle = async (ctx) => {
      try {
        const result = await onJob(message.payload, call.caller, ctx);
        return result === undefined ? { ok: true } : result;
      } catch (thrown) {
        if (thrown instanceof Retry || thrown instanceof Reject) return { $job: thrown.order };
        throw thrown;
      }
    };
    await this.#answer(answer, 'onJob', call, handle);
  }

  async #agent(message) {
    const { agent } = this.#handlers;
    const head = { invoke_id: message.invoke_id };
    if (!agent) {
      send({ ...head, type: 'agent_error', error: 'this worker has no agent handler' });
      return;
    }
    const call = makeCall(message);
    await this.#started;
    let answer = null;
    const error = await this.#guard('agent', async () => {
      answer = await this.#run(call, (ctx) => runAgent(agent, message, ctx, call));
    });
    call.over = true;
    if (error !== null) send({ ...head, type: 'agent_error', error });
    else sendAgentDone(head, answer);
  }

  /** Run a handler and send its result or error. */
  async #answer(answer, where, call, handle) {
    await this.#started;
    let result = null;
    const work = async () => {
      result = await this.#run(call, handle);
    };
    const error = await this.#guard(where, work);
    call.over = true;
    if (error !== null) send({ ...answer, error });
    else sendResult(answer, result, where);
  }

  /** Run a handler with its `ctx`; code it starts finds the call again. */
  #run(call, handle) {
    const ctx = makeContext(this.#app, call);
    return this.#current.run(call, async () => handle(ctx));
  }

  /** Run something of the author's; return its error text, or null when it went well. */
  async #guard(where, work) {
    try {
      await work();
      return null;
    } catch (error) {
      writeLog('error', `${where}: ${errorDetail(error)}`);
      await this.#report(error, where);
      return errorText(error);
    }
  }

  async #report(error, where) {
    try {
      await this.#handlers.onError?.(error, where);
    } catch (second) {
      writeLog('error', `onError: ${errorDetail(second)}`);
    }
  }
}

function makeCall(message, job = null) {
  const { call: token, caller = null, invoke_id: invokeId = null } = message;
  return { token, over: false, caller, job, invokeId, finished: null };
}

function sendResult(answer, result, where) {
  try {
    if (typeof result === 'function' || typeof result === 'symbol') {
      // JSON.stringify would leave it out, and the caller would see null.
      throw new NotSerialisable(`a ${typeof result} has no JSON form`);
    }
    send({ ...answer, result: result === undefined ? null : result });
  } catch (error) {
    if (error instanceof TooLarge) send({ ...answer, error: 'result too large' });
    else if (error instanceof NotSerialisable) {
      writeLog('error', `${where}: result is not JSON serialisable: ${error.message}`);
      send({ ...answer, error: 'result is not JSON serialisable' });
    } else throw error;
  }
}

function sendAgentDone(head, answer) {
  try {
    send({ ...head, ...answer, type: 'agent_done' });
  } catch (error) {
    if (!(error instanceof TooLarge)) throw error;
    send({ ...head, type: 'agent_error', error: 'result too large' });
  }
}

/** A promise that one call forgot must not end the calls of everybody else. */
function surviveRejections() {
  process.on('unhandledRejection', (reason) => {
    writeLog('error', `unhandled rejection: ${errorDetail(reason)}`);
  });
}

function parse(line) {
  if (line.trim() === '') return null;
  try {
    const message = JSON.parse(line);
    return typeof message === 'object' && !Array.isArray(message) ? message : null;
  } catch {
    return null;
  }
}

function sleep(milliseconds) {
  return new Promise((resolve) => {
    // A waiting limit alone must not keep the process alive.
    setTimeout(resolve, milliseconds).unref();
  });
}
