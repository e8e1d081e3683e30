'use strict';
/*
 * Workers in Node for tasker: claim steps from queues, run handlers, report.
 *
 *   const worker = new Worker({ connectionString, queues: ['payments'], concurrency: 4, batch: 10 });
 *   worker.handle('charge', async (step) => ({ charged: step.context.amount }));
 *   await worker.run();
 *
 * Needs pg and nothing else, and works through pgbouncer in transaction mode.
 * What is for programs to call is described in tasker.d.ts and README.md.
 *
 * Three loops: one claims while there is room and the server has no more to
 * give with a report; one reports what handlers finished, as many in a call as
 * there are, and claims the next in the same call; one extends the leases.
 * What they share changes between awaits only, and #notify() says that it did.
 */
const os = require('node:os');
const { setTimeout: wait } = require('node:timers/promises');
const { Client, Pool } = require('pg');
const STALE_LEASE = 'TK420';
const WAIT = '1 s';
/* What another try, or another connection, may mend; any failure without an SQLSTATE is the network's. */
const TRANSIENT_CLASSES = new Set(['08', '28', '3D', '40', '53', '55', '57', '58']);
/* A standby that may be promoted; switched off, or a copy: somebody may change that. */
const NOT_NOW = new Set(['25006', 'TK601', 'TK602']);
const NOT_USABLE = new Set(['42501', '42883', '3F000']);
const UNKNOWN_STEP_DELAY = 10; /* seconds that a step without a handler here stays away */
const LONGEST_DELAY = 30 * 86400; /* that the server takes */
const LONGEST_TEXT = 4000;
const LONGEST_TIMER = 0x7fffffff;
/* In characters: what no message to the server can hold, and what one call takes of several results. */
const LARGEST_RESULTS = 1 << 26;
const LARGEST_CALL = 1 << 24;
const CALL_TIMEOUT = 60000; /* a connection that does not answer for so long is dead */

/* How long is left is the server's clock's to say: this machine's may be wrong. */
const COLUMNS = `c.task_id, c.step_id, c.lease, c.name, c.queue, c.attempt, c.max_attempts, c.input,
  c.idempotency_key, c.checkpoint, c.traceparent, extract(epoch FROM c.lease_expires_at - clock_timestamp()),
  extract(epoch FROM c.deadline - clock_timestamp()), extract(epoch FROM c.deadline)`;
const CLAIM = `SELECT ${COLUMNS}
  FROM tasker.claim_steps(queues => $1, worker => $2, max_steps => $3, lease => $4, wait => $5) AS c`;
const COMPLETE_MANY = `SELECT c.outcome, ${COLUMNS}
  FROM tasker.complete_steps(task_ids => $1, step_ids => $2, leases => $3, results => $4::text[]::jsonb[],
    queues => $5, worker => $6, max_steps => $7, lease => $8) AS c`;
const COMPLETE = 'SELECT tasker.complete_step($1, $2, $3, results => $4)';
const FAIL = 'SELECT tasker.fail_step($1, $2, $3, error => $4, retryable => $5, retry_after => $6)';
const HEARTBEAT = `SELECT extract(epoch FROM
  tasker.heartbeat($1, $2, $3, extend => $4, checkpoint => $5) - clock_timestamp())`;
const RELEASE = 'SELECT tasker.release_step($1, $2, $3, delay => $4)';
const REGISTER = 'SELECT tasker.register_worker(worker => $1, queues => $2, metadata => $3)';
const REGISTER_EVERY = 60000;

const ignore = () => {};
/* Values as the server sends them, whatever parsers the program has registered. */
const AS_TEXT = { getTypeParser: () => (value) => value };

class DoNotRetry extends Error {}
class LeaseLost extends Error {}
class RetryAfter extends Error {
  constructor(seconds, message, options) {
    super(message || `to be tried again after ${seconds} s`, options);
    this.seconds = Math.min(checkSeconds('the delay of RetryAfter', seconds, 0), LONGEST_DELAY);
  }
}

/* The worker ends, and what was to be done is not worth waiting for. */
class Stopped extends Error {}

for (const type of [DoNotRetry, RetryAfter, LeaseLost, Stopped]) {
  Object.defineProperty(type.prototype, 'name', { value: type.name, writable: true, configurable: true });
}

