-- create_task and create_tasks: what they store, keys, start times, refusals.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SELECT tasker.stop() IS NOT NULL;
CREATE SCHEMA creation;
SET search_path = creation, pg_catalog;
CREATE ROLE creation_ann LOGIN;
CREATE ROLE creation_bob LOGIN;
CREATE ROLE creation_nologin;
CREATE ROLE creation_viewer LOGIN;
CREATE ROLE creation_none LOGIN;
GRANT USAGE ON SCHEMA creation TO PUBLIC;
SELECT count(tasker.grant_access(r, 'submitter')) FROM unnest('{creation_ann,creation_bob,creation_nologin}'::name[]) AS r;
SELECT tasker.grant_access('creation_viewer', 'viewer') IS NOT NULL;
GRANT USAGE ON SCHEMA tasker TO creation_none;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA tasker TO creation_none;

-- The first column of the statement's first row, or its error; ids of tasks become N.
CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text; state text; message text; detail text; hint text;
BEGIN
	EXECUTE statement INTO result;
	RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN regexp_replace(format(E'%s %s\n   %s\n   %s', state, message, detail, hint), '([Tt]ask) \d+', '\1 N', 'g');
END $$;
CREATE VIEW tasks AS
SELECT t.*, n.name, s.name AS namespace, n.version, o.role_name
FROM tasker.tasks t JOIN tasker.named_tasks n USING (named_task_id) JOIN tasker.task_namespaces s USING (namespace_id)
	JOIN tasker.owners o ON o.owner_id = t.owner
WHERE s.name LIKE 'creation%';

SELECT count(tasker.define_task('two', tasker.workflow(ARRAY[
	tasker.step('first', sql => 'SELECT $1', priority => 3),
	tasker.step('second', sql => 'SELECT $1', depends_on => '{first}')]), 'creation', v)) FROM unnest('{1.0.0,1.1.0}'::text[]) AS v;
SELECT count(tasker.define_task('queued', tasker.workflow(ARRAY[tasker.step('only', queue => 'creation')]), 'creation'));

-- everything that a task can be given, by position, and by name
SET SESSION AUTHORIZATION creation_ann;
SELECT tasker.create_task('two', '{"a": [1, null]}', 'creation', '1.0.0', 7, '2031-01-01 00:00+00', 'all', '["x"]', 'me', 'shop', 'why not',
	'11111111-2222-3333-4444-555555555555') AS id \gset
SELECT name, namespace, version, role_name, state, priority, context, start_at AT TIME ZONE 'UTC', tags, initiator, source_system, reason, correlation_id,
	requested_at > now() - interval '1 hour', started_at, completed_at, blocked FROM tasker.tasks t JOIN tasker.owners o ON owner_id = owner
	JOIN tasker.named_tasks n USING (named_task_id) CROSS JOIN (SELECT 'creation' AS namespace) AS c WHERE task_id = :id;
SELECT step_id, state, priority, pending_parents, attempts, next_attempt_at AT TIME ZONE 'UTC', lane < 0 AS in_database FROM tasker.workflow_steps WHERE task_id = :id ORDER BY 1;
SELECT from_step_id, to_step_id FROM tasker.workflow_step_edges WHERE task_id = :id;
SELECT tasker.create_task(name => 'two', namespace => 'creation') AS id \gset
SELECT name, version, state, priority, context, start_at, tags, initiator, source_system, reason, correlation_id IS NOT NULL, steps, satisfied, active, failed
FROM tasker.task_status WHERE task_id = :id;
SELECT step_id, name, state, priority, pending_parents, depends_on FROM tasker.step_status WHERE task_id = :id ORDER BY 1;
-- creating is no change of state
SELECT count(*) FROM tasker.task_history WHERE task_id = :id;
RESET SESSION AUTHORIZATION;
SELECT rank, step_id FROM tasker.ready_queue WHERE task_id = :id;

-- a version by name, else the default one
SELECT tasker.set_default_version('queued', '1.0.0', 'creation') IS NOT NULL;
SELECT tasker.define_task('queued', tasker.workflow(ARRAY[tasker.step('only', queue => 'creation'), tasker.step('more', queue => 'creation')]), 'creation', '2.0.0', make_default => false) > 0;
BEGIN;
SELECT tasker.create_task('queued', namespace => 'creation') AS default, tasker.create_task('queued', namespace => 'creation', version => '2.0.0') AS named \gset
SELECT version FROM tasks WHERE task_id IN (:default, :named) ORDER BY task_id;
SELECT tasker.set_default_version('queued', '2.0.0', 'creation') IS NOT NULL;
SELECT tasker.create_task('queued', namespace => 'creation') AS default \gset
SELECT version FROM tasks WHERE task_id = :default;

