// dbos.mjs: DBOS. Workflows of 10 steps, started directly, which is its fastest way: a queue
// polls. So many at once as there are connections; what it writes includes their creation.
import { DBOS } from '@dbos-inc/dbos-sdk';
import { main, newPool, now, warm } from './peer.mjs';

const quiet = { info() {}, debug() {}, warn() {}, error: console.error };
const launch = async (max) => {
  const pool = newPool(max + 3);              // some listen and poll
  DBOS.setConfig({ name: 'bench', systemDatabaseUrl: `postgresql://${process.env.PGUSER}@localhost/${process.env.PGDATABASE}`,
    systemDatabasePool: pool, logger: quiet, enableOTLP: false });
  await DBOS.launch();
  return pool;
};

const chain = DBOS.registerWorkflow(async () => {
  for (let i = 0; i < 10; i++) await DBOS.runStep(async () => ({ ok: true }), { name: `s${i}` });
}, { name: 'chain' });

main({
  async install() {
    await launch(4);
    await DBOS.shutdown();
  },

  async create() {},

  async run({ jobs, connections }) {
    const pool = await launch(connections);
    await warm(pool, connections);
    let left = jobs / 10;
    const began = now();
    await Promise.all(Array.from({ length: connections }, async () => {
      while (left-- > 0) await chain();
    }));
    return { steps: jobs, seconds: now() - began };
  },
});
