-- Every reason for which a definition is refused, with its words.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
CREATE SCHEMA shop;
CREATE SCHEMA shut;
CREATE FUNCTION shop.charge(input jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';

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
CREATE FUNCTION refused(definition jsonb) RETURNS text LANGUAGE sql AS $$
	SELECT attempt(format('SELECT tasker.define_task(%L, %L)', 'refused', definition))
$$;
CREATE FUNCTION refused_steps(steps text) RETURNS text LANGUAGE sql AS $$ SELECT refused(format('{"steps": [%s]}', steps)::jsonb) $$;
-- the keys of one step, or one key of its retry, or of the defaults
CREATE FUNCTION refused_keys(keys text) RETURNS text LANGUAGE sql AS $$ SELECT refused_steps(format('{"name": "a", %s}', keys)) $$;
CREATE FUNCTION refused_retry(keys text) RETURNS text LANGUAGE sql AS $$ SELECT refused_keys(format('"queue": "q", "retry": {%s}', keys)) $$;
CREATE FUNCTION refused_sql(text) RETURNS text LANGUAGE sql AS $$ SELECT refused_keys('"sql": ' || to_jsonb($1)::text) $$;
CREATE FUNCTION refused_function(text) RETURNS text LANGUAGE sql AS $$ SELECT refused_keys('"function": ' || to_jsonb($1)::text) $$;

-- arguments
SELECT refused(NULL);
SELECT attempt('SELECT tasker.define_task(NULL, ''{}'')');
SELECT attempt('SELECT tasker.define_task('''', ''{}'')');
SELECT attempt('SELECT tasker.define_task(repeat(''x'', 256), ''{}'')');
SELECT attempt('SELECT tasker.define_task(''a'', ''{}'', NULL)');
SELECT attempt('SELECT tasker.define_task(''a'', ''{}'', '''')');
SELECT attempt('SELECT tasker.define_task(''a'', ''{}'', version => repeat(''é'', 128))');
SELECT attempt('SELECT tasker.set_default_version(''a'', NULL)');
SELECT attempt('SELECT tasker.drop_named_task(''a'', ''none'', ''no "such" namespace'')');

-- types
SELECT refused(d) FROM unnest('{"null",1,"\"steps\"",true,[]}'::jsonb[]) AS d;
SELECT refused('{"steps": {}}');
SELECT refused('{"steps": null}');
SELECT refused('{"steps": [1]}');
SELECT refused('{"steps": [null]}');
SELECT refused('{"description": 1, "steps": []}');
SELECT refused('{"defaults": [], "steps": []}');
SELECT refused_steps('{"name": 1}');
SELECT refused_steps('{"name": null}');
SELECT refused_keys('"queue": ["q"]');
SELECT refused_keys('"queue": "q", "description": {}');
SELECT refused_keys('"queue": "q", "depends_on": "b"');
SELECT refused_keys('"queue": "q", "depends_on": [1]');
SELECT refused_keys('"queue": "q", "depends_on": [null]');
SELECT refused_keys('"queue": "q", "retry": 3');
SELECT refused_keys('"queue": "q", "retryable": "yes"');
SELECT refused_keys('"queue": "q", "timeout": true');
SELECT refused_keys('"queue": "q", "timeout": null');
SELECT refused_keys('"queue": "q", "priority": "high"');
SELECT refused_retry('"max_attempts": "3"');
SELECT refused_retry('"jitter": "0.1"');
SELECT refused_retry('"backoff": 1');
SELECT refused_retry('"backoff": "list", "delays": "1 s"');
SELECT refused_retry('"backoff": "list", "delays": ["1 s", {"a": "a long value that a message can not show in full, so that it ends in dots"}]');

-- keys
SELECT refused('{"step": []}');
SELECT refused('{"something": []}');
SELECT refused_keys('"queue": "q", "dependson": []');
SELECT refused_keys('"queue": "q", "retries": 3');
SELECT refused_keys('"queue": "q", "Timeout": 3');
SELECT refused_keys('"queue": "q", "": 3');
SELECT refused_retry('"max_attempt": 3');
SELECT refused('{"defaults": {"function": "shop.charge"}, "steps": []}');
SELECT refused(jsonb_build_object('steps', '[]'::jsonb, repeat('k', 300), 1));

-- steps and names
SELECT refused('{}');
SELECT refused('{"steps": []}');
SELECT refused_steps('{"queue": "q"}');
SELECT refused_steps('{"name": "", "queue": "q"}');
SELECT refused(jsonb_build_object('steps', jsonb_build_array(jsonb_build_object('name', repeat('x', 256), 'queue', 'q'))));
SELECT refused_keys('"queue": ""');
SELECT refused('{"defaults": {"queue": ""}, "steps": []}');
SELECT refused_steps('{"name": "a", "queue": "q"}, {"name": "b", "queue": "q"}, {"name": "a", "queue": "never made"}');

-- handlers
SELECT refused_steps('{"name": "a"}');
SELECT refused_keys('"queue": "q", "sql": "SELECT $1"');
SELECT refused_keys('"function": "shop.charge", "sql": "SELECT $1"');
SELECT refused_keys('"function": "shop.charge", "queue": "q"');
SELECT refused_keys('"function": "shop.charge", "queue": "q", "sql": "SELECT $1"');

-- dependencies
SELECT refused_keys('"queue": "q", "depends_on": ["b"]');
SELECT refused_steps('{"name": "validate", "queue": "q"}, {"name": "ship", "queue": "q", "depends_on": ["validat"]}');
SELECT refused_keys('"queue": "q", "depends_on": [""]');
SELECT refused_keys('"queue": "q", "depends_on": ["a"]');
SELECT refused_steps('{"name": "a", "queue": "q"}, {"name": "b", "queue": "q", "depends_on": ["a", "a"]}');
SELECT refused_steps('{"name": "a", "queue": "q", "depends_on": ["b"]}, {"name": "b", "queue": "q", "depends_on": ["a"]}');
SELECT refused_steps('{"name": "free", "queue": "q"}, {"name": "behind", "queue": "q", "depends_on": ["free", "c"]},
	{"name": "c", "queue": "q", "depends_on": ["free", "b"]}, {"name": "a", "queue": "q", "depends_on": ["c"]},
	{"name": "b", "queue": "q", "depends_on": ["a"]}');
SELECT refused((SELECT jsonb_build_object('steps', jsonb_agg(jsonb_build_object('name', 's' || i, 'queue', 'q',
	'depends_on', jsonb_build_array('s' || CASE i WHEN 1 THEN n ELSE i - 1 END)))) FROM generate_series(1, n) AS i))
FROM (VALUES (8), (9), (2000)) AS v (n);
SELECT refused((SELECT jsonb_build_object('steps', jsonb_agg(jsonb_build_object('name', repeat('long', 60) || i, 'queue', 'q',
	'depends_on', jsonb_build_array(repeat('long', 60) || (i + 1) % 3)))) FROM generate_series(0, 2) AS i));

-- functions
CREATE FUNCTION shop.two(a jsonb, b int DEFAULT 1) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION shop.two(a bytea) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb';
CREATE FUNCTION shop.none() RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb';
CREATE FUNCTION shop.any(anyelement) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb';
CREATE FUNCTION shop.variadic(VARIADIC jsonb[]) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb';
CREATE FUNCTION shop.text(jsonb) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';
CREATE FUNCTION shop.not_b(jsonb) RETURNS json LANGUAGE sql AS 'SELECT NULL::json';
CREATE FUNCTION shop.set(jsonb) RETURNS SETOF jsonb LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION shop.out(jsonb, OUT a jsonb, OUT b jsonb) LANGUAGE sql AS 'SELECT $1, $1';
CREATE FUNCTION shop.trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE PROCEDURE shop.procedure(jsonb) LANGUAGE sql AS '';
CREATE AGGREGATE shop.aggregate(jsonb) (SFUNC = jsonb_concat, STYPE = jsonb);
CREATE FUNCTION pg_temp.temporary(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
SELECT refused_function(f) FROM unnest(ARRAY['charge', 'jsonb_pretty', '', 'shop.', 'shop.charge(jsonb)', 'db.shop.charge', 'shop.none_such',
	'nowhere.charge', '"Shop".charge', 'pg_temp.temporary', 'shop.two', 'shop.none', 'shop.any', 'shop.variadic', 'shop.text', 'shop.not_b',
	'shop.set', 'shop.out', 'shop.trigger', 'shop.procedure', 'shop.aggregate']) AS f;
SET search_path = shop, public;
SELECT refused_function('charge');
SELECT attempt(format('SELECT tasker.define_task(%L, %L)', 'x', jsonb_build_object('steps', jsonb_build_array(jsonb_build_object('name', 'a', 'function',
	nspname || '.temporary'))))) LIKE 'TK107 function pg_temp_%.temporary is temporary%' AS temporary FROM pg_namespace WHERE oid = pg_my_temp_schema();
RESET search_path;

-- SQL
CREATE TABLE shop.orders (id int);
SELECT refused_sql(s) FROM unnest(ARRAY['', ' -- nothing', 'SELEC 1', 'SELECT * FROM nowhere', 'SELECT $2', 'SELECT no_such_function($1)',
	'SELECT 1', 'SELECT $1, $1', 'SELECT', 'SELECT ''{}''', 'SELECT $1::json', 'SHOW work_mem', 'DELETE FROM shop.orders RETURNING id',
	'SELECT $1; SELECT 1', 'COMMIT', 'ROLLBACK; SELECT $1', 'SAVEPOINT a', 'COPY shop.orders TO STDOUT', 'COPY shop.orders FROM STDIN', 'VACUUM shop.orders',
	'ALTER SYSTEM SET work_mem = 1', 'CREATE DATABASE d', 'SELECT ''x''::int', 'DO $$BEGIN', 'SELECT ''unfinished']) AS s;
SELECT refused_sql('SELECT 1; DELETE FROM shop.orders; SELECT pg_notify(''a'', ''b'')');
SELECT tasker.drop_named_task('refused', '1.0.0');

-- intervals
SELECT refused_keys(format('"queue": "q", %s', k)) FROM unnest(ARRAY['"timeout": "soon"', '"timeout": ""', '"timeout": 0', '"timeout": "0 s"', '"timeout": -1',
	'"timeout": "-1 day"', '"timeout": "1 day -25 hours"', '"timeout": 1e400', '"timeout": -1e400', '"timeout": "4000 days"', '"timeout": 1e-9',
	'"lease": 0', '"lease": "1 parsec"']) AS k;
SELECT left(refused_keys('"queue": "q", "timeout": "infinity"'), 5);
SELECT left(refused_keys('"queue": "q", "timeout": "300000000 years"'), 5);
SELECT refused_retry(k) FROM unnest(ARRAY['"base": 0', '"base": "1 h"', '"cap": 0', '"cap": "100 ms"', '"backoff": "linear", "base": 0', '"backoff": "fixed", "base": -1',
	'"backoff": "list", "delays": [1, -1]', '"backoff": "list", "delays": ["x"]']) AS k;
SELECT refused('{"defaults": {"queue": "q", "retry": {"backoff": "fixed", "base": "1 h"}}, "steps": [{"name": "a"}, {"name": "b", "retry": {"backoff": "linear"}}]}');

-- numbers
SELECT refused_retry(k) FROM unnest(ARRAY['"max_attempts": 0', '"max_attempts": 101', '"max_attempts": 2.5', '"max_attempts": 1e400', '"jitter": 1.01', '"jitter": -0.1',
	'"factor": 0.99', '"factor": 1e400']) AS k;
SELECT refused_keys(format('"queue": "q", "priority": %s', p)) FROM unnest(ARRAY['1000001', '-1000001', '0.5', '99999999999999999999']) AS p;
SELECT refused('{"defaults": {"priority": 1e9}, "steps": []}');

-- retry as a whole
SELECT refused_retry(k) FROM unnest(ARRAY['"backoff": "random"', '"backoff": "fixed", "factor": 2', '"backoff": "fixed", "cap": 2', '"backoff": "linear", "factor": 2', '"delays": [1]',
	'"backoff": "list"', '"backoff": "list", "delays": []', '"backoff": "list", "delays": [1], "base": 1']) AS k;
SELECT refused_retry(format('"backoff": "list", "delays": %s', (SELECT jsonb_agg(i) FROM generate_series(1, 101) AS i)));
SELECT refused('{"defaults": {"queue": "q", "retry": {"backoff": "fixed"}}, "steps": [{"name": "a", "retry": {"cap": 1}}]}');
SELECT refused('{"defaults": {"retry": {"delays": [1]}}, "steps": []}');

-- limits
SET tasker.max_steps = 2;
SET tasker.max_edges = 1;
SET tasker.max_definition_size = 1;
SELECT refused_steps('{"name": "a", "queue": "q"}, {"name": "b", "queue": "q"}, {"name": "c", "queue": "q"}');
SELECT refused_steps('{"name": "a", "queue": "q", "depends_on": ["b", "c"]}');
SELECT regexp_replace(refused(jsonb_build_object('description', repeat('x', 2000))), '\d{4} bytes', 'N bytes');
RESET tasker.max_steps;
RESET tasker.max_edges;
RESET tasker.max_definition_size;

-- nothing of all this was stored
SELECT count(*) FROM tasker.named_tasks WHERE name = 'refused';
SELECT count(*) FROM tasker.queues WHERE name = 'never made';

DROP FUNCTION refused, refused_steps, refused_keys, refused_retry, refused_sql, refused_function, attempt;
DROP SCHEMA shop CASCADE;
DROP SCHEMA shut;
