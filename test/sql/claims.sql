-- Workers outside of the database: claim, lease, complete, fail, heartbeat, release.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
\set SHOW_CONTEXT never
SELECT tasker.stop() IS NOT NULL;
CREATE SCHEMA claims;
SET search_path = claims, pg_catalog;
SET TIME ZONE 'UTC';
CREATE ROLE claims_ann LOGIN;
CREATE ROLE claims_bob LOGIN;
CREATE ROLE claims_worker LOGIN;
CREATE ROLE claims_viewer LOGIN;
CREATE ROLE claims_nobody LOGIN;
GRANT USAGE ON SCHEMA claims TO PUBLIC;
SELECT count(tasker.grant_access(role, level)) FROM (VALUES ('claims_ann', 'submitter'), ('claims_bob', 'submitter'), ('claims_worker', 'worker'), ('claims_viewer', 'viewer')) AS v (role, level);

-- Tasks by a label instead of their number; what was claimed, newest last.
CREATE TABLE made (label text PRIMARY KEY, task_id bigint);
CREATE TABLE held (n int GENERATED ALWAYS AS IDENTITY, label text, task_id bigint, step_id int, lease uuid, name text);
GRANT ALL ON made, held TO PUBLIC;
CREATE FUNCTION make(label text, workflow text, priority int DEFAULT 0, context jsonb DEFAULT '{}') RETURNS void LANGUAGE sql AS $$
	INSERT INTO claims.made VALUES (label, tasker.create_task(workflow, context, 'claims', priority => priority))
$$;
CREATE FUNCTION claim(queues text[], max_steps int DEFAULT 1, lease interval DEFAULT NULL, worker text DEFAULT 'w1') RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	r record;
BEGIN
	FOR r IN SELECT m.label, c.* FROM tasker.claim_steps(queues, worker, max_steps, lease) WITH ORDINALITY AS c JOIN claims.made m USING (task_id) ORDER BY c.ordinality LOOP
		INSERT INTO claims.held (label, task_id, step_id, lease, name) VALUES (r.label, r.task_id, r.step_id, r.lease, r.name);
		RETURN NEXT format('%s.%s from %s, attempt %s of %s, until %s', r.label, r.name, r.queue, r.attempt, r.max_attempts, to_char(r.lease_expires_at, 'HH24:MI:SS.MS')) || COALESCE(' checkpoint ' || r.checkpoint::text, '');
	END LOOP;
END $$;
-- what the last claim but so many gave
CREATE FUNCTION key(of text, step text, back int DEFAULT 0, OUT task_id bigint, OUT step_id int, OUT lease uuid) LANGUAGE sql STABLE AS $$
	SELECT h.task_id, h.step_id, h.lease FROM claims.held h WHERE h.label = of AND h.name = step ORDER BY h.n DESC OFFSET back LIMIT 1
$$;
CREATE FUNCTION complete(of text, step text, results jsonb DEFAULT NULL, back int DEFAULT 0) RETURNS text LANGUAGE plpgsql AS $$
DECLARE k record;
BEGIN
	SELECT * INTO k FROM claims.key(of, step, back);
	PERFORM tasker.complete_step(k.task_id, k.step_id, k.lease, results);
	RETURN 'complete';
END $$;
CREATE FUNCTION fail(of text, step text, error jsonb DEFAULT '{}', retryable boolean DEFAULT true, retry_after interval DEFAULT NULL, back int DEFAULT 0) RETURNS text LANGUAGE plpgsql AS $$
DECLARE k record;
BEGIN
	SELECT * INTO k FROM claims.key(of, step, back);
	RETURN tasker.fail_step(k.task_id, k.step_id, k.lease, error, retryable, retry_after);
END $$;
CREATE FUNCTION beat(of text, step text, extend interval DEFAULT NULL, checkpoint jsonb DEFAULT NULL, back int DEFAULT 0) RETURNS text LANGUAGE plpgsql AS $$
DECLARE k record;
BEGIN
	SELECT * INTO k FROM claims.key(of, step, back);
	RETURN to_char(tasker.heartbeat(k.task_id, k.step_id, k.lease, extend, checkpoint), 'YYYY-MM-DD HH24:MI:SS.MS');
END $$;
CREATE FUNCTION release(of text, step text, delay interval DEFAULT NULL, back int DEFAULT 0) RETURNS text LANGUAGE plpgsql AS $$
DECLARE k record;
BEGIN
	SELECT * INTO k FROM claims.key(of, step, back);
	PERFORM tasker.release_step(k.task_id, k.step_id, k.lease, delay);
	RETURN 'released';
END $$;
-- what a call says when it is refused; numbers of tasks and leases are not shown
CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text; state text; message text; detail text; hint text;
BEGIN
	EXECUTE statement INTO result;
	RETURN 'accepted: ' || COALESCE(result, 'null');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	message := format(E'%s %s\n   %s\n   %s', state, message, detail, hint);
	message := regexp_replace(message, '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', 'LEASE', 'g');
	RETURN regexp_replace(message, '\mtask \d+', 'task N', 'g');
