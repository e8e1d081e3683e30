-- What is wrong with an installation. One SELECT a question, each of which
-- has no row when nothing is wrong.
CREATE VIEW tasker.problems WITH (security_barrier) AS
SELECT p.problem, p.detail, p.hint FROM (
	SELECT 'this database is disarmed' AS problem, g.reason AS detail,
		'If the original does not run its tasks any more: SELECT * FROM tasker.adopt().' AS hint
	FROM tasker.guard() g WHERE g.state = 'disarmed'
	UNION ALL
	SELECT 'tasker is switched off', 'tasker.enabled is off on this server.',
		'ALTER SYSTEM SET tasker.enabled = on, and reload.'
	WHERE NOT pg_catalog.current_setting('tasker.enabled')::boolean
	UNION ALL
	SELECT 'no scheduler runs', 'Nothing is retried, nothing runs in the database, nobody notices that leases ran out.',
		'Put tasker into shared_preload_libraries, or SELECT tasker.start(); see whether the server has a worker left.'
	WHERE tasker.scheduler_pid() IS NULL AND NOT pg_catalog.pg_is_in_recovery()
	UNION ALL
	SELECT 'the server has no background worker left',
		pg_catalog.format('All of max_worker_processes (%s) are taken.', pg_catalog.current_setting('max_worker_processes')),
		'Raise max_worker_processes.'
	WHERE (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity a
		WHERE a.backend_type IN ('logical replication launcher', 'logical replication worker', 'parallel worker')
			OR a.backend_type LIKE 'tasker %') >= pg_catalog.current_setting('max_worker_processes')::int
	UNION ALL
	SELECT 'nobody serves a queue',
		pg_catalog.format('Queue %s has ready steps (%s), and no worker has asked it for any in the last minute.',
			pg_catalog.quote_literal(q.name), q.depth),
		'Start a worker for it; tasker.worker_status lists those that registered.'
	FROM tasker.queue_status q
	WHERE q.depth > 0 AND q.paused_at IS NULL
		AND (q.claimed_at IS NULL OR q.claimed_at < tasker.now() - '1 minute'::interval)
	UNION ALL
	SELECT 'a queue is paused',
		pg_catalog.format('Queue %s has ready steps (%s); %s paused it%s.', pg_catalog.quote_literal(q.name), q.depth,
			q.paused_by, COALESCE(': ' || q.pause_reason, '')),
		pg_catalog.format('SELECT tasker.resume_queue(%L).', q.name)
	FROM tasker.queue_status q WHERE q.depth > 0 AND q.paused_at IS NOT NULL
	UNION ALL
	SELECT 'leases that ran out are not looked at',
		pg_catalog.format('%s claims, since %s.', pg_catalog.count(*), pg_catalog.min(l.expires_at)),
		'The scheduler does it within a second: see whether it runs, and the server''s log.'
	FROM tasker.leases l WHERE l.expires_at < tasker.now() - '10 seconds'::interval HAVING pg_catalog.count(*) > 0
	UNION ALL
	SELECT 'steps whose time has come are not looked at',
		pg_catalog.format('%s, since %s.', pg_catalog.count(*), pg_catalog.min(m.due_at)),
		'The scheduler does it at once: see whether it runs, whether somebody holds the steps locked, and the server''s log.'
	FROM tasker.timers m WHERE m.due_at < tasker.now() - '10 seconds'::interval HAVING pg_catalog.count(*) > 0
	UNION ALL
	SELECT 'tasks are in error', pg_catalog.format('%s, the last one is %s.', pg_catalog.count(*), pg_catalog.max(t.task_id)),
		'SELECT * FROM tasker.step_status WHERE state = ''error''; then tasker.retry_task, resolve_step or cancel_task.'
	FROM tasker.tasks t WHERE t.state = 'error' HAVING pg_catalog.count(*) > 0
	UNION ALL
	SELECT 'what tasker keeps of a task does not fit its steps',
		pg_catalog.format('Task %s: %s (expected %s, found %s).', t.task_id, v.problem, v.expected, v.found),
		pg_catalog.format('SELECT * FROM tasker.verify_task(%s); rows were changed by hand, or this is a bug.', t.task_id)
	FROM (SELECT k.task_id FROM tasker.tasks k WHERE k.state IN ('pending', 'in_progress') ORDER BY k.task_id LIMIT 100) AS t
		CROSS JOIN LATERAL tasker.verify_task(t.task_id) AS v
	UNION ALL
	SELECT 'a trigger is not ALWAYS on', pg_catalog.format('Trigger %I of table %s.', g.tgname, g.tgrelid::pg_catalog.regclass),
		'A restore with --disable-triggers leaves it so: SELECT * FROM tasker.adopt() puts it right.'
	FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_proc f ON f.oid = g.tgfoid
	WHERE f.pronamespace = 'tasker'::pg_catalog.regnamespace AND NOT g.tgisinternal AND g.tgenabled <> 'A'
	UNION ALL
	SELECT 'tasks can not be removed', pg_catalog.format('%s are older than tasker.retention.', pg_catalog.count(*)),
		'SELECT * FROM tasker.overdue_tasks says why.'
	FROM tasker.overdue_tasks o HAVING pg_catalog.count(*) > 0
	UNION ALL
	SELECT 'a session holds back vacuum',
		pg_catalog.format('Process %s of role %I has had a transaction open since %s.', a.pid, a.usename, a.xact_start),
		'Dead rows of all tables stay meanwhile. End the transaction, or pg_terminate_backend.'
	FROM pg_catalog.pg_stat_activity a
	WHERE a.backend_xmin IS NOT NULL AND a.xact_start < pg_catalog.now() - '5 minutes'::interval
	UNION ALL
	SELECT 'a replication slot holds back vacuum', pg_catalog.format('Slot %I, inactive.', s.slot_name),
		'Dead rows of all tables stay meanwhile. Have its standby or subscriber connect, or drop it.'
	FROM pg_catalog.pg_replication_slots s WHERE NOT s.active AND s.xmin IS NOT NULL
	UNION ALL
	SELECT 'a prepared transaction holds back vacuum', pg_catalog.format('%L, prepared %s.', x.gid, x.prepared),
		'COMMIT PREPARED or ROLLBACK PREPARED it.'
	FROM pg_catalog.pg_prepared_xacts x WHERE x.prepared < pg_catalog.now() - '5 minutes'::interval
) AS p
WHERE tasker.access_level() IN ('viewer', 'operator', 'admin');
COMMENT ON VIEW tasker.problems IS
'What is wrong with this installation, a row a problem, for viewers, operators and admins; see tasker.doctor(). Example: SELECT problem, hint FROM tasker.problems;';

CREATE FUNCTION tasker.doctor() RETURNS SETOF tasker.problems
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
	AS 'SELECT * FROM tasker.problems';
COMMENT ON FUNCTION tasker.doctor() IS
'Looks for what is wrong with this installation, and says what to do about it; no row if nothing is: disarmed, switched off, without a scheduler or a background worker, queues that nobody serves, leases and times that are not looked at, tasks in error, counters that disagree in the 100 oldest open tasks, triggers that are not ALWAYS on, who holds back vacuum. For viewers, operators and admins; others get no row. Example: SELECT * FROM tasker.doctor();';
