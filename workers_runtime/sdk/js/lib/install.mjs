/** Puts the author API in place. */

import { Reject, Retry } from './errors.mjs';
import { listen } from './input.mjs';
import { emit, log, rerouteConsole } from './logging.mjs';
import { RawStdout } from './output.mjs';
import { Worker } from './worker.mjs';

/** Define the globals and connect the worker to stdin and stdout. Called once. */
export function install() {
  keepFromChildren();
  const stdout = new RawStdout();
  Object.defineProperty(process, 'stdout', { get: () => stdout, configurable: true });
  rerouteConsole();
  const worker = new Worker();
  const input = listen(
    (line) => worker.receive(line),
    () => worker.serving && worker.shutdown(),
  );
  const globals = {
    serve: (...args) => {
      worker.serve(args);
      input.open();
    },
    log,
    emit,
    Retry,
    Reject,
    uploadFile: (content, name, type) => worker.uploadFile(content, name, type),
  };
  for (const [name, value] of Object.entries(globals)) {
    Object.defineProperty(globalThis, name, { value, writable: true, configurable: true });
  }
  process.on('exit', (code) => {
    if (code === 0 && !worker.serving && !input.opened) {
      process.stderr.write('the entry point ended without calling serve()\n');
    }
  });
}

/** Processes forked by the app have pipes of their own: they run without this prelude. */
function keepFromChildren() {
  const index = process.execArgv.findIndex((arg) => arg === '--import' || arg === '--preload');
  if (index >= 0) process.execArgv.splice(index, 2);
}
