/**
 * Types of the globals in a JavaScript worker. Copy this file beside the worker's sources, or
 * name it in `tsconfig.json` under `files`.
 */

export {};

declare global {
  type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

  /** Who called; null when nobody did (a cron without owner, a webhook). */
  interface WorkerCaller {
    userId: string;
    email: string;
    /** Access token limited to this app; absent for delegated and anonymous callers. */
    authToken?: string;
    effectivePerms?: string[];
    connectionId?: string;
  }

  interface WorkerLog {
    debug(message: unknown, ...args: unknown[]): void;
    info(message: unknown, ...args: unknown[]): void;
    log(message: unknown, ...args: unknown[]): void;
    warn(message: unknown, ...args: unknown[]): void;
    warning(message: unknown, ...args: unknown[]): void;
    error(message: unknown, ...args: unknown[]): void;
  }

  interface SqlResult {
    columns: string[];
    rows: any[][];
    rowCount: number;
  }

  interface Transaction {
    sql(text: string, params?: unknown[]): Promise<SqlResult>;
  }

  interface FindOptions {
    limit?: number;
    offset?: number;
    orderBy?: [field: string, direction: 'asc' | 'desc'][];
  }

  interface Collection<Row = Record<string, any>> {
    insert(data: Partial<Row>): Promise<Row>;
    /** Needs `id` and at least one other field. */
    update(data: Partial<Row> & { id: string }): Promise<Row>;
    delete(id: string): Promise<boolean>;
    find(where?: Partial<Row>, options?: FindOptions): Promise<Row[]>;
    findOne(where?: Partial<Row>): Promise<Row | null>;
  }

  /** The delivery that `onJob` works on. */
  interface WorkerJob {
    id: string;
    /** Deliveries so far; more than 1 means this one is a repetition. */
    readCt: number | null;
    enqueuedAt: string | null;
    source: 'api' | 'worker' | 'cron' | 'hook' | null;
    cronId: string | null;
    /** Keep the job for so many seconds from now, 1-3600. */
    extend(seconds: number): Promise<void>;
    /** Show how far the job is, 0-1, and in what. */
    progress(fraction: number, note?: string): Promise<void>;
  }

  /** Belongs to one call: its operations reject with `CallOver` after the handler ended. */
  interface WorkerContext {
    readonly appId: string;
    readonly runtimeUrl: string;
    readonly deploymentId: string | null;
    /** Platform and app secrets. */
    readonly credentials: Readonly<Record<string, string>>;
    readonly manifest: any;
    readonly agentConfig: any;
    readonly caller: WorkerCaller | null;
    readonly job: WorkerJob | null;
    readonly log: WorkerLog;
    emit(name: string, data?: unknown): void;
    sql(text: string, params?: unknown[]): Promise<SqlResult>;
    /** Commits when the function resolves, rolls back when it rejects. */
    transaction<T>(body: (tx: Transaction) => Promise<T> | T): Promise<T>;
    collection<Row = Record<string, any>>(entity: string): Collection<Row>;
    /** Returns the new msg_id; `delay` is in seconds. */
    enqueue(payload: unknown, options?: { delay?: number }): Promise<number>;
    /** Returns the file id. */
    uploadFile(content: FileContent, name?: string, type?: string): Promise<string>;
    selfAction(action: string, params?: unknown): Promise<any>;
    action(name: string, input?: unknown): Promise<any>;
    callIntegration(
      integrationId: string,
      action: string,
      input?: unknown,
      asUser?: string,
    ): Promise<any>;
    /** In agent runs: use a tool. Waits for approvals; rejects with `ToolError`. */
    callTool(name: string, args?: unknown): Promise<any>;
    /** In agent runs: set the final text; optional. */
    agentDone(response: string, tokens?: number | null): void;
  }

  /** A message to the app's agent. */
  interface AgentInvoke {
    invoke_id: string;
    session_id: string;
    message: string;
    history: { role: string; content: string }[];
    is_sub_invoke?: boolean;
    llm?: { provider: string; model: string };
    invoker_user_id: string | null;
    attachments?: { name: string; content_type: string; url: string }[];
    task_scope?: string[];
  }

  /** Text, a promise of it, or an (async) generator of chunks. */
  type AgentHandler = (invoke: AgentInvoke, ctx: WorkerContext) => unknown;

  type FileContent = string | Uint8Array | ArrayBuffer | Blob;

  type RpcHandler = (params: any, caller: WorkerCaller | null, ctx: WorkerContext) => unknown;

  interface WorkerHooks {
    /** Once per process before its first call; every node runs it, so it must be idempotent. */
    onStart?: (ctx: WorkerContext) => unknown;
    onJob?: (payload: any, caller: WorkerCaller | null, ctx: WorkerContext) => unknown;
    /** Has 4.5 s together with the calls that are still open. */
    onShutdown?: () => unknown;
    /** Takes over the loop of the app's agent. */
    agent?: AgentHandler;
    /** For reporting; `method` is the RPC method, `onJob`, `onStart` or `agent`. */
    onError?: (error: unknown, method: string) => unknown;
  }

  interface WorkerHandlers extends WorkerHooks {
    rpc?: Record<string, RpcHandler>;
  }

  function serve(handlers?: WorkerHandlers): void;
  /** Older forms. */
  function serve(handlers: Record<string, RpcHandler> | WorkerHandlers, hooks?: WorkerHooks): void;

  const log: WorkerLog;
  /** Throw one in `onJob`: deliver the job again after `delay` seconds, or give it up at once. */
  class Retry extends Error {
    constructor(options?: { delay?: number });
  }
  class Reject extends Error {
    constructor(reason: string);
  }
  function emit(name: string, data?: unknown): void;
  /** Stores a file for the call that the calling code runs in; returns the file id. */
  function uploadFile(content: FileContent, name?: string, type?: string): Promise<string>;
}