END $$;
-- only its code, and whether it says why and what to do
CREATE FUNCTION code(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	lines text[] := string_to_array(claims.attempt(statement), E'\n   ');
BEGIN
	RETURN CASE WHEN lines[1] LIKE 'accepted: %' THEN lines[1] ELSE left(lines[1], 5) || CASE WHEN lines[2] <> '' AND lines[3] <> '' THEN '' ELSE ' without detail or hint' END END;
END $$;
CREATE FUNCTION shown(of text) RETURNS SETOF text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
	SELECT format('%s: %s', t.state, string_agg(concat_ws(' ', n.name, s.state, s.attempts, 'until ' || to_char(s.next_attempt_at, 'HH24:MI:SS.MS'), 'by ' || s.claimed_by,
		'to ' || to_char(s.lease_expires_at, 'HH24:MI:SS.MS'), CASE WHEN s.lease IS NOT NULL THEN 'leased' END, n.results), ', ' ORDER BY s.step_id))
	FROM claims.made m JOIN tasker.tasks t USING (task_id) JOIN tasker.workflow_steps s USING (task_id) JOIN tasker.step_status n USING (task_id, step_id) WHERE m.label = of GROUP BY t.task_id, t.state
$$;
CREATE FUNCTION history(of text) RETURNS SETOF text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
	SELECT concat_ws(' ', n.name, h.attempt, h.from_state || ' -> ' || h.to_state, to_char(h.created_at, 'HH24:MI:SS'), h.metadata - 'at')
	FROM claims.made m JOIN tasker.workflow_step_transitions h USING (task_id) JOIN tasker.step_status n USING (task_id, step_id) WHERE m.label = of
	ORDER BY h.created_at, h.xmin::text::bigint, h.cmin::text::bigint, h.step_id
$$;
-- what verify_task finds in any of these tasks; it should be nothing
CREATE FUNCTION wrong() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
	SELECT format('%s: %s', m.label, v) FROM claims.made m CROSS JOIN LATERAL tasker.verify_task(m.task_id) AS v ORDER BY 1
$$;
-- a part's tasks are over before the next one
CREATE FUNCTION clear() RETURNS boolean LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
	SELECT count(tasker.cancel_task(m.task_id)) >= 0 FROM claims.made m JOIN tasker.tasks t USING (task_id) WHERE t.state IN ('pending', 'in_progress', 'paused', 'error')
$$;
SET SESSION AUTHORIZATION claims_ann;
SELECT count(tasker.define_task(name, definition::jsonb, 'claims')) FROM (VALUES
	('a', '{"steps": [{"name": "s", "queue": "claims_a"}]}'), ('b', '{"steps": [{"name": "s", "queue": "claims_b"}]}'),
	('urgent', '{"steps": [{"name": "late", "queue": "claims_a", "priority": -5}, {"name": "s", "queue": "claims_a"}, {"name": "soon", "queue": "claims_a", "priority": 5}]}'),
	('rhombus', '{"steps": [{"name": "start", "queue": "claims_d"}, {"name": "left", "queue": "claims_d", "depends_on": ["start"]}, {"name": "right", "queue": "claims_d", "depends_on": ["start"]}, {"name": "end", "queue": "claims_d", "depends_on": ["left", "right"], "lease": "90 s"}]}'),
	('retry', '{"steps": [{"name": "s", "queue": "claims_r", "retry": {"max_attempts": 4, "jitter": 0}}]}'),
	('last', '{"steps": [{"name": "s", "queue": "claims_r", "retry": {"max_attempts": 2, "backoff": "fixed", "base": "10 s", "jitter": 0}}]}'),
	('once', '{"steps": [{"name": "s", "queue": "claims_r", "retryable": false}]}'),
	('chain', '{"steps": [{"name": "first", "queue": "claims_c"}, {"name": "second", "queue": "claims_c", "depends_on": ["first"]}]}'),
	('mixed', '{"steps": [{"name": "outside", "queue": "claims_m"}, {"name": "inside", "sql": "SELECT $1->''parents''", "depends_on": ["outside"]}, {"name": "again", "queue": "claims_m", "depends_on": ["inside"]}]}')) AS v (name, definition);
SET tasker.clock = '2030-01-01 00:00+00';

-- in order of priority, then of age, across the queues; no more than asked for
SELECT count(make(label, workflow, priority)) FROM (VALUES (1, 'a1', 'a', 0), (2, 'b1', 'b', 0), (3, 'b+5', 'b', 5), (4, 'a+5', 'a', 5), (5, 'a-1', 'a', -1), (6, 'b+9', 'b', 9), (7, 'a2', 'a', 0)) AS v (n, label, workflow, priority);
SET SESSION AUTHORIZATION claims_worker;
SELECT claim('{claims_a,claims_b}', 4);
SELECT claim('{claims_b}', 10);
SELECT claim('{claims_b,claims_a,claims_a,claims_nowhere}', 10);
SELECT count(*) FROM claim('{claims_a,claims_b}', 10);
SELECT count(*) FROM claim('{}', 10);
SELECT count(*) FROM claim('{claims_nowhere}');
SELECT shown('a1'), shown('a-1');
SELECT wrong();
SET SESSION AUTHORIZATION claims_ann;
-- by the step's priority and the task's together
SELECT make('u1', 'urgent'), make('u2', 'urgent', 5), make('u3', 'urgent', -5);
SET SESSION AUTHORIZATION claims_worker;
SELECT label, name FROM (SELECT m.label, c.* FROM tasker.claim_steps('{claims_a}', 'w2', 100) WITH ORDINALITY AS c JOIN made m USING (task_id)) AS v ORDER BY ordinality;
SELECT shown('u1');
-- leases differ
RESET SESSION AUTHORIZATION;
SELECT count(DISTINCT lease) = count(*), count(*) FROM tasker.workflow_steps JOIN made USING (task_id);

-- what a handler gets; results of parents of any size, or none
SET SESSION AUTHORIZATION claims_ann;
SELECT make('d', 'rhombus', 3, '{"order": 7, "lines": [1, null, "ü"]}');
SET SESSION AUTHORIZATION claims_worker;
CREATE TEMP TABLE got AS SELECT * FROM tasker.claim_steps(queues => '{claims_d}', worker => 'w1');
SELECT input #- '{task,id}' #- '{task,correlation_id}' #- '{step,idempotency_key}' FROM got;
SELECT (input #>> '{task,id}')::bigint = task_id, (input #>> '{task,correlation_id}')::uuid IS NOT NULL, input #>> '{step,idempotency_key}' = idempotency_key, idempotency_key = task_id || ':' || step_id,
	name, queue, attempt, max_attempts, lease_expires_at, checkpoint FROM got;
INSERT INTO held (label, task_id, step_id, lease, name) SELECT 'd', task_id, step_id, lease, name FROM got;
SELECT complete('d', 'start', '[1, {"a": null}]');
SELECT claim('{claims_d}', 2, '5 min');
SELECT complete('d', 'right', jsonb_build_object('large', repeat('x', 5000)));
SELECT complete('d', 'left');
TRUNCATE got;
INSERT INTO got SELECT * FROM tasker.claim_steps('{claims_d}', 'w1');
SELECT input -> 'parents' -> 'left', length(input #>> '{parents,right,large}'), (SELECT array_agg(k ORDER BY k) FROM jsonb_object_keys(input -> 'parents') AS k), lease_expires_at FROM got;
SELECT tasker.complete_step(task_id => task_id, step_id => step_id, lease => lease, results => '"done"') FROM got;
SELECT regexp_replace(shown('d'), 'x+', 'x…');
SELECT history('d');
SELECT wrong();
SELECT clear();

-- a step in the database between two of workers
SET SESSION AUTHORIZATION claims_ann;
SELECT make('m', 'mixed');
SELECT claim('{claims_m}');
SELECT complete('m', 'outside', '{"paid": true}');
SELECT count(*) FROM claim('{claims_m}');
CALL tasker.run();
SELECT claim('{claims_m}');
SELECT complete('m', 'again');
SELECT shown('m');

-- refused with TK420: another lease, a step that is over, one that nobody has, one that there is not
SELECT make('c1', 'chain'), make('c2', 'chain');
SET SESSION AUTHORIZATION claims_worker;
SELECT claim('{claims_c}', 2);
SELECT task_id AS t1 FROM made WHERE label = 'c1' \gset
SELECT task_id AS t2 FROM made WHERE label = 'c2' \gset
SELECT lease AS l1 FROM key('c1', 'first') \gset
SELECT lease AS l2 FROM key('c2', 'first') \gset
CREATE TEMP TABLE tried (n int, what text, key text);
INSERT INTO tried VALUES (1, 'another''s lease', format('%s, 1, %L', :t1, :'l2')), (2, 'no such lease', format('%s, 1, %L', :t1, '00000000-0000-0000-0000-000000000000')), (3, 'a null lease', format('%s, 1, NULL', :t1)),
	(4, 'not claimed', format('%s, 2, %L', :t1, :'l1')), (5, 'not claimed, null', format('%s, 2, NULL', :t1)), (6, 'no such step', format('%s, 3, %L', :t1, :'l1')), (7, 'no such task', format('-1, 1, %L', :'l1')), (8, 'a null task', format('NULL, 1, %L', :'l1')), (9, 'a null step', format('%s, NULL, %L', :t1, :'l1'));
SELECT what, code(format('SELECT tasker.complete_step(%s)', key)) AS complete, code(format('SELECT tasker.fail_step(%s)', key)) AS fail, code(format('SELECT tasker.heartbeat(%s, ''1 h'', ''1'')', key)) AS heartbeat,
	code(format('SELECT tasker.release_step(%s)', key)) AS release FROM tried ORDER BY n;
SELECT attempt(format('SELECT tasker.complete_step(%s)', key)) FROM tried WHERE n = 1;
SELECT attempt(format('SELECT tasker.fail_step(%s)', key)) FROM tried WHERE n = 1;
SELECT attempt(format('SELECT tasker.heartbeat(%s)', key)) FROM tried WHERE n = 1;
SELECT attempt(format('SELECT tasker.release_step(%s)', key)) FROM tried WHERE n = 1;
SELECT shown('c1'), shown('c2');
-- complete, once
SELECT complete('c1', 'first', '1');
RESET SESSION AUTHORIZATION;
CREATE FUNCTION four(of text, step text, back int DEFAULT 0) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', claims.code(format('SELECT claims.complete(%L, %L, ''"late"'', %s)', of, step, back)), claims.code(format('SELECT claims.fail(%L, %L, back => %s)', of, step, back)),
		claims.code(format('SELECT claims.beat(%L, %L, ''1 h'', ''"late"'', %s)', of, step, back)), claims.code(format('SELECT claims.release(%L, %L, back => %s)', of, step, back)))
$$;
SET SESSION AUTHORIZATION claims_worker;
SELECT four('c1', 'first');
-- the task is cancelled while the worker has the step
SELECT shown('c2');
RESET SESSION AUTHORIZATION;
SELECT tasker.cancel_task(:t2);
SET SESSION AUTHORIZATION claims_worker;
SELECT four('c2', 'first');
SELECT shown('c2');
-- released, and claimed by another: the first has nothing any more
SELECT claim('{claims_c}');
SELECT release('c1', 'second');
SELECT four('c1', 'second');
SELECT claim('{claims_c}', worker => 'w2');
SELECT four('c1', 'second', 1);
SELECT shown('c1');
SELECT complete('c1', 'second', '2');
-- resolved by hand while the worker has it
SET SESSION AUTHORIZATION claims_ann;
SELECT make('c3', 'chain');
SET SESSION AUTHORIZATION claims_worker;
SELECT claim('{claims_c}');
RESET SESSION AUTHORIZATION;
SELECT tasker.resolve_step(task_id, 'first', '"by hand"') FROM made WHERE label = 'c3';
SET SESSION AUTHORIZATION claims_worker;
SELECT four('c3', 'first');
SELECT claim('{claims_c}');
-- a worker's writes and its completion: both or none
BEGIN;
SELECT complete('c3', 'second', '3');
ROLLBACK;
SELECT shown('c3');
SELECT complete('c3', 'second', '4');
SELECT shown('c1'), shown('c2'), shown('c3');
SELECT history('c1');
SELECT wrong();
SELECT clear();

-- results too large: refused, and nothing changed
SET SESSION AUTHORIZATION claims_ann;
SELECT make('l1', 'a'), make('l2', 'a');
SET SESSION AUTHORIZATION claims_worker;
SELECT count(*) FROM claim('{claims_a}', 2);
SELECT current_setting('tasker.max_result_size');
SELECT attempt($$SELECT complete('l1', 's', to_jsonb(repeat('x', 20 * 1024 * 1024)))$$);
SELECT attempt($$SELECT tasker.complete_steps(ARRAY[a.task_id, b.task_id], ARRAY[a.step_id, b.step_id], ARRAY[a.lease, b.lease], ARRAY['1', to_jsonb(repeat('x', 20 * 1024 * 1024))]) FROM key('l1', 's') AS a, key('l2', 's') AS b$$);
SELECT attempt($$SELECT beat('l1', 's', checkpoint => to_jsonb(repeat('x', 20 * 1024 * 1024)))$$);
SELECT shown('l1'), shown('l2');
SELECT complete('l1', 's', jsonb_build_object('large', repeat('x', 1000))), complete('l2', 's', 'null');
SELECT regexp_replace(shown('l1'), 'x+', 'x…'), shown('l2');

-- many at once: the valid ones are completed, the others named, the next ones claimed
SET SESSION AUTHORIZATION claims_ann;
SELECT count(make('n' || n, 'chain')) FROM generate_series(1, 5) AS n;
SET SESSION AUTHORIZATION claims_worker;
SELECT claim('{claims_c}', 5);
CREATE TEMP TABLE next AS SELECT c.* FROM (SELECT array_agg(task_id ORDER BY label DESC) AS tasks, array_agg(step_id ORDER BY label DESC) AS steps,
		array_agg(CASE label WHEN 'n3' THEN '00000000-0000-0000-0000-000000000000' ELSE lease END ORDER BY label DESC) AS leases FROM held WHERE label LIKE 'n_') AS h,
	tasker.complete_steps(tasks || -1::bigint, steps || 1, leases || gen_random_uuid(), ARRAY['5', '4', '3', NULL, '{"n": 1}', '0']::jsonb[], '{claims_c}', 'w1', 2) WITH ORDINALITY AS c;
SELECT outcome, m.label, step_id, name, attempt, lease IS NOT NULL AS leased, lease_expires_at, input -> 'parents' FROM next LEFT JOIN made m USING (task_id) ORDER BY ordinality;
SELECT label, shown(label) FROM made WHERE label LIKE 'n_' ORDER BY label;
-- the same again: every one refused; one twice in a call counts once
SELECT outcome, m.label, c.step_id FROM (SELECT array_agg(task_id ORDER BY label) AS tasks, array_agg(step_id ORDER BY label) AS steps, array_agg(lease ORDER BY label) AS leases FROM held WHERE label IN ('n1', 'n2')) AS h,
	tasker.complete_steps(tasks, steps, leases, ARRAY[NULL, NULL]::jsonb[]) AS c JOIN made m USING (task_id) ORDER BY m.label;
SELECT outcome, m.label, c.step_id FROM key('n3', 'first') AS h, tasker.complete_steps(ARRAY[h.task_id, h.task_id], ARRAY[h.step_id, h.step_id], ARRAY[h.lease, h.lease], '{1,2}') AS c JOIN made m USING (task_id);
SELECT shown('n3');
-- an old lease of a step beside its present one: the present one counts, wherever it stands
SELECT claim('{claims_c}');
SELECT release(label, name) FROM held ORDER BY n DESC LIMIT 1;
SELECT claim('{claims_c}');
SELECT outcome, m.label, c.step_id FROM (SELECT array_agg(task_id ORDER BY n) AS tasks, array_agg(step_id ORDER BY n) AS steps, array_agg(lease ORDER BY n) AS leases FROM (SELECT * FROM held ORDER BY n DESC LIMIT 2) AS h) AS h,
	tasker.complete_steps(tasks || tasks, steps || steps, leases || leases, '{"\"old\"","\"present\"","\"old\"","\"present\""}') AS c JOIN made m USING (task_id);
SELECT label, shown(label) FROM held ORDER BY n DESC LIMIT 1;
-- none at all, and only to claim
SELECT count(*) FROM tasker.complete_steps('{}', '{}', '{}', '{}');
SELECT outcome, m.label, c.name FROM tasker.complete_steps('{}', '{}', '{}', '{}', '{claims_c}', 'w1', 1) AS c JOIN made m USING (task_id);
-- several steps of one task
SET SESSION AUTHORIZATION claims_ann;
SELECT make('d2', 'rhombus');
SET SESSION AUTHORIZATION claims_worker;
SELECT claim('{claims_d}');
SELECT complete('d2', 'start');
SELECT claim('{claims_d}', 2);
SELECT outcome, m.label, c.name, c.input -> 'parents' FROM key('d2', 'left') AS a, key('d2', 'right') AS b,
	tasker.complete_steps(ARRAY[b.task_id, a.task_id], ARRAY[b.step_id, a.step_id], ARRAY[b.lease, a.lease], '{"\"right\"","\"left\""}', '{claims_d}', 'w1', 5, '1 min') AS c JOIN made m USING (task_id);
SELECT shown('d2');
SELECT wrong();
SELECT clear();

-- fail: retried after the backoff, to the microsecond; then over
SET SESSION AUTHORIZATION claims_ann;
SET tasker.clock = '2030-01-01 00:00+00';
SELECT make('f', 'retry');
SELECT claim('{claims_r}');
SELECT fail('f', 's', '{"message": "card declined", "code": "E42", "detail": "twice", "context": "line 1"}');
SELECT shown('f');
SELECT jsonb_pretty(last_error) FROM tasker.step_status JOIN made USING (task_id) WHERE label = 'f';
SELECT four('f', 's');
RESET SESSION AUTHORIZATION;
SELECT tasker.tick('2030-01-01 00:00:01.999999+00') >= 0;
SELECT count(*) FROM claim('{claims_r}');
SET tasker.clock = '2030-01-01 00:00:02+00';
SELECT tasker.tick('2030-01-01 00:00:02+00') > 0;
SELECT shown('f');
SELECT claim('{claims_r}');
SELECT fail('f', 's');
SELECT shown('f');
SET tasker.clock = '2030-01-01 00:00:06+00';
SELECT tasker.tick('2030-01-01 00:00:06+00') > 0;
SELECT claim('{claims_r}');
-- the worker says when
SELECT fail('f', 's', retry_after => '1 h 0.5 s');
SELECT shown('f');
SET tasker.clock = '2030-01-01 01:00:06.5+00';
SELECT tasker.tick('2030-01-01 01:00:06.5+00') > 0;
SELECT claim('{claims_r}');
-- no attempts left, whatever the worker says
SELECT fail('f', 's', '{"sqlstate": "22012", "message": "the last one"}', true, '1 s');
SELECT shown('f');
SELECT history('f');
-- an operator retries it: all attempts again
SELECT tasker.retry_step(task_id, 's') FROM made WHERE label = 'f';
SELECT claim('{claims_r}');
SELECT fail('f', 's', '{"message": "never"}', retryable => false);
SELECT shown('f');
-- a step that is not retryable
SET SESSION AUTHORIZATION claims_ann;
SELECT make('o', 'once'), make('z', 'retry'), make('e', 'retry');
SELECT claim('{claims_r}', 3);
SELECT fail('o', 's', '{"message": "once"}', retryable => true, retry_after => '1 s');
SELECT shown('o');
SELECT fail('z', 's', retry_after => '0');
SELECT shown('z');
-- an error is an object, a delay makes sense; otherwise nothing is changed
SELECT attempt($$SELECT fail('e', 's', retry_after => '-1 s')$$);
SELECT attempt($$SELECT fail('e', 's', retry_after => '10000 years')$$);
SELECT shown('e');
SELECT code($$SELECT fail('e', 's', '["not", {"an": "object"}]', retry_after => '1 min')$$);
SELECT shown('e'), (SELECT last_error - 'at' FROM tasker.step_status JOIN made USING (task_id) WHERE label = 'e');
SELECT wrong();
SELECT clear();

-- the lease runs out: retried by the policy, the attempt counts, and at last it is over
SET tasker.clock = '2030-01-01 02:00+00';
SELECT make('x', 'last');
SET SESSION AUTHORIZATION claims_worker;
SELECT claim('{claims_r}', lease => '20 s', worker => 'zombie');
SELECT beat('x', 's', '5 s', '{"page": 7}');
RESET SESSION AUTHORIZATION;
SELECT tasker.tick('2030-01-01 02:00:19.999999+00') >= 0;
SELECT shown('x');
SET tasker.clock = '2030-01-01 02:00:20+00';
SELECT tasker.tick('2030-01-01 02:00:20+00') > 0;
SELECT shown('x');
SELECT four('x', 's');
SELECT last_error - 'at' FROM tasker.step_status JOIN made USING (task_id) WHERE label = 'x';
SET tasker.clock = '2030-01-01 02:00:30+00';
SELECT tasker.tick('2030-01-01 02:00:30+00') > 0;
SET SESSION AUTHORIZATION claims_worker;
-- the next one gets the checkpoint, the zombie nothing
SELECT claim('{claims_r}', worker => 'w2');
SELECT four('x', 's', 1);
-- a heartbeat makes it last longer, never shorter, and keeps the checkpoint if it brings none
SET tasker.clock = '2030-01-01 02:00:40+00';
SELECT beat('x', 's');
SELECT beat('x', 's', '2 min');
SELECT beat('x', 's', '1 s');
RESET SESSION AUTHORIZATION;
SET tasker.clock = '2030-01-01 02:02:39+00';
SELECT tasker.tick('2030-01-01 02:02:39+00') >= 0;
SELECT shown('x');
SET tasker.clock = '2030-01-01 02:02:40+00';
SELECT tasker.tick('2030-01-01 02:02:40+00') > 0;
SELECT shown('x');
SELECT history('x');
SELECT count(*) FROM claim('{claims_r}');
-- one that reported in time, long after its first lease
SET SESSION AUTHORIZATION claims_worker;
SET tasker.clock = '2030-01-01 03:00+00';
SET SESSION AUTHORIZATION claims_ann;
SELECT make('y', 'last'), make('not retryable', 'once');
SELECT claim('{claims_r}', 2, '10 s');
SELECT beat('y', 's', '30 s');
RESET SESSION AUTHORIZATION;
SET tasker.clock = '2030-01-01 03:00:20+00';
SELECT tasker.tick('2030-01-01 03:00:20+00') > 0;
SELECT shown('y'), shown('not retryable');
SELECT complete('y', 's');
SELECT tasker.tick('2030-01-01 03:01+00') >= 0;
SELECT shown('y');
-- the new attempt of an operator's retry begins afresh
SELECT tasker.retry_step(task_id, 's') FROM made WHERE label = 'x';
SELECT claim('{claims_r}');
SELECT complete('x', 's', '"at last"');
SELECT shown('x');
SELECT wrong();
SELECT clear();

-- released: takes no attempt; with a delay it waits
SET SESSION AUTHORIZATION claims_ann;
SET tasker.clock = '2030-01-01 04:00+00';
SELECT make('r', 'last');
SELECT claim('{claims_r}');
SELECT beat('r', 's', checkpoint => '"so far"');
SELECT release('r', 's');
SELECT shown('r');
SELECT claim('{claims_r}');
SELECT release('r', 's', '1 min');
SELECT shown('r');
SELECT count(*) FROM claim('{claims_r}');
RESET SESSION AUTHORIZATION;
SET tasker.clock = '2030-01-01 04:00:59+00';
SELECT tasker.tick('2030-01-01 04:00:59+00') >= 0;
SELECT count(*) FROM claim('{claims_r}');
SET tasker.clock = '2030-01-01 04:01+00';
SELECT tasker.tick('2030-01-01 04:01+00') > 0;
SELECT claim('{claims_r}');
SELECT code($$SELECT release('r', 's', '-1 min')$$);
SELECT release('r', 's', '0');
SELECT claim('{claims_r}');
SELECT shown('r');
SELECT fail('r', 's', retry_after => '0');
SELECT tasker.tick('2030-01-01 04:01+00') >= 0;
SELECT claim('{claims_r}');
SELECT fail('r', 's');
SELECT history('r');
SELECT wrong();
SELECT clear();
-- claimed again while the row of the first claim's lease is still there: its end is of no interest
SELECT make('s', 'last');
SELECT claim('{claims_r}', lease => '10 s');
SELECT release('s', 's');
SELECT claim('{claims_r}', lease => '1 min', worker => 'w2');
SET tasker.clock = '2030-01-01 04:01:10+00';
SELECT tasker.tick('2030-01-01 04:01:10+00') > 0;
SELECT shown('s');
SET tasker.clock = '2030-01-01 04:02+00';
SELECT tasker.tick('2030-01-01 04:02+00') > 0;
SELECT shown('s');
SELECT count(*) FROM tasker.leases CROSS JOIN LATERAL unnest(task_ids) AS u (task_id) JOIN made USING (task_id) WHERE label = 's';
SELECT clear();
SET tasker.clock = '2030-01-01 04:01+00';

-- paused: its steps are not claimed, what was taken ends as usual
SET SESSION AUTHORIZATION claims_ann;
SELECT make('p1', 'chain'), make('p2', 'chain');
SELECT claim('{claims_c}', 1);
SELECT count(tasker.pause_task(task_id)) FROM made WHERE label IN ('p1', 'p2');
SELECT count(*) FROM claim('{claims_c}', 10);
SELECT beat('p1', 'first', '1 min');
SELECT complete('p1', 'first');
SELECT shown('p1'), shown('p2');
SELECT count(*) FROM claim('{claims_c}', 10);
SELECT wrong();
SELECT count(tasker.resume_task(task_id)) FROM made WHERE label IN ('p1', 'p2');
SELECT claim('{claims_c}', 10);
-- a task that is cancelled, or a step that a plain UPDATE took, is not claimed either, and hides nothing
SELECT make('k1', 'a'), make('k2', 'a'), make('k3', 'a'), make('k4', 'a'), make('k5', 'a');
SELECT count(tasker.cancel_task(task_id)) FROM made WHERE label IN ('k1', 'k4');
RESET SESSION AUTHORIZATION;
UPDATE tasker.workflow_steps SET state = 'in_progress' FROM made WHERE label = 'k2' AND made.task_id = workflow_steps.task_id;
SELECT claim('{claims_a}', 2);
SELECT wrong();
SELECT clear();

-- who may
SET SESSION AUTHORIZATION claims_bob;
SELECT tasker.define_task('bob', '{"steps": [{"name": "s", "queue": "claims_b"}]}', 'claims') IS NOT NULL;
SELECT make('bob', 'bob');
SET SESSION AUTHORIZATION claims_ann;
SELECT make('ann', 'b');
SET SESSION AUTHORIZATION claims_viewer;
SELECT attempt($$SELECT tasker.claim_steps('{claims_b}', 'v')$$);
SELECT attempt($$SELECT tasker.complete_steps('{}', '{}', '{}', '{}', '{claims_b}', 'v', 1)$$);
SET SESSION AUTHORIZATION claims_nobody;
SELECT code($$SELECT tasker.claim_steps('{claims_b}', 'n')$$);
-- a submitter its own only
SET SESSION AUTHORIZATION claims_ann;
SELECT claim('{claims_b}', 10);
SELECT count(*) FROM claim('{claims_b}', 10);
-- a worker everybody's
SET SESSION AUTHORIZATION claims_worker;
SELECT claim('{claims_b}', 10);
-- the lease alone is not enough
SET SESSION AUTHORIZATION claims_ann;
SELECT four('bob', 's');
SET SESSION AUTHORIZATION claims_viewer;
SELECT four('bob', 's');
SELECT outcome FROM key('bob', 's') AS k, tasker.complete_steps(ARRAY[k.task_id], ARRAY[k.step_id], ARRAY[k.lease], '{1}');
SET SESSION AUTHORIZATION claims_nobody;
SELECT four('bob', 's');
SET SESSION AUTHORIZATION claims_ann;
SELECT outcome FROM key('bob', 's') AS k, tasker.complete_steps(ARRAY[k.task_id], ARRAY[k.step_id], ARRAY[k.lease], '{1}');
SELECT shown('bob');
-- the owner may end what another worker has, with its lease
SET SESSION AUTHORIZATION claims_bob;
SELECT complete('bob', 's', '"mine"');
SET SESSION AUTHORIZATION claims_worker;
SELECT complete('ann', 's', '"any"');
SELECT shown('bob'), shown('ann');
SELECT clear();

-- bad arguments
SET SESSION AUTHORIZATION claims_worker;
SELECT statement, attempt('SELECT count(*) FROM tasker.' || statement) FROM unnest(ARRAY[
	$$claim_steps(NULL, 'w')$$, $$claim_steps('{claims_a,NULL}', 'w')$$, $$claim_steps('{claims_a}', NULL)$$, $$claim_steps('{claims_a}', '')$$, $$claim_steps('{{claims_a},{claims_b}}', 'w')$$,
	$$claim_steps('{claims_a}', 'w', NULL)$$, $$claim_steps('{claims_a}', 'w', 0)$$, $$claim_steps('{claims_a}', 'w', -1)$$, $$claim_steps('{claims_a}', 'w', 2147483647)$$,
	$$claim_steps('{claims_a}', 'w', 1, '0')$$, $$claim_steps('{claims_a}', 'w', 1, '-1 s')$$, $$claim_steps('{claims_a}', 'w', 1, '10000 years')$$,
	$$claim_steps('{claims_a}', 'w', wait => '-1 s')$$, $$claim_steps('{claims_a}', 'w', wait => NULL)$$,
	$$complete_steps(NULL, '{}', '{}', '{}')$$, $$complete_steps('{}', NULL, '{}', '{}')$$, $$complete_steps('{}', '{}', NULL, '{}')$$, $$complete_steps('{}', '{}', '{}', NULL)$$,
	$$complete_steps('{1,2}', '{1}', '{00000000-0000-0000-0000-000000000000}', '{1}')$$, $$complete_steps('{1}', '{1,2}', '{00000000-0000-0000-0000-000000000000}', '{1}')$$,
	$$complete_steps('{1}', '{1}', '{}', '{1}')$$, $$complete_steps('{1}', '{1}', '{00000000-0000-0000-0000-000000000000}', '{}')$$,
	$$complete_steps('{NULL}', '{1}', '{00000000-0000-0000-0000-000000000000}', '{1}')$$, $$complete_steps('{1}', '{NULL}', '{00000000-0000-0000-0000-000000000000}', '{1}')$$,
	$$complete_steps('{{1}}', '{{1}}', '{{00000000-0000-0000-0000-000000000000}}', '{{1}}')$$,
	$$complete_steps('{}', '{}', '{}', '{}', NULL, 'w', 1)$$, $$complete_steps('{}', '{}', '{}', '{}', '{claims_a}', NULL, 1)$$, $$complete_steps('{}', '{}', '{}', '{}', '{claims_a}', 'w', -1)$$, $$complete_steps('{}', '{}', '{}', '{}', '{claims_a}', 'w', NULL)$$,
	$$complete_steps('{}', '{}', '{}', '{}', '{claims_a}', 'w', 1, '-1 s')$$]) WITH ORDINALITY AS v (statement, n) ORDER BY n;
SET SESSION AUTHORIZATION claims_ann;
SELECT make('q', 'a');
SELECT claim('{claims_a}');
SELECT statement, attempt('SELECT ' || statement) FROM unnest(ARRAY[
	$$beat('q', 's', '-1 s')$$, $$beat('q', 's', '10000 years')$$, $$release('q', 's', '10000 years')$$,
	$$fail('q', 's', retry_after => '10000 years')$$]) WITH ORDINALITY AS v (statement, n) ORDER BY n;
SELECT shown('q');
-- what is null is what there is by default
SELECT tasker.fail_step(task_id, step_id, lease, NULL, NULL, '1 min') FROM key('q', 's');
SELECT last_error - 'at' FROM tasker.step_status JOIN made USING (task_id) WHERE label = 'q';
-- whatever the worker and the queue are called
SELECT tasker.define_task('odd', '{"steps": [{"name": "s", "queue": "claims, \"{}'' \\"}]}', 'claims') IS NOT NULL;
SELECT make('odd', 'odd');
SELECT claim(ARRAY[$$claims, "{}' \$$], worker => E'w "\'\n{} \\');
SELECT complete('odd', 's', to_jsonb(E'\\ "\n'::text));
SELECT shown('odd');

-- a wait goes by the real time, and is at most a second
SET statement_timeout = '30 s';
SELECT count(*) FROM tasker.claim_steps('{claims_nowhere}', 'w', wait => '20 ms');
SELECT clock_timestamp() AS before \gset
SELECT count(*) FROM tasker.claim_steps('{claims_a}', 'w', wait => '1 day');
SELECT clock_timestamp() - :'before' BETWEEN '0.9 s' AND '10 s';
SELECT clock_timestamp() AS before \gset
SELECT count(*) FROM tasker.complete_steps('{}', '{}', '{}', '{}', '{claims_a}', 'w', 1, wait => '50 ms');
SELECT clock_timestamp() - :'before' BETWEEN '40 ms' AND '900 ms';
SELECT make('w', 'a');
SELECT label FROM tasker.claim_steps('{claims_a}', 'w', wait => '1 day') JOIN made USING (task_id);
RESET statement_timeout;

RESET SESSION AUTHORIZATION;
SELECT clear();
SELECT wrong();
SELECT count(tasker.revoke_access(role)) FROM unnest('{claims_ann,claims_bob,claims_worker,claims_viewer}'::name[]) AS role;
DROP TABLE got, tried, next;
DROP SCHEMA claims CASCADE;
DROP ROLE claims_ann, claims_bob, claims_worker, claims_viewer, claims_nobody;
