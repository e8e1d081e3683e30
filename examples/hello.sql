-- The smallest workflow: two steps in SQL, the second after the first.
--
--     psql -f examples/hello.sql         as a role with level submitter; as a superuser
--                                        it first makes such a role, and becomes it
\set ON_ERROR_STOP on
\set QUIET on
\pset footer off

SELECT rolsuper AS superuser FROM pg_roles WHERE rolname = current_user \gset
\if :superuser
	CREATE EXTENSION IF NOT EXISTS tasker;
	CREATE ROLE hello LOGIN;
	SELECT tasker.grant_access('hello', 'submitter') \g /dev/null
	SET ROLE hello;
\endif

-- $1 is the step's input: the task with its context, the step, and what the
-- steps that it depends on returned.
SELECT tasker.define_task('hello', '{"steps": [
	{"name": "greet", "sql": "SELECT jsonb_build_object(''text'', ''Hello, '' || ($1 #>> ''{task,context,who}''))"},
	{"name": "shout", "sql": "SELECT to_jsonb(upper($1 #>> ''{parents,greet,text}'') || ''!'')", "depends_on": ["greet"]}
]}') \g /dev/null

SELECT tasker.create_task('hello', '{"who": "world"}') AS task_id \gset

-- Background workers have begun already. Where there are none, this session
-- runs what is ready.
CALL tasker.run();
SELECT tasker.task_wait(:task_id, timeout => '10 s') AS task_state;
SELECT name AS step, state, results FROM tasker.step_status WHERE task_id = :task_id ORDER BY step_id;