function checkSeconds(what, value, least) {
  if (typeof value !== 'number' || !Number.isFinite(value) || value < least) {
    throw new RangeError(`${what} must be a number of seconds, at least ${least}`);
  }
  return value;
}

const interval = (seconds) => (seconds == null ? null : `${seconds.toFixed(6)} s`);

function sqlstate(error) {
  return error && typeof error.code === 'string' && /^[0-9A-Z]{5}$/.test(error.code) && error.severity
    ? error.code : null;
}

/* Whether another try may help. */
function isTransient(error) {
  const state = sqlstate(error);
  if (state) return TRANSIENT_CLASSES.has(state.slice(0, 2)) || NOT_NOW.has(state);
  return !(error instanceof Stopped || error instanceof TypeError || error instanceof RangeError ||
    error instanceof ReferenceError || error instanceof SyntaxError);
}

async function refuseStandby(client) {
  const { rows } = await client.query('SELECT pg_catalog.pg_is_in_recovery() AS standby');
  if (rows[0].standby) throw new Error(`${client.host} is a standby`);
}

/* Text as the server takes it: no NUL, no half of a surrogate pair, not endless. */
const clean = (text) => Buffer.from(text.slice(0, LONGEST_TEXT).replace(/\0/g, '\ufffd')).toString();
const textOf = (value) => { try { return String(value); } catch { return 'a value that has no text'; } };

/* What was thrown, as JSON for fail_step: it need not be an Error. */
function describe(thrown) {
  const isError = thrown instanceof Error;
  const type = isError ? textOf(thrown.name) : typeof thrown;
  const message = clean(textOf(isError ? thrown.message : thrown)) || clean(type);
  const about = { message, type: clean(type) };
  const state = sqlstate(thrown);
  if (isError && thrown.stack) about.context = clean(textOf(thrown.stack));
  if (state) Object.assign(about, { sqlstate: state, detail: thrown.detail && clean(textOf(thrown.detail)) });
  else if (isError && typeof thrown.code === 'string') about.code = clean(thrown.code);
  return JSON.stringify(about);
}

/* A handler's results as JSON; what is none would be none the next time. */
function toJson(results) {
  let json;
  try {
    json = results == null ? null : JSON.stringify(results) ?? null;
  } catch (error) {
    throw new DoNotRetry(`the handler's results are not JSON: ${textOf(error?.message)}`, { cause: error });
  }
  if (json?.length > LARGEST_RESULTS) throw new DoNotRetry("the handler's results are too large to be sent");
  return json;
}

/* One attempt of one step, as its handler sees it. */
class Step {
  #worker;
  #abort = new AbortController();

  constructor(worker, row) {
    this.#worker = worker;
    this.taskId = row[0]; /* a string: bigint */
    this.id = Number(row[1]);
    this.lease = row[2];
    this.name = row[3];
    this.queue = row[4];
    this.attempt = Number(row[5]);
    this.maxAttempts = Number(row[6]);
    this.input = JSON.parse(row[7]);
    this.idempotencyKey = row[8];
    this.saved = row[9] == null ? null : JSON.parse(row[9]);
    this.traceparent = row[10];
    this._state = 'waiting'; /* then running, then reporting */
    this._extended(Number(row[11]));
    this._end = row[12] == null ? null : performance.now() + row[12] * 1000;
    this.deadline = row[13] == null ? null : new Date(row[13] * 1000);
  }

  get task() { return this.input.task; }
  get context() { return this.input.task.context; }
  get parents() { return this.input.parents || {}; }
  get _key() { return [this.taskId, this.id, this.lease]; }

