-- A worker that completes and claims in one call gets what it released, without the queue in between.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SELECT tasker.stop() IS NOT NULL;
CREATE SCHEMA handover;
SET search_path = handover, pg_catalog;
CREATE TABLE made (label text PRIMARY KEY, task_id bigint);
CREATE TABLE held (task_id bigint, step_id int, lease uuid, name text);
CREATE FUNCTION make(label text, workflow text, priority int DEFAULT 0) RETURNS void LANGUAGE sql AS $$
	INSERT INTO handover.made VALUES (label, tasker.create_task(workflow, priority => priority))
$$;
-- claim, or complete all that is held and claim; what came, in order
CREATE FUNCTION work(queues text[], max_steps int DEFAULT 1) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	r record; t bigint[]; s int[]; l uuid[]; j jsonb[];
BEGIN
	SELECT array_agg(h.task_id), array_agg(h.step_id), array_agg(h.lease), array_agg(to_jsonb(h.name)) INTO t, s, l, j FROM handover.held h;
	DELETE FROM handover.held;
	FOR r IN SELECT c.*, m.label FROM tasker.complete_steps(COALESCE(t, '{}'), COALESCE(s, '{}'), COALESCE(l, '{}'), COALESCE(j, '{}'), queues, 'w', max_steps) WITH ORDINALITY AS c
		JOIN handover.made m USING (task_id) ORDER BY c.ordinality LOOP
		INSERT INTO handover.held SELECT r.task_id, r.step_id, r.lease, r.name WHERE r.outcome = 'claimed';
		RETURN NEXT format('%s: %s of %s, parents %s', r.outcome, r.name, r.label, r.input -> 'parents');
	END LOOP;
END $$;
CREATE VIEW history AS SELECT m.label, n.name, string_agg(h.from_state || '>' || h.to_state, ' ' ORDER BY h.created_at, h.xmin::text::bigint, h.cmin::text::bigint) AS changes
FROM made m JOIN tasker.workflow_step_transitions h USING (task_id) JOIN tasker.step_status n USING (task_id, step_id) GROUP BY 1, 2, n.step_id ORDER BY 1, n.step_id;
CREATE VIEW wrong AS SELECT m.label, v.problem, v.step_id, v.expected, v.found FROM made m CROSS JOIN LATERAL tasker.verify_task(m.task_id) v ORDER BY 1, 2, 3;
CREATE VIEW queued AS SELECT m.label, q.step_id FROM tasker.ready_queue q JOIN made m USING (task_id) ORDER BY 1, 2;
SELECT count(tasker.define_task(name, definition::jsonb)) FROM (VALUES
	('handover_chain', '{"steps": [{"name": "a", "queue": "handover"}, {"name": "b", "queue": "handover", "depends_on": ["a"]}, {"name": "c", "queue": "handover", "depends_on": ["b"]}]}'),
	('handover_fan', '{"steps": [{"name": "a", "queue": "handover"}, {"name": "b1", "queue": "handover", "depends_on": ["a"]}, {"name": "b2", "queue": "handover", "depends_on": ["a"], "priority": 1},
		{"name": "b3", "queue": "handover_other", "depends_on": ["a"]}, {"name": "c", "queue": "handover", "depends_on": ["b1", "b2", "b3"]}]}'),
	('handover_failed', '{"steps": [{"name": "fails", "queue": "handover", "retryable": false}, {"name": "a", "queue": "handover"}, {"name": "b", "queue": "handover", "depends_on": ["a"]}, {"name": "c", "queue": "handover", "depends_on": ["b"]}]}')) AS v (name, definition);

-- a chain: one change of state from pending to in progress, one row of history
SELECT make('one', 'handover_chain');
SELECT work('{handover}');
SELECT work('{handover}');
SELECT work('{handover}');
SELECT work('{handover}');
SELECT * FROM history;
SELECT label, state FROM made JOIN tasker.tasks USING (task_id);
SELECT * FROM wrong;
SELECT * FROM queued;
TRUNCATE made;

-- what is in the queue and comes before a child is taken before it; the child goes through the queue
SELECT make('low', 'handover_chain', -1);
SELECT work('{handover}');
SELECT make('high', 'handover_chain', 5), make('later', 'handover_chain', -1);
SELECT work('{handover}');
SELECT * FROM queued;
SELECT * FROM wrong;
-- a younger task of the same priority comes after the child
SELECT work('{handover}', 2);
SELECT * FROM queued;
SELECT work('{handover}', 10);
SELECT work('{handover}', 10);
SELECT work('{handover}', 10);
SELECT * FROM history;
SELECT * FROM wrong;
SELECT label, state FROM made JOIN tasker.tasks USING (task_id) ORDER BY 1;
TRUNCATE made;

-- children of other queues, more children than are wanted, a join with one parent to go
SELECT make('fan', 'handover_fan');
SELECT work('{handover}');
SELECT work('{handover}');
SELECT * FROM queued;
SELECT work('{handover}', 2);
SELECT * FROM wrong;
SELECT work('{handover}', 2);
SELECT work('{handover_other}');
SELECT work('{handover_other,handover}');
SELECT work('{handover}');
SELECT * FROM history;
SELECT label, state FROM made JOIN tasker.tasks USING (task_id);
TRUNCATE made;

-- a step of the task has failed, another goes on: the task is in error when that ends, not before
SELECT make('failed', 'handover_failed');
SELECT work('{handover}', 2);
SELECT tasker.fail_step(task_id, step_id, lease) FROM held WHERE name = 'fails';
DELETE FROM held WHERE name = 'fails';
SELECT work('{handover}');
SELECT label, state FROM made JOIN tasker.tasks USING (task_id);
SELECT work('{handover}');
SELECT label, state FROM made JOIN tasker.tasks USING (task_id);
SELECT * FROM wrong;
SELECT work('{handover}');
SELECT label, state FROM made JOIN tasker.tasks USING (task_id);
SELECT * FROM wrong;
TRUNCATE made;

-- a paused task, and a paused queue, give nothing; what they release waits in the queue
SELECT make('paused', 'handover_chain');
SELECT work('{handover}');
SELECT tasker.pause_task(task_id) FROM made;
SELECT work('{handover}');
SELECT * FROM wrong;
SELECT tasker.resume_task(task_id) FROM made;
SELECT work('{handover}');
SELECT tasker.pause_queue('handover');
SELECT work('{handover}');
SELECT * FROM wrong;
SELECT tasker.resume_queue('handover');
SELECT work('{handover}');
SELECT work('{handover}');
SELECT * FROM history;
TRUNCATE made;

-- a lease that is not the step's releases nothing
SELECT make('stale', 'handover_chain');
SELECT work('{handover}');
UPDATE held SET lease = gen_random_uuid();
SELECT work('{handover}', 2);
SELECT * FROM history;
-- a child that was resolved before its parent is not handed over; the task is complete with its last step
SELECT tasker.resolve_step(task_id, 'b'), tasker.resolve_step(task_id, 'c') FROM made;
INSERT INTO held SELECT task_id, step_id, lease, 'a' FROM tasker.workflow_steps JOIN made USING (task_id) WHERE step_id = 1;
SELECT work('{handover}', 2);
SELECT label, state FROM made JOIN tasker.tasks USING (task_id);
SELECT * FROM wrong;
DROP SCHEMA handover CASCADE;