-- rollback leaves nothing, its key included
SELECT tasker.create_task('queued', namespace => 'creation', idempotency_key => 'rolled back') AS id \gset
SELECT count(*) FROM tasks WHERE task_id = :id;
ROLLBACK;
SELECT count(*) FROM tasker.tasks WHERE task_id = :id;
SELECT count(*) FROM tasker.workflow_steps WHERE task_id = :id;
SELECT count(*) FROM tasker.ready_queue WHERE task_id = :id;
SELECT count(*) FROM tasker.idempotency_keys WHERE task_id = :id;
SELECT tasker.create_task('queued', namespace => 'creation', idempotency_key => 'rolled back') > :id;

-- a start time still to come
SET tasker.clock = '2030-06-01 12:00+00';
SET SESSION AUTHORIZATION creation_ann;
SELECT tasker.create_task('two', namespace => 'creation', start_at => '2030-06-01 12:00:10+00') AS later,
	tasker.create_task('two', namespace => 'creation', start_at => '2030-06-01 12:00+00') AS now,
	tasker.create_task('two', namespace => 'creation', start_at => '1999-12-31 00:00+00') AS past,
	tasker.create_task('two', namespace => 'creation', start_at => '2000-01-01 00:00+00') AS epoch \gset
RESET SESSION AUTHORIZATION;
CREATE FUNCTION shown(VARIADIC ids bigint[]) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT concat_ws(' ', t.state, string_agg(s.state, ' ' ORDER BY step_id), (SELECT count(*) FROM tasker.ready_queue q WHERE q.task_id = t.task_id) || ' ready',
		(SELECT count(*) FROM tasker.timers q WHERE q.task_id = t.task_id) || ' timers', t.start_at AT TIME ZONE 'UTC')
	FROM tasker.tasks t JOIN tasker.workflow_steps s USING (task_id) WHERE task_id = ANY (ids) GROUP BY t.task_id ORDER BY t.task_id
$$;
SELECT shown(:later, :now, :past, :epoch);
SELECT tasker.tick('2030-06-01 12:00:09.999999+00') >= 0;
SELECT shown(:later);
SELECT tasker.tick('2030-06-01 12:00:10+00') >= 1;
SELECT shown(:later);
SELECT from_state, to_state, attempt FROM tasker.workflow_step_transitions WHERE task_id = :later;
RESET tasker.clock;

-- the same key gives the same task
SET SESSION AUTHORIZATION creation_ann;
SELECT tasker.create_task('two', '{"a": 1, "b": 2}', 'creation', idempotency_key => 'k1') AS k1 \gset
SELECT tasker.create_task('two', '{"b": 2.0, "a": 1}', 'creation', idempotency_key => 'k1') = :k1;
SELECT tasker.create_task('two', '{"a": 1, "b": 2}', 'creation', idempotency_key => 'k1', priority => 5, reason => 'again') = :k1;
SELECT priority, reason FROM tasker.tasks WHERE task_id = :k1;
SELECT attempt('SELECT tasker.create_task(''two'', ''{"a": 2}'', ''creation'', idempotency_key => ''k1'')');
SELECT attempt('SELECT tasker.create_task(''two'', ''{"a": 1, "b": 2}'', ''creation'', ''1.0.0'', idempotency_key => ''k1'')');
SELECT attempt('SELECT tasker.create_task(''queued'', ''{"a": 1, "b": 2}'', ''creation'', idempotency_key => ''k1'')');
-- keys differ byte by byte, and without one every call makes a task
SELECT count(DISTINCT tasker.create_task('two', '{}', 'creation', idempotency_key => k)) FROM unnest(ARRAY['K1', 'k1 ', ' k1', 'k1' || chr(769), NULL, NULL]) AS k;
-- also in the transaction that made it, and after a rollback to a savepoint
BEGIN;
SAVEPOINT a;
SELECT tasker.create_task('two', '{"n": 1}', 'creation', idempotency_key => 'k2') AS k2 \gset
ROLLBACK TO a;
SELECT tasker.create_task('two', '{"n": 2}', 'creation', idempotency_key => 'k2') > :k2;
SELECT tasker.create_task('two', '{"n": 2}', 'creation', idempotency_key => 'k2') > :k2;
COMMIT;
-- per owner
SET SESSION AUTHORIZATION creation_bob;
SELECT tasker.create_task('two', '{"a": 1, "b": 2}', 'creation', idempotency_key => 'k1') <> :k1;
SELECT tasker.create_task('two', '{"other": true}', 'creation', idempotency_key => 'k2') > 0;
-- a task that is gone keeps its key
RESET SESSION AUTHORIZATION;
DELETE FROM tasker.workflow_steps WHERE task_id = :k1;
DELETE FROM tasker.tasks WHERE task_id = :k1;
SET SESSION AUTHORIZATION creation_ann;
SELECT attempt('SELECT tasker.create_task(''two'', ''{"a": 1, "b": 2}'', ''creation'', idempotency_key => ''k1'')');

