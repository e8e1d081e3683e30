// pgboss.mjs: pg-boss. Loops of fetch and complete, one a connection: its work() waits half a
// second between fetches. With "flow" the jobs are chains of 10; what a completion releases is
// found by a resolver, which its own timer calls every 5 seconds: here it is called all the time.
import { PgBoss } from 'pg-boss';
import { main, now } from './peer.mjs';

const start = async (max) => {
  const boss = new PgBoss({ host: process.env.PGHOST, port: +process.env.PGPORT, user: process.env.PGUSER,
    database: process.env.PGDATABASE, max, schedule: false, supervise: false });
  boss.on('error', (error) => { console.error(error); process.exit(1); });
  await boss.start();
  return boss;
};

main({
  async install() {
    const boss = await start(1);
    await boss.createQueue('bench');
    await boss.createQueue('empty');
  },

  async create({ jobs, flow }) {
    const boss = await start(1);
    if (flow) {
      for (let i = 0; i < jobs / 10; i += 50) {
        await boss.flow(Array.from({ length: 10 * Math.min(50, jobs / 10 - i) }, (_, j) => ({
          ref: `r${j}`, name: 'bench', data: {}, dependsOn: j % 10 === 0 ? [] : [`r${j - 1}`] })));
      }
      return;
    }
    for (let left = jobs; left > 0; left -= 5000) {
      await boss.insert('bench', Array.from({ length: Math.min(left, 5000) }, () => ({ data: {} })));
    }
  },

  async run({ jobs, connections, batch, flow }) {
    const boss = await start(connections);
    let done = 0;
    await Promise.all(Array.from({ length: connections }, () => boss.fetch('empty')));     // connects
    const began = now();
    const resolver = async () => {
      while (flow && done < jobs) await boss.resolveFlow();
    };
    await Promise.all(Array.from({ length: connections }, async (_, i) => {
      if (i === 0) void resolver();
      while (done < jobs) {
        const got = await boss.fetch('bench', { batchSize: batch });
        if (got.length === 0) {
          await new Promise((r) => setTimeout(r, 2));
          continue;
        }
        await boss.complete('bench', got.map((job) => job.id));
        done += got.length;
      }
    }));
    return { steps: done, seconds: now() - began };
  },
});
