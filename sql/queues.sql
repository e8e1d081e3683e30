-- Queues on purpose, what an operator does to them, and who serves them.
CREATE FUNCTION tasker.create_queue(queue text, description text DEFAULT NULL, notify boolean DEFAULT NULL) RETURNS boolean
	AS 'MODULE_PATHNAME', 'tasker_create_queue' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.create_queue(text, text, boolean) IS
'Makes a queue before a definition names it, or sets what is given of one that there is. True if it was made.
notify: for clients that would rather LISTEN than claim with wait: whenever the queue gets steps the scheduler sends one NOTIFY tasker_queue, with the queue''s name as payload, however many steps and commits there were since the last.
Errors: TK204 bad argument, TK500 not a submitter or, to change one that there is, not an operator. Example: SELECT tasker.create_queue(''payments'', notify => true);';

CREATE FUNCTION tasker.pause_queue(queue text, reason text DEFAULT NULL) RETURNS boolean
	AS 'MODULE_PATHNAME', 'tasker_pause_queue' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.pause_queue(text, text) IS
'Lets nothing more be claimed from the queue; what is claimed ends as usual, and steps go on gathering. True, or false if it was paused before.
Errors: TK207 unknown queue, TK500 not an operator. Example: SELECT tasker.pause_queue(''payments'', reason => ''the gateway is down'');';

CREATE FUNCTION tasker.resume_queue(queue text) RETURNS boolean
	AS 'MODULE_PATHNAME', 'tasker_resume_queue' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.resume_queue(text) IS
'Lets steps be claimed from a paused queue again. True, or false if it was not paused. Errors: TK207 unknown queue, TK500 not an operator. Example: SELECT tasker.resume_queue(''payments'');';

CREATE PROCEDURE tasker.drain_queue(queue text, timeout interval DEFAULT NULL, reason text DEFAULT NULL, INOUT in_flight int DEFAULT NULL)
	AS 'MODULE_PATHNAME', 'tasker_drain_queue' LANGUAGE C;
COMMENT ON PROCEDURE tasker.drain_queue(text, interval, text, int) IS
'Pauses the queue, commits that, and waits until nothing that was claimed from it is in flight any more, or for so long; gives how many steps still are. It waits for transactions, too, that looked at the queue before it was paused, for they may be claiming.
Errors: 2D000 inside a transaction block, TK207 unknown queue, TK500 not an operator. Example: CALL tasker.drain_queue(''payments'', timeout => ''1 min'');';

CREATE FUNCTION tasker.queue_claimed_at(queue_id int) RETURNS timestamptz
	AS 'MODULE_PATHNAME', 'tasker_queue_claimed_at' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION tasker.queue_claimed_at(int) IS
'When somebody last asked the queue for steps, whether there were any or not; null if nobody did since the server started. Example: SELECT name, tasker.queue_claimed_at(queue_id) FROM tasker.queues;';

CREATE FUNCTION tasker.register_worker(worker text, queues text[], metadata jsonb DEFAULT '{}') RETURNS void
	AS 'MODULE_PATHNAME', 'tasker_register_worker' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.register_worker(text, text[], jsonb) IS
'Says that a worker of this name serves these queues: tasker.worker_status and tasker.queue_status show it. To be called at its start and about once a minute. One that was not heard of for a day is forgotten. Nothing depends on it: who does not register may claim all the same.
Errors: TK204 bad argument, TK400 metadata too large, TK500 no access. Example: SELECT tasker.register_worker(''worker-1'', ''{payments}'', ''{"host": "app-3", "version": "2.1"}'');';

CREATE VIEW tasker.queue_status WITH (security_barrier) AS
SELECT q.queue_id, q.name, q.description, q.notify, q.paused_at, q.paused_by, q.pause_reason,
	COALESCE(r.depth, 0) AS depth,
	tasker.now() - o.requested_at AS oldest_age,
	COALESCE(f.in_flight, 0) AS in_flight,
	COALESCE(h.completed, 0) AS completed_last_minute,
	COALESCE(h.failed, 0) AS failed_last_minute,
	COALESCE(w.workers, 0) AS workers,
	tasker.queue_claimed_at(q.queue_id) AS claimed_at
