// graphile.mjs: Graphile Worker. Batched, it has a local queue of so many jobs and completes
// in batches, as its page on performance advises; without, each job is fetched and completed alone.
import { makeWorkerUtils, run, runMigrations } from 'graphile-worker';
import { main, newPool, now, until, warm } from './peer.mjs';

const quiet = { logger: new (await import('graphile-worker')).Logger(() => () => {}) };

main({
  async install() {
    await runMigrations({ pgPool: newPool(1), ...quiet });
  },

  async create({ jobs }) {
    const utils = await makeWorkerUtils({ pgPool: newPool(1), ...quiet });
    for (let left = jobs; left > 0; left -= 5000) {
      await utils.addJobs(Array.from({ length: Math.min(left, 5000) }, () => ({ identifier: 'noop', payload: {} })));
    }
  },

  async run({ jobs, connections, batch }) {
    const pool = newPool(connections);
    let done = 0, all;
    const finished = new Promise((resolve) => { all = resolve; });
    await warm(pool, connections);
    const began = now();
    const runner = await run({
      ...quiet,
      pgPool: pool,
      noHandleSignals: true,
      taskList: { noop: async () => { if (++done === jobs) all(); } },
      preset: {
        worker: batch === 1 ? { concurrentJobs: connections, pollInterval: 100 }
          : { concurrentJobs: batch, pollInterval: 100, localQueue: { size: batch }, completeJobBatchDelay: 0, failJobBatchDelay: 0 },
      },
    });
    await finished;
    await until(pool, 'SELECT NOT EXISTS (SELECT FROM graphile_worker._private_jobs)');
    const seconds = now() - began;
    await runner.stop();
    return { steps: jobs, seconds };
  },
});