-- many at once: in the order of the contexts
SELECT array_agg(id ORDER BY ordinality) AS ids, count(*) AS n FROM tasker.create_tasks('two', ARRAY(SELECT jsonb_build_object('n', n) FROM generate_series(1, 5) n), 'creation',
	priority => 4, tags => '{"bulk": true}', reason => 'many') WITH ORDINALITY AS c (id, ordinality) \gset
SELECT :n, array_agg(t.context -> 'n' ORDER BY ordinality), array_agg(DISTINCT (t.priority, t.tags, t.reason)::text), count(DISTINCT t.correlation_id)
FROM unnest(:'ids'::bigint[]) WITH ORDINALITY AS c (task_id, ordinality) JOIN tasker.tasks t USING (task_id);
SELECT count(*) FROM tasker.workflow_steps WHERE task_id = ANY (:'ids');
SELECT count(*) FROM tasker.create_tasks('two', '{}', 'creation');
SELECT count(*) FROM tasker.create_tasks('two', '{}', 'creation', idempotency_keys => '{}');
-- duplicates within a call, and keys from before, are one task; null is no key
SELECT array_agg(rank ORDER BY ordinality) FROM (SELECT ordinality, dense_rank() OVER (ORDER BY id) AS rank FROM tasker.create_tasks('two', ARRAY['{"dup": 1}', '{"dup": 2}', '{"dup": 1}', '{"dup": 2}', '{"dup": 0}', '{"dup": 0}', '{"n": 2}']::jsonb[],
	'creation', idempotency_keys => '{b1,b2,b1,b2,NULL,NULL,k2}') WITH ORDINALITY AS c (id, ordinality)) AS ranks;
SELECT context, count(*) FROM tasker.tasks WHERE context ? 'dup' GROUP BY 1 ORDER BY 1;
SELECT attempt($$SELECT tasker.create_tasks('two', ARRAY['{"n": 1}', '{"n": 3}']::jsonb[], 'creation', idempotency_keys => '{b3,b3}')$$);
-- all or none: nothing of the refused call is there
SELECT attempt($$SELECT tasker.create_tasks('two', ARRAY['{"all or none": 1}', '{"n": 9}']::jsonb[], 'creation', idempotency_keys => '{b4,b1}')$$);
SELECT count(*) FROM tasker.tasks WHERE context ? 'all or none';
SELECT count(*) FROM tasker.create_tasks('two', ARRAY['{"n": 9}']::jsonb[], 'creation', idempotency_keys => '{b4}');