FROM tasker.queues q
	LEFT JOIN (
		SELECT x.lane, pg_catalog.count(*) AS depth, pg_catalog.min(x.task_id) AS oldest
		FROM tasker.ready_queue x JOIN tasker.tasks t ON t.task_id = x.task_id
		WHERE x.lane > 0 AND t.state IN ('pending', 'in_progress') AND tasker.may_serve_owner(t.owner)
		GROUP BY x.lane) AS r ON r.lane = q.queue_id
	LEFT JOIN tasker.tasks o ON o.task_id = r.oldest
	LEFT JOIN (
		SELECT s.lane, pg_catalog.count(*) AS in_flight
		FROM (SELECT DISTINCT u.task_id, u.step_id
				FROM tasker.leases l CROSS JOIN LATERAL
					ROWS FROM (pg_catalog.unnest(l.task_ids), pg_catalog.unnest(l.step_ids)) AS u (task_id, step_id)) AS c
			JOIN tasker.workflow_steps s ON s.task_id = c.task_id AND s.step_id = c.step_id
			JOIN tasker.tasks t ON t.task_id = s.task_id
		WHERE s.state = 'in_progress' AND tasker.may_serve_owner(t.owner)
		GROUP BY s.lane) AS f ON f.lane = q.queue_id
	LEFT JOIN (
		SELECT s.lane, pg_catalog.count(*) FILTER (WHERE c.to_state = 'complete') AS completed,
			pg_catalog.count(*) FILTER (WHERE c.to_state IN ('waiting_for_retry', 'error')) AS failed
		FROM tasker.workflow_step_transitions c
			JOIN tasker.workflow_steps s ON s.task_id = c.task_id AND s.step_id = c.step_id
			JOIN tasker.tasks t ON t.task_id = c.task_id
		WHERE c.created_at > tasker.now() - '1 minute'::interval
			AND c.to_state IN ('complete', 'waiting_for_retry', 'error') AND tasker.may_serve_owner(t.owner)
		GROUP BY s.lane) AS h ON h.lane = q.queue_id
	LEFT JOIN (
		SELECT n.name, pg_catalog.count(*) AS workers
		FROM tasker.workers k CROSS JOIN LATERAL (SELECT DISTINCT pg_catalog.unnest(k.queues) AS name) AS n
		WHERE k.last_seen_at > tasker.now() - '2 minutes'::interval
		GROUP BY n.name) AS w ON w.name = q.name
WHERE (SELECT tasker.may_see_queues()) OR q.queue_id IN (SELECT s.queue_id FROM tasker.named_steps s
	JOIN tasker.named_tasks n ON n.named_task_id = s.named_task_id WHERE tasker.may_see_definition(n.owner));
COMMENT ON VIEW tasker.queue_status IS
'Queues: how many steps are ready, for how long the oldest of their tasks has been there, how many are claimed, how many attempts ended in the last minute, how many workers registered in the last two, when anybody last claimed. Those of definitions that the reader sees, or all for a worker, a viewer and an operator; counts only what the reader may see or work for. Example: SELECT name, depth, oldest_age, in_flight FROM tasker.queue_status ORDER BY depth DESC;';

CREATE VIEW tasker.worker_status WITH (security_barrier) AS
SELECT k.worker, k.role_name, k.queues, k.metadata, k.registered_at, k.last_seen_at,
	tasker.now() - k.last_seen_at <= '2 minutes'::interval AS alive
FROM tasker.workers k
WHERE tasker.access_level() IN ('viewer', 'operator', 'admin') OR k.role_name = CURRENT_USER;
COMMENT ON VIEW tasker.worker_status IS
'External workers that registered, and whether they were heard of in the last two minutes. Example: SELECT worker, queues, alive FROM tasker.worker_status;';
