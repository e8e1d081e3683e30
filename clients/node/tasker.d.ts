import type { Pool, PoolClient } from 'pg';

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** Thrown by a handler: the step fails for good, whatever its policy says. */
export class DoNotRetry extends Error {}

/** Thrown by a handler: the step fails, and is tried again after so many seconds. */
export class RetryAfter extends Error {
  constructor(seconds: number, message?: string, options?: { cause?: unknown });
  readonly seconds: number;
}

/** The step is no longer this worker's: cancelled, or given to another. Let it pass through the handler. */
export class LeaseLost extends Error {}

export interface Task {
  id: number;
  name: string;
  namespace: string;
  version: string;
  /** What create_task was given. */
  context: any;
  correlation_id: string | null;
  priority: number;
  tags: any;
}

/** One attempt of one step, as its handler sees it. */
export interface Step {
  /** A string: bigint. */
  readonly taskId: string;
  readonly id: number;
  readonly lease: string;
  readonly name: string;
  readonly queue: string;
  readonly attempt: number;
  readonly maxAttempts: number;
  readonly input: { task: Task; step: Record<string, any>; parents: Record<string, any> };
  readonly task: Task;
  readonly context: any;
  /** The results of the steps that this one depends on, by name. */
  readonly parents: Record<string, any>;
  /** The same for all attempts of the step: give it to payment services and the like. */
  readonly idempotencyKey: string;
  /** What the last checkpoint() kept, of this attempt or one before; null if there is none. */
  readonly saved: any;
  /** When the step's timeout ends this attempt, by the server's clock; null if it has none. */
  readonly deadline: Date | null;
  /** Seconds until then, whatever this machine's clock says. */
  readonly timeLeft: number | null;
  /** The W3C trace context to go on in. */
  readonly traceparent: string;
  /** Aborted when the step is no longer ours: hand it to fetch and the like. */
  readonly signal: AbortSignal;
  readonly lost: boolean;
  /** Extends the lease (the worker does so by itself). Rejects with LeaseLost. */
  heartbeat(): Promise<void>;
  /** Keeps a value for the next attempt, and extends the lease. Rejects with LeaseLost. */
  checkpoint(value: unknown): Promise<void>;
}
/** Only for instanceof: the worker makes them. */
export const Step: abstract new () => Step;

/** What it returns is the step's results: anything that is JSON, or nothing. */
export type Handler = (step: Step) => unknown;
/** What it writes with the client commits together with the step's completion. */
export type TransactionalHandler = (step: Step, client: PoolClient) => unknown;

export interface Log {
  info(message: string): void;
  warn(message: string): void;
  error(message: string): void;
}

export interface WorkerOptions {
  /** Default: as PGHOST, PGDATABASE and the like say. Of several servers the one that is no standby is used. */
  connectionString?: string | string[];
  /** In its place: the program's own, with room for concurrency + 3 connections. */
  pool?: Pool;
  /** Names of the queues to claim from. */
  queues: string[];
  /** How many handlers run at once. Default 1. */
  concurrency?: number;
  /** The most steps to claim in one call. Default 1. */
  batch?: number;
  /** Seconds; null, the default: as the step's definition says. */
  lease?: number | null;
  /** Shown as claimed_by. Default host:pid. */
  name?: string | null;
  /** Seconds that running handlers have when the worker stops. Default 30. */
  drain?: number;
  /** Of the program: its version and the like, for tasker.worker_status. */
  metadata?: Record<string, Json>;
  /** Default: one line each to stderr. */
  log?: Log;
}

/** Claims steps from queues and runs their handlers. */
export class Worker {
  constructor(options: WorkerOptions);
  /** For the steps of a name, or, with null and a queue, for all other steps of the queue. */
  handle(name: string, handler: Handler): this;
  handle(name: string, options: { queue?: string; transactional?: false }, handler: Handler): this;
  handle(name: string, options: { queue?: string; transactional: true }, handler: TransactionalHandler): this;
  handle(name: null, options: { queue: string; transactional?: false }, handler: Handler): this;
  handle(name: null, options: { queue: string; transactional: true }, handler: TransactionalHandler): this;
  /** Works until SIGTERM, SIGINT or stop(), then drains. Rejects with what made work impossible: a missing right. */
  run(): Promise<void>;
  /** Starts to work and returns. Once per Worker. */
  start(): void;
  /**
   * Drains: running handlers finish within `drain`, other claimed steps are given back. Rejects as run() does.
   * A handler may call it, but not await it.
   */
  stop(): Promise<void>;
}