-- refused
CREATE FUNCTION pg_temp.create(arguments text) RETURNS text LANGUAGE sql AS $$ SELECT creation.attempt('SELECT tasker.create_task(' || arguments || ')') $$;
SELECT pg_temp.create($$NULL$$);
SELECT pg_temp.create($$'two', NULL$$);
SELECT pg_temp.create($$'two', '{}', NULL$$);
SELECT pg_temp.create($$'two', '[{"a": 1}]', 'creation'$$);
SELECT pg_temp.create($$'two', '[]', 'creation'$$);
SELECT pg_temp.create($$'two', '"text"', 'creation'$$);
SELECT pg_temp.create($$'two', 'null', 'creation'$$);
SELECT pg_temp.create($$'two', jsonb_build_object('a', repeat('x', 1024 * 1024)), 'creation'$$);
SELECT pg_temp.create($$'two', '{}', 'creation', priority => 1000001$$);
SELECT pg_temp.create($$'two', '{}', 'creation', priority => -1000001$$);
SELECT pg_temp.create($$'two', '{}', 'creation', start_at => 'infinity'$$);
SELECT pg_temp.create($$'two', '{}', 'creation', start_at => '-infinity'$$);
SELECT pg_temp.create($$'two', '{}', 'creation', idempotency_key => ''$$);
SELECT pg_temp.create($$'two', '{}', 'creation', idempotency_key => repeat('k', 1025)$$);
SELECT pg_temp.create($$'two', '{}', 'creation', idempotency_key => repeat('é', 513)$$);
SELECT pg_temp.create($$'nothing', '{}', 'creation'$$);
SELECT pg_temp.create($$'', '{}', 'creation'$$);
SELECT pg_temp.create($$'two', '{}', 'creation', 'nine'$$);
SELECT pg_temp.create($$'two', '{}', 'nowhere'$$);
SELECT pg_temp.create($$'two', '{}'$$);
CREATE FUNCTION pg_temp.create_many(arguments text) RETURNS text LANGUAGE sql AS $$ SELECT creation.attempt('SELECT tasker.create_tasks(''two'', ' || arguments || ')') $$;
SELECT pg_temp.create_many($$NULL, 'creation'$$);
SELECT pg_temp.create_many($$ARRAY['{}', NULL]::jsonb[], 'creation'$$);
SELECT pg_temp.create_many($$ARRAY['{}', '7']::jsonb[], 'creation'$$);
SELECT pg_temp.create_many($$'{{1,2},{3,4}}'::jsonb[], 'creation'$$);
SELECT pg_temp.create_many($$ARRAY['{}', '{}']::jsonb[], 'creation', idempotency_keys => '{a}'$$);
SELECT pg_temp.create_many($$ARRAY['{}', '{}']::jsonb[], 'creation', idempotency_keys => '{a,""}'$$);
SELECT pg_temp.create_many($$ARRAY['{}']::jsonb[], 'creation', idempotency_keys => '{{a}}'$$);
SELECT pg_temp.create_many($$'{}', 'nowhere'$$);
-- at the limit, not past it
SELECT pg_temp.create($$'two', '{}', 'creation', priority => 1000000, idempotency_key => repeat('k', 1024)$$);
SELECT pg_temp.create($$'two', '{}', 'creation', priority => -1000000$$);
SELECT pg_temp.create($$'two', jsonb_build_object('a', repeat('x', 1024 * 1024 - 64)), 'creation'$$);
-- the limit is an administrator's
SELECT creation.attempt('SET tasker.max_context_size = 2048');
RESET SESSION AUTHORIZATION;
SET tasker.max_context_size = 1;
SELECT attempt($$SELECT tasker.create_task('queued', jsonb_build_object('a', repeat('x', 1024)), 'creation')$$);
RESET tasker.max_context_size;

-- who may
SET SESSION AUTHORIZATION creation_viewer;
SELECT attempt($$SELECT tasker.create_task('queued', '{}', 'creation')$$);
SET SESSION AUTHORIZATION creation_none;
SELECT attempt($$SELECT tasker.create_task('queued', '{}', 'creation')$$);
RESET SESSION AUTHORIZATION;
SELECT replace(attempt($$SELECT tasker.create_task('two', '{}', 'creation')$$), session_user, 'SUPERUSER');
SET ROLE creation_nologin;
SELECT attempt($$SELECT tasker.create_task('two', '{}', 'creation')$$);
-- without a step in the database anybody with the level
SELECT attempt($$SELECT tasker.create_task('queued', '{}', 'creation')$$);
RESET ROLE;
-- a definition of somebody whom the submitter does not trust
SET SESSION AUTHORIZATION creation_bob;
SELECT tasker.define_task('bob''s', tasker.workflow(ARRAY[tasker.step('only', sql => 'SELECT $1')]), 'creation') > 0;
SET SESSION AUTHORIZATION creation_ann;
SELECT attempt($$SELECT tasker.create_task('bob''s', '{}', 'creation')$$);
RESET SESSION AUTHORIZATION;
GRANT creation_bob TO creation_ann;
SET SESSION AUTHORIZATION creation_ann;
SELECT attempt($$SELECT tasker.create_task('bob''s', '{}', 'creation')$$);
RESET SESSION AUTHORIZATION;
REVOKE creation_bob FROM creation_ann;
-- who creates it owns it, in a function with other rights too
CREATE FUNCTION create_definer() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$ SELECT tasker.create_task('queued', '{}', 'creation') $$;
ALTER FUNCTION create_definer() OWNER TO creation_bob;
SET SESSION AUTHORIZATION creation_ann;
SELECT create_definer() AS id \gset
RESET SESSION AUTHORIZATION;
SELECT role_name FROM tasks WHERE task_id = :id;

