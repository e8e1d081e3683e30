-- Queues as such: made, paused, resumed, drained; workers that register; what the views show to whom.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
\set SHOW_CONTEXT never
SELECT tasker.stop() IS NOT NULL;
CREATE ROLE queues_ann LOGIN;
CREATE ROLE queues_bob LOGIN;
CREATE ROLE queues_worker LOGIN;
CREATE ROLE queues_op LOGIN;
CREATE ROLE queues_nobody LOGIN;
SELECT count(tasker.grant_access(role, level)) FROM (VALUES ('queues_ann', 'submitter'), ('queues_bob', 'submitter'), ('queues_worker', 'worker'), ('queues_op', 'operator')) AS v (role, level);
CREATE FUNCTION public.refused(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text; state text; message text; detail text; hint text;
BEGIN
	EXECUTE statement INTO result;
	RETURN 'accepted: ' || COALESCE(result, 'null');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n   ', state || ' ' || message, NULLIF(detail, ''), NULLIF(hint, ''));
END $$;
SET tasker.clock = '2030-01-01 00:00+00';
SET TIME ZONE 'UTC';

-- made on purpose, or by a definition; changed by operators only
SET SESSION AUTHORIZATION queues_ann;
SELECT tasker.create_queue('queues_mail', description => 'letters');
SELECT tasker.create_queue('queues_mail');
SELECT refused($$SELECT tasker.create_queue('queues_mail', notify => true)$$);
SELECT refused($$SELECT tasker.create_queue('')$$);
SELECT refused($$SELECT tasker.create_queue(NULL)$$);
SELECT refused(format('SELECT tasker.create_queue(%L)', repeat('x', 256)));
SELECT tasker.define_task('queues', '{"steps": [{"name": "a", "queue": "queues_mail", "timeout": "10 s"}, {"name": "b", "queue": "queues_other"}]}') IS NOT NULL;
SELECT tasker.create_task('queues', correlation_id => '12345678-9abc-def0-1234-56789abcdef0') AS t \gset
SELECT tasker.create_task('queues', traceparent => '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00') AS u \gset
SELECT refused(format('SELECT tasker.create_task(''queues'', traceparent => %L)', bad)) FROM (VALUES
	('00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-00'), ('00-00000000000000000000000000000000-b7ad6b7169203331-00'),
	('00-0af7651916cd43dd8448eb211c80319c-0000000000000000-00'), ('00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331'), ('')) AS v (bad);
SELECT refused($$SELECT tasker.pause_queue('queues_mail')$$);
SELECT refused($$SELECT tasker.resume_queue('queues_mail')$$);
SET SESSION AUTHORIZATION queues_nobody;
SELECT refused($$SELECT tasker.create_queue('queues_x')$$);
SET SESSION AUTHORIZATION queues_op;
SELECT tasker.create_queue('queues_mail', notify => true);
SELECT name, description, notify FROM tasker.queue_status WHERE name LIKE 'queues%' ORDER BY name;

-- what a claim gives: a deadline where there is a timeout, and a trace to go on in
SET SESSION AUTHORIZATION queues_worker;
CREATE TEMP TABLE held AS SELECT * FROM tasker.claim_steps('{queues_mail,queues_other}', 'w1', 10);
SELECT name, task_id = :t AS first, deadline, lease_expires_at, traceparent = '00-123456789abcdef0123456789abcdef0-' || lpad(to_hex(task_id), 16, '0') || '-01' AS made,
	traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00' AS given FROM held ORDER BY task_id, name;
SELECT name, depth, oldest_age, in_flight, completed_last_minute, failed_last_minute, claimed_at FROM tasker.queue_status WHERE name LIKE 'queues%' ORDER BY name;
SELECT tasker.complete_step(task_id, step_id, lease) FROM held WHERE name = 'a' AND task_id = :t;
SELECT tasker.fail_step(task_id, step_id, lease, retry_after => '1 h') FROM held WHERE name = 'b' AND task_id = :t;
SELECT tasker.release_step(task_id, step_id, lease) FROM held WHERE name = 'a' AND task_id = :u;
SET tasker.clock = '2030-01-01 00:00:59+00';
SELECT name, depth, oldest_age, in_flight, completed_last_minute, failed_last_minute FROM tasker.queue_status WHERE name LIKE 'queues%' ORDER BY name;
-- a tenant's counts are its own, and another's queues are not even seen
SET SESSION AUTHORIZATION queues_bob;
SELECT name, depth, oldest_age, in_flight, completed_last_minute, failed_last_minute FROM tasker.queue_status WHERE name LIKE 'queues%' ORDER BY name;
SET SESSION AUTHORIZATION queues_ann;
SELECT name, depth, oldest_age, in_flight, completed_last_minute, failed_last_minute FROM tasker.queue_status WHERE name LIKE 'queues%' ORDER BY name;
SET tasker.clock = '2030-01-01 00:00+00';

-- paused: nothing is claimed, nothing is lost, the step says so
SET SESSION AUTHORIZATION queues_op;
SELECT tasker.pause_queue('queues_mail', reason => 'the printer is "out"');
SELECT tasker.pause_queue('queues_mail');
SELECT paused_at, paused_by, pause_reason FROM tasker.queue_status WHERE name = 'queues_mail';
SELECT refused($$SELECT tasker.pause_queue('queues_nowhere')$$);
SELECT refused($$SELECT tasker.resume_queue('queues_nowhere')$$);
SET SESSION AUTHORIZATION queues_worker;
SELECT name, queue FROM tasker.claim_steps('{queues_mail}', 'w1', 10);
SELECT name, queue FROM tasker.claim_steps('{queues_mail,queues_other}', 'w1', 10);
SELECT outcome FROM tasker.complete_steps('{}', '{}', '{}', '{}', '{queues_mail}', 'w1', 10, wait => '10 ms');
SET SESSION AUTHORIZATION queues_ann;
SELECT regexp_replace(tasker.explain_step(:u, 'a'), 'task \d+', 'task U');
SET SESSION AUTHORIZATION queues_op;
SELECT tasker.resume_queue('queues_mail');
SELECT tasker.resume_queue('queues_mail');
SELECT regexp_replace(tasker.explain_step(:u, 'a'), 'task \d+', 'task U');
SET tasker.clock = '2030-01-01 00:02:01+00';
SELECT regexp_replace(tasker.explain_step(:u, 'a'), 'task \d+', 'task U');
SET tasker.clock = '2030-01-01 00:01+00';

-- drained: what is claimed may end, for so long
BEGIN;
CALL tasker.drain_queue('queues_other');
ROLLBACK;
CALL tasker.drain_queue('queues_other', timeout => '50 ms', reason => 'moving');
SET SESSION AUTHORIZATION queues_worker;
SELECT tasker.complete_step(task_id, step_id, lease) FROM held WHERE name = 'b' AND task_id = :u;
SET SESSION AUTHORIZATION queues_op;
CALL tasker.drain_queue('queues_other');
SELECT name, paused_by, pause_reason, in_flight FROM tasker.queue_status WHERE name = 'queues_other';
SELECT tasker.resume_queue('queues_other');
CALL tasker.drain_queue('queues_nowhere');
SET SESSION AUTHORIZATION queues_ann;
CALL tasker.drain_queue('queues_mail');

-- workers that register
SET SESSION AUTHORIZATION queues_worker;
SELECT tasker.register_worker('w1', '{queues_mail,queues_other}', '{"host": "x"}');
SELECT tasker.register_worker('w2', '{queues_mail}');
SET tasker.clock = '2030-01-01 00:04+00';
SELECT tasker.register_worker('w2', '{queues_mail,queues_mail}', '{"host": "y"}');
SELECT worker, role_name, queues, metadata, registered_at, last_seen_at, alive FROM tasker.worker_status ORDER BY worker;
SELECT name, workers FROM tasker.queue_status WHERE name LIKE 'queues%' ORDER BY name;
SELECT refused($$SELECT tasker.register_worker('', '{a}')$$);
SELECT refused($$SELECT tasker.register_worker('w', NULL)$$);
SET SESSION AUTHORIZATION queues_ann;
SELECT count(*) FROM tasker.worker_status;
SELECT tasker.register_worker('w1', '{queues_mail}');
SELECT worker, role_name FROM tasker.worker_status;
SET SESSION AUTHORIZATION queues_nobody;
SELECT refused($$SELECT tasker.register_worker('w', '{a}')$$);
RESET SESSION AUTHORIZATION;
SET tasker.clock = '2030-01-03 00:00+00';
SELECT tasker.register_worker('w9', '{queues_mail}');
SELECT worker, role_name = CURRENT_USER AS own FROM tasker.worker_status ORDER BY worker;

RESET tasker.clock;
SELECT count(tasker.cancel_task(task_id)) FROM tasker.task_status WHERE name = 'queues' AND state <> 'complete';
DROP FUNCTION public.refused(text);
DROP TABLE held;
SELECT count(tasker.revoke_access(role)) FROM unnest('{queues_ann,queues_bob,queues_worker,queues_op}'::name[]) AS role;
DROP ROLE queues_ann, queues_bob, queues_worker, queues_op, queues_nobody;
