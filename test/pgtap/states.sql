-- The state machines: as the design lists them, and enforced against everybody,
-- pair by pair.
SET client_min_messages = warning;
BEGIN;
SELECT * FROM no_plan();

CREATE TEMP TABLE legal (machine text, from_state text, to_state text);
INSERT INTO legal SELECT 'step', f, t FROM (VALUES
	('pending', '{enqueued,waiting,in_progress,complete,skipped,cancelled,resolved_manually}'::text[]),
	('waiting', '{enqueued,complete,skipped,cancelled,resolved_manually}'),
	('enqueued', '{in_progress,complete,error,waiting_for_retry,skipped,cancelled,resolved_manually}'),
	('in_progress', '{complete,waiting_for_retry,error,enqueued,cancelled,resolved_manually}'),
	('waiting_for_retry', '{enqueued,cancelled,resolved_manually}'),
	('error', '{enqueued,pending,cancelled,resolved_manually}'),
	('cancelled', '{resolved_manually}')) v (f, ts), unnest(ts) t;
INSERT INTO legal SELECT 'task', f, t FROM (VALUES
	('pending', '{in_progress,complete,error,paused,cancelled,resolved_manually}'::text[]),
	('in_progress', '{complete,error,paused,cancelled,resolved_manually}'),
	('paused', '{pending,in_progress,complete,error,cancelled,resolved_manually}'),
	('error', '{in_progress,complete,cancelled,resolved_manually}')) v (f, ts), unnest(ts) t;

SELECT set_eq('SELECT machine, from_state, to_state FROM tasker.state_machine()', 'SELECT * FROM legal', 'state_machine() is the design''s');
SELECT is((SELECT count(*) FROM tasker.state_machine()), (SELECT count(*) FROM legal), 'each change is listed once');
SELECT is((SELECT count(*) FROM tasker.state_machine() WHERE COALESCE(meaning, '') = ''), 0::bigint, 'and says what it means');
SELECT ok(tasker.is_step_state(s), s || ' is a state of a step') FROM unnest('{pending,waiting,enqueued,in_progress,waiting_for_retry,complete,error,skipped,cancelled,resolved_manually}'::text[]) s;
SELECT ok(tasker.is_task_state(s), s || ' is a state of a task') FROM unnest('{pending,in_progress,paused,complete,error,cancelled,resolved_manually}'::text[]) s;
SELECT ok(NOT tasker.is_step_state(s), format('%L is not a state of a step', s)) FROM unnest('{paused,Pending,"","pending ",done}'::text[]) s;
SELECT ok(NOT tasker.is_task_state(s), format('%L is not a state of a task', s)) FROM unnest('{waiting,Pending,"",skipped}'::text[]) s;

SELECT tasker.define_task('states', '{"steps": [{"name": "a", "queue": "states"}, {"name": "b", "queue": "states", "depends_on": ["a"]}]}') \g /dev/null

-- Puts a step or a task into a state past the trigger, tries the change, and
-- takes it all back.
CREATE FUNCTION pg_temp.attempt(what text, from_state text, to_state text, pending int DEFAULT 0) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	t bigint := tasker.create_task('states');
	recorded bigint;
BEGIN
	BEGIN
		EXECUTE 'ALTER TABLE tasker.workflow_steps DISABLE TRIGGER steps_changed';
		EXECUTE 'ALTER TABLE tasker.tasks DISABLE TRIGGER tasks_changed';
		IF what = 'step' THEN
			UPDATE tasker.workflow_steps SET state = from_state, pending_parents = pending, next_attempt_at = tasker.now()
				WHERE task_id = t AND step_id = 2;
		ELSE
			UPDATE tasker.workflow_steps SET state = CASE to_state WHEN 'complete' THEN 'complete' WHEN 'error' THEN 'error' ELSE 'enqueued' END,
				pending_parents = 0 WHERE task_id = t;
			UPDATE tasker.tasks SET state = from_state WHERE task_id = t;
		END IF;
		EXECUTE 'ALTER TABLE tasker.workflow_steps ENABLE ALWAYS TRIGGER steps_changed';
		EXECUTE 'ALTER TABLE tasker.tasks ENABLE ALWAYS TRIGGER tasks_changed';
		IF what = 'step' THEN
			UPDATE tasker.workflow_steps SET state = to_state WHERE task_id = t AND step_id = 2;
			SELECT count(*) INTO recorded FROM tasker.workflow_step_transitions h WHERE h.task_id = t AND h.step_id = 2
				AND h.from_state = attempt.from_state AND h.to_state = attempt.to_state;
		ELSE
			UPDATE tasker.tasks SET state = to_state WHERE task_id = t;
			SELECT count(*) INTO recorded FROM tasker.task_transitions h WHERE h.task_id = t
				AND h.from_state = attempt.from_state AND h.to_state = attempt.to_state;
		END IF;
		RAISE EXCEPTION USING ERRCODE = 'XX999', MESSAGE = format('done, recorded %s', recorded);
	EXCEPTION WHEN SQLSTATE 'XX999' THEN
		RETURN SQLERRM;
	WHEN OTHERS THEN
		RETURN SQLSTATE;
	END;
