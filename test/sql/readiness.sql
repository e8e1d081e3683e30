-- Readiness, levels and relatives of steps, from the edges; what verify_task
-- finds; edges changed by hand.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SELECT FROM tasker.stop();
SET tasker.clock = '2030-01-01 12:00+00';
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE SCHEMA readiness;
SET search_path = readiness;

CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	state text; message text; detail text; hint text;
BEGIN
	EXECUTE statement;
	RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN regexp_replace(format(E'%s %s\n   %s\n   %s', state, message, detail, hint), 'task \d+', 'task N', 'g');
END $$;
-- a task of queue steps, from names with their parents: 'a', 'b a', 'c a b'
CREATE FUNCTION task(name text, VARIADIC steps text[]) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
	PERFORM tasker.define_task(name, (SELECT jsonb_build_object('steps', jsonb_agg(jsonb_build_object(
		'name', split_part(s, ' ', 1), 'queue', 'readiness', 'depends_on', (string_to_array(s, ' '))[2:]) ORDER BY i))
		FROM unnest(steps) WITH ORDINALITY u (s, i)), 'readiness');
	RETURN tasker.create_task(name, namespace => 'readiness');
END $$;
CREATE FUNCTION put(t bigint, step text, new_state text, new_attempts int DEFAULT 1, due timestamptz DEFAULT NULL, leased timestamptz DEFAULT NULL)
RETURNS void LANGUAGE sql AS $$
	UPDATE tasker.workflow_steps SET state = new_state, attempts = new_attempts, next_attempt_at = due,
		lease_expires_at = leased, last_attempted_at = '2030-01-01 11:59+00'
	WHERE task_id = t AND step_id = tasker.step_id(t, step)
$$;
-- ready by the walk; twice if the recursion says something else; then whatever is wrong
CREATE FUNCTION ready(t bigint) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' / ',
		(SELECT coalesce(string_agg(r.name, ' ' ORDER BY step_id), 'none') FROM tasker.ready_steps(t) r),
		(SELECT 'recursion: ' || coalesce(string_agg(r.name, ' ' ORDER BY step_id), 'none') FROM tasker.ready_steps_by_recursion(t) r
			HAVING array_agg(r ORDER BY step_id) IS DISTINCT FROM (SELECT array_agg(r ORDER BY step_id) FROM tasker.ready_steps(t) r)),
		(SELECT string_agg(format('%s (%s): expected %s, found %s', problem, step_id, expected, found), '; ' ORDER BY problem, step_id) FROM tasker.verify_task(t)))
$$;
CREATE FUNCTION context(t bigint) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', status, total_steps, '=', pending_steps, enqueued_steps, in_progress_steps, completed_steps, failed_steps,
		'ready', ready_steps, execution_status, recommended_action, health_status, completion_percentage)
	FROM tasker.task_execution_context(t)
$$;

-- a diamond, from its root to its end
SELECT task('diamond', 'a', 'b a', 'c a', 'd b c') AS t \gset
SELECT * FROM tasker.ready_steps(:t);
SELECT put(:t, 'a', 'complete');
SELECT ready(:t), context(:t);
SELECT put(:t, 'b', 'complete');
SELECT ready(:t), context(:t);
SELECT put(:t, 'c', 'resolved_manually', 0);
SELECT ready(:t), context(:t);
SELECT put(:t, 'd', 'complete');
SELECT ready(:t), context(:t);

-- every way a parent is satisfied, and those in which it is not
SELECT task('parents', 'a', 'b', 'c', 'd', 'e', 'a1 a', 'b1 b', 'c1 c', 'd1 d', 'e1 e') AS t \gset
SELECT put(:t, 'a', 'complete'), put(:t, 'b', 'skipped', 0), put(:t, 'c', 'resolved_manually', 0), put(:t, 'd', 'error'), put(:t, 'e', 'cancelled', 0);
SELECT ready(:t), context(:t);

-- the filter chooses what is shown: parents count, wherever they are
SELECT task('filter', 'a', 'b a', 'c a', 'd b c') AS t \gset
SELECT put(:t, 'a', 'complete');
\pset tuples_only off
SELECT workflow_step_id, named_step_id, name, current_state, dependencies_satisfied, retry_eligible, ready_for_execution, total_parents, completed_parents
FROM tasker.step_readiness(:t, ARRAY[2, 4, NULL, 99]);
SELECT count(*) AS unfiltered FROM tasker.step_readiness(:t);
SELECT count(*) AS filtered FROM tasker.step_readiness(task_id => :t, step_ids => '{}');

