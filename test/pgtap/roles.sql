-- Who sees and does what: nobody without a level, a viewer all and nothing, a
-- submitter its own, an operator everybody's; two tenants never see each other.
SET client_min_messages = warning;
SELECT tasker.stop() IS NOT NULL \g /dev/null
DO $$
DECLARE
	r name;
BEGIN
	FOREACH r IN ARRAY '{roles_member,"roles Ann",roles_bob,roles_viewer,roles_operator,roles_worker,roles_admin,roles_nobody}'::name[] LOOP
		EXECUTE format('DROP ROLE IF EXISTS %I', r);
	END LOOP;
END $$;
CREATE ROLE "roles Ann" LOGIN;
CREATE ROLE roles_bob LOGIN;
CREATE ROLE roles_viewer LOGIN;
CREATE ROLE roles_operator LOGIN;
CREATE ROLE roles_worker LOGIN;
CREATE ROLE roles_admin LOGIN;
CREATE ROLE roles_nobody LOGIN;
CREATE ROLE roles_member LOGIN;
SELECT tasker.grant_access('roles Ann', 'submitter'), tasker.grant_access('roles_bob', 'submitter'),
	tasker.grant_access('roles_viewer', 'viewer'), tasker.grant_access('roles_operator', 'operator'),
	tasker.grant_access('roles_worker', 'worker'), tasker.grant_access('roles_admin', 'admin') \g /dev/null

SELECT * FROM no_plan();
CREATE SCHEMA roles;
-- What a statement returns for a role, or its SQLSTATE.
CREATE FUNCTION roles.as_role(r name, statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', r);
	EXECUTE statement INTO result;
	RESET ROLE;
	RETURN result;
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END $$;
-- The same, and nothing of it stays.
CREATE FUNCTION roles.try(r name, statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	result := roles.as_role(r, statement);
	RAISE EXCEPTION USING ERRCODE = 'XX999', MESSAGE = COALESCE(result, 'null');
EXCEPTION WHEN SQLSTATE 'XX999' THEN
	RETURN SQLERRM;
END $$;

-- A task of Ann's with something in every table: a step that ended with a large
-- result, one that failed, one ready, one waiting, edges, history, a key.
SELECT tasker.define_task('theirs', '{"steps": [
	{"name": "big", "queue": "roles"}, {"name": "fails", "queue": "roles"}, {"name": "ready", "queue": "roles"},
	{"name": "last", "queue": "roles", "depends_on": ["big", "fails", "ready"]}]}') \g /dev/null
SELECT roles.as_role('roles Ann', $$SELECT tasker.create_task('theirs', '{"secret": "of Ann"}', idempotency_key => 'key')$$) AS a \gset
SELECT roles.as_role('roles_bob', $$SELECT tasker.create_task('theirs', '{"secret": "of Bob"}', idempotency_key => 'key')$$) AS b \gset
SELECT isnt(:a, :b, 'an idempotency key is its owner''s: no other role learns that it is in use');
SELECT roles.as_role('roles Ann', $$SELECT tasker.create_task('theirs', start_at => now() + interval '1 year')$$) AS later \gset
SELECT roles.as_role(r, format('SELECT tasker.resolve_step(%s, 1, jsonb_build_object(''secret'', repeat(''x'', 1000)))', t))
FROM (VALUES ('roles Ann', :a), ('roles_bob', :b)) v (r, t) \g /dev/null
INSERT INTO tasker.overdue_tasks VALUES (:a, now(), 1, now() + interval '1 year', '{"message": "of Ann"}'), (:b, now(), 1, now() + interval '1 year', '{"message": "of Bob"}');
UPDATE tasker.workflow_steps SET state = 'in_progress' WHERE task_id IN (:a, :b) AND step_id = 2;
UPDATE tasker.workflow_steps SET state = 'error', last_error = '{"message": "secret"}' WHERE task_id IN (:a, :b) AND step_id = 2;

-- ------------------------------------------------------------ tables and views
CREATE TABLE roles.relation AS
SELECT c.oid::regclass::text AS name, c.relkind,
	EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'task_id' AND NOT a.attisdropped) AS of_tasks
FROM pg_class c WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind IN ('r', 'p', 'v');

