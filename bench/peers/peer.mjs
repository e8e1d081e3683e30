// peer.mjs: what the drivers of the peers have in common.
//
//   node NAME.mjs install                     the peer's tables, in the database that PGDATABASE names
//   node NAME.mjs create '{"jobs": N, ...}'   so many jobs (or tasks of 10 steps)
//   node NAME.mjs run '{"jobs": N, "connections": C, "batch": B}'   does them all; prints {"steps", "seconds"}
//
// The handlers do nothing. The time runs from the first look for work, with
// the pool connected, until the last completion is committed.
import pg from 'pg';

export function newPool(max) {
  const pool = new pg.Pool({ max });
  pool.on('error', (error) => { console.error(error); process.exit(1); });
  pool.on('connect', (client) => client.on('error', () => {}));     // the pool's own handler ends it
  return pool;
}

// warm(pool, n): n connections are open
export async function warm(pool, n) {
  const clients = await Promise.all(Array.from({ length: n }, () => pool.connect()));
  clients.forEach((c) => c.release());
}

export const now = () => Number(process.hrtime.bigint()) / 1e9;

// until(pool, sql): until the statement returns true
export async function until(pool, sql) {
  while (!(await pool.query(`SELECT (${sql}) AS done`)).rows[0].done) await new Promise((r) => setTimeout(r, 5));
}

export async function main(verbs) {
  const result = await verbs[process.argv[2]](JSON.parse(process.argv[3] ?? '{}'));
  if (result) console.log(JSON.stringify(result));
  process.exit(0);
}