-- waiting for a time, for a retry; out of attempts; a live lease, an old one
SELECT task('times', 'a', 'b', 'c', 'd', 'e', 'f', 'g a') AS t \gset
SELECT put(:t, 'a', 'waiting_for_retry', 1, '2030-01-01 12:00:30+00'), put(:t, 'b', 'waiting_for_retry', 2, '2030-01-01 12:00+00'),
	put(:t, 'c', 'in_progress', 1, NULL, '2030-01-01 12:01+00'), put(:t, 'd', 'enqueued', 0, NULL, '2030-01-01 12:01+00'),
	put(:t, 'e', 'enqueued', 2, NULL, '2030-01-01 11:59+00'), put(:t, 'f', 'enqueued', 3);
UPDATE tasker.workflow_steps SET last_error = '{"at": "2030-01-01T11:58:00.5+00:00", "message": "no"}' WHERE task_id = :t AND step_id = 1;
UPDATE tasker.workflow_steps SET last_error = '{"at": "yesterday"}' WHERE task_id = :t AND step_id = 2;
SELECT name, current_state, dependencies_satisfied AS deps, retry_eligible AS retry, ready_for_execution AS ready, last_failure_at, next_retry_at,
	attempts, max_attempts, backoff_request_seconds AS backoff, last_attempted_at FROM tasker.step_readiness(:t);
\pset tuples_only on
SELECT ready(:t), context(:t);
SET tasker.clock = '2030-01-01 12:01+00';
SELECT ready(:t), context(:t);
SET tasker.clock = '2030-01-01 12:00+00';
-- a task that starts later
SELECT tasker.create_task('diamond', namespace => 'readiness', start_at => '2030-01-01 13:00+00') AS t \gset
SELECT ready(:t), context(:t);
SET tasker.clock = '2030-01-01 13:00+00';
SELECT ready(:t), context(:t);
SET tasker.clock = '2030-01-01 12:00+00';

-- paused, resumed, cancelled
SELECT task('diamond', 'a', 'b a', 'c a', 'd b c') AS t \gset
SELECT FROM tasker.pause_task(:t);
SELECT ready(:t), context(:t);
SELECT FROM tasker.resume_task(:t);
SELECT ready(:t), context(:t);
SELECT FROM tasker.cancel_task(:t);
SELECT ready(:t), context(:t);

-- what a task is doing: failures do not hide the work that is left
SELECT task('conditions', 'a', 'b', 'a1 a', 'b1 b') AS t \gset
SELECT put(:t, 'a', 'error');
SELECT ready(:t), context(:t);
SELECT put(:t, 'b', 'in_progress', 1, NULL, '2030-01-01 12:01+00');
SELECT ready(:t), context(:t);
SELECT put(:t, 'b', 'waiting_for_retry', 1, '2030-01-01 12:00:30+00');
SELECT ready(:t), context(:t);
SELECT put(:t, 'b', 'enqueued', 1), put(:t, 'b', 'error', 3);
SELECT ready(:t), context(:t);
SELECT FROM tasker.retry_task(:t);
SELECT ready(:t), context(:t);

-- a fan of 300; ready in either way, in a read-only transaction too, and on every call of a session
SELECT task('fan', VARIADIC ARRAY['root'] || array_agg('s' || i || ' root') || ('end ' || string_agg('s' || i, ' '))) AS t FROM generate_series(1, 300) i \gset
SELECT put(:t, 'root', 'complete');
BEGIN READ ONLY;
SELECT count(*), min(name), max(name) FROM tasker.ready_steps(:t);
SELECT count(*) FROM tasker.verify_task(:t);
COMMIT;
UPDATE tasker.workflow_steps SET state = 'complete', attempts = 1 WHERE task_id = :t AND step_id BETWEEN 2 AND 300;
SELECT ready(:t), context(:t);
SELECT n, count(*) AS calls FROM (SELECT (SELECT count(*) FROM tasker.ready_steps(:t + 0 * i)) AS n FROM generate_series(1, 20) i) c GROUP BY n;
UPDATE tasker.workflow_steps SET state = 'complete', attempts = 1 WHERE task_id = :t AND step_id = 301;
SELECT ready(:t), context(:t);

-- levels: the longest path; relatives: once each, with the shortest
SELECT task('levels', 'a', 'b a', 'c b', 'd a c', 'e', 'f d e') AS t \gset
SELECT name, level FROM tasker.dependency_levels(:t) ORDER BY level, name;
SELECT name, distance, state FROM tasker.step_ancestors(:t, tasker.step_id(:t, 'f'));
SELECT name, distance, state FROM tasker.step_descendants(:t, tasker.step_id(:t, 'a'));
SELECT count(*) FROM tasker.step_ancestors(:t, tasker.step_id(:t, 'a'));
SELECT attempt(format('SELECT * FROM tasker.step_ancestors(%s, 7)', :t));
SELECT attempt(format('SELECT * FROM tasker.step_descendants(%s, NULL)', :t));