  get signal() { return this.#abort.signal; }
  get lost() { return this.#abort.signal.aborted; }
  get timeLeft() { return this._end == null ? null : (this._end - performance.now()) / 1000; }

  async heartbeat() { await this.#worker._heartbeat(this, null); }
  async checkpoint(value) {
    await this.#worker._heartbeat(this, JSON.stringify(value ?? null));
    this.saved = value ?? null;
  }

  toString() {
    return `step ${this.taskId}.${this.id} ${JSON.stringify(this.name)}, attempt ${this.attempt}`;
  }

  _extended(seconds) {
    this._due = performance.now() + (Math.max(seconds, 0.03) * 1000) / 3;
  }

  _lose(cause) {
    const error = new LeaseLost(`${this} is no longer ours`, { cause });
    this.#abort.abort(error);
    return error;
  }
}

const stderrLog = Object.fromEntries(['info', 'warn', 'error'].map((level) =>
  [level, (message) => process.stderr.write(`tasker ${level}: ${message.replace(/\s*\n\s*/g, ' ')}\n`)]));

class Worker {
  #handlers = new Map();
  #held = new Map(); /* claimed and not yet reported, by lease */
  #reserved = 0; /* asked for by a claim that is under way */
  #waiting = [];
  #reports = []; /* {step, call, values}: the call that is still to be made, if there is one */
  #running = 0; /* handlers */
  #stopping = false;
  #finished = false; /* everything reported: the other loops may end */
  #deadline = Infinity;
  #failure = null;
  #loops = null;
  #stopped = null;
  #waiters = new Set();
  #pool;
  #ownPool;
  #servers; /* connection strings, of which the next connection is to the #server-th */
  #server = 0;

  constructor({ connectionString, pool, queues, concurrency = 1, batch = 1, lease = null, name = null, drain = 30,
    metadata = {}, log = stderrLog } = {}) {
    if (!Array.isArray(queues) || !queues.length || queues.some((queue) => typeof queue !== 'string')) {
      throw new TypeError('queues must be an array of at least one name');
    }
    for (const [key, value] of Object.entries({ concurrency, batch })) {
      if (!Number.isInteger(value) || value < 1) throw new RangeError(`${key} must be an integer of at least 1`);
    }
    if (pool && connectionString) throw new TypeError('give a connectionString or a pool, not both');
    this.queues = [...queues];
    this.concurrency = concurrency;
    this.batch = batch;
    this.lease = lease === null ? null : checkSeconds('lease', lease, 0.001);
    this.drain = checkSeconds('drain', drain, 0);
    this.name = name ?? `${os.hostname()}:${process.pid}`;
    this.metadata = { client: 'node', host: os.hostname(), pid: process.pid, concurrency, batch, ...metadata };
    this.log = log;
    this.capacity = Math.max(concurrency, batch);
    const connections = concurrency + 3;
    this.#ownPool = !pool;
    this.#servers = [connectionString].flat();
    const nextServer = () => this.#servers[this.#server % this.#servers.length];
    this.#pool = pool ?? new Pool({
      max: connections, application_name: this.name.slice(0, 63), keepAlive: true,
      keepAliveInitialDelayMillis: 10000, connectionTimeoutMillis: 10000,
      Client: class extends Client { constructor(rest) { super({ ...rest, connectionString: nextServer() }); } },
      onConnect: this.#servers.length > 1 ? refuseStandby : undefined,
    });
    if (this.#pool.options?.max < connections) log.warn(`${this.name}: the pool should have ${connections} clients`);
    /* An idle connection that breaks: the pool drops it. */
    this.#pool.on('error', (error) => log.info(`${this.name}: connection lost: ${error.message}`));
  }

  /* ---- what a program calls ------------------------------------------------ */

  handle(name, options, handler) {
    if (typeof options === 'function') [handler, options] = [options, handler];
    const { queue = null, transactional = false } = options ?? {};
    if (typeof handler !== 'function') throw new TypeError('a handler must be a function');
    if (name == null && queue == null) throw new TypeError('a handler needs the name of a step or of a queue');
    const key = JSON.stringify([queue, name ?? null]);
    if (this.#handlers.has(key)) throw new Error(`there is a handler for step ${name}, queue ${queue} already`);
    this.#handlers.set(key, { handler, transactional });
    return this;
  }

  async run() {
    const signals = ['SIGTERM', 'SIGINT'];
    const unhook = () => signals.forEach((signal) => process.off(signal, onSignal));
    const onSignal = (signal) => {
      unhook(); /* a second one ends the process at once */
      this.log.info(`${this.name}: ${signal}, draining`);
      this.#beginStop();
    };
    signals.forEach((signal) => process.on(signal, onSignal));
    try {
      this.start();
      while (!this.#stopping) await this.#changed();
      await this.stop();
    } finally {
      unhook();
    }
  }

  start() {
    if (this.#loops) throw new Error('a worker starts once');
    this.log.info(`${this.name}: serving ${this.queues.join(', ')}`);
    this.#loops = [this.#guarded(() => this.#claimLoop()), this.#guarded(() => this.#heartbeatLoop()),
      this.#guarded(() => this.#reportLoop()).then(() => this.#finish())];
  }

  stop() {
    this.#stopped ??= this.#end();
    return this.#stopped;
  }

  async #end() {
    this.#beginStop();
    const late = new AbortController();
    const inTime = await Promise.race([Promise.all(this.#loops ?? []).then(() => true),
      wait(Math.min(Math.max(100, this.#deadline - performance.now()), LONGEST_TIMER), false, late).catch(ignore)]);
    late.abort();
    this.#finish();
    if (this.#held.size) this.log.warn(`${this.name}: ${this.#held.size} steps are left to the end of their leases`);
    if (this.#ownPool) {
      const ended = this.#pool.end().catch(ignore);
      /* A handler that goes on has its connection: its end is the process's. */
      if (inTime && !this.#running) await ended;
    }
    this.log.info(`${this.name}: stopped`);
    if (this.#failure) throw this.#failure;
  }

  /* ---- loops --------------------------------------------------------------- */

  async #guarded(body) {
    try { await body(); } catch (error) {
      if (error instanceof Stopped) return;
      this.log.error(`${this.name}: ${textOf(error.message)}`);
      this.#failure ??= error;
      this.#beginStop();
    }
  }

  #notify() { for (const wake of [...this.#waiters]) wake(); }

  /* Resolves at the next #notify, or after so many milliseconds. */
  #changed(milliseconds = Infinity) {
    return new Promise((resolve) => {
      let timer;
      const wake = () => {
        clearTimeout(timer);
        this.#waiters.delete(wake);
        resolve();
      };
      this.#waiters.add(wake);
      if (milliseconds < Infinity) timer = setTimeout(wake, Math.min(Math.max(milliseconds, 0), LONGEST_TIMER));
    });
  }

  /* Waits; whether to give up because the worker stops. The patient go on while it drains. */
  async #pause(milliseconds, patient) {
    const end = performance.now() + milliseconds;
    for (;;) {
      const now = performance.now();
      if (this.#finished || (this.#stopping && (!patient || now >= this.#deadline))) return true;
      if (now >= end) return false;
      await this.#changed(Math.min(end, this.#deadline) - now);
    }
  }

  #finish() { this.#finished = true; this.#notify(); }

  #beginStop() {
    if (this.#stopping) return;
    this.#stopping = true;
    this.#deadline = performance.now() + this.drain * 1000;
    for (const step of this.#waiting.splice(0)) this.#report(step, RELEASE, [null]);
    this.#notify();
  }

  async #claimLoop() {
    let short = 0;
    for (;;) {
      /* A report claims as well: half a batch of room is left to it. */
      while (!this.#stopping && !(this.#room() > 0 && (!this.#waiting.length || 2 * this.#room() >= this.batch))) {
        await this.#changed();
      }
      if (this.#stopping) return;
      const room = this.#reserve(0);
      const began = performance.now();
      let rows = [];
      try {
        rows = await this.#query(CLAIM, [this.queues, this.name, room, interval(this.lease), WAIT], false);
      } finally {
        this.#accept(rows, room, []);
      }
      /* Others were quicker, or the server can not wait: no busy loop. */
      short = !rows.length && performance.now() - began < 100 ? Math.min(Math.max(short * 2, 2), 250) : 0;
      if (short) await this.#pause(short, false);
    }
  }

  async #reportLoop() {
    for (;;) {
      while (!this.#reports.length) {
        if (this.#stopping && !this.#held.size && !this.#reserved) return;
        await this.#changed();
      }
      let size = 0;
      const fits = this.#reports.findIndex(({ values }, index) =>
        (size += values?.[0]?.length ?? 0) > LARGEST_CALL && index > 0);
      const reports = this.#reports.splice(0, fits < 0 ? Infinity : fits);
      const room = this.#stopping ? 0 : this.#reserve(reports.length);
      let rows = [];
      try {
        for (const report of reports) {
          if (report.call && report.call !== COMPLETE) await this.#send(report);
        }
        rows = await this.#complete(reports.filter((report) => report.call === COMPLETE), room);
      } finally {
        this.#accept(rows, room, reports);
      }
    }
  }

  async #heartbeatLoop() {
    let register = 0;
    while (!this.#finished) {
      if (performance.now() >= register) {
        await this.#query(REGISTER, [this.name, this.queues, this.metadata], true);
        register = performance.now() + REGISTER_EVERY;
      }
      const now = performance.now();
      const held = [...this.#held.values()].filter((step) => step._state !== 'reporting' && !step.lost);
      const due = held.filter((step) => step._due <= now);
      for (const step of due) {
        try {
          if (step._state !== 'reporting') await this._heartbeat(step, null);
        } catch (error) {
          if (!(error instanceof LeaseLost)) throw error;
          this.log.info(`${this.name}: ${step} is no longer ours`);
        }
      }
      /* A step claimed meanwhile wakes this as well. */
      if (!due.length) await this.#changed(Math.min(register - now, ...held.map((step) => step._due - now)));
    }
  }

  /* ---- the parts of a step's way ------------------------------------------- */

  #room() { return this.capacity - this.#held.size - this.#reserved; }

  /* Room for a claim; `leaving` steps are reported by the same call. */
  #reserve(leaving) {
    const room = Math.max(0, Math.min(this.batch, this.#room() + leaving));
    this.#reserved += room;
    return room;
  }

  /* Takes in what a claim brought and forgets what was reported. */
  #accept(rows, reserved, reports) {
    this.#reserved -= reserved;
    for (const report of reports) this.#held.delete(report.step.lease);
    for (const row of rows) {
      const step = new Step(this, row);
      this.#held.set(step.lease, step);
      if (this.#stopping) this.#report(step, RELEASE, [null]);
      else this.#waiting.push(step);
    }
    this.#dispatch();
    this.#notify();
  }

  #dispatch() {
    while (this.#running < this.concurrency && this.#waiting.length) this.#work(this.#waiting.shift());
  }

  async #work(step) {
    this.#running += 1;
    step._state = 'running';
    const [call, values] = await this.#attempt(step);
    this.#running -= 1;
    this.#report(step, call, values);
    this.#dispatch();
    this.#notify();
  }

  #report(step, call, values) {
    step._state = 'reporting';
    this.#reports.push({ step, call, values });
  }

  /* Runs the handler; the call that is to be made, and its arguments after the key. Never rejects. */
  async #attempt(step) {
    if (step.lost) return [null];
    const found = [[step.queue, step.name], [null, step.name], [step.queue, null]]
      .map((key) => this.#handlers.get(JSON.stringify(key))).find(Boolean);
    if (!found) {
      this.log.warn(`${this.name}: ${step} has no handler here, given back`);
      return [RELEASE, [interval(UNKNOWN_STEP_DELAY)]];
    }
    try {
      if (found.transactional) return await this.#transaction(step, found.handler);
      const results = toJson(await found.handler(step));
      return step.lost ? this.#dropped(step) : [COMPLETE, [results]];
    } catch (error) {
      if (error instanceof LeaseLost || step.lost) return this.#dropped(step);
      if (error instanceof Stopped) return [RELEASE, [null]];
      if (error instanceof DoNotRetry) return [FAIL, [describe(error), false, null]];
      if (error instanceof RetryAfter) return [FAIL, [describe(error), true, interval(error.seconds)]];
      this.log.warn(`${this.name}: ${step} failed: ${JSON.parse(describe(error)).message}`);
      return [FAIL, [describe(error), true, null]];
    }
  }

  #dropped(step) {
    this.log.info(`${this.name}: ${step} is no longer ours, dropped`);
    return [null];
  }

  /* Handler and completion in one transaction. */
  async #transaction(step, handler) {
    const client = await this.#retrying(() => this.#begin(), true);
    let broken;
    try {
      const results = toJson(await handler(step, client));
      if (client.getTransactionStatus?.() === 'I') throw new DoNotRetry('the handler ended its transaction');
      step._state = 'reporting'; /* a heartbeat would wait for this transaction */
      await client.query(COMPLETE, [...step._key, results]).catch((error) => {
        /* Results that the server does not take would be the same the next time. */
        if (/^(22|54|TK400)/.test(sqlstate(error) ?? '')) throw new DoNotRetry(error.message, { cause: error });
        throw this.#refused(step, error);
      });
      await client.query('COMMIT');
      return [null];
    } catch (error) {
      await client.query('ROLLBACK').catch((failure) => { broken = failure; });
      throw error;
    } finally {
      client.off('error', ignore);
      client.release(broken);
    }
  }

  async #begin() {
    const client = await this.#pool.connect();
    /* A connection that breaks between two statements: the next one says so. */
    client.on('error', ignore);
    try {
      await client.query('BEGIN');
      return client;
    } catch (error) {
      client.release(error);
      throw error;
    }
  }

  /* Completes steps and claims the next ones, in one call; the rows of the claim. */
  async #complete(reports, room) {
    if (!reports.length) return [];
    const column = (index) => reports.map((report) => report.step._key[index]);
    const values = [column(0), column(1), column(2), reports.map((report) => report.values[0]),
      this.queues, this.name, room, interval(this.lease)];
    let rows;
    try {
      rows = await this.#query(COMPLETE_MANY, values, true);
    } catch (error) {
      /* One of them is to blame, a result too large or not jsonb: which one? */
      if (!sqlstate(error) || NOT_USABLE.has(sqlstate(error))) throw error;
      for (const report of reports) await this.#send(report);
      return [];
    }
    for (const [outcome, taskId, id] of rows) {
      if (outcome === 'refused') {
        this.log.info(`${this.name}: completion of step ${taskId}.${id} refused: its lease had ended`);
      }
    }
    return rows.filter(([outcome]) => outcome === 'claimed').map((row) => row.slice(1));
  }

  /* One report on its own. What the server does not accept as results fails the step. */
  async #send({ step, call, values }) {
    try {
      await this.#query(call, [...step._key, ...values], true);
    } catch (error) {
      if (this.#refused(step, error) instanceof LeaseLost) this.#dropped(step);
      else if (call !== COMPLETE || !sqlstate(error)) throw error;
      else await this.#send({ step, call: FAIL, values: [describe(error), false, null] });
    }
  }

  async _heartbeat(step, checkpoint) {
    if (step.lost) throw step.signal.reason;
    try {
      const rows = await this.#query(HEARTBEAT, [...step._key, interval(this.lease), checkpoint], true);
      step._extended(Number(rows[0][0]));
    } catch (error) {
      /* Of a step that was completed meanwhile. */
      if (step._state === 'reporting' && sqlstate(error) === STALE_LEASE) return;
      throw this.#refused(step, error);
    }
  }

  /* The error, or LeaseLost if that is what it says. */
  #refused(step, error) {
    return sqlstate(error) === STALE_LEASE ? step._lose(error) : error;
  }

  /* ---- connections ----------------------------------------------------------- */

  /* The rows of one statement, as arrays of text. */
  #query(text, values, patient) {
    const call = { text, values, rowMode: 'array', types: AS_TEXT, query_timeout: CALL_TIMEOUT };
    return this.#retrying(async () => (await this.#pool.query(call)).rows, patient);
  }

  /* work(), until no failure of the connection or the server interferes. */
  async #retrying(work, patient) {
    for (let delay = 50; ; delay = Math.min(delay * 2, 5000)) {
      const server = this.#server;
      try {
        return await work();
      } catch (error) {
        if (!isTransient(error)) throw error;
        if (this.#server === server) this.#server += 1;
        const pause = delay * (0.5 + Math.random());
        const message = textOf(error.message || error.code || error);
        this.log.warn(`${this.name}: connection failed, next try in ${(pause / 1000).toFixed(1)} s: ${message}`);
        if (await this.#pause(pause, patient)) throw new Stopped('the worker has stopped', { cause: error });
      }
    }
  }
}

module.exports = { Worker, Step, DoNotRetry, RetryAfter, LeaseLost };
