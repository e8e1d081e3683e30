// absurd.mjs: absurd. Tasks of 10 steps; a worker that runs as many at once as there are connections.
import { Absurd } from 'absurd-sdk';
import { main, newPool, now, until, warm } from './peer.mjs';

const client = (max) => new Absurd({ db: newPool(max), queueName: 'bench',
  log: { log() {}, info() {}, warn() {}, error: console.error } });

main({
  async install() {
    await client(1).createQueue('bench');
  },

  async create({ jobs }) {
    const absurd = client(8);
    let left = jobs / 10;
    await Promise.all(Array.from({ length: 8 }, async () => {
      while (left-- > 0) await absurd.spawn('chain', {}, { queue: 'bench' });
    }));
  },

  async run({ jobs, connections }) {
    const pool = newPool(connections), watch = newPool(1);
    const absurd = new Absurd({ db: pool, queueName: 'bench', log: { log() {}, info() {}, warn() {}, error: console.error } });
    let done = 0, all;
    const finished = new Promise((resolve) => { all = resolve; });
    absurd.registerTask({ name: 'chain' }, async (_, ctx) => {
      for (let i = 0; i < 10; i++) await ctx.step(`s${i}`, async () => ({ ok: true }));
      if (++done === jobs / 10) all();
    });
    await warm(pool, connections);
    const began = now();
    const worker = await absurd.startWorker({ concurrency: connections, pollInterval: 0.01 });
    await finished;
    await until(watch, `SELECT count(*) = ${jobs / 10} FROM absurd.t_bench WHERE state = 'completed'`);
    const seconds = now() - began;
    await worker.close();
    return { steps: jobs, seconds };
  },
});
