/** The accepted forms of `serve`. */

const RECOGNISED = ['rpc', 'onStart', 'onJob', 'onShutdown'];
const HOOKS = ['onStart', 'onJob', 'onShutdown', 'onError', 'agent'];

/**
 * Bring the arguments of `serve` into one form.
 *
 * @param {unknown[]} args
 * @param {(text: string) => void} warn takes one line per oddity.
 * @returns {{rpc: Map<string, Function>, onStart?: Function, onJob?: Function,
 *   onShutdown?: Function, onError?: Function, agent?: Function}} methods in declaration order.
 * @throws {TypeError} an argument is not an object, or a hook is not a function.
 */
export function readHandlers(args, warn) {
  const [first, second] = args.map((arg, index) => objectOr(arg, `argument ${index + 1}`));
  const current = RECOGNISED.some((key) => key in (first ?? {})) || isOnlyAgent(first);
  if (!current && !second && Object.keys(first ?? {}).length > 0) {
    warn('serve({name: fn}) is the old form; write serve({rpc: {name: fn}})');
  }
  const named = current ? first : { rpc: first };
  const handlers = { rpc: readMethods(objectOr(named.rpc, 'rpc') ?? {}, warn) };
  for (const hook of HOOKS) {
    const value = second?.[hook] ?? (current ? first[hook] : undefined);
    if (value === undefined || value === null) continue;
    if (typeof value !== 'function') throw new TypeError(`serve(): ${hook} must be a function`);
    handlers[hook] = value.bind(second?.[hook] ? second : first);
  }
  return handlers;
}

/** Beside RPC methods of the old form, `agent` is one of them. */
function isOnlyAgent(first) {
  return Object.keys(first ?? {}).join() === 'agent';
}

function objectOr(value, name) {
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'object') throw new TypeError(`serve(): ${name} must be an object`);
  return value;
}

function readMethods(methods, warn) {
  const found = new Map();
  for (const [name, method] of Object.entries(methods)) {
    if (typeof method === 'function') found.set(name, method.bind(methods));
    else warn(`serve(): '${name}' is not a function and no RPC method`);
  }
  return found;
}
