-- Failures: how long a step waits for its next attempt, what is kept of errors, when it is over.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
\set SHOW_CONTEXT never
SELECT tasker.stop() IS NOT NULL;
CREATE SCHEMA retry;
SET search_path = retry, pg_catalog;
CREATE ROLE retry_ann LOGIN;
GRANT USAGE ON SCHEMA retry TO PUBLIC;
SELECT tasker.grant_access('retry_ann', 'submitter') IS NOT NULL;
CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text; state text; message text; detail text; hint text;
BEGIN
	EXECUTE statement INTO result;
	RETURN 'accepted: ' || COALESCE(result, 'null');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN format(E'%s %s\n   %s\n   %s', state, message, detail, hint);
END $$;

-- the delay: exponential, capped; linear; fixed; a list
SELECT n, tasker.backoff_delay(n, jitter => 0) AS by_default, tasker.backoff_delay(n, base => '100 ms', factor => 1.5, cap => '1 s', jitter => 0) AS exponential,
	tasker.backoff_delay(n, 'linear', base => '2 s', cap => '5 s', jitter => 0) AS linear, tasker.backoff_delay(n, 'fixed', base => '7 s', jitter => 0) AS fixed,
	tasker.backoff_delay(n, 'list', delays => '{1 s,1 min,1 h}', jitter => 0) AS list
FROM unnest('{1,2,3,4,8,9,50,100,2147483647}'::int[]) AS n;
SELECT n, tasker.backoff_delay(n, jitter => 0), tasker.backoff_delay(n, 'list', delays => '{1 s,1 min}', jitter => 0) FROM unnest('{0,-1}'::int[]) AS n;
SELECT tasker.backoff_delay(1, 'list', jitter => 0), tasker.backoff_delay(1, 'list', delays => '{}', jitter => 0), tasker.backoff_delay(3, factor => 1, jitter => 0),
	tasker.backoff_delay(1, 'fixed', base => '1 mon 1 day', jitter => 0), tasker.backoff_delay(1, base => '0', jitter => 0);
-- a share of it more or less
SELECT tasker.backoff_delay(3, random => r), tasker.backoff_delay(1, 'fixed', base => '10 s', jitter => 1, random => r), tasker.backoff_delay(2, 'list', delays => '{1 s,20 s}', jitter => 0.5, random => r) FROM unnest('{0,0.5,0.75}'::float8[]) AS r;
SELECT min(d) >= '00:00:07.2', max(d) <= '00:00:08.8', max(d) > min(d) FROM (SELECT tasker.backoff_delay(3) FROM generate_series(1, 500)) AS v (d);
SELECT tasker.backoff_delay(NULL), tasker.backoff_delay(1, NULL), tasker.backoff_delay(1, jitter => NULL);
SELECT attempt($$SELECT tasker.backoff_delay(1, 'Fixed')$$);