-- a ladder of 5,000 diamonds has 2^5000 paths
INSERT INTO tasker.named_tasks (namespace_id, name, version, definition, is_default, step_count, edge_count, runs_in_database, owner)
SELECT namespace_id, 'ladder', '1', '{}', true, 15001, 20000, false, n.owner FROM tasker.named_tasks n WHERE name = 'diamond' AND namespace_id = (SELECT namespace_id FROM tasker.task_namespaces WHERE name = 'readiness')
RETURNING named_task_id AS ladder, owner \gset
INSERT INTO tasker.named_steps SELECT :ladder, i, 's' || i, NULL, 'queue', 'readiness', q.queue_id, 0, true, 3, 'fixed', '1 s', 1, '1 s', 0, NULL, NULL, '30 s', 0
FROM generate_series(1, 15001) i, tasker.queues q WHERE q.name = 'readiness';
SELECT tasker.next_task_id() AS t \gset
ALTER TABLE tasker.tasks DISABLE TRIGGER tasks_arrive;
INSERT INTO tasker.tasks (task_id, requested_at, named_task_id, owner, priority, state, context) VALUES (:t, now(), :ladder, :owner, 0, 'in_progress', '{}');
ALTER TABLE tasker.tasks ENABLE ALWAYS TRIGGER tasks_arrive;
INSERT INTO tasker.workflow_step_edges SELECT :t, 3 * i + f, 3 * i + g
FROM generate_series(0, 4999) i, (VALUES (1, 2), (1, 3), (2, 4), (3, 4)) e (f, g);
INSERT INTO tasker.workflow_steps (task_id, step_id, step_no, lane, priority, pending_parents, state)
SELECT :t, i, i, 1, 0, CASE WHEN i = 1 OR i BETWEEN 7501 AND 7502 THEN 0 WHEN i % 3 = 1 THEN 2 ELSE 1 END,
	CASE WHEN i < 7501 THEN 'complete' WHEN i = 7501 THEN 'enqueued' ELSE 'pending' END FROM generate_series(1, 15001) i;
SET statement_timeout = '10s';
SELECT name FROM tasker.ready_steps(:t);
SELECT name FROM tasker.ready_steps_by_recursion(:t);
SELECT context(:t);
SELECT count(*), max(level) FROM tasker.dependency_levels(:t);
SELECT count(*), max(distance) FROM tasker.step_ancestors(:t, 15001);
SELECT count(*), max(distance) FROM tasker.step_descendants(:t, 1);
-- what is planted is found
SELECT problem, step_id, expected, found FROM tasker.verify_task(:t);
DELETE FROM tasker.workflow_steps WHERE task_id = :t;
DELETE FROM tasker.workflow_step_edges WHERE task_id = :t;
DELETE FROM tasker.tasks WHERE task_id = :t;
RESET statement_timeout;

-- edges by hand: those that close a cycle
SELECT task('edges', 'a', 'd', 'e', 'b a', 'c b') AS t \gset
CREATE FUNCTION edge(t bigint, f text, g text) RETURNS text LANGUAGE sql AS $$
	SELECT attempt(format('INSERT INTO tasker.workflow_step_edges VALUES (%s, %s, %s)', t, tasker.step_id(t, f), tasker.step_id(t, g)))
$$;
SELECT step_id, name FROM tasker.step_status WHERE task_id = :t ORDER BY step_id;
SELECT edge(:t, 'a', 'a');
SELECT edge(:t, 'b', 'a');
SELECT edge(:t, 'c', 'a');
SELECT edge(:t, 'e', 'd');
-- within one statement too
SELECT attempt(format('INSERT INTO tasker.workflow_step_edges SELECT %s, f, g FROM (VALUES (2, 3), (3, 2)) v (f, g)', :t));
-- long ones are shown in part
SELECT task('chain', VARIADIC ARRAY['s1'] || array_agg('s' || i || ' s' || i - 1)) AS chain FROM generate_series(2, 20) i \gset
SELECT edge(:chain, 's20', 's1');
SELECT edge(:chain, 's8', 's1');
SELECT edge(:chain, 's7', 's1');
-- a change, of no edge and of some
SELECT attempt(format('UPDATE tasker.workflow_step_edges SET to_step_id = 9 WHERE task_id = %s AND from_step_id = 99', :t));
SELECT attempt(format('UPDATE tasker.workflow_step_edges SET to_step_id = 9 WHERE task_id = %s', :t));
SELECT ready(:t);

