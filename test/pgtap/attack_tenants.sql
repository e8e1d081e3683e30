-- One tenant looks for what is another's: tasks, steps, results, history,
-- definitions, queues, statistics; through tables, views, functions, errors.
-- test/pgtap/roles.sql has every function and relation; here are the ways around.
\ir ../lib/attack.sql
\c - attack_vic
CREATE SCHEMA vic;
SELECT tasker.define_task('victims', '{"description": "secret of vic", "steps": [
	{"name": "done", "queue": "victims queue"}, {"name": "secret step", "queue": "victims queue"},
	{"name": "sql", "sql": "SELECT to_jsonb(''secret of vic''::text)", "depends_on": ["done"]}]}', namespace => 'victims namespace');
SELECT tasker.create_task('victims', '{"secret": "secret of vic", "n": 7}', namespace => 'victims namespace', tags => '["secret of vic"]',
	idempotency_key => 'secret of vic', initiator => 'secret of vic', source_system => 'secret of vic', reason => 'secret of vic') AS t \gset
SELECT tasker.resolve_step(:t, 1, jsonb_build_object('secret of vic', repeat('x', 1000)), 'secret of vic');
SELECT task_id, step_id, lease FROM tasker.claim_steps('{"victims queue"}', 'worker of vic') \gset
SELECT tasker.heartbeat(:task_id, :step_id, :'lease', checkpoint => '"secret of vic"');
INSERT INTO attack.loot VALUES ('task', :t), ('step', :step_id), ('lease', :'lease');
\c - :admin
ANALYZE;
CREATE ROLE attack_all;
CREATE ROLE attack_write;
SELECT to_regrole('pg_read_all_data') IS NOT NULL AS predefined \gset
SELECT setting ~ 'with-libxml' AS xml FROM pg_config WHERE name = 'CONFIGURE' \gset
\if :predefined
	GRANT pg_read_all_data TO attack_all;
	GRANT pg_write_all_data TO attack_write;
\else
	-- PostgreSQL 13 has no such roles
	GRANT USAGE ON SCHEMA tasker TO attack_all, attack_write;
	GRANT SELECT ON ALL TABLES IN SCHEMA tasker TO attack_all;
	GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tasker TO attack_write;
\endif
GRANT attack_all TO attack_mal;
ALTER ROLE attack_mal SET client_min_messages = error;