-- Handlers that fail in the way the context says.
CREATE FUNCTION fail(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	how text := input -> 'task' -> 'context' ->> (input -> 'step' ->> 'name');
BEGIN
	CASE split_part(how, ':', 1)
		WHEN 'raise' THEN RAISE EXCEPTION USING ERRCODE = 'XY123', MESSAGE = 'attempt ' || (input -> 'step' ->> 'attempt'), DETAIL = E'a "detail"\nof two lines', HINT = 'a hint';
		WHEN 'until' THEN IF (input -> 'step' ->> 'attempt')::int < split_part(how, ':', 2)::int THEN PERFORM 1 / 0; END IF;
		WHEN 'never' THEN PERFORM tasker.do_not_retry('card declined', split_part(how, ':', 2));
		WHEN 'never, raised' THEN RAISE EXCEPTION 'no more' USING ERRCODE = 'TK410';
		WHEN 'after' THEN IF (input -> 'step' ->> 'attempt')::int < 2 THEN PERFORM tasker.retry_after(split_part(how, ':', 2)::interval, 'rate limited'); END IF;
		WHEN 'after, raised' THEN RAISE EXCEPTION 'later' USING ERRCODE = 'TK411', DETAIL = substr(how, 15);
		ELSE NULL;
	END CASE;
	RETURN input -> 'step' -> 'attempt';
END $$;
SELECT count(tasker.define_task(name, tasker.workflow(steps), 'retry')) FROM (VALUES
	('exponential', ARRAY[tasker.step('a', function => 'retry.fail', max_attempts => 5, jitter => 0)]),
	('list', ARRAY[tasker.step('a', function => 'retry.fail', max_attempts => 4, backoff => 'list', delays => '{1 min,1 h}', jitter => 0)]),
	('default', ARRAY[tasker.step('a', function => 'retry.fail')]),
	('once', ARRAY[tasker.step('a', function => 'retry.fail', max_attempts => 1)]),
	('not retryable', ARRAY[tasker.step('a', function => 'retry.fail', retryable => false, max_attempts => 9)]),
	('branches', ARRAY[tasker.step('start', function => 'retry.fail'), tasker.step('a', function => 'retry.fail', max_attempts => 2, backoff => 'fixed', base => '10 s', jitter => 0, depends_on => '{start}'),
		tasker.step('b', function => 'retry.fail', max_attempts => 9, backoff => 'fixed', base => '1 min', jitter => 0, depends_on => '{start}'),
		tasker.step('c', function => 'retry.fail', depends_on => '{b}'), tasker.step('end', function => 'retry.fail', depends_on => '{a,c}')])) AS v (name, steps);
CREATE FUNCTION shown(id bigint) RETURNS SETOF text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
	SELECT format('%s: %s', t.state, string_agg(format('%s %s %s%s', s.name, s.state, s.attempts, to_char(s.next_attempt_at AT TIME ZONE 'UTC', '" until "HH24:MI:SS.US')), ', ' ORDER BY s.step_id))
	FROM tasker.tasks t JOIN tasker.step_status s USING (task_id) WHERE task_id = id GROUP BY t.task_id, t.state
$$;
CREATE FUNCTION history(id bigint) RETURNS SETOF text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
	SELECT concat_ws(' ', s.name, h.attempt, h.from_state || ' -> ' || h.to_state, to_char(h.started_at AT TIME ZONE 'UTC', 'HH24:MI:SS'), to_char(h.created_at AT TIME ZONE 'UTC', 'HH24:MI:SS'), (h.metadata - 'context')::text)
	FROM tasker.workflow_step_transitions h JOIN tasker.step_status s USING (task_id, step_id) WHERE task_id = id ORDER BY h.created_at, h.xmin::text::bigint, h.cmin::text::bigint, h.step_id
$$;
-- Run at a time of 2030-01-01.
SET TIME ZONE 'UTC';
SET SESSION AUTHORIZATION retry_ann;

-- each attempt a power of two later, to the microsecond; then it is over
SET tasker.clock = '2030-01-01 00:00:00+00';
SELECT tasker.create_task('exponential', '{"a": "raise"}', 'retry') AS id \gset
CALL tasker.run();
SELECT shown(:id);
SET tasker.clock = '2030-01-01 00:00:01.999999+00';
CALL tasker.run();
SELECT shown(:id);
SET tasker.clock = '2030-01-01 00:00:02+00';
CALL tasker.run();
SELECT shown(:id);
SET tasker.clock = '2030-01-01 00:00:10+00';
CALL tasker.run();
SELECT shown(:id);
SET tasker.clock = '2030-01-01 01:00+00';
CALL tasker.run();
SELECT shown(:id);
SET tasker.clock = '2030-01-01 02:00+00';
CALL tasker.run();
SELECT shown(:id);
SELECT history(:id);
SELECT jsonb_pretty(last_error) FROM tasker.step_status WHERE task_id = :id;
SELECT started_at, completed_at FROM tasker.task_status WHERE task_id = :id;
SET tasker.clock = '2031-01-01 00:00+00';
CALL tasker.run();
SELECT shown(:id);
-- what is kept does not depend on how the session writes dates
SELECT last_error ->> 'at' ~ '^2030-01-01T02:00:00' FROM tasker.step_status WHERE task_id = :id;

-- it works the third time; the error stays visible
SET tasker.clock = '2030-01-01 00:00+00';
SELECT tasker.create_task('list', '{"a": "until:3"}', 'retry') AS id \gset
CALL tasker.run();
SELECT shown(:id);
SET tasker.clock = '2030-01-01 00:01+00';
CALL tasker.run();
SELECT shown(:id);
SET tasker.clock = '2030-01-01 01:01+00';
CALL tasker.run();
SELECT shown(:id);
SELECT results, last_error ->> 'sqlstate', last_error ->> 'message', (last_error ->> 'context') LIKE '%fail(jsonb) line%' FROM tasker.step_status WHERE task_id = :id;
SELECT history(:id);
-- the default: three attempts, after about two and four seconds
SELECT tasker.create_task('default', '{"a": "until:4"}', 'retry') AS id \gset
CALL tasker.run();
SELECT next_attempt_at BETWEEN '2030-01-01 01:01:01.8+00' AND '2030-01-01 01:01:02.2+00' FROM tasker.step_status WHERE task_id = :id;
SET tasker.clock = '2030-01-01 01:01:03+00';
CALL tasker.run();
SELECT next_attempt_at BETWEEN '2030-01-01 01:01:06.6+00' AND '2030-01-01 01:01:07.4+00' FROM tasker.step_status WHERE task_id = :id;
SET tasker.clock = '2030-01-01 01:01:08+00';
CALL tasker.run();
SELECT shown(:id);

-- not again: one attempt, a step that is not retryable, a handler that says so
SELECT tasker.create_task('once', '{"a": "raise"}', 'retry') AS once, tasker.create_task('not retryable', '{"a": "raise"}', 'retry') AS not_retryable,
	tasker.create_task('default', '{"a": "never:because"}', 'retry') AS never, tasker.create_task('default', '{"a": "never, raised"}', 'retry') AS raised,
	tasker.create_task('not retryable', '{"a": "after:1 s"}', 'retry') AS both \gset
CALL tasker.run();
SELECT shown(id), (SELECT last_error - 'context' - 'at' FROM tasker.step_status WHERE task_id = id) FROM unnest(ARRAY[:once, :not_retryable, :never, :raised, :both]) AS id;

-- when the handler says; what makes no sense is the usual backoff
SET tasker.clock = '2030-01-01 00:00+00';
SELECT array_agg(tasker.create_task('exponential', jsonb_build_object('a', how), 'retry') ORDER BY n) AS ids
FROM unnest(ARRAY['after:90 s', 'after:0', 'after:364 days', 'after, raised:1 day 0.5 s', 'after, raised:366 days', 'after, raised:soon', 'after, raised:', 'after, raised:-1 h', 'after, raised: 00:00:30 '])
	WITH ORDINALITY AS v (how, n) \gset
CALL tasker.run();
SELECT t.context ->> 'a', s.state, s.attempts, s.next_attempt_at - '2030-01-01 00:00+00' FROM unnest(:'ids'::bigint[]) WITH ORDINALITY AS i (task_id, n)
	JOIN tasker.task_status t USING (task_id) JOIN tasker.step_status s USING (task_id) ORDER BY n;
SELECT last_error - 'context' FROM tasker.step_status WHERE task_id = (:'ids'::bigint[])[1];
SELECT attempt($$SELECT tasker.retry_after(NULL)$$), attempt($$SELECT tasker.retry_after('2 h', NULL)$$), attempt($$SELECT tasker.do_not_retry(NULL)$$);
SELECT count(tasker.cancel_task(task_id)) FROM unnest(:'ids'::bigint[]) AS task_id JOIN tasker.task_status USING (task_id) WHERE state = 'in_progress';

-- one branch fails, another goes on: the task is in error when nothing more can run
SELECT tasker.create_task('branches', '{"a": "raise", "b": "until:3"}', 'retry') AS id \gset
CALL tasker.run();
SELECT shown(:id);
SET tasker.clock = '2030-01-01 00:00:10+00';
CALL tasker.run();
SELECT shown(:id);
SET tasker.clock = '2030-01-01 00:01+00';
CALL tasker.run();
SELECT shown(:id);
SET tasker.clock = '2030-01-01 00:02+00';
CALL tasker.run();
SELECT shown(:id);
RESET SESSION AUTHORIZATION;
SELECT string_agg(from_state || ' -> ' || to_state || ' ' || to_char(created_at, 'HH24:MI:SS'), ', ' ORDER BY created_at, xmin::text::bigint, cmin::text::bigint) FROM tasker.task_transitions WHERE task_id = :id;
-- and on it goes
SET SESSION AUTHORIZATION retry_ann;
SELECT tasker.resolve_step(:id, 'a', '"by hand"');
CALL tasker.run();
SELECT shown(:id);
-- both fail
SET tasker.clock = '2030-01-01 00:00+00';
SELECT tasker.create_task('branches', '{"a": "never", "b": "never"}', 'retry') AS id \gset
CALL tasker.run();
SELECT shown(:id);

-- the scheduler's work at a time of one's own choice
SET tasker.clock = '2030-01-01 00:00+00';
SELECT tasker.create_task('list', '{"a": "raise"}', 'retry') AS id \gset
CALL tasker.run();
SELECT attempt('SELECT tasker.tick()');
RESET SESSION AUTHORIZATION;
SELECT tasker.tick('2030-01-01 00:00:59.999999+00') >= 0;
SELECT shown(:id);
SELECT tasker.tick('2030-01-01 00:01+00') > 0;
SELECT shown(:id);
SELECT tasker.tick('2030-01-01 00:01+00', 0);
-- at most so many timers
SET SESSION AUTHORIZATION retry_ann;
SET tasker.clock = '2001-01-01 00:00+00';
SELECT array_agg(c) AS ids FROM tasker.create_tasks('once', ARRAY(SELECT '{}'::jsonb FROM generate_series(1, 5)), 'retry', start_at => '2001-06-01 00:00+00') AS c \gset
RESET SESSION AUTHORIZATION;
SELECT tasker.tick('2001-05-31 00:00+00');
SELECT tasker.tick('2001-06-01 00:00+00', 2), (SELECT count(*) FROM tasker.workflow_steps WHERE task_id = ANY (:'ids'::bigint[]) AND state = 'waiting');
SELECT count(*) FROM tasker.workflow_steps WHERE task_id = ANY (:'ids'::bigint[]) AND state = 'waiting';
SELECT tasker.tick('2001-06-01 00:00+00', 2), tasker.tick('2001-06-01 00:00+00', 2), tasker.tick('2001-06-01 00:00+00', 2);
SELECT count(*) FROM tasker.workflow_steps WHERE task_id = ANY (:'ids'::bigint[]) AND state = 'enqueued';
-- a timer of a task that is gone goes too
INSERT INTO tasker.timers VALUES ('2000-01-01 00:00+00', -1, 1);
SELECT tasker.tick('2001-06-01 00:00+00'), (SELECT count(*) FROM tasker.timers WHERE task_id = -1);
SELECT count(*) FROM tasker.timers WHERE task_id = -1;

SELECT tasker.revoke_access('retry_ann') IS NOT NULL;
DROP SCHEMA retry CASCADE;
DROP ROLE retry_ann;
