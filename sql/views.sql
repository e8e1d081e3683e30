-- Views for people. Each filters by what the reader may see, behind a security
-- barrier: a view reads tables as its owner, whom row-level security spares.
CREATE VIEW tasker.task_status WITH (security_barrier) AS
SELECT t.task_id, n.name, s.name AS namespace, n.version, t.state, t.priority,
	o.role_name AS owner, c.steps, c.satisfied, c.active, c.failed,
	t.requested_at, t.start_at, t.started_at, t.completed_at,
	t.correlation_id, t.context, t.tags, t.initiator, t.source_system, t.reason
FROM tasker.tasks t
	JOIN tasker.named_tasks n ON n.named_task_id = t.named_task_id
	JOIN tasker.task_namespaces s ON s.namespace_id = n.namespace_id
	LEFT JOIN tasker.owners o ON o.owner_id = t.owner
	CROSS JOIN LATERAL (
		SELECT pg_catalog.count(*) AS steps,
			pg_catalog.count(*) FILTER (WHERE w.state IN ('complete', 'resolved_manually', 'skipped')) AS satisfied,
			pg_catalog.count(*) FILTER (WHERE w.state IN ('waiting', 'enqueued', 'in_progress', 'waiting_for_retry')) AS active,
			pg_catalog.count(*) FILTER (WHERE w.state = 'error') AS failed
		FROM tasker.workflow_steps w WHERE w.task_id = t.task_id) AS c
WHERE tasker.may_see_owner(t.owner);
COMMENT ON VIEW tasker.task_status IS
'Tasks with their names and how many of their steps are satisfied, active and failed. Example: SELECT task_id, name, state FROM tasker.task_status ORDER BY task_id DESC LIMIT 10;';

CREATE VIEW tasker.step_status WITH (security_barrier) AS
SELECT w.task_id, w.step_id, ns.name, w.state, w.attempts, ns.max_attempts,
	ns.handler_kind, ns.handler,
	ARRAY(SELECT pn.name
		FROM tasker.workflow_step_edges e
			JOIN tasker.workflow_steps p ON p.task_id = e.task_id AND p.step_id = e.from_step_id
			JOIN tasker.named_steps pn ON pn.named_task_id = t.named_task_id AND pn.step_no = p.step_no
		WHERE e.task_id = w.task_id AND e.to_step_id = w.step_id
		ORDER BY e.from_step_id) AS depends_on,
	w.pending_parents, w.priority, w.last_attempted_at, w.completed_at, w.next_attempt_at,
	w.claimed_by, w.lease_expires_at,
	COALESCE(w.results, r.results) AS results, w.last_error
FROM tasker.workflow_steps w
	JOIN tasker.tasks t ON t.task_id = w.task_id
	JOIN tasker.named_steps ns ON ns.named_task_id = t.named_task_id AND ns.step_no = w.step_no
	LEFT JOIN tasker.workflow_step_results r ON r.task_id = w.task_id AND r.step_id = w.step_id
WHERE tasker.may_see_owner(t.owner);
COMMENT ON VIEW tasker.step_status IS
'Steps with their names, parents, results and last error. Example: SELECT step_id, name, state, depends_on FROM tasker.step_status WHERE task_id = 42 ORDER BY step_id;';

CREATE VIEW tasker.task_history WITH (security_barrier) AS
SELECT h.task_id, h.created_at, NULL::int AS step_id, NULL::text AS step, h.from_state, h.to_state,
	NULL::int AS attempt, NULL::timestamptz AS started_at, h.executor, h.metadata
FROM tasker.task_transitions h
	JOIN tasker.tasks t ON t.task_id = h.task_id
WHERE tasker.may_see_owner(t.owner)
UNION ALL
SELECT h.task_id, h.created_at, h.step_id, ns.name, h.from_state, h.to_state,
	h.attempt, h.started_at, h.executor, h.metadata
FROM tasker.workflow_step_transitions h
	JOIN tasker.workflow_steps w ON w.task_id = h.task_id AND w.step_id = h.step_id
	JOIN tasker.tasks t ON t.task_id = h.task_id
	JOIN tasker.named_steps ns ON ns.named_task_id = t.named_task_id AND ns.step_no = w.step_no
WHERE tasker.may_see_owner(t.owner);
COMMENT ON VIEW tasker.task_history IS
'Every change of state of tasks (step is null) and of their steps. Example: SELECT created_at, step, from_state, to_state, attempt FROM tasker.task_history WHERE task_id = 42 ORDER BY created_at;';

CREATE VIEW tasker.executing WITH (security_barrier) AS
SELECT x.pid, o.role_name AS owner, x.state, x.since, pg_catalog.clock_timestamp() - x.since AS for_how_long,
	x.task_id, x.step_id, n.name AS task, ns.name AS step
FROM tasker.executors() x
	LEFT JOIN tasker.owners o ON o.owner_id = x.owner
	LEFT JOIN tasker.tasks t ON t.task_id = x.task_id
	LEFT JOIN tasker.named_tasks n ON n.named_task_id = t.named_task_id
	LEFT JOIN tasker.workflow_steps w ON w.task_id = x.task_id AND w.step_id = x.step_id
	LEFT JOIN tasker.named_steps ns ON ns.named_task_id = t.named_task_id AND ns.step_no = w.step_no
WHERE tasker.may_see_owner(x.owner);
COMMENT ON VIEW tasker.executing IS
'The executors of this database and the step that each runs right now. Example: SELECT owner, task_id, step, for_how_long FROM tasker.executing WHERE state = ''busy'';';