-- a pending step gets another parent, and waits for it
SELECT edge(:t, 'd', 'c'), edge(:t, 'e', 'c');
SELECT step_id, from_step_id, to_step_id FROM tasker.workflow_step_edges JOIN tasker.workflow_steps USING (task_id) WHERE task_id = :t AND step_id = to_step_id ORDER BY 1, 2;
SELECT pending_parents, ready(:t) FROM tasker.workflow_steps WHERE task_id = :t AND step_id = tasker.step_id(:t, 'c');
SELECT put(:t, 'a', 'complete'), put(:t, 'b', 'complete'), put(:t, 'd', 'complete');
SELECT pending_parents, state, ready(:t) FROM tasker.workflow_steps WHERE task_id = :t AND step_id = tasker.step_id(:t, 'c');
-- the last that it waits for is taken away: it is released
DELETE FROM tasker.workflow_step_edges WHERE task_id = :t AND from_step_id = tasker.step_id(:t, 'e');
SELECT pending_parents, state, ready(:t) FROM tasker.workflow_steps WHERE task_id = :t AND step_id = tasker.step_id(:t, 'c');
-- now it is too late for a parent that is not satisfied, not for one that is
SELECT edge(:t, 'e', 'c');
SELECT edge(:t, 'a', 'c');
SELECT ready(:t);
-- a step that ended without its parents does not mind
SELECT put(:t, 'c', 'skipped', 0);
SELECT edge(:t, 'e', 'c');
SELECT put(:t, 'e', 'complete');
SELECT ready(:t), context(:t);

-- edges come before their steps, as in a dump
SELECT tasker.next_task_id() AS t2 \gset
INSERT INTO tasker.workflow_step_edges VALUES (:t2, 1, 2), (:t2, 2, 2), (:t2, 3, 1);
DELETE FROM tasker.workflow_step_edges WHERE task_id = :t2;
-- and a wrong count is put right by the next that is deleted
SELECT task('recount', 'a', 'b', 'c a b') AS t \gset
ALTER TABLE tasker.workflow_steps DISABLE TRIGGER steps_changed;
UPDATE tasker.workflow_steps SET pending_parents = 7 WHERE task_id = :t AND step_id = 3;
ALTER TABLE tasker.workflow_steps ENABLE ALWAYS TRIGGER steps_changed;
SELECT ready(:t);
DELETE FROM tasker.workflow_step_edges WHERE task_id = :t AND from_step_id = 1;
SELECT ready(:t);

-- a cycle forced into the table: everything ends, nothing on it is ready
SELECT task('cycle', 'a', 'b a', 'c b', 'd c', 'e', 'f e', 'g f') AS t \gset
ALTER TABLE tasker.workflow_step_edges DISABLE TRIGGER edges_inserted;
INSERT INTO tasker.workflow_step_edges SELECT :t, tasker.step_id(:t, f), tasker.step_id(:t, g) FROM (VALUES ('c', 'b'), ('g', 'e')) v (f, g);
ALTER TABLE tasker.workflow_step_edges ENABLE ALWAYS TRIGGER edges_inserted;
SET statement_timeout = '10s';
SELECT name, level FROM tasker.dependency_levels(:t) ORDER BY step_id;
SELECT name, distance FROM tasker.step_ancestors(:t, tasker.step_id(:t, 'd'));
SELECT name, distance FROM tasker.step_descendants(:t, tasker.step_id(:t, 'e'));
SELECT ready(:t);
SELECT put(:t, 'a', 'complete');
SELECT ready(:t);
RESET statement_timeout;
SELECT edge(:t, 'c', 'a');
DELETE FROM tasker.workflow_step_edges WHERE task_id = :t AND from_step_id > to_step_id;
SELECT ready(:t);

-- who may look
CREATE ROLE readiness_ann;
CREATE ROLE readiness_bob;
SELECT tasker.grant_access('readiness_ann', 'submitter'), tasker.grant_access('readiness_bob', 'viewer');
GRANT USAGE ON SCHEMA readiness TO readiness_ann, readiness_bob;
SET ROLE readiness_ann;
SELECT attempt(format('SELECT tasker.%s(%s)', f, :t)) FROM unnest('{ready_steps,ready_steps_by_recursion,step_readiness,task_execution_context,dependency_levels,verify_task}'::text[]) f;
SELECT attempt(format('SELECT tasker.step_ancestors(%s, 1)', :t)), attempt('SELECT tasker.ready_steps(NULL)'), attempt('SELECT tasker.ready_steps(-1)');
SET ROLE readiness_bob;
SELECT ready(:t);
RESET ROLE;
SELECT tasker.revoke_access('readiness_ann'), tasker.revoke_access('readiness_bob');
REVOKE USAGE ON SCHEMA readiness FROM readiness_ann, readiness_bob;
DROP ROLE readiness_ann, readiness_bob;
RESET search_path;
DROP SCHEMA readiness CASCADE;
