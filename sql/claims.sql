-- The protocol of external workers. Each call is one statement, so it works
-- through a pooler in transaction mode. A role of level worker serves all
-- owners' steps, a submitter those of its own tasks.
CREATE FUNCTION tasker.claim_steps(
	queues text[],
	worker text,
	max_steps int DEFAULT 1,
	lease interval DEFAULT NULL,
	wait interval DEFAULT '0',
	OUT task_id bigint,
	OUT step_id int,
	OUT lease uuid,
	OUT name text,
	OUT queue text,
	OUT attempt int,
	OUT max_attempts int,
	OUT input jsonb,
	OUT idempotency_key text,
	OUT lease_expires_at timestamptz,
	OUT checkpoint jsonb,
	OUT deadline timestamptz,
	OUT traceparent text
) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'tasker_claim_steps' LANGUAGE C VOLATILE ROWS 10;
COMMENT ON FUNCTION tasker.claim_steps(text[], text, int, interval, interval) IS
'Claims up to max_steps (at most tasker.max_claim) ready steps of the queues, by priority, then age, for as long as the lease (each step''s own unless given; never past its timeout), and returns all that their handlers need. No two calls get the same step; nothing comes from a paused queue.
deadline: when the step''s timeout ends the attempt, however often its lease is extended; null if it has none. traceparent: the W3C trace context to go on in.
wait: if there is none, waits for work so long, at most a second, and returns as soon as a commit makes some. The limit keeps the call''s snapshot from holding back vacuum: to wait longer, call again.
Errors: TK204 bad argument, TK500 no access. Example: SELECT * FROM tasker.claim_steps(''{payments}'', ''worker-1'', 10, wait => ''1 s'');';

CREATE FUNCTION tasker.complete_step(task_id bigint, step_id int, lease uuid, results jsonb DEFAULT NULL) RETURNS void
	AS 'MODULE_PATHNAME', 'tasker_complete_step' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.complete_step(bigint, int, uuid, jsonb) IS
'Completes a claimed step with its results. In one transaction with the worker''s own writes, those happen exactly once.
Errors: TK420 the lease is not the step''s any more, TK400 results too large, TK204, TK500. Example: SELECT tasker.complete_step(42, 3, ''7c0e…'', ''{"paid": true}'');';

CREATE FUNCTION tasker.complete_steps(
	task_ids bigint[],
	step_ids int[],
	leases uuid[],
	results jsonb[],
	queues text[] DEFAULT NULL,
	worker text DEFAULT NULL,
	max_steps int DEFAULT 0,
	lease interval DEFAULT NULL,
	wait interval DEFAULT '0',
	OUT outcome text,
	OUT task_id bigint,
	OUT step_id int,
	OUT lease uuid,
	OUT name text,
	OUT queue text,
	OUT attempt int,
	OUT max_attempts int,
	OUT input jsonb,
	OUT idempotency_key text,
	OUT lease_expires_at timestamptz,
	OUT checkpoint jsonb,
	OUT deadline timestamptz,
	OUT traceparent text
) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'tasker_complete_steps' LANGUAGE C VOLATILE ROWS 10;
COMMENT ON FUNCTION tasker.complete_steps(bigint[], int[], uuid[], jsonb[], text[], text, int, interval, interval) IS
'Completes claimed steps, an element of each array a step, and with max_steps claims the next ones in the same call. Returns a row with outcome refused for each step whose lease is not its own any more, and a row with outcome claimed, as of claim_steps, for each step claimed.
Errors: TK400 results too large, TK204 bad argument, TK500 no access; then nothing is changed. Example: SELECT * FROM tasker.complete_steps(''{42}'', ''{3}'', ARRAY[''7c0e…''::uuid], ARRAY[''{}''::jsonb], ''{payments}'', ''worker-1'', 10);';

CREATE FUNCTION tasker.fail_step(task_id bigint, step_id int, lease uuid, error jsonb DEFAULT '{}', retryable boolean DEFAULT true, retry_after interval DEFAULT NULL) RETURNS text
	AS 'MODULE_PATHNAME', 'tasker_fail_step' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.fail_step(bigint, int, uuid, jsonb, boolean, interval) IS
'Ends a claimed step''s attempt with an error, which is kept, and returns the step''s new state: waiting_for_retry, or error if it is not retryable or has no attempts left. retry_after takes the place of the backoff.
Errors: TK420 the lease is not the step''s any more, TK204, TK400, TK500. Example: SELECT tasker.fail_step(42, 3, ''7c0e…'', ''{"message": "rate limited"}'', retry_after => ''30 s'');';

CREATE FUNCTION tasker.heartbeat(task_id bigint, step_id int, lease uuid, extend interval DEFAULT NULL, checkpoint jsonb DEFAULT NULL) RETURNS timestamptz
	AS 'MODULE_PATHNAME', 'tasker_heartbeat' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.heartbeat(bigint, int, uuid, interval, jsonb) IS
'Extends a claimed step''s lease from now on by the given time, or by the step''s own lease, and returns its new end: never sooner than before, nor past the step''s timeout; so with extend ''0'' the lease stays what it is. A checkpoint is kept for the next attempt.
Errors: TK420 the lease is not the step''s any more: stop the work; TK204, TK400, TK500. Example: SELECT tasker.heartbeat(42, 3, ''7c0e…'', checkpoint => ''{"row": 1000}'');';

CREATE FUNCTION tasker.release_step(task_id bigint, step_id int, lease uuid, delay interval DEFAULT NULL) RETURNS void
	AS 'MODULE_PATHNAME', 'tasker_release_step' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.release_step(bigint, int, uuid, interval) IS
'Gives a claimed step back unharmed, which takes no attempt; with a delay nobody gets it before that. Errors: TK420 the lease is not the step''s any more, TK204, TK500. Example: SELECT tasker.release_step(42, 3, ''7c0e…'');';
