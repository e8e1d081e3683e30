-- DROP EXTENSION and CREATE EXTENSION in one session, in a database of the test's own.
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT current_database() AS regression \gset
CREATE ROLE extension_ann LOGIN;
CREATE DATABASE tasker_regress_extension TEMPLATE template0;
GRANT CREATE ON DATABASE tasker_regress_extension TO extension_ann;
\c tasker_regress_extension
SET client_min_messages = warning;
CREATE SCHEMA extension;
GRANT ALL ON SCHEMA extension TO extension_ann;
CREATE FUNCTION extension.work(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT input -> 'task' -> 'context' $$;
CREATE PROCEDURE extension.prepare() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM tasker.stop();
	PERFORM tasker.grant_access('extension_ann', 'submitter');
	PERFORM tasker.define_task('work', tasker.workflow(ARRAY[tasker.step('a', function => 'extension.work'), tasker.step('b', sql => 'SELECT $1 -> ''parents''', depends_on => '{a}')]));
END $$;

-- not by anybody, not into a schema that is somebody's
SET SESSION AUTHORIZATION extension_ann;
CREATE EXTENSION tasker;
CREATE SCHEMA tasker;
RESET SESSION AUTHORIZATION;
CREATE EXTENSION tasker;
DROP SCHEMA tasker;
CREATE EXTENSION tasker WITH SCHEMA extension;
CREATE EXTENSION tasker;
CREATE EXTENSION tasker;
ALTER EXTENSION tasker SET SCHEMA extension;
SELECT extname, nspname, extrelocatable, (SELECT count(*) > 20 FROM unnest(extconfig)) FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'tasker';
-- the schema is the extension's own
DROP SCHEMA tasker CASCADE;

CALL extension.prepare();
SET SESSION AUTHORIZATION extension_ann;
SELECT tasker.create_task('work', '{"n": 1}') > 0, tasker.create_task('work', '{"n": 2}', idempotency_key => 'k') > 0;
CALL tasker.run();
SELECT context, state FROM tasker.task_status ORDER BY task_id;
SELECT name, state, results FROM tasker.step_status ORDER BY task_id, step_id;
SELECT tasker.create_task('work', '{"n": 3}') > 0;
RESET SESSION AUTHORIZATION;

-- nothing of it is left, users' objects are
DROP EXTENSION tasker;
SELECT count(*) FROM pg_namespace WHERE nspname = 'tasker';
SELECT count(*) FROM pg_proc WHERE prosrc LIKE 'tasker%' OR probin LIKE '%tasker%';
SELECT count(*) FROM pg_event_trigger;
SELECT proname FROM pg_proc WHERE pronamespace = 'extension'::regnamespace ORDER BY 1;
SELECT tasker.create_task('work');
CALL extension.prepare();

-- there again, in the session that had plans and definitions of the old one
CREATE EXTENSION tasker;
SELECT count(*) FROM tasker.tasks;
SELECT tasker.access_level();
SET SESSION AUTHORIZATION extension_ann;
SELECT tasker.create_task('work');
RESET SESSION AUTHORIZATION;
CALL extension.prepare();
SET SESSION AUTHORIZATION extension_ann;
SELECT tasker.create_task('work', '{"n": 4}', idempotency_key => 'k') > 0;
CALL tasker.run();
SELECT context, state FROM tasker.task_status ORDER BY task_id;
SELECT name, state, results FROM tasker.step_status ORDER BY task_id, step_id;
SELECT tasker.create_task('work', '{"n": 5}') AS id \gset
SELECT tasker.cancel_task(:id), tasker.cancel_task(:id);
RESET SESSION AUTHORIZATION;
SELECT count(*) FROM tasker.task_transitions;
-- rolled back, it was never gone
BEGIN;
DROP EXTENSION tasker;
ROLLBACK;
SET SESSION AUTHORIZATION extension_ann;
SELECT tasker.create_task('work', '{"n": 6}') > 0;
CALL tasker.run();
SELECT context, state FROM tasker.task_status ORDER BY task_id;
RESET SESSION AUTHORIZATION;
-- dropped and made anew in one transaction, with another definition under the number of the old one
BEGIN;
DROP EXTENSION tasker;
CREATE EXTENSION tasker;
COMMIT;
CALL extension.prepare();
SELECT tasker.define_task('other', tasker.workflow(ARRAY[tasker.step('only', sql => 'SELECT ''"other"''::jsonb')])) > 0;
SET SESSION AUTHORIZATION extension_ann;
SELECT tasker.create_task('other') > 0;
CALL tasker.run();
SELECT name, state, results FROM tasker.step_status ORDER BY task_id, step_id;
RESET SESSION AUTHORIZATION;

-- what depends on it is named, or goes with CASCADE
CREATE VIEW extension.tasks AS SELECT task_id, state FROM tasker.tasks;
\set VERBOSITY terse
DROP EXTENSION tasker;
DROP EXTENSION tasker CASCADE;
\set VERBOSITY default
SELECT count(*) FROM pg_class WHERE relnamespace = 'extension'::regnamespace;

\c :regression
SET client_min_messages = warning;
DROP DATABASE tasker_regress_extension WITH (FORCE);
DROP ROLE extension_ann;
