// graphile-worker: jobs in Postgres, woken by LISTEN; its runner with 16 at a time.
import { main, note, require, url } from "./protocol.mjs";

const { makeWorkerUtils, run, runMigrations, Logger } = require("graphile-worker");
const logger = new Logger(() => () => {});
const utils = process.argv[2] === "work" ? null : await makeWorkerUtils({ connectionString: url, maxPoolSize: 16, logger });

await main({
  setup: () => runMigrations({ connectionString: url, logger }),
  work: () =>
    run({
      connectionString: url,
      concurrency: 16,
      maxPoolSize: 20,
      logger,
      taskList: { note: ({ number }) => note(number) },
    }).then(() => undefined),
  send: (number) => utils.addJob("note", { number }),
});
