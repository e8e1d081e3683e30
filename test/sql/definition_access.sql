-- Who may define, whose a name is, and that what is stored stays.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
CREATE ROLE definition_ann;
CREATE ROLE definition_bob;
CREATE ROLE definition_team;
CREATE ROLE definition_admin;
CREATE ROLE definition_none;
SELECT tasker.grant_access('definition_ann', 'submitter'), tasker.grant_access('definition_bob', 'submitter'),
	tasker.grant_access('definition_team', 'submitter'), tasker.grant_access('definition_admin', 'admin'), tasker.grant_access('definition_none', 'worker') \g /dev/null
CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	state text; message text; detail text; hint text;
BEGIN
	EXECUTE statement;
	RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN format(E'%s %s\n   %s\n   %s', state, message, detail, hint);
END $$;
CREATE FUNCTION define(name text, version text, step text DEFAULT 'a') RETURNS text LANGUAGE sql AS $$
	SELECT attempt(format('SELECT tasker.define_task(%L, %L, %L, %L)', name, tasker.workflow(ARRAY[tasker.step(step, queue => 'q')]), 'access', version))
$$;

-- level submitter
SET ROLE definition_none;
SELECT define('workflow', '1');
SELECT attempt('SELECT tasker.drop_named_task(''a'', ''1'')');
SELECT attempt('SELECT tasker.set_default_version(''a'', ''1'')');

-- a name belongs to whoever defined it first, and to members of that role
SET ROLE definition_ann;
SELECT define('workflow', '1');
SET ROLE definition_bob;
SELECT define('workflow', '1');
SELECT define('workflow', '2');
SELECT attempt('SELECT tasker.set_default_version(''workflow'', ''1'', ''access'')');
SELECT attempt('SELECT tasker.drop_named_task(''workflow'', ''1'', ''access'')');
SELECT define('workflow of bob', '1');
SET ROLE definition_admin;
SELECT define('workflow', '2', 'b');
RESET ROLE;
GRANT definition_ann TO definition_team;
SET ROLE definition_team;
SELECT define('workflow', '3');
SELECT attempt('SELECT tasker.set_default_version(''workflow'', ''1'', ''access'')');
RESET ROLE;
SELECT n.name, version, is_default, role_name FROM tasker.named_tasks n JOIN tasker.owners ON owner = owner_id
JOIN tasker.task_namespaces ns USING (namespace_id) WHERE ns.name = 'access' ORDER BY 1, 2;

-- handlers are checked with the caller's rights
CREATE SCHEMA definition_shut;
CREATE FUNCTION definition_shut.f(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
CREATE TABLE definition_shut.t (a int);
REVOKE EXECUTE ON FUNCTION definition_shut.f FROM PUBLIC;
CREATE FUNCTION define_function() RETURNS text LANGUAGE sql AS $$
	SELECT attempt(format('SELECT tasker.define_task(%L, %L)', 'shut', tasker.workflow(ARRAY[tasker.step('a', function => 'definition_shut.f')])))
$$;
SET ROLE definition_ann;
SELECT define_function();
SELECT attempt(format('SELECT tasker.define_task(%L, %L)', 'shut', tasker.workflow(ARRAY[tasker.step('a', sql => 'DELETE FROM definition_shut.t')])));
RESET ROLE;
GRANT USAGE ON SCHEMA definition_shut TO definition_ann;
SET ROLE definition_ann;
SELECT define_function();
RESET ROLE;
GRANT EXECUTE ON FUNCTION definition_shut.f TO definition_ann;
SET ROLE definition_ann;
SELECT define_function();
-- the same definition later, though it could not be checked again
RESET ROLE;
DROP SCHEMA definition_shut CASCADE;
SET ROLE definition_ann;
SELECT define_function();
SELECT tasker.drop_named_task('shut', '1.0.0');
RESET ROLE;

-- what is stored stays, whoever asks, whatever the session's replication role
CREATE FUNCTION attempts() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT attempt(s) FROM unnest(ARRAY[
		'UPDATE tasker.named_tasks SET definition = ''{}''', 'UPDATE tasker.named_tasks SET version = version || 1', 'UPDATE tasker.named_tasks SET owner = 0',
		'DELETE FROM tasker.named_tasks', 'TRUNCATE tasker.named_tasks',
		'UPDATE tasker.named_steps SET timeout = ''1 s''', 'DELETE FROM tasker.named_steps', 'TRUNCATE tasker.named_steps',
		'UPDATE tasker.named_step_edges SET to_step_no = to_step_no + 1000', 'DELETE FROM tasker.named_step_edges', 'TRUNCATE tasker.named_step_edges']) AS s
$$;
SELECT tasker.define_task('edge', tasker.workflow(ARRAY[tasker.step('a', queue => 'q'), tasker.step('b', queue => 'q', depends_on => '{a}')]), 'access') > 0;
SELECT attempts();
SET session_replication_role = replica;
SELECT left(attempts(), 5);
RESET session_replication_role;
-- but not what may change, nor what touches no row
SELECT attempt(s) FROM unnest(ARRAY['UPDATE tasker.named_tasks SET description = ''new''', 'UPDATE tasker.named_steps SET description = ''new''',
	'UPDATE tasker.named_tasks SET version = version, owner = owner', 'DELETE FROM tasker.named_tasks WHERE false']) AS s;
-- one default version a name
SELECT left(attempt('UPDATE tasker.named_tasks SET is_default = true WHERE name = ''workflow'''), 5);

-- a definition that tasks were made of can not be dropped
ALTER TABLE tasker.tasks DISABLE TRIGGER tasks_arrive;
INSERT INTO tasker.tasks (task_id, requested_at, named_task_id, owner, priority, state, context)
SELECT -1, now(), named_task_id, owner, 0, 'complete', '{}' FROM tasker.named_tasks WHERE name = 'edge';
ALTER TABLE tasker.tasks ENABLE ALWAYS TRIGGER tasks_arrive;
SELECT attempt('SELECT tasker.drop_named_task(''edge'', ''1.0.0'', ''access'')');
DELETE FROM tasker.tasks WHERE task_id = -1;
SELECT attempt('SELECT tasker.drop_named_task(''edge'', ''1.0.0'', ''access'')');
SELECT attempt('SELECT tasker.drop_named_task(''workflow'', ''1'', ''access'')');

-- a role that is gone owns its names no more than a new one of its name
DROP OWNED BY definition_ann;
REVOKE definition_ann FROM definition_team;
DROP ROLE definition_ann;
CREATE ROLE definition_ann;
SELECT tasker.grant_access('definition_ann', 'submitter') \g /dev/null
SET ROLE definition_ann;
SELECT regexp_replace(define('workflow', '4'), 'oid \d+', 'oid N');
RESET ROLE;

SELECT tasker.drop_named_task(n.name, version, 'access') FROM tasker.named_tasks n JOIN tasker.task_namespaces ns USING (namespace_id)
WHERE ns.name = 'access' ORDER BY is_default;
SELECT tasker.revoke_access(role_name) FROM tasker.access_grants WHERE role_name LIKE 'definition\_%' \g /dev/null
DROP FUNCTION attempts, define_function, define, attempt;
DROP ROLE definition_ann, definition_bob, definition_team, definition_admin, definition_none;
