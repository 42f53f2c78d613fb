// The same app as main.py, for the conformance suite.
import { writeSync } from 'node:fs';

let started = 0;
let kept = null;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const rpc = {
  echo: (params) => params,
  nothing: () => {},
  noArguments: () => 'none',
  oneArgument: (params) => [params],
  twoArguments: (params, caller) => [params, caller && caller.userId],
  async threeArguments(params, caller, ctx) {
    return [params, caller && caller.userId, ctx.appId];
  },
  whoami: (params, caller) => (caller ? [caller.userId, caller.email, caller.authToken] : null),
  context: (params, caller, ctx) => ({
    app: ctx.appId,
    url: ctx.runtimeUrl,
    secrets: ctx.credentials,
    manifest: ctx.manifest,
    agent: ctx.agentConfig,
    job: ctx.job,
  }),
  fail: (params) => {
    throw new Error(params);
  },
  async failLater(params) {
    await sleep(1);
    throw new Error(params);
  },
  failEmpty: () => {
    throw new TypeError();
  },
  async waitAsync(params) {
    await sleep(params * 1000);
    return params;
  },
  big: (params) => 'x'.repeat(params),
  cyclic: () => {
    const value = {};
    value.self = value;
    return value;
  },
  rich: () => ({
    when: new Date('2025-03-01T08:00:00Z'),
    bytes: new Uint8Array([1, 2, 255]),
    set: new Set([1]),
    text: 'grün 🌿',
  }),
  say: (params) => {
    console.log(params);
    console.error('to stderr');
  },
  logAll: (params, caller, ctx) => {
    for (const level of ['debug', 'info', 'warn', 'error']) ctx.log[level](`at ${level}`);
    ctx.log.warning('number %d', 7);
  },
  longLog: (params, caller, ctx) => ctx.log.info('y'.repeat(20000)),
  stray: () => {
    writeSync(1, 'half a line');
    return 'clean';
  },
  emit: (params, caller, ctx) => {
    ctx.emit('order', { id: 17 });
    ctx.emit('bare');
  },
  async sql(params, caller, ctx) {
    const result = await ctx.sql(params.sql, params.params);
    return { columns: result.columns, rows: result.rows, row_count: result.rowCount };
  },
  async sqlError(params, caller, ctx) {
    try {
      await ctx.sql('SELECT 1');
    } catch (error) {
      return [error.name, error.message];
    }
  },
  async transaction(params, caller, ctx) {
    return ctx.transaction(async (tx) => {
      const result = await tx.sql('UPDATE t SET x = $1', [params]);
      if (params === 'fail') throw new Error('changed my mind');
      return result.rowCount;
    });
  },
  async collection(params, caller, ctx) {
    const contacts = ctx.collection('contacts');
    return [
      await contacts.insert({ name: 'Ana' }),
      await contacts.update({ id: 'c1', name: 'Bo' }),
      await contacts.find({ active: true }, { limit: 5, offset: 2, orderBy: [['name', 'desc']] }),
      await contacts.find(),
      await contacts.findOne({ id: 'c1' }),
      await contacts.delete('c1'),
    ];
  },
  async enqueue(params, caller, ctx) {
    return [await ctx.enqueue({ task: 'next' }), await ctx.enqueue([1], { delay: 60 })];
  },
  async actions(params, caller, ctx) {
    return [
      await ctx.action('sync', { full: true }),
      await ctx.callIntegration('mail', 'send', { to: 'bo' }, 'u2'),
      await ctx.selfAction('syncConnectedUsers', { actionName: 'sync' }),
    ];
  },
  upload: (params, caller, ctx) => ctx.uploadFile('a,b\n', 'list.csv', 'text/csv'),
  keep: (params, caller, ctx) => {
    kept = ctx;
  },
  async useKept() {
    return kept.sql('SELECT 1');
  },
  tooLargeOperation: (params, caller, ctx) => ctx.sql('SELECT $1', ['x'.repeat(9 << 20)]),
  startCount: () => started,
};

serve({
  rpc,
  async onStart(ctx) {
    started += 1;
    await ctx.collection('settings').insert({ key: 'a' });
    ctx.log.info('up');
  },
  async onJob(payload, caller, ctx) {
    if (payload === 'fail') throw new Error('no such task');
    if (payload === 'extend') await ctx.job.extend(300);
    if (payload === 'later') throw new Retry({ delay: 90 });
    if (payload === 'never') throw new Reject('no such customer');
    if (payload === 'progress') await ctx.job.progress(0.5, 'half');
    const { id, readCt, enqueuedAt, source } = ctx.job;
    return { payload, user: caller && caller.userId, job: [id, readCt, enqueuedAt, source] };
  },
  onShutdown: () => log.info('bye'),
  onError: (error, where) => log.info(`reported ${where}: ${error.message}`),
});
