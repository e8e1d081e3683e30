-- The state machines, tried by plain UPDATE: every pair of states, and what a change leads to.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SELECT tasker.stop() IS NOT NULL;
CREATE SCHEMA state_machine;
SET search_path = state_machine, pg_catalog;
CREATE ROLE state_machine_ann LOGIN;
GRANT USAGE ON SCHEMA state_machine TO PUBLIC;
SELECT tasker.grant_access('state_machine_ann', 'submitter') IS NOT NULL;

CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	state text; message text; detail text; hint text;
BEGIN
	EXECUTE statement;
	RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN regexp_replace(format(E'%s %s\n   %s\n   %s', state, message, detail, hint), '([Tt]ask) \d+', '\1 N', 'g');
END $$;
SELECT count(tasker.define_task(name, tasker.workflow(steps), 'state_machine')) FROM (VALUES
	('one', ARRAY[tasker.step('a', queue => 'q')]),
	('two', ARRAY[tasker.step('a', queue => 'q'), tasker.step('b', queue => 'q')]),
	('chain', ARRAY[tasker.step('a', queue => 'q'), tasker.step('b', queue => 'q', depends_on => '{a}'), tasker.step('c', queue => 'q', depends_on => '{b}')]),
	('diamond', ARRAY[tasker.step('a', queue => 'q'), tasker.step('b', queue => 'q', depends_on => '{a}'), tasker.step('c', queue => 'q', depends_on => '{a}'),
		tasker.step('d', queue => 'q', depends_on => '{b,c}')])) AS v (name, steps);

-- Rows that are inserted by hand would disarm the database.
ALTER TABLE tasker.tasks DISABLE TRIGGER tasks_arrive;
-- A task of independent steps, straight into the states given: INSERT fires no trigger.
CREATE FUNCTION put(task_state text, VARIADIC step_states text[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	model bigint := tasker.create_task(CASE cardinality(step_states) WHEN 1 THEN 'one' ELSE 'two' END, namespace => 'state_machine');
	id bigint := tasker.next_task_id();
BEGIN
	INSERT INTO tasker.tasks (task_id, requested_at, named_task_id, owner, priority, state, context)
		SELECT id, t.requested_at, t.named_task_id, t.owner, 0, task_state, '{}' FROM tasker.tasks t WHERE t.task_id = model;
	INSERT INTO tasker.workflow_steps (task_id, step_id, step_no, lane, priority, pending_parents, attempts, state)
		SELECT id, s.step_id, s.step_no, s.lane, 0, 0, 1, step_states[s.step_id] FROM tasker.workflow_steps s WHERE s.task_id = model;
	RETURN id;
END $$;
CREATE FUNCTION shown(id bigint) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', t.state || ':', (SELECT string_agg(s.state || CASE WHEN s.pending_parents > 0 THEN format('(%s)', s.pending_parents) ELSE '' END, ' ' ORDER BY s.step_id)
		FROM tasker.workflow_steps s WHERE s.task_id = id),
		'| ready:', (SELECT string_agg(q.step_id::text, ' ' ORDER BY q.step_id) FROM tasker.ready_queue q WHERE q.task_id = id))
	FROM tasker.tasks t WHERE t.task_id = id
$$;
CREATE FUNCTION history(id bigint) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT 'step ' || step_id || ': ' || string_agg(from_state || ' -> ' || to_state, ', ' ORDER BY h.created_at, h.xmin::text::bigint, h.cmin::text::bigint)
	FROM tasker.workflow_step_transitions h WHERE task_id = id GROUP BY step_id
	UNION ALL SELECT 'task: ' || string_agg(from_state || ' -> ' || to_state, ', ' ORDER BY h.created_at, h.xmin::text::bigint, h.cmin::text::bigint) FROM tasker.task_transitions h WHERE task_id = id
	ORDER BY 1
$$;

