-- Handlers: what they get, what they may give, and that nothing of them leaks into the next.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
\set SHOW_CONTEXT never
SELECT tasker.stop() IS NOT NULL;
CREATE SCHEMA handlers;
SET search_path = handlers, pg_catalog;
CREATE ROLE handlers_ann LOGIN;
CREATE ROLE handlers_bob LOGIN;
GRANT ALL ON SCHEMA handlers TO handlers_ann, handlers_bob;
SELECT count(tasker.grant_access(r, 'submitter')) FROM unnest('{handlers_ann,handlers_bob}'::name[]) AS r;
-- ids that are no other number of the test's
SELECT setval('tasker.task_id_seq', greatest(nextval('tasker.task_id_seq'), 123456789)) > 0;
SET SESSION AUTHORIZATION handlers_ann;
CREATE TABLE seen (n int GENERATED ALWAYS AS IDENTITY, task_id bigint, step text, input jsonb, note text);
CREATE FUNCTION echo(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO handlers.seen (task_id, step, input) VALUES ((input -> 'task' -> 'id')::bigint, input -> 'step' ->> 'name', input);
	RETURN input -> 'task' -> 'context' -> (input -> 'step' ->> 'name');
END $$;
CREATE FUNCTION nothing(input jsonb) RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
CREATE FUNCTION strict_null(input jsonb) RETURNS jsonb LANGUAGE sql STRICT AS 'SELECT NULL::jsonb';
-- Define, create and run a task of these steps; what came of it.
CREATE FUNCTION define(name text, VARIADIC steps jsonb[]) RETURNS boolean LANGUAGE sql AS $$ SELECT tasker.define_task(name, tasker.workflow(steps), 'handlers', 'v' || (random() * 1e9)::int) > 0 $$;
CREATE FUNCTION create_task(name text, context jsonb DEFAULT '{}') RETURNS bigint LANGUAGE sql AS $$ SELECT tasker.create_task(name, context, 'handlers') $$;
CREATE FUNCTION shown(id bigint) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT state FROM tasker.task_status WHERE task_id = id
	UNION ALL (SELECT format('   %s: %s', name, concat_ws(' | ', state, attempts, CASE WHEN length(results::text) > 200 THEN length(results::text) || ' bytes' ELSE results::text END,
		last_error ->> 'sqlstate', regexp_replace(last_error ->> 'message', '([Tt]ask) \d+', '\1 N', 'g'), regexp_replace(last_error ->> 'detail', '([Tt]ask) \d+', '\1 N', 'g'), last_error ->> 'hint'))
		FROM tasker.step_status WHERE task_id = id ORDER BY step_id)
$$;

-- the input, to the last key
SELECT define('input', tasker.step('first', function => 'handlers.echo', max_attempts => 7), tasker.step('second "é"', function => 'handlers.echo', depends_on => '{first}'));
SELECT tasker.create_task('input', '{"first": {"a": [1, {"b": null}]}, "x": "\u00e9"}', 'handlers', priority => 5, tags => '["t"]', correlation_id => '11111111-2222-3333-4444-555555555555') AS id \gset
CALL tasker.run();
SELECT replace(regexp_replace(jsonb_pretty(input), '"v\d+"', '"V"'), :'id', 'ID') FROM seen WHERE task_id = :id ORDER BY n;
SELECT create_task('input') AS id \gset
CALL tasker.run();
SELECT input -> 'task' -> 'tags', input -> 'task' -> 'priority', input -> 'parents' FROM seen WHERE task_id = :id ORDER BY n;

-- results of all shapes, as the children get them: null, scalars, large ones
SELECT define('results', tasker.step('void', function => 'handlers.nothing'), tasker.step('null', function => 'handlers.strict_null'), tasker.step('json null', function => 'handlers.echo'),
	tasker.step('number', function => 'handlers.echo'), tasker.step('string', function => 'handlers.echo'), tasker.step('array', function => 'handlers.echo'), tasker.step('empty', function => 'handlers.echo'),
	tasker.step('300', function => 'handlers.echo'), tasker.step('9000', sql => $$SELECT to_jsonb(repeat('x', 9000))$$), tasker.step('999999', sql => $$SELECT jsonb_build_object('x', repeat('x', 999999))$$),
	tasker.step('incompressible', sql => $$SELECT jsonb_agg(md5(n::text)) FROM generate_series(1, 1000) n$$),
	tasker.step('child', function => 'handlers.echo', depends_on => '{void,"null",json null,number,string,array,empty,300,9000,999999,incompressible}'));
SELECT create_task('results', jsonb_build_object('json null', NULL, 'number', 1.50, 'string', 'a "b"', 'array', '[]'::jsonb, 'empty', '{}'::jsonb, '300', repeat('y', 300))) AS id \gset
CALL tasker.run();
SELECT shown(:id);
SELECT key, jsonb_typeof(value), CASE WHEN length(value::text) < 100 THEN value::text ELSE length(value::text) || ' ' || md5(value::text) END FROM seen, jsonb_each(input -> 'parents') WHERE task_id = :id AND step = 'child' ORDER BY key;
SELECT md5(jsonb_agg(md5(n::text))::text) FROM generate_series(1, 1000) n;
RESET SESSION AUTHORIZATION;
SELECT step_id, s.results IS NULL AS apart FROM tasker.workflow_step_results r JOIN tasker.workflow_steps s USING (task_id, step_id) WHERE task_id = :id ORDER BY 1;
-- too large is an error for good; the limit is the administrator's
SET SESSION AUTHORIZATION handlers_ann;
SELECT define('too large', tasker.step('a', sql => $$SELECT to_jsonb(repeat('x', 1024 * 1024))$$));
SELECT create_task('too large') AS id \gset
CALL tasker.run();
SELECT shown(:id);
RESET SESSION AUTHORIZATION;
SET tasker.max_result_size = '2MB';
SET SESSION AUTHORIZATION handlers_ann;
SELECT tasker.retry_task(:id);
CALL tasker.run();
SELECT shown(:id);
RESET SESSION AUTHORIZATION;
RESET tasker.max_result_size;
SET SESSION AUTHORIZATION handlers_ann;

-- SQL: several statements, rows or none, what the statement gives when its table has changed
CREATE TABLE t (x jsonb);
SELECT define('sql', tasker.step('several', sql => $$INSERT INTO handlers.t VALUES ($1 -> 'task' -> 'context'); UPDATE handlers.t SET x = x || '{"b": 2}'; SELECT x FROM handlers.t$$),
	tasker.step('none', sql => 'SELECT x FROM handlers.t WHERE false'), tasker.step('null', sql => 'SELECT NULL::jsonb'), tasker.step('returning', sql => 'INSERT INTO handlers.t VALUES ($1 -> ''step'' -> ''id'') RETURNING x'),
	tasker.step('update', sql => 'SELECT 1; DELETE FROM handlers.t'), tasker.step('comment', sql => 'SELECT $1 -> ''step'' -> ''name'' -- and no more'));
SELECT create_task('sql', '{"a": 1}') AS id \gset
CALL tasker.run();
SELECT shown(:id);
SELECT define('select', tasker.step('a', sql => 'SELECT x FROM handlers.t'));
SELECT create_task('select') AS id \gset
INSERT INTO t VALUES ('1'), ('2');
CALL tasker.run();
SELECT shown(:id);
ALTER TABLE t ALTER x TYPE text;
DELETE FROM t WHERE x = '2';
SELECT tasker.retry_task(:id);
CALL tasker.run();
SELECT shown(:id);
DROP TABLE t;
SELECT tasker.retry_task(:id);
CALL tasker.run();
SELECT shown(:id);
CREATE TABLE t AS SELECT '"there again"'::jsonb AS x;
SELECT tasker.retry_step(:id, 1);
CALL tasker.run();
SELECT shown(:id);

-- a function that is replaced, dropped, made anew, taken away
SELECT define('echo', tasker.step('a', function => 'handlers.echo'), tasker.step('b', function => 'handlers.echo'));
CREATE OR REPLACE FUNCTION echo(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '"replaced"'::jsonb $$;
SELECT create_task('echo') AS id \gset
CALL tasker.run();
SELECT shown(:id);
DROP FUNCTION echo;
SELECT create_task('echo') AS id \gset
CALL tasker.run();
SELECT shown(:id);
CREATE FUNCTION echo(input jsonb) RETURNS int LANGUAGE sql AS 'SELECT 1';
SELECT tasker.retry_task(:id);
CALL tasker.run();
SELECT shown(:id);
DROP FUNCTION echo;
CREATE FUNCTION echo(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '"made anew"'::jsonb $$;
SELECT tasker.retry_task(:id);
CALL tasker.run();
SELECT shown(:id);

-- the role, and only its rights; in one session one role after the other
RESET SESSION AUTHORIZATION;
CREATE FUNCTION who(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_array(current_user, current_setting('search_path'), current_setting('role')) $$;
REVOKE EXECUTE ON FUNCTION who FROM PUBLIC;
GRANT EXECUTE ON FUNCTION who TO handlers_ann;
SELECT tasker.define_task('who', tasker.workflow(ARRAY[tasker.step('a', function => 'handlers.who')]), 'handlers') > 0;
ALTER ROLE handlers_ann SET search_path = "Odd path";
SET SESSION AUTHORIZATION handlers_ann;
SET search_path = "Odd path";
SELECT tasker.create_task('who', namespace => 'handlers') AS ann \gset
CALL tasker.run();
SELECT handlers.shown(:ann);
SET search_path = handlers, pg_catalog;
SET SESSION AUTHORIZATION handlers_bob;
SELECT tasker.create_task('who', namespace => 'handlers') AS bob \gset
CALL tasker.run();
SELECT shown(:bob);

-- settings that a handler makes are gone with it
SET SESSION AUTHORIZATION handlers_ann;
CREATE FUNCTION settings(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	before jsonb := jsonb_build_array(current_setting('work_mem'), current_setting('search_path'), current_setting('my.setting', true), current_user);
BEGIN
	SET work_mem = '77MB';
	SET LOCAL search_path = pg_temp;
	PERFORM pg_catalog.set_config('my.setting', 'set', false);
	PERFORM pg_catalog.set_config('tasker.clock', '1999-01-01 00:00+00', false);
	IF (input -> 'task' -> 'context') ? 'fail' THEN
		RAISE EXCEPTION 'after settings';
	END IF;
	RETURN before;
END $$;
SELECT define('settings', tasker.step('a', function => 'handlers.settings'), tasker.step('b', function => 'handlers.settings'), tasker.step('c', function => 'handlers.settings', depends_on => '{a}'));
SELECT create_task('settings', '{"fail": true}') AS failing, create_task('settings') AS id \gset
SET work_mem = '5MB';
CALL tasker.run();
SELECT shown(:id);
SELECT current_setting('work_mem'), current_setting('search_path'), nullif(current_setting('my.setting', true), ''), current_setting('tasker.clock');
RESET work_mem;

-- what a failed attempt did is undone, and only that; a deferred constraint counts before the step is complete
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
SELECT define('constraint', tasker.step('good', sql => 'INSERT INTO handlers.parent VALUES (1); INSERT INTO handlers.child VALUES (1)', priority => 3),
	tasker.step('late', sql => 'INSERT INTO handlers.child VALUES (2); INSERT INTO handlers.parent VALUES (2)', priority => 2),
	tasker.step('bad', sql => 'INSERT INTO handlers.parent VALUES (3); INSERT INTO handlers.child VALUES (4)', priority => 1, max_attempts => 1), tasker.step('good too', sql => 'INSERT INTO handlers.parent VALUES (5)'));
SELECT create_task('constraint') AS id \gset
CALL tasker.run();
SELECT shown(:id);
SELECT id FROM parent ORDER BY 1;
SELECT id FROM child ORDER BY 1;

-- subtransactions of its own, and statements that are not for a step
CREATE FUNCTION subtransactions(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	caught int := 0;
BEGIN
	FOR i IN 1 .. 20 LOOP
		BEGIN
			INSERT INTO handlers.parent VALUES (100 + i);
			IF i % 2 = 0 THEN
				PERFORM 1 / 0;
			END IF;
		EXCEPTION WHEN division_by_zero THEN
			caught := caught + 1;
		END;
	END LOOP;
	RETURN caught;
END $$;
CREATE FUNCTION commits(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS 'BEGIN COMMIT; RETURN NULL; END';
CREATE FUNCTION runs(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS 'BEGIN CALL tasker.run(); RETURN NULL; END';
SELECT define('odd', tasker.step('subtransactions', function => 'handlers.subtransactions', max_attempts => 1), tasker.step('commits', function => 'handlers.commits', max_attempts => 1),
	tasker.step('runs', function => 'handlers.runs', max_attempts => 1), tasker.step('serialization', sql => $$DO 'BEGIN RAISE SQLSTATE ''40001''; END'$$, max_attempts => 1),
	tasker.step('cancel', sql => $$DO 'BEGIN RAISE SQLSTATE ''57014''; END'$$, max_attempts => 1), tasker.step('slow', sql => 'SELECT to_jsonb(pg_sleep(100)::text)', timeout => '10 ms', max_attempts => 1),
	tasker.step('good', function => 'handlers.nothing'));
SELECT create_task('odd') AS id \gset
CALL tasker.run();
SELECT shown(:id);
SELECT count(*) FROM parent WHERE id > 100;

-- a handler and tasker's own functions: another task, a sibling, its own task
CREATE FUNCTION calls(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	id bigint := (input -> 'task' -> 'id')::bigint;
BEGIN
	INSERT INTO handlers.seen (task_id, step) VALUES (id, input -> 'step' ->> 'name');
	CASE input -> 'task' -> 'context' ->> (input -> 'step' ->> 'name')
		WHEN 'create' THEN RETURN to_jsonb(tasker.create_task('echo', namespace => 'handlers', idempotency_key => input -> 'step' ->> 'idempotency_key') > id);
		WHEN 'resolve sibling' THEN RETURN to_jsonb(tasker.resolve_step(id, 'b', '"by a"'));
		WHEN 'pause' THEN RETURN to_jsonb(tasker.pause_task(id));
		WHEN 'cancel' THEN RETURN to_jsonb(tasker.cancel_task(id, 'said a handler'));
		WHEN 'resolve itself' THEN RETURN to_jsonb(tasker.resolve_step(id, input -> 'step' ->> 'name'));
		WHEN 'cancel, caught' THEN
			BEGIN
				PERFORM tasker.cancel_task(id);
			EXCEPTION WHEN OTHERS THEN
				RETURN to_jsonb(SQLSTATE);
			END;
		ELSE RETURN NULL;
	END CASE;
	RETURN NULL;
END $$;
SELECT define('calls', tasker.step('a', function => 'handlers.calls', priority => 1, max_attempts => 1), tasker.step('b', function => 'handlers.calls'), tasker.step('c', function => 'handlers.calls', depends_on => '{a,b}'));
SELECT count(*) FROM tasker.task_status WHERE name = 'echo' AND state = 'complete';
SELECT create_task('calls', '{"a": "create"}') AS id \gset
CALL tasker.run();
SELECT shown(:id);
SELECT count(*) FROM tasker.task_status WHERE name = 'echo' AND state = 'complete';
SELECT create_task('calls', '{"a": "resolve sibling"}') AS id \gset
CALL tasker.run();
SELECT shown(:id);
SELECT step FROM seen WHERE task_id = :id ORDER BY n;
-- the sibling is in the same batch: the batch is rolled back and done again step by step
SELECT define('batch', tasker.step('w1', function => 'handlers.calls', priority => 9), tasker.step('w2', function => 'handlers.calls', priority => 9), tasker.step('w3', function => 'handlers.calls', priority => 9),
	tasker.step('w4', function => 'handlers.calls', priority => 9), tasker.step('a', function => 'handlers.calls', priority => 1), tasker.step('b', function => 'handlers.calls'));
SELECT create_task('batch', '{"a": "resolve sibling"}') AS id \gset
CALL tasker.run();
SELECT shown(:id);
SELECT step FROM seen WHERE task_id = :id ORDER BY n;
SELECT create_task('calls', '{"a": "pause"}') AS id \gset
CALL tasker.run();
SELECT state FROM tasker.task_status WHERE task_id = :id;
SELECT tasker.resume_task(:id);
CALL tasker.run();
SELECT shown(:id);
SET statement_timeout = '5s';
SELECT create_task('calls', '{"a": "cancel"}') AS id \gset
CALL tasker.run();
SELECT shown(:id);
SELECT create_task('calls', '{"b": "resolve itself"}') AS id \gset
CALL tasker.run();
SELECT shown(:id);
SELECT create_task('calls', '{"b": "cancel, caught"}') AS id \gset
CALL tasker.run();
SELECT shown(:id);
RESET statement_timeout;

RESET SESSION AUTHORIZATION;
SELECT count(tasker.revoke_access(r)) FROM unnest('{handlers_ann,handlers_bob}'::name[]) AS r;
DROP SCHEMA handlers CASCADE;
DROP ROLE handlers_ann, handlers_bob;