SELECT is(roles.as_role('roles_nobody', 'SELECT count(*) FROM ' || name), '42501', 'no level: ' || name) FROM roles.relation ORDER BY name;
-- These are the engine's own and granted to nobody; leaves are reached through their parents.
CREATE VIEW roles.closed AS SELECT name FROM roles.relation
WHERE name IN ('tasker.ready_queue', 'tasker.timers', 'tasker.leases', 'tasker.workers', 'tasker.idempotency_keys', 'tasker.access_grants',
	'tasker.here', 'tasker.origin', 'tasker.archive', 'tasker.history_ring', 'tasker.history_walk') OR name ~ 'transitions_\d+$';
SELECT is(roles.as_role(r, 'SELECT count(*) FROM ' || name), '42501', format('%s: %s is closed', r, name))
FROM roles.closed, unnest('{roles Ann,roles_viewer,roles_worker,roles_operator,roles_admin}'::name[]) r ORDER BY r, name;

-- Every other relation with a task_id, whatever is added: tenants see their own only.
CREATE FUNCTION roles.sees(r name, relation text, t bigint) RETURNS text LANGUAGE sql AS $$
	SELECT roles.as_role(r, format('SELECT count(*) > 0 FROM %s WHERE task_id = %s', relation, t))
$$;
SELECT is(ARRAY[roles.sees('roles Ann', name, :a), roles.sees('roles_bob', name, :a), roles.sees('roles Ann', name, :b), roles.sees('roles_bob', name, :b)],
	CASE WHEN name = 'tasker.executing' THEN '{false,false,false,false}' ELSE '{true,false,false,true}' END::text[],
	'two tenants: ' || name)
FROM roles.relation WHERE of_tasks AND name NOT IN (SELECT name FROM roles.closed) ORDER BY name;
SELECT is(roles.sees(r, name, :a), CASE WHEN name = 'tasker.executing' OR r = 'roles_worker' THEN 'false' ELSE 'true' END, format('%s: %s', r, name))
FROM roles.relation, unnest('{roles_viewer,roles_worker,roles_operator,roles_admin}'::name[]) r
WHERE of_tasks AND name NOT IN (SELECT name FROM roles.closed) ORDER BY r, name;
SELECT is(roles.as_role(r, 'SELECT array_agg(role_name ORDER BY role_name) FROM tasker.owners WHERE role_name LIKE ''roles%'''), e, r || ': owners')
FROM (VALUES ('roles Ann', '{"roles Ann"}'), ('roles_bob', '{roles_bob}'), ('roles_worker', NULL), ('roles_viewer', '{"roles Ann",roles_bob}')) v (r, e) ORDER BY r;
SELECT is(roles.as_role('roles_bob', 'WITH s AS MATERIALIZED (SELECT set_config(''row_security'', ''off'', true)) SELECT tasker.access_level() FROM s'), 'submitter', 'row_security = off does not shut out the functions');

