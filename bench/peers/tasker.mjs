// tasker.mjs: tasker by its own Node client, for a comparison in one language. The harness
// defines the workflow and creates the tasks.
import { createRequire } from 'node:module';
import { main, newPool, now, until } from './peer.mjs';

const { Worker } = createRequire(import.meta.url)('./tasker.js');

main({
  async run({ jobs, connections, batch }) {
    const pool = newPool(connections + 3), watch = newPool(1);
    const worker = new Worker({ pool, queues: ['bench'], concurrency: Math.max(connections, batch), batch,
      log: { info() {}, warn() {}, error: console.error } });
    let done = 0, all;
    const finished = new Promise((resolve) => { all = resolve; });
    worker.handle(null, { queue: 'bench' }, async () => { if (++done === jobs) all(); return { ok: true }; });
    const began = now();
    const running = worker.run();
    await finished;
    await until(watch, "SELECT NOT EXISTS (SELECT FROM tasker.tasks WHERE state IN ('pending', 'in_progress'))");
    const seconds = now() - began;
    worker.stop?.();
    await running;
    return { steps: jobs, seconds };
  },
});