-- any text goes through as it is
CREATE TABLE hostile (id int GENERATED ALWAYS AS IDENTITY, value text);
GRANT SELECT ON hostile TO PUBLIC;
INSERT INTO hostile (value) VALUES ('''; DROP TABLE tasks; --'), ('$1 $$ $tasker$ %s %I'), (E'new\nline\ttab\\ \\n\r'), ('"double" ''single'' `back`'), ('日本語 🎉 ' || chr(8238) || chr(1)),
	(repeat('long ', 40)), ('{"json": [1]}'), ('NULL'), (' '), (repeat('é', 127));
SELECT count(tasker.define_task(value, tasker.workflow(ARRAY[tasker.step(value, queue => 'creation')]), 'creation ' || value, value)) FROM hostile WHERE octet_length(value) < 246;
SET SESSION AUTHORIZATION creation_ann;
CREATE TEMP TABLE made AS SELECT value, tasker.create_task('two', jsonb_build_object(value, value), 'creation', NULL, 0, NULL, value, to_jsonb(value), value, value, value) AS task_id FROM hostile;
SELECT count(*), bool_and(t.context ->> value = value), bool_and(t.tags = to_jsonb(value)), bool_and(t.initiator = value), bool_and(t.source_system = value), bool_and(t.reason = value)
FROM made JOIN tasker.tasks t USING (task_id);
SELECT count(*) FROM made WHERE tasker.create_task('two', jsonb_build_object(value, value), 'creation', idempotency_key => value) <> task_id;
DROP TABLE made;
CREATE TEMP TABLE made AS SELECT h.value, tasker.create_task(h.value, '{}', 'creation ' || h.value, h.value) AS task_id FROM creation.hostile h WHERE octet_length(value) < 246;
SELECT count(*), bool_and(s.name = value AND s.namespace = 'creation ' || value AND s.version = value), bool_and(tasker.step_id(task_id, value) = 1) FROM made JOIN tasker.task_status s USING (task_id);
SELECT attempt(format('SELECT tasker.create_task(%L, namespace => %L, version => %L)', E'a''b\n$1', '"x"', '%s'));
RESET SESSION AUTHORIZATION;

-- ids rise; the node is their high bits
SELECT tasker.next_task_id() < tasker.next_task_id();
ALTER SYSTEM SET tasker.node_id = 5;
SELECT pg_reload_conf();
\set ECHO none
SELECT $$DO 'BEGIN IF current_setting(''tasker.node_id'') <> ''5'' THEN PERFORM pg_catalog.pg_sleep(0.01); END IF; END'$$ FROM generate_series(1, 500) \gexec
\set ECHO all
SELECT tasker.next_task_id() >> 48;
SELECT tasker.create_task('queued', '{}', 'creation') >> 48;
ALTER SYSTEM RESET tasker.node_id;
SELECT pg_reload_conf();
\set ECHO none
SELECT $$DO 'BEGIN IF current_setting(''tasker.node_id'') <> ''0'' THEN PERFORM pg_catalog.pg_sleep(0.01); END IF; END'$$ FROM generate_series(1, 500) \gexec
\set ECHO all
SELECT tasker.next_task_id() >> 48;

SELECT count(tasker.revoke_access(r)) FROM unnest('{creation_ann,creation_bob,creation_nologin,creation_viewer,creation_none}'::name[]) AS r;
DROP TABLE pg_temp.made;
DROP SCHEMA creation CASCADE;
DROP OWNED BY creation_ann;
DROP ROLE creation_ann, creation_bob, creation_nologin, creation_viewer, creation_none;