\c - attack_mal
CREATE SCHEMA mal;
GRANT USAGE ON SCHEMA mal TO PUBLIC;
-- A cheap function sees what a policy or a security barrier lets through.
CREATE FUNCTION mal.peep(x text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
BEGIN
	IF x ~ 'secret of vic|xxxx|victims' THEN
		RAISE EXCEPTION USING ERRCODE = 'XX998';
	END IF;
	RETURN true;
END $$;
-- attack_mal may read everything: so even leaves and tables that are
-- nobody's are within reach but for row security.
SELECT attack.try('reads all of ' || c.oid::regclass, format('SELECT count(*) FROM %s', c.oid::regclass), '0')
FROM pg_class c WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') ORDER BY c.relname;
SELECT attack.try('peeps into ' || c.oid::regclass, format('SELECT count(*) FROM %s x WHERE mal.peep(x::text)', c.oid::regclass), '0')
FROM pg_class c WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') ORDER BY c.relname;
SELECT attack.try(format('peeps into %s.%s', c.oid::regclass, a.attname), format('SELECT count(*) FROM %s x WHERE mal.peep(%I::text)', c.oid::regclass, a.attname), '0')
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind = 'v' ORDER BY c.relname, a.attnum;
SELECT attack.try('peeps through a view of its own', 'CREATE VIEW mal.tasks AS SELECT * FROM tasker.tasks', 'null');
SELECT attack.try('reads its own view', 'SELECT count(*) FROM mal.tasks', '0');
SELECT attack.try('peeps with a LEFT JOIN', 'SELECT count(*) FROM (VALUES (1)) v LEFT JOIN tasker.tasks t ON mal.peep(t.context::text)', '1');
SELECT attack.try('peeps with an aggregate', 'SELECT count(*) FILTER (WHERE mal.peep(context::text)) FROM tasker.tasks', '0');
SELECT attack.try('peeps in RETURNING', 'UPDATE tasker.tasks SET reason = reason RETURNING mal.peep(context::text)', '42501');
SELECT attack.try('an error tells of a value: a cast', 'SELECT count(*) FROM tasker.tasks WHERE (context ->> ''secret'')::int > 0', '0');
SELECT attack.try('an error tells of an id: a division', format('SELECT count(*) FROM tasker.tasks WHERE 1 / (task_id - %s) = 1', attack.loot('task')), '0');
SELECT attack.try('an error tells of an id: in a view', format('SELECT count(*) FROM tasker.task_status WHERE 1 / (task_id - %s) = 1', attack.loot('task')), '0');
SELECT attack.try('row_security off', 'SELECT set_config(''row_security'', ''off'', false)', 'off');
SELECT attack.try('reads with row_security off', 'SELECT count(*) FROM tasker.tasks', '42501');
SELECT attack.try('reads with row_security off: definitions', 'SELECT count(*) FROM tasker.named_steps', '42501');
SELECT attack.try('asks a function with row_security off', format('SELECT tasker.explain_step(%s, 1)', attack.loot('task')), 'TK200');
SELECT attack.try('asks whether it may see, with row_security off', format('SELECT tasker.may_see_task(%s)', attack.loot('task')), 'false');
RESET row_security;
SELECT attack.try('statistics of ' || s, 'SELECT count(*) FROM pg_catalog.pg_stats WHERE schemaname = ''tasker'' AND tablename = ' || quote_literal(s), '0')
FROM unnest('{tasks,workflow_steps,workflow_step_results,named_tasks,named_steps,queues,task_namespaces,idempotency_keys,ready_queue}'::text[]) s;
SELECT attack.try('as XML', 'SELECT query_to_xml(''SELECT * FROM tasker.tasks'', true, true, '''')::text LIKE ''%secret%''', 'false');
\if :xml
SELECT attack.try('the schema as XML', 'SELECT schema_to_xml(''tasker'', true, true, '''')::text LIKE ''%secret of vic%''', 'false');
\endif
SELECT attack.try('a sample', 'SELECT count(*) FROM tasker.tasks TABLESAMPLE SYSTEM (100)', '0');
SELECT attack.try('by ctid', 'SELECT count(*) FROM tasker.tasks WHERE ctid = ''(0,1)''', '0');
SELECT attack.try('a row, whole', 'SELECT count(*) FROM tasker.tasks t WHERE to_jsonb(t) IS NOT NULL', '0');
SELECT attack.try('a prepared statement of somebody else''s rights', 'PREPARE look AS SELECT count(*) FROM tasker.tasks', 'null');
SELECT attack.try('a file', 'COPY tasker.tasks TO ''attack''', '42501');
SELECT attack.try('locks the rows', 'SELECT count(*) FROM (SELECT FROM tasker.tasks FOR UPDATE) x', '42501');
SELECT attack.try('locks the rows: FOR KEY SHARE', 'SELECT count(*) FROM (SELECT FROM tasker.workflow_steps FOR KEY SHARE) x', '42501');
SELECT attack.try('locks ' || m, format('LOCK TABLE tasker.workflow_steps IN %s MODE NOWAIT', m), w)
FROM (VALUES ('ROW SHARE', '42501'), ('ROW EXCLUSIVE', '42501'), ('SHARE', '42501'), ('ACCESS EXCLUSIVE', '42501')) v (m, w);

-- What is its own in the same tables it sees, and no more.
SELECT tasker.define_task('its own', '{"steps": [{"name": "a", "queue": "its own"}]}');
SELECT attack.try('sees its own definition', 'SELECT string_agg(name, '','') FROM tasker.named_tasks', 'its own');
SELECT attack.try('sees its own step', 'SELECT string_agg(name, '','') FROM tasker.named_steps', 'a');
SELECT attack.try('sees its own queue', 'SELECT string_agg(name, '','') FROM tasker.queues', 'its own');
SELECT attack.try('sees its own namespace', 'SELECT string_agg(name, '','') FROM tasker.task_namespaces', 'default');
SELECT tasker.create_task('its own', '{"secret": 1}');
SELECT attack.try('sees its own task', 'SELECT count(*) FROM tasker.tasks', '1');
SELECT attack.try('counts through EXPLAIN', 'SELECT count(*) FROM tasker.task_status', '1');
EXECUTE look;
SELECT attack.try('the same key is its own', 'SELECT tasker.create_task(''its own'', idempotency_key => ''secret of vic'') > 0', 'true');
SELECT attack.try('creates a task of another''s definition', 'SELECT tasker.create_task(''victims'', namespace => ''victims namespace'')', 'TK500');
SELECT attack.try('defines another version of another''s', 'SELECT tasker.define_task(''victims'', ''{"steps": [{"name": "a", "queue": "q"}]}'', ''victims namespace'', ''2'')', 'TK500');
SELECT attack.try('takes the default from another''s', 'SELECT tasker.set_default_version(''victims'', ''1.0.0'', ''victims namespace'')', 'TK500');
SELECT attack.try('drops another''s', 'SELECT tasker.drop_named_task(''victims'', ''1.0.0'', ''victims namespace'')', 'TK500');
SELECT attack.try('claims from another''s queue', 'SELECT count(*) FROM tasker.claim_steps(''{victims queue}'', ''mal'', 100)', '0');
SELECT attack.try('sees who executes', 'SELECT count(*) FROM tasker.executors()', '0');
SELECT attack.try('no task waited for', format('SELECT tasker.task_wait(%s, ''0'')', attack.loot('task')), 'TK200');
-- An owner's id is not a key to what is the owner's.
SELECT attack.try('asks for every owner', 'SELECT count(*) FROM generate_series(1, 50) o WHERE tasker.may_see_owner(o::int)', '1');
SELECT attack.try('asks for every definer', 'SELECT count(*) FROM generate_series(1, 50) o WHERE tasker.may_see_definition(o::int)', '1');
SELECT attack.try('asks for every task', 'SELECT count(*) FROM generate_series(1, 50) t WHERE tasker.may_see_task(t)', '2');
-- The answer is not kept for another role, or another owner, in the same statement.
CREATE FUNCTION mal.sees() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM tasker.tasks';
CREATE FUNCTION mal.sees_as_caller() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM tasker.tasks';
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA mal TO PUBLIC;

\c - attack_vic
SELECT attack.try('a function of another role''s sees that one''s', 'SELECT ARRAY[mal.sees(), mal.sees_as_caller(), mal.sees()]', '{2,1,2}');
GRANT SELECT ON ALL TABLES IN SCHEMA vic TO PUBLIC;

\c - attack_work
SELECT attack.try('a worker sees no ' || c.oid::regclass, format('SELECT count(*) FROM %s', c.oid::regclass), '0')
FROM pg_class c WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND has_table_privilege(c.oid, 'SELECT')
	AND c.relname NOT IN ('queues', 'queue_status') ORDER BY c.relname;
SELECT attack.try('a worker sees the queues', 'SELECT count(*) FROM tasker.queues', '2');

\c - attack_view
SELECT attack.try('a viewer sees the definitions', 'SELECT count(*) FROM tasker.named_tasks', '2');
SELECT attack.try('the raw statistics', 'SELECT count(*) FROM pg_catalog.pg_statistic', '42501');
SELECT attack.try('a viewer sees the steps', 'SELECT count(*) FROM tasker.named_steps', '4');

\c - attack_none
SELECT attack.try('without a level: ' || c.oid::regclass, format('SELECT count(*) FROM %s', c.oid::regclass), '42501')
FROM pg_catalog.pg_class c WHERE c.relnamespace = (SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname = 'tasker') AND c.relkind IN ('r', 'p', 'v') ORDER BY c.relname;
-- Whoever may read and write everything reads and writes no row of tasker's.
\c - :admin
GRANT attack_all, attack_write TO attack_none;
\c - attack_none
SELECT attack.try('reads all: ' || c.relname, format('SELECT count(*) FROM tasker.%I', c.relname), CASE WHEN c.relispartition OR
	(c.relkind = 'r' AND NOT EXISTS (SELECT FROM pg_catalog.pg_policy p WHERE p.polrelid = c.oid)) THEN '0' ELSE '42501' END)
FROM pg_catalog.pg_class c WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind IN ('r', 'p', 'v') ORDER BY c.relname;
SELECT attack.try('writes all: ' || c.relname, format('INSERT INTO tasker.%I DEFAULT VALUES', c.relname), CASE WHEN c.relkind = 'v' THEN '55000' ELSE '42501' END)
FROM pg_catalog.pg_class c WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind IN ('r', 'p', 'v')
	-- a view is its owner's way into the table; the grant to write it is another one
	AND c.relname NOT LIKE '%transitions' AND c.relname <> 'worker_status' ORDER BY c.relname;

\c - :admin
DROP OWNED BY attack_all, attack_write;
DROP ROLE attack_all, attack_write;
\o
SELECT * FROM no_plan();
-- Nobody listens to what tasker says, since it says nothing.
SELECT is((SELECT count(*) FROM pg_catalog.pg_proc WHERE pronamespace = 'tasker'::regnamespace AND prosrc ILIKE '%notify%'), 0::bigint, 'no function sends a notification');
SELECT is(pg_notification_queue_usage(), 0::float8, 'no notification was sent');
\ir ../lib/attack_end.sql