END $$;
SELECT is(pg_temp.attempt('step', f, t),
	CASE WHEN f = t THEN 'done, recorded 0'
		-- only the engine, which ran the step, can say so
		WHEN (f, t) IN (('pending', 'in_progress'), ('pending', 'complete')) THEN 'TK300'
		WHEN EXISTS (SELECT FROM legal WHERE machine = 'step' AND from_state = f AND to_state = t) THEN 'done, recorded 1'
		ELSE 'TK300' END,
	format('step: %s to %s', f, t))
FROM unnest('{pending,waiting,enqueued,in_progress,waiting_for_retry,complete,error,skipped,cancelled,resolved_manually}'::text[]) WITH ORDINALITY f (f, i),
	unnest('{pending,waiting,enqueued,in_progress,waiting_for_retry,complete,error,skipped,cancelled,resolved_manually}'::text[]) WITH ORDINALITY t (t, j)
ORDER BY i, j;
SELECT is(pg_temp.attempt('task', f, t),
	CASE WHEN f = t THEN 'done, recorded 0'
		WHEN EXISTS (SELECT FROM legal WHERE machine = 'task' AND from_state = f AND to_state = t) THEN 'done, recorded 1'
		ELSE 'TK300' END,
	format('task: %s to %s', f, t))
FROM unnest('{pending,in_progress,paused,complete,error,cancelled,resolved_manually}'::text[]) WITH ORDINALITY f (f, i),
	unnest('{pending,in_progress,paused,complete,error,cancelled,resolved_manually}'::text[]) WITH ORDINALITY t (t, j)
ORDER BY i, j;

-- Conditions that are more than a pair of states.
SELECT is(pg_temp.attempt('step', 'pending', t, 1), r, format('a step with a parent to wait for: pending to %s', t))
FROM (VALUES ('enqueued', 'TK300'), ('waiting', 'TK300'), ('complete', 'TK300'), ('skipped', 'done, recorded 1'),
	('cancelled', 'done, recorded 1'), ('resolved_manually', 'done, recorded 1')) v (t, r) ORDER BY t;
SELECT tasker.create_task('states') AS t \gset
SELECT throws_ok(format('UPDATE tasker.tasks SET state = ''complete'' WHERE task_id = %s', :t), 'TK302', NULL, 'a task with steps to do is not complete');
SELECT throws_ok(format('UPDATE tasker.tasks SET state = ''error'' WHERE task_id = %s', :t), 'TK302', NULL, 'nor in error');
SELECT throws_ok(format('UPDATE tasker.workflow_steps SET pending_parents = 0 WHERE task_id = %s AND step_id = 2', :t), 'TK301', NULL, 'pending_parents is not for others');
SELECT throws_ok(format('UPDATE tasker.workflow_steps SET %s WHERE task_id = %s AND step_id = 1', c, :t), 'TK301', NULL, c || ' of a step stays')
FROM unnest('{task_id = -1,step_id = 7,step_no = 2,lane = 77}'::text[]) c;
SELECT throws_ok(format('UPDATE tasker.tasks SET %s WHERE task_id = %s', c, :t), 'TK301', NULL, c || ' of a task stays')
FROM unnest('{task_id = -1,named_task_id = 77,owner = 77}'::text[]) c;
-- A replication role is no way round.
SET LOCAL session_replication_role = replica;
SELECT throws_ok(format('UPDATE tasker.workflow_steps SET state = ''error'' WHERE task_id = %s AND step_id = 2', :t), 'TK300', NULL, 'nor under session_replication_role');
SET LOCAL session_replication_role = origin;

SELECT * FROM finish();
ROLLBACK;
