-- CALL tasker.run(): steps in the caller's own session, without a process.
SET client_min_messages = warning;
CREATE ROLE run_in_session LOGIN;
RESET client_min_messages;
-- Whatever runs here is not to be an executor.
SELECT tasker.stop() IS NOT NULL AS stopped;
SELECT tasker.grant_access('run_in_session', 'submitter');
CREATE SCHEMA run_in_session AUTHORIZATION run_in_session;
SET ROLE run_in_session;
SET search_path = run_in_session;

CREATE TABLE effects (n int GENERATED ALWAYS AS IDENTITY, step text, attempt int);
CREATE FUNCTION note(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO effects (step, attempt) VALUES (input #>> '{step,name}', (input #>> '{step,attempt}')::int);
	IF input #>> '{step,name}' = 'fails' THEN
		RAISE EXCEPTION 'it always fails';
	END IF;
	IF input #>> '{step,name}' = 'conflicts' THEN
		RAISE EXCEPTION USING ERRCODE = 'serialization_failure', MESSAGE = 'it always conflicts';
	END IF;
	RETURN input #> '{step,name}';
END $$;
SELECT tasker.define_task('chain', '{"steps": [
	{"name": "a", "function": "run_in_session.note"},
	{"name": "b", "sql": "SELECT $1->''parents''", "depends_on": ["a"]},
	{"name": "c", "function": "run_in_session.note", "depends_on": ["b"]}]}') > 0 AS defined;
SELECT tasker.define_task('fails', '{"steps": [
	{"name": "a", "function": "run_in_session.note"},
	{"name": "fails", "function": "run_in_session.note", "depends_on": ["a"], "retry": {"max_attempts": 1}},
	{"name": "c", "function": "run_in_session.note", "depends_on": ["fails"]}]}') > 0 AS defined;

SELECT tasker.define_task('conflicts', '{"steps": [
	{"name": "a", "function": "run_in_session.note"},
	{"name": "conflicts", "function": "run_in_session.note", "retry": {"max_attempts": 1}}]}') > 0 AS defined;

-- nothing to do
CALL tasker.run();

-- everything that is ready, and what becomes ready by it
SELECT tasker.create_task('chain') AS task_id \gset
CALL tasker.run();
SELECT name, state, attempts, results FROM tasker.step_status WHERE task_id = :task_id ORDER BY step_id;
SELECT state FROM tasker.tasks WHERE task_id = :task_id;

-- only so many steps; another call goes on
SELECT tasker.create_task('chain') AS task_id \gset
CALL tasker.run(max_steps => 1);
SELECT name, state FROM tasker.step_status WHERE task_id = :task_id ORDER BY step_id;
CALL tasker.run();
SELECT state FROM tasker.tasks WHERE task_id = :task_id;

-- a failed step rolls back its own work only
SELECT tasker.create_task('fails') AS task_id \gset
CALL tasker.run();
SELECT name, state, attempts, last_error ->> 'message' AS error FROM tasker.step_status WHERE task_id = :task_id ORDER BY step_id;
SELECT state FROM tasker.tasks WHERE task_id = :task_id;
SELECT step, attempt FROM effects ORDER BY n;

-- what may be the batch's fault is tried alone, and then is the step's
SELECT tasker.create_task('conflicts') AS task_id \gset
CALL tasker.run();
SELECT name, state, attempts, last_error ->> 'message' AS error FROM tasker.step_status WHERE task_id = :task_id ORDER BY step_id;

-- from a procedure and from a DO block, which commit as it does
CREATE PROCEDURE wrapper() LANGUAGE plpgsql AS $$
BEGIN
	CALL tasker.run();
	RAISE NOTICE 'after the run';
END $$;
SELECT tasker.create_task('chain') AS task_id \gset
CALL wrapper();
SELECT state FROM tasker.tasks WHERE task_id = :task_id;
SELECT tasker.create_task('chain') AS task_id \gset
DO $$
BEGIN
	CALL tasker.run();
	CALL tasker.run();
END $$;
SELECT state FROM tasker.tasks WHERE task_id = :task_id;

-- not where it can not commit
\set VERBOSITY sqlstate
BEGIN;
CALL tasker.run();
ROLLBACK;
RESET ROLE;
CREATE ROLE run_stranger;
GRANT USAGE ON SCHEMA tasker TO run_stranger;
SET ROLE run_stranger;
CALL tasker.run();
RESET ROLE;

SET client_min_messages = warning;
DROP SCHEMA run_in_session CASCADE;
SELECT tasker.revoke_access('run_in_session');
DROP ROLE run_in_session;
REVOKE USAGE ON SCHEMA tasker FROM run_stranger;
DROP ROLE run_stranger;
SELECT tasker.start() IS NOT NULL AS started;
