/**
 * Prelude of JavaScript workers: defines the globals `serve`, `log`, `emit` and `uploadFile`,
 * reroutes `console` and speaks the host's protocol over stdin and stdout.
 *
 * Loaded before the entry point: `bun --preload prelude.mjs ENTRY`, `node --import prelude.mjs
 * ENTRY`. Source: contract part 30, sections 4 and 6.
 */

import { isMainThread } from 'node:worker_threads';

import { install } from './lib/install.mjs';

// Worker threads inherit the option, but the pipes to the host belong to the main thread.
if (isMainThread) install();
