/** `ctx`: what a handler may do on behalf of its call. */

import { randomUUID } from 'node:crypto';

import { CallOver, HostError, ToolError } from './errors.mjs';
import { emit, log } from './logging.mjs';
import { request } from './operations.mjs';
import { uploadFile } from './upload.mjs';

/**
 * Make the `ctx` of one call. Its operations reject with `CallOver` once the call has ended.
 *
 * @param {object} app the host's `discover` message.
 * @param {{token: string, over: boolean, caller: ?object, job: ?object, invokeId: ?string}} call
 */
export function makeContext(app, call) {
  const ask = (type, fields) => request(call, type, fields);
  const selfAction = async (action, params = {}) =>
    (await ask('self_action', { action, params })).result;
  return Object.freeze({
    appId: app.app_id,
    runtimeUrl: app.runtime_url,
    deploymentId: app.deployment_id ?? null,
    credentials: app.credentials,
    agentConfig: app.agent_config ?? null,
    manifest: app.manifest ?? null,
    caller: call.caller,
    job: call.job ? makeJob(ask, call.job) : null,
    log,
    emit,
    selfAction,
    sql: async (text, params = []) => rowsOf(await ask('sql_query', { sql: text, params })),
    transaction: (body) => transaction(call, ask, body),
    collection: (entity) => makeCollection(ask, entity),
    enqueue: async (payload, options) => enqueue(ask, payload, options),
    uploadFile: (content, name, type) => uploadFile(call, app.runtime_url, content, name, type),
    action: (name, input = {}) => selfAction('triggerAction', { actionName: name, input }),
    callIntegration: (integrationId, action, input = {}, asUser = undefined) =>
      selfAction('call_integration', { integrationId, action, input, asUser }),
    callTool: (name, args = {}) => callTool(call, ask, name, args),
    agentDone: (response, tokens = null) => {
      if (call.over) throw new CallOver();
      call.finished = { response: String(response), tokens };
    },
  });
}

function rowsOf(answer) {
  const { columns = [], rows = [], row_count: rowCount = rows.length } = answer;
  return { columns, rows, rowCount };
}

/** Use a tool in an agent run; waits as long as an approval takes. */
async function callTool(call, ask, name, args) {
  const fields = { invoke_id: call.invokeId, call_id: randomUUID(), tool_name: name, args };
  try {
    return (await ask('agent_tool_call', fields)).result;
  } catch (error) {
    if (!(error instanceof HostError) || error instanceof CallOver) throw error;
    throw new ToolError(error.message);
  }
}

async function enqueue(ask, payload, options = {}) {
  const delay = options?.delay;
  const fields = delay === undefined || delay === null ? { payload } : { payload, delay };
  return (await ask('job_enqueue', fields)).msg_id;
}

/** A `job` message as `ctx.job`. */
function makeJob(ask, message) {
  const meta = message.meta ?? {};
  return Object.freeze({
    id: message.id,
    readCt: meta.read_ct ?? null,
    enqueuedAt: meta.enqueued_at ?? null,
    source: meta.source ?? null,
    cronId: meta.cron_id ?? null,
    extend: async (seconds) => {
      await ask('job_extend', { job_id: message.id, seconds });
    },
    progress: async (progress, note = undefined) => {
      await ask('job_progress', { job_id: message.id, progress, note });
    },
  });
}

function makeCollection(ask, entity) {
  const run = async (op, data, options) =>
    (await ask('collection_op', { op, entity, data, options })).result;
  return Object.freeze({
    insert: (data) => run('insert', data),
    update: (data) => run('update', data),
    delete: (id) => run('delete', { id }),
    find: (where = {}, options = undefined) => run('find', where, findOptions(options)),
    findOne: (where = {}) => run('findOne', where),
  });
}

/** Options in the wire's names; `orderBy` is the JavaScript spelling. */
function findOptions(options) {
  if (options === undefined || options === null) return undefined;
  const { orderBy, ...rest } = options;
  return orderBy === undefined ? rest : { ...rest, order_by: orderBy };
}

async function transaction(call, ask, body) {
  const { tx_id: txId } = await ask('sql_begin', {});
  let active = true;
  const sql = async (text, params = []) => {
    if (call.over) throw new CallOver();
    if (!active) throw new Error('no open transaction');
    return rowsOf(await ask('sql_exec', { tx_id: txId, sql: text, params }));
  };
  let value;
  try {
    value = await body(Object.freeze({ sql }));
  } catch (error) {
    active = false;
    // The host rolls back at the end of the call in any case; the author's error matters more.
    await ask('sql_rollback', { tx_id: txId }).catch(() => {});
    throw error;
  }
  active = false;
  await ask('sql_commit', { tx_id: txId });
  return value;
}