-- What comes of a step's change: its SQLSTATE, or how many rows of history; nothing of it stays.
CREATE FUNCTION try_step(from_state text, to_state text, due timestamptz DEFAULT '2030-01-01 00:00+00') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	id bigint;
BEGIN
	id := put('in_progress', from_state, 'enqueued');
	UPDATE tasker.workflow_steps SET state = to_state, next_attempt_at = due WHERE task_id = id AND step_id = 1;
	RAISE EXCEPTION USING ERRCODE = 'UNDO1', MESSAGE = (SELECT count(*) FROM tasker.workflow_step_transitions h
		WHERE h.task_id = id AND h.step_id = 1 AND h.from_state = try_step.from_state AND h.to_state = try_step.to_state AND h.attempt = 1 AND h.created_at IS NOT NULL)
		|| CASE WHEN EXISTS (SELECT FROM tasker.workflow_step_transitions h WHERE h.task_id = id AND h.step_id <> 1) THEN ' and more' ELSE '' END;
EXCEPTION WHEN SQLSTATE 'UNDO1' THEN
	RETURN SQLERRM;
WHEN OTHERS THEN
	RETURN SQLSTATE;
END $$;
-- The same of a task's, with steps in the given states.
CREATE FUNCTION try_task(from_state text, to_state text, VARIADIC step_states text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	id bigint;
BEGIN
	id := put(from_state, VARIADIC step_states);
	UPDATE tasker.tasks SET state = to_state WHERE task_id = id;
	RAISE EXCEPTION USING ERRCODE = 'UNDO1', MESSAGE = (SELECT count(*) FROM tasker.task_transitions h WHERE h.task_id = id AND h.from_state = try_task.from_state AND h.to_state = try_task.to_state)
		|| CASE WHEN (SELECT state FROM tasker.tasks WHERE task_id = id) <> to_state THEN ' but ' || (SELECT state FROM tasker.tasks WHERE task_id = id) ELSE '' END;
EXCEPTION WHEN SQLSTATE 'UNDO1' THEN
	RETURN SQLERRM;
WHEN OTHERS THEN
	RETURN SQLSTATE;
END $$;
CREATE TABLE step_states (n int GENERATED ALWAYS AS IDENTITY, state text);
INSERT INTO step_states (state) VALUES ('pending'), ('waiting'), ('enqueued'), ('in_progress'), ('waiting_for_retry'), ('complete'), ('error'), ('skipped'), ('cancelled'), ('resolved_manually');
CREATE TABLE task_states (n int GENERATED ALWAYS AS IDENTITY, state text);
INSERT INTO task_states (state) VALUES ('pending'), ('in_progress'), ('paused'), ('complete'), ('error'), ('cancelled'), ('resolved_manually');

-- the tables above are all states there are, and every transition is one between them
SELECT count(*), bool_and(tasker.is_step_state(state)) FROM step_states;
SELECT count(*), bool_and(tasker.is_task_state(state)) FROM task_states;
SELECT DISTINCT machine, from_state FROM tasker.state_machine() WHERE CASE machine WHEN 'step' THEN from_state NOT IN (SELECT state FROM step_states) OR to_state NOT IN (SELECT state FROM step_states)
	ELSE from_state NOT IN (SELECT state FROM task_states) OR to_state NOT IN (SELECT state FROM task_states) END;
SELECT attempt($$UPDATE tasker.workflow_steps SET state = 'compleet'$$);
SELECT attempt($$UPDATE tasker.tasks SET state = 'skipped'$$);

-- from (rows) to (columns); a number: rows of history
\pset tuples_only off
\pset footer off
SELECT f.state AS step, max(o) FILTER (WHERE t.n = 1) AS pending, max(o) FILTER (WHERE t.n = 2) AS waiting, max(o) FILTER (WHERE t.n = 3) AS enqueued, max(o) FILTER (WHERE t.n = 4) AS in_progress,
	max(o) FILTER (WHERE t.n = 5) AS waiting_for_retry, max(o) FILTER (WHERE t.n = 6) AS complete, max(o) FILTER (WHERE t.n = 7) AS error, max(o) FILTER (WHERE t.n = 8) AS skipped,
	max(o) FILTER (WHERE t.n = 9) AS cancelled, max(o) FILTER (WHERE t.n = 10) AS resolved_manually
FROM step_states f CROSS JOIN step_states t CROSS JOIN LATERAL try_step(f.state, t.state) AS o GROUP BY f.n, f.state ORDER BY f.n;
SELECT m.steps, f.state AS task, max(o) FILTER (WHERE t.n = 1) AS pending, max(o) FILTER (WHERE t.n = 2) AS in_progress, max(o) FILTER (WHERE t.n = 3) AS paused,
	max(o) FILTER (WHERE t.n = 4) AS complete, max(o) FILTER (WHERE t.n = 5) AS error, max(o) FILTER (WHERE t.n = 6) AS cancelled, max(o) FILTER (WHERE t.n = 7) AS resolved_manually
FROM (VALUES (1, '{complete,enqueued}'::text[]), (2, '{complete,skipped}'), (3, '{complete,error}'), (4, '{enqueued,error}')) AS m (n, steps) CROSS JOIN task_states f CROSS JOIN task_states t
	CROSS JOIN LATERAL try_task(f.state, t.state, VARIADIC m.steps) AS o GROUP BY m.n, m.steps, f.n, f.state ORDER BY m.n, f.n;
\pset tuples_only on
-- exactly what the table says; a step that is pending is completed by the engine only
SELECT f.state, t.state, try_step(f.state, t.state) FROM step_states f CROSS JOIN step_states t
WHERE (try_step(f.state, t.state) = '1') <> EXISTS (SELECT FROM tasker.state_machine() m WHERE m.machine = 'step' AND m.from_state = f.state AND m.to_state = t.state) ORDER BY f.n, t.n;
-- who waits must know until when
SELECT m.from_state, m.to_state, try_step(m.from_state, m.to_state, NULL) FROM tasker.state_machine() m WHERE machine = 'step' AND to_state LIKE 'waiting%' ORDER BY 1, 2;

-- the messages
SELECT put('in_progress', 'enqueued', 'complete') AS id \gset
SELECT attempt(format('UPDATE tasker.workflow_steps SET state = ''pending'' WHERE task_id = %s AND step_id = 1', :id));
SELECT attempt(format('UPDATE tasker.workflow_steps SET state = ''enqueued'' WHERE task_id = %s AND step_id = 2', :id));
SELECT attempt(format('UPDATE tasker.workflow_steps SET state = ''waiting_for_retry'' WHERE task_id = %s AND step_id = 1', :id));
SELECT attempt(format('UPDATE tasker.tasks SET state = ''complete'' WHERE task_id = %s', :id));
SELECT attempt(format('UPDATE tasker.tasks SET state = ''error'' WHERE task_id = %s', :id));
SELECT attempt(format('UPDATE tasker.tasks SET state = ''pending'' WHERE task_id = %s', :id));
SELECT attempt(format('UPDATE tasker.%s SET %s WHERE task_id = %s', r, c, :id)) FROM (VALUES ('workflow_steps', 'task_id = task_id + 1'), ('workflow_steps', 'step_id = step_id + 10'),
	('workflow_steps', 'step_no = step_no + 1'), ('workflow_steps', 'lane = lane + 1'), ('workflow_steps', 'pending_parents = 1'), ('workflow_steps', 'state = ''complete'', lane = lane + 1'),
	('tasks', 'task_id = task_id + 1'), ('tasks', 'named_task_id = named_task_id + 1'), ('tasks', 'owner = owner + 1')) AS v (r, c);
SELECT shown(:id);
SELECT history(:id);
SELECT tasker.create_task('chain', namespace => 'state_machine') AS id \gset
SELECT attempt(format('UPDATE tasker.workflow_steps SET state = %L WHERE task_id = %s AND step_id = 2', s, :id)) FROM unnest('{enqueued,complete,waiting}'::text[]) AS s;
SELECT put('in_progress', 'pending') AS ready \gset
SELECT attempt(format('UPDATE tasker.workflow_steps SET state = ''complete'' WHERE task_id = %s', :ready));

-- what changes no state is no change: no history, no consequences
SELECT put('in_progress', 'complete', 'enqueued') AS id \gset
UPDATE tasker.workflow_steps SET state = state, priority = 4, claimed_by = 'me', results = '1' WHERE task_id = :id;
UPDATE tasker.workflow_steps SET state = 'complete' WHERE task_id = :id AND step_id = 1;
UPDATE tasker.tasks SET state = 'in_progress', reason = 'as before', priority = 3 WHERE task_id = :id;
UPDATE tasker.workflow_steps SET state = 'complete' WHERE task_id = :id AND false;
SELECT history(:id);
SELECT shown(:id);

-- a plain UPDATE releases children, and ends the task, as the API does
CREATE FUNCTION drive(how text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	id bigint := tasker.create_task('diamond', namespace => 'state_machine');
	steps int[];
BEGIN
	FOREACH steps SLICE 1 IN ARRAY '{{1,1},{3,3},{2,2},{4,4}}'::int[] LOOP
		IF how = 'api' THEN
			PERFORM tasker.resolve_step(id, steps[1]);
		ELSE
			UPDATE tasker.workflow_steps SET state = 'resolved_manually' WHERE task_id = id AND step_id = ANY (steps);
		END IF;
		RETURN NEXT shown(id);
	END LOOP;
	RETURN QUERY SELECT history(id);
	RETURN QUERY SELECT concat_ws(' ', completed_at IS NOT NULL, started_at IS NOT NULL) FROM tasker.tasks WHERE task_id = id;
END $$;
CREATE TABLE driven AS SELECT * FROM drive('update') WITH ORDINALITY AS d (line, n);
SELECT line FROM driven ORDER BY n;
SELECT count(*) FROM driven FULL JOIN drive('api') WITH ORDINALITY AS d (line, n) USING (line, n) WHERE driven.line IS NULL OR d.line IS NULL;

-- many rows in one statement: of one task, of several, with parents and children in it
BEGIN;
SELECT tasker.create_task('diamond', namespace => 'state_machine') AS a, tasker.create_task('chain', namespace => 'state_machine') AS b,
	tasker.create_task('two', namespace => 'state_machine') AS c \gset
UPDATE tasker.workflow_steps SET state = 'complete' WHERE task_id IN (:a, :b, :c) AND step_id = 1;
SELECT shown(id) FROM unnest(ARRAY[:a, :b, :c]) AS id;
UPDATE tasker.workflow_steps SET state = 'complete' WHERE task_id IN (:a, :b, :c) AND state = 'enqueued';
SELECT shown(id) FROM unnest(ARRAY[:a, :b, :c]) AS id;
UPDATE tasker.workflow_steps SET state = 'complete' WHERE task_id IN (:a, :b, :c) AND state = 'enqueued';
SELECT shown(id) FROM unnest(ARRAY[:a, :b, :c]) AS id;
SELECT history(id) FROM unnest(ARRAY[:a, :b, :c]) AS id;
ROLLBACK;
SELECT tasker.create_task('diamond', namespace => 'state_machine') AS a \gset
UPDATE tasker.workflow_steps SET state = 'skipped' WHERE task_id = :a AND step_id IN (1, 2, 4);
SELECT shown(:a);
UPDATE tasker.workflow_steps SET state = 'skipped' WHERE task_id = :a AND step_id = 3;
SELECT shown(:a);
SELECT history(:a);
-- a step that was ended before its parents ends the task with the last of them
SELECT tasker.create_task('chain', namespace => 'state_machine') AS a, tasker.create_task('diamond', namespace => 'state_machine') AS b \gset
SELECT tasker.resolve_step(:a, 3), tasker.resolve_step(:b, 4);
UPDATE tasker.workflow_steps SET state = 'complete' WHERE task_id IN (:a, :b) AND step_id = 1;
SELECT shown(id) FROM unnest(ARRAY[:a, :b]) AS id;
UPDATE tasker.workflow_steps SET state = 'complete' WHERE task_id IN (:a, :b) AND state = 'enqueued';
SELECT shown(id) FROM unnest(ARRAY[:a, :b]) AS id;
-- different changes in one statement; one that is refused takes all with it
SELECT put('in_progress', 'enqueued', 'enqueued') AS a \gset
UPDATE tasker.workflow_steps SET state = CASE step_id WHEN 1 THEN 'complete' ELSE 'skipped' END WHERE task_id = :a;
SELECT shown(:a);
SELECT put('in_progress', 'enqueued', 'complete') AS a \gset
SELECT attempt(format('UPDATE tasker.workflow_steps SET state = ''skipped'' WHERE task_id = %s', :a));
SELECT shown(:a), (SELECT count(*) FROM tasker.workflow_step_transitions WHERE task_id = :a);

-- ways to write an UPDATE
SELECT tasker.create_task('diamond', namespace => 'state_machine') AS a \gset
WITH changed AS (UPDATE tasker.workflow_steps SET state = 'complete' WHERE task_id = :a AND step_id = 1 RETURNING step_id) SELECT count(*) FROM changed;
SELECT shown(:a);
-- MERGE, where there is one
CREATE FUNCTION merge(id bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF current_setting('server_version_num')::int >= 150000 THEN
		EXECUTE format('MERGE INTO tasker.workflow_steps s USING (VALUES (2), (99)) AS v (step_id) ON s.task_id = %s AND s.step_id = v.step_id
			WHEN MATCHED THEN UPDATE SET state = ''complete'' WHEN NOT MATCHED THEN DO NOTHING', id);
	ELSE
		UPDATE tasker.workflow_steps SET state = 'complete' WHERE task_id = id AND step_id = 2;
	END IF;
END $$;
SELECT merge(:a) IS NOT NULL;
SELECT shown(:a);
CREATE FUNCTION current_of(id bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	c CURSOR FOR SELECT * FROM tasker.workflow_steps WHERE task_id = id AND step_id = 3 FOR UPDATE;
BEGIN
	FOR r IN c LOOP
		UPDATE tasker.workflow_steps SET state = 'complete' WHERE CURRENT OF c;
	END LOOP;
END $$;
SELECT current_of(:a) IS NOT NULL;
SELECT shown(:a);
INSERT INTO tasker.workflow_steps AS s SELECT * FROM tasker.workflow_steps WHERE task_id = :a AND step_id = 4 ON CONFLICT (task_id, step_id) DO UPDATE SET state = 'complete';
SELECT shown(:a);
SELECT history(:a);
SELECT attempt(format('INSERT INTO tasker.workflow_steps AS s SELECT * FROM tasker.workflow_steps WHERE task_id = %s ON CONFLICT (task_id, step_id) DO UPDATE SET state = ''pending''', :a));

-- a replication role switches nothing off
SELECT tasker.create_task('chain', namespace => 'state_machine') AS a \gset
SET session_replication_role = replica;
SELECT attempt(format('UPDATE tasker.workflow_steps SET state = ''error'' WHERE task_id = %s AND step_id = 3', :a));
UPDATE tasker.workflow_steps SET state = 'complete' WHERE task_id = :a AND step_id = 1;
SELECT attempt(format('UPDATE tasker.tasks SET state = ''complete'' WHERE task_id = %s', :a));
UPDATE tasker.tasks SET state = 'paused' WHERE task_id = :a;
RESET session_replication_role;
SELECT shown(:a);
SELECT history(:a);

-- hostile settings of the session do not matter
SET search_path = pg_temp;
CREATE TEMP TABLE workflow_steps (task_id bigint);
CREATE FUNCTION pg_temp.never(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE OPERATOR pg_temp.= (leftarg = text, rightarg = text, function = pg_temp.never);
SET enable_indexscan = off;
UPDATE tasker.tasks SET state = 'in_progress' WHERE task_id = :a;
UPDATE tasker.workflow_steps SET state = 'complete' WHERE task_id = :a AND step_id = 2;
RESET enable_indexscan;
SET search_path = state_machine, pg_catalog;
SELECT shown(:a);
DROP TABLE pg_temp.workflow_steps;
DROP OPERATOR pg_temp.= (text, text);

-- a task's plain UPDATE does what the call does
CREATE FUNCTION by_update(id bigint, to_state text) RETURNS text LANGUAGE sql AS $$
	UPDATE tasker.tasks SET state = to_state WHERE task_id = id;
	SELECT shown(id);
$$;
SELECT tasker.create_task('diamond', namespace => 'state_machine') AS a \gset
SELECT by_update(:a, 'paused');
UPDATE tasker.workflow_steps SET state = 'complete' WHERE task_id = :a AND step_id = 1;
SELECT shown(:a);
SELECT by_update(:a, 'in_progress');
SELECT by_update(:a, 'cancelled');
SELECT history(:a);
SELECT tasker.create_task('two', namespace => 'state_machine') AS a \gset
UPDATE tasker.workflow_steps SET state = 'error', attempts = 3 WHERE task_id = :a;
SELECT shown(:a);
SELECT by_update(:a, 'in_progress');
SELECT array_agg(attempts) FROM tasker.workflow_steps WHERE task_id = :a;
UPDATE tasker.workflow_steps SET state = 'complete' WHERE task_id = :a AND step_id = 1;
SELECT by_update(:a, 'resolved_manually');
SELECT history(:a);
SELECT tasker.create_task('chain', namespace => 'state_machine') AS a \gset
SELECT attempt(format('UPDATE tasker.tasks SET state = ''complete'' WHERE task_id = %s', :a));
-- in progress again, but nothing to retry: it is in error again, or complete
UPDATE tasker.workflow_steps SET state = 'cancelled' WHERE task_id = :a AND step_id = 1;
SELECT shown(:a);
SELECT by_update(:a, 'in_progress');
SELECT history(:a);
SELECT put('error', 'complete', 'skipped') AS a \gset
SELECT by_update(:a, 'in_progress');
SELECT put('error', 'complete', 'enqueued') AS a \gset
SELECT by_update(:a, 'in_progress');
SELECT tasker.create_task('chain', namespace => 'state_machine') AS a \gset
-- a failed step that is put back by hand has all its attempts again
UPDATE tasker.workflow_steps SET state = 'error', attempts = 3 WHERE task_id = :a AND step_id = 1;
SELECT shown(:a);
UPDATE tasker.workflow_steps SET state = 'pending', attempts = 0 WHERE task_id = :a AND step_id = 1;
SELECT shown(:a);
SELECT history(:a);

-- nobody else may
SET SESSION AUTHORIZATION state_machine_ann;
SELECT tasker.create_task('two', namespace => 'state_machine') AS a \gset
SELECT attempt(format('UPDATE tasker.workflow_steps SET state = ''complete'' WHERE task_id = %s', :a));
SELECT attempt(format('UPDATE tasker.tasks SET state = ''cancelled'' WHERE task_id = %s', :a));
SELECT attempt('SELECT tasker.steps_changed()');
RESET SESSION AUTHORIZATION;
SELECT attempt('SELECT tasker.steps_changed()');
CREATE TABLE not_tasker (state text);
CREATE TRIGGER wrong AFTER UPDATE ON not_tasker FOR EACH ROW EXECUTE FUNCTION tasker.steps_changed();
INSERT INTO not_tasker VALUES ('a');
SELECT attempt('UPDATE not_tasker SET state = ''b''');
DROP TRIGGER wrong ON not_tasker;
CREATE TRIGGER wrong AFTER UPDATE ON not_tasker REFERENCING OLD TABLE AS a NEW TABLE AS b FOR EACH STATEMENT EXECUTE FUNCTION tasker.steps_changed();
SELECT attempt('UPDATE not_tasker SET state = ''b''');

ALTER TABLE tasker.tasks ENABLE ALWAYS TRIGGER tasks_arrive;
SELECT tasker.revoke_access('state_machine_ann') IS NOT NULL;
DROP SCHEMA state_machine CASCADE;
DROP ROLE state_machine_ann;