-- A cheap function in WHERE sees no row that is not its caller's.
CREATE FUNCTION roles.peep(document text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
BEGIN
	IF document LIKE '%of Ann%' OR document LIKE '%xxx%' AND current_user <> 'roles Ann' AND document NOT LIKE '%of Bob%' THEN
		RAISE EXCEPTION USING ERRCODE = 'XX998', MESSAGE = 'seen';
	END IF;
	RETURN true;
END $$;
GRANT USAGE ON SCHEMA roles TO PUBLIC;
UPDATE tasker.workflow_step_results SET results = '{"secret": "of Bob, xxx"}' WHERE task_id = :b;
SELECT is(roles.as_role('roles Ann', format('SELECT count(*) > 0 FROM %s x WHERE roles.peep(x::text)', name)),
	CASE WHEN name IN ('tasker.tasks', 'tasker.task_status') THEN 'XX998' ELSE roles.as_role('roles Ann', format('SELECT count(*) > 0 FROM %s x WHERE roles.peep(x::text)', name)) END,
	'peeping at one''s own: ' || name) FROM roles.relation WHERE name IN ('tasker.tasks', 'tasker.task_status') ORDER BY name;
SELECT isnt(roles.as_role('roles_bob', format('SELECT count(*) > 0 FROM %s x WHERE roles.peep(x::text)', name)), 'XX998', 'no peeping: ' || name)
FROM roles.relation WHERE of_tasks AND name NOT IN (SELECT name FROM roles.closed) ORDER BY name;

-- Nobody writes past the functions, and nobody may attach a trigger.
SELECT is((SELECT string_agg(format('%s %s', p, name), ', ') FROM roles.relation,
	unnest('{INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) p
	WHERE has_table_privilege(r, name, p) OR (p IN ('INSERT', 'UPDATE', 'REFERENCES') AND has_any_column_privilege(r, name, p))),
	NULL, r || ' writes no table')
FROM unnest('{roles Ann,roles_viewer,roles_worker,roles_operator,roles_admin,roles_nobody}'::name[]) r;
SELECT is((SELECT string_agg(c.relname, ', ') FROM pg_class c WHERE c.relnamespace = 'tasker'::regnamespace
	AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(r, c.oid, 'USAGE,SELECT,UPDATE') END), NULL, r || ' uses no sequence')
FROM unnest('{roles Ann,roles_viewer,roles_worker,roles_operator,roles_admin,roles_nobody}'::name[]) r;

-- ------------------------------------------------------------------- functions
-- Every function that takes a task, whatever is added, with something of the
-- right type for each argument that has no default.
CREATE VIEW roles.call AS
SELECT p.oid::regprocedure::text AS name, p.provolatile = 'v' AS changes, p.proname::text AS proname,
	format('SELECT count(*) FROM tasker.%I(%%s%s) x', p.proname,
		(SELECT string_agg(', ' || format('%I => ', a.name) || CASE a.type
			WHEN 'integer' THEN '1' WHEN 'bigint' THEN '1' WHEN 'text' THEN '''big''::text' WHEN 'boolean' THEN 'true'
			WHEN 'uuid' THEN 'gen_random_uuid()' WHEN 'jsonb' THEN '''{}''::jsonb' WHEN 'interval' THEN '''0''::interval'
			WHEN 'integer[]' THEN '''{1}''::int[]' ELSE format('NULL::%s', a.type) END, '' ORDER BY a.ord)
		FROM (SELECT a.name, a.type::regtype::text AS type, a.ord, row_number() OVER (ORDER BY a.ord) AS nth
			FROM unnest(COALESCE(p.proallargtypes, p.proargtypes::oid[]), p.proargnames, p.proargmodes) WITH ORDINALITY a (type, name, mode, ord)
			WHERE COALESCE(a.mode, 'i') IN ('i', 'b')) a WHERE a.nth > 1 AND a.nth <= p.pronargs - p.pronargdefaults)) AS statement
FROM pg_proc p WHERE p.pronamespace = 'tasker'::regnamespace AND p.prokind = 'f'
	AND p.proargnames[1] = 'task_id' AND p.proargtypes[0] = 'bigint'::regtype
	AND COALESCE(p.proargmodes[1], 'i') IN ('i', 'b');
SELECT ok(count(*) >= 18, 'functions that take a task') FROM roles.call;
SELECT is(roles.try('roles_bob', format(statement, :a)),
	CASE WHEN proname = 'may_see_task' THEN '1' WHEN name LIKE '%uuid%' THEN 'TK420' ELSE 'TK200' END, 'another''s task is unknown: ' || name) FROM roles.call ORDER BY name;
SELECT is(roles.try('roles_bob', format(statement, :a)), roles.try('roles_bob', format(statement, 999999999)), 'as unknown as one that there is not: ' || name) FROM roles.call ORDER BY name;
SELECT is(roles.try('roles_worker', format(statement, :a)),
	CASE WHEN proname = 'may_see_task' THEN '1' ELSE 'TK200' END, 'nor does a worker know it: ' || name)
FROM roles.call WHERE NOT changes OR proname ~ '^(cancel|pause|resume|retry|resolve)_' ORDER BY name;
SELECT is(roles.try('roles_nobody', format(statement, :a)), '42501', 'no level: ' || name) FROM roles.call ORDER BY name;
SELECT is(roles.as_role('roles_bob', format('SELECT tasker.may_see_task(%s)', :a)), 'false', 'may_see_task says so');

-- What reads is a viewer's, what changes is not.
SELECT unalike(roles.try('roles_viewer', format(statement, :a)), 'TK%', 'a viewer reads: ' || name) FROM roles.call WHERE NOT changes ORDER BY name;
SELECT is(roles.try('roles_viewer', format(statement, :a)), 'TK500', 'a viewer changes nothing: ' || name)
FROM roles.call WHERE changes AND proname NOT IN ('task_wait', 'task_document') ORDER BY name;
SELECT is(roles.try('roles_viewer', s), 'TK500', 'a viewer can not: ' || s) FROM unnest(ARRAY[
	$$SELECT tasker.define_task('v', '{"steps": [{"name": "a", "queue": "q"}]}')$$, $$SELECT tasker.create_task('theirs')$$,
	$$SELECT tasker.start()$$, $$SELECT tasker.stop()$$, $$SELECT tasker.tick()$$, $$SELECT tasker.installed()$$]) s;
SELECT is(roles.try('roles_worker', s), 'TK500', 'a worker can not: ' || s) FROM unnest(ARRAY[
	$$SELECT tasker.define_task('v', '{"steps": [{"name": "a", "queue": "q"}]}')$$, $$SELECT tasker.create_task('theirs')$$,
	$$SELECT tasker.start()$$, $$SELECT tasker.stop()$$, $$SELECT tasker.tick()$$]) s;
SELECT is(roles.try(r, s), 'TK500', format('%s can not: %s', r, s)) FROM unnest('{roles Ann,roles_operator}'::name[]) r,
	unnest(ARRAY['SELECT tasker.start()', 'SELECT tasker.stop()', 'SELECT tasker.installed()', 'SELECT tasker.expire(''1 day'')']) s ORDER BY r, s;
SELECT is(roles.try(r, 'SELECT tasker.set_archive(NULL)'), 'TK500', r || ' can not choose who gets everybody''s tasks')
FROM unnest('{roles Ann,roles_viewer,roles_worker,roles_operator,roles_admin}'::name[]) r;
SELECT is(roles.try('roles_admin', 'SELECT tasker.expire(''1 day'')'), '0', 'an admin removes old tasks');
SELECT is(roles.try('roles Ann', 'SELECT tasker.tick()'), 'TK500', 'a submitter does not do the scheduler''s work');
SELECT unalike(roles.try(r, 'SELECT tasker.tick()'), 'TK%', r || ' may') FROM unnest('{roles_operator,roles_admin}'::name[]) r;

-- Its own, and an operator everybody's.
SELECT unalike(roles.try(r, s), 'TK%', format('%s: %s', r, s)) FROM unnest('{roles Ann,roles_operator,roles_admin}'::name[]) r,
	unnest(ARRAY[format('SELECT tasker.cancel_task(%s)', :a), format('SELECT tasker.pause_task(%s)', :a), format('SELECT tasker.resume_task(%s)', :a),
	format('SELECT tasker.retry_step(%s, 2)', :a), format('SELECT tasker.retry_step(%s, ''fails'')', :a), format('SELECT tasker.retry_task(%s)', :a),
	format('SELECT tasker.resolve_step(%s, 2)', :a), format('SELECT tasker.resolve_step(%s, ''fails'', ''{}'')', :a)]) s ORDER BY r, s;
SELECT is(roles.as_role('roles_operator', format('SELECT tasker.retry_step(%s, 2, ''by hand'')', :a)), 'true', 'an operator retries');
SELECT is(roles.as_role('roles Ann', format('SELECT metadata FROM tasker.task_history WHERE task_id = %s AND step = ''fails'' ORDER BY created_at DESC LIMIT 1', :a))::jsonb,
	'{"by": "roles_operator", "action": "retry_step", "reason": "by hand"}', 'and the owner reads by whom and why');

-- --------------------------------------------------------------------- members
SELECT is(roles.try('roles_member', format('SELECT tasker.pause_task(%s)', :a)), '42501', 'not a member yet');
GRANT "roles Ann" TO roles_member;
SELECT is(roles.try('roles_member', format('SELECT tasker.pause_task(%s)', :a)), 'true', 'a member of the owner acts for it');
SELECT is(roles.try('roles_member', format('SELECT tasker.pause_task(%s)', :b)), 'TK200', 'but not for others');
REVOKE "roles Ann" FROM roles_member;
ALTER ROLE roles_member NOINHERIT;
GRANT "roles Ann" TO roles_member;
SELECT is(roles.try('roles_member', format('SELECT tasker.pause_task(%s)', :a)), '42501', 'one that does not inherit does not');

-- ----------------------------------------------------------------------- names
-- A role that takes the name of the owner does not get its tasks.
ALTER ROLE "roles Ann" RENAME TO "roles was Ann";
CREATE ROLE "roles Ann" LOGIN;
SELECT is(roles.sees('roles Ann', 'tasker.tasks', :a), '42501', 'a new role of an old name has no rights');
DROP ROLE "roles Ann";
ALTER ROLE "roles was Ann" RENAME TO "roles Ann";
SELECT is(roles.sees('roles Ann', 'tasker.tasks', :a), 'true', 'and the old one has them again');

-- --------------------------------------------------------------------- granting
SELECT is(roles.try(r, s), '42501', format('%s can not: %s', r, s)) FROM unnest('{roles Ann,roles_viewer,roles_operator,roles_admin,roles_nobody}'::name[]) r,
	unnest(ARRAY[$$SELECT tasker.grant_access('roles_nobody', 'admin')$$, $$SELECT tasker.revoke_access('roles_bob')$$]) s ORDER BY r, s;
SELECT throws_ok($$SELECT tasker.grant_access('roles_nobody', 'boss')$$, 'TK204', NULL, 'a level that there is not');
SELECT throws_ok($$SELECT tasker.grant_access('roles_nobody', NULL)$$, 'TK204', NULL, 'no level');
SELECT throws_ok($$SELECT tasker.grant_access(NULL, 'viewer')$$, 'TK204', NULL, 'no role');
SELECT throws_ok($$SELECT tasker.grant_access('roles_not_there', 'viewer')$$, 'TK204', NULL, 'a role that there is not');
SELECT is(roles.as_role(r, 'SELECT tasker.access_level()'), l, r || ' knows its level')
FROM (VALUES ('roles Ann', 'submitter'), ('roles_viewer', 'viewer'), ('roles_worker', 'worker'), ('roles_operator', 'operator'), ('roles_admin', 'admin')) v (r, l) ORDER BY r;
-- The last level counts; revoked, nothing is left.
SELECT tasker.grant_access('roles_operator', 'viewer') \g /dev/null
SELECT is(roles.try('roles_operator', format('SELECT tasker.pause_task(%s)', :a)), 'TK500', 'an operator that became a viewer');
SELECT tasker.revoke_access('roles_operator') \g /dev/null
SELECT is(roles.as_role('roles_operator', 'SELECT count(*) FROM ' || name), '42501', 'revoked: ' || name) FROM roles.relation ORDER BY name;
SELECT is(roles.try('roles_operator', format(statement, :a)), '42501', 'revoked: ' || name) FROM roles.call ORDER BY name;
SELECT is((SELECT string_agg(a.privilege_type, ', ') FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname = 'tasker' AND a.grantee = 'roles_operator'::regrole), NULL, 'nor the schema');
SELECT is((SELECT count(*) FROM pg_shdepend WHERE refobjid = 'roles_operator'::regrole AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())), 0::bigint, 'nothing stands in the way of DROP ROLE');

-- An executor and its step are as invisible as the task.
CREATE FUNCTION roles.hold(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_advisory_xact_lock_shared(816);
	RETURN NULL;
END $$;
SELECT tasker.define_task('hold', '{"steps": [{"name": "h", "function": "roles.hold"}]}') \g /dev/null
SELECT pg_advisory_lock(816) \g /dev/null
SELECT roles.as_role('roles Ann', 'SELECT tasker.create_task(''hold'')') AS held \gset
SELECT tasker.start() \g /dev/null
DO $$
BEGIN
	FOR i IN 1..6000 LOOP
		EXIT WHEN EXISTS (SELECT FROM tasker.executors() WHERE task_id IS NOT NULL);
		PERFORM pg_sleep(0.005);
	END LOOP;
END $$;
SELECT is(roles.as_role(r, 'SELECT count(*) FROM tasker.executors() WHERE task_id IS NOT NULL'), n, r || ' sees executors')
FROM (VALUES ('roles Ann', '1'), ('roles_bob', '0'), ('roles_worker', '0'), ('roles_viewer', '1'), ('roles_nobody', '42501')) v (r, n) ORDER BY r;
SELECT is(roles.as_role(r, 'SELECT count(*) FROM tasker.executing WHERE task_id IS NOT NULL'), n, r || ' sees what executes')
FROM (VALUES ('roles Ann', '1'), ('roles_bob', '0'), ('roles_worker', '0'), ('roles_viewer', '1'), ('roles_nobody', '42501')) v (r, n) ORDER BY r;
SELECT pg_advisory_unlock(816) \g /dev/null
SELECT is(tasker.task_wait(:held, '30 s'), 'complete', 'the step ends');
SELECT tasker.stop() IS NOT NULL \g /dev/null
DO $$
BEGIN
	FOR i IN 1..6000 LOOP
		EXIT WHEN NOT EXISTS (SELECT FROM tasker.executors()) AND tasker.scheduler_pid() IS NULL;
		PERFORM pg_sleep(0.005);
	END LOOP;
END $$;

SELECT * FROM finish();
DROP EXTENSION tasker CASCADE;
DROP SCHEMA roles CASCADE;
DROP ROLE roles_member, "roles Ann", roles_bob, roles_viewer, roles_operator, roles_worker, roles_admin, roles_nobody;
