-- Names and documents with SQL in them, quotes, percent signs, line ends, the
-- ends of what they are written into: they are data, come back as they were, and
-- nothing is gone. Whatever is not text is refused.
\ir ../lib/attack.sql
CREATE TABLE attack.nasty (n int GENERATED ALWAYS AS IDENTITY, s text);
INSERT INTO attack.nasty (s) VALUES
	($$'; DROP TABLE tasker.tasks; --$$), ($$"; DROP TABLE tasker.tasks; --$$), ($$\'; DROP TABLE tasker.tasks; --$$), ($$\$$), ($$$$), ($$'$$), ($$''$$), ($$"$$), ($$""$$),
	($$$1$$), ($$%s %I %L %n %$$), ($$${jndi}$$), ($$}'}]"}$$), ($$a.b$$), ($$"a"."b"$$), ($$a b$$), ($$--$$), ($$/*$$), ($$*/ SELECT 1$$), (E'a\nb\r\n\tc'), (E'\x1b[2J\x07'),
	(E'a\u202eb'), (E'\u00e9'), (E'e\u0301'), (U&'\+01F4A9'), ('NULL'), ('null'), ('{}'), ('{NULL}'), ('(,)'), (repeat('x', 255)), (repeat(U&'\00e9', 127)), ('pg_temp'), ('*'), (' '), ('tasker');
GRANT SELECT ON attack.nasty TO PUBLIC;

\c - attack_mal
CREATE SCHEMA mal;
-- As every name and text that there is: namespace, task, version, step, queue,
-- description, worker, key, tags, context, initiator, source, reason, error.
CREATE FUNCTION mal.round_trip(s text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	name text := CASE s WHEN '' THEN 'empty' ELSE s END;
	t bigint;
	c record;
	back text[];
BEGIN
	PERFORM tasker.define_task(name, jsonb_build_object('description', s, 'steps', jsonb_build_array(
		jsonb_build_object('name', name, 'description', s, 'queue', name),
		jsonb_build_object('name', name || 2, 'queue', name, 'depends_on', jsonb_build_array(name)))), name, name) WHERE octet_length(s) < 255;
	IF NOT FOUND THEN
		PERFORM tasker.define_task(name, jsonb_build_object('description', s, 'steps', jsonb_build_array(jsonb_build_object('name', name, 'description', s, 'queue', name))), name, name);
	END IF;
	t := tasker.create_task(name, jsonb_build_object(s, s), name, name, idempotency_key => name, tags => to_jsonb(s), initiator => s, source_system => s, reason => s);
	IF t <> tasker.create_task(name, jsonb_build_object(s, s), name, name, idempotency_key => name) THEN
		RETURN 'another task for the same key';
	END IF;
	SELECT * INTO c FROM tasker.claim_steps(ARRAY[name, 'nothing'], name);
	PERFORM tasker.heartbeat(c.task_id, c.step_id, c.lease, checkpoint => jsonb_build_object(s, s));
	PERFORM tasker.fail_step(c.task_id, c.step_id, c.lease, jsonb_build_object('message', s), retry_after => '0');
	PERFORM tasker.retry_step(t, name, s);
	PERFORM tasker.explain_step(t, name);
	PERFORM tasker.pause_task(t, s), tasker.resume_task(t, s);
	PERFORM tasker.resolve_step(t, name, jsonb_build_object(s, s), s);
	SELECT ARRAY[ts.name, ts.namespace, ts.version, ts.initiator, ts.source_system, ts.reason, ts.tags #>> '{}', ts.context ->> s, ss.name, ss.handler, ss.claimed_by,
		ss.last_error ->> 'message', ss.results ->> s, h.metadata ->> 'reason'] INTO back
	FROM tasker.task_status ts JOIN tasker.step_status ss USING (task_id) JOIN tasker.task_history h ON h.task_id = ts.task_id AND h.to_state = 'resolved_manually'
	WHERE ts.task_id = t AND ss.step_id = 1;
	IF back <> ARRAY[name, name, name, s, s, s, s, s, name, name, name, s, s, s] THEN
		RETURN back;
	END IF;
	PERFORM tasker.cancel_task(t, s) WHERE octet_length(s) < 255;
	RETURN 'as it was';
END $$;
SELECT attack.try(format('text %s', n), format('SELECT mal.round_trip(s) FROM attack.nasty WHERE n = %s', n), 'as it was') FROM attack.nasty ORDER BY n;
SET standard_conforming_strings = off;
SELECT attack.try('without standard_conforming_strings', 'SELECT mal.round_trip(s || 3) FROM attack.nasty WHERE n = 3', 'as it was');
RESET standard_conforming_strings;
-- Names of handlers are names, not SQL.
SELECT attack.try('function ' || f, format('SELECT tasker.define_task(''f'', jsonb_build_object(''steps'', jsonb_build_array(jsonb_build_object(''name'', ''a'', ''function'', %L))))', f), w)
FROM (VALUES ('mal.f(jsonb); DROP TABLE tasker.tasks', 'TK107'), ('mal.f; SELECT 1', 'TK107'), ('mal."f"" (', 'TK107'), ('mal.f)', 'TK107'), ('pg_temp.f', 'TK107'),
	('"pg_temp_3".f', 'TK107'), ('pg_catalog.pg_read_file', 'TK108'), ('pg_catalog.jsonb_out', 'TK108'), ('f', 'TK107'), ('a.b.c', 'TK107'), ('', 'TK107'), (repeat('a.', 1000) || 'b', 'TK107'),
	('tasker.steps_changed', 'TK108'), ('tasker.grant_access', 'TK108')) v (f, w);
CREATE SCHEMA "mal'"".""%s$1";
CREATE FUNCTION "mal'"".""%s$1"."f'"".""; --"(jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT '"ran"'::jsonb$$;
SELECT attack.try('a handler whose name is all quotes', format('SELECT tasker.define_task(''quotes'', jsonb_build_object(''steps'', jsonb_build_array(jsonb_build_object(''name'', ''a'', ''function'', %L)))) > 0',
	$$"mal'"".""%s$1"."f'"".""; --"$$), 'true');
SELECT tasker.create_task('quotes') AS quotes \gset
CALL tasker.run();
SELECT attack.try('runs', format('SELECT results #>> ''{}'' FROM tasker.step_status WHERE task_id = %s', :quotes), 'ran');
-- SQL handlers: the input is a parameter, whatever is in it.
SELECT tasker.define_task('sql', '{"steps": [{"name": "a", "sql": "SELECT $1 #> ''{task,context}''"}]}');
SELECT tasker.create_task('sql', jsonb_build_object('x', (SELECT string_agg(s, '') FROM attack.nasty))) AS sql \gset
CALL tasker.run();
SELECT attack.try('a context full of SQL', format('SELECT results ->> ''x'' = (SELECT string_agg(s, '''') FROM attack.nasty) FROM tasker.step_status WHERE task_id = %s', :sql), 'true');
-- What is no text, or too long a one.
SELECT attack.try('NUL in a document', $$SELECT tasker.create_task('sql', '{"a": "\u0000"}')$$, '22P05');
SELECT attack.try('half a surrogate pair', $$SELECT tasker.create_task('sql', '{"a": "\ud800"}')$$, '22P02');
SELECT attack.try('not UTF-8', $$SELECT tasker.create_task(E'\xff')$$, '22021');
SELECT attack.try('name of 256 bytes', $$SELECT tasker.define_task(repeat('x', 256), '{"steps": [{"name": "a", "queue": "q"}]}')$$, 'TK114');
SELECT attack.try('no name', $$SELECT tasker.define_task('', '{"steps": [{"name": "a", "queue": "q"}]}')$$, 'TK114');
SELECT attack.try('step of 256 bytes', $$SELECT tasker.define_task('x', jsonb_build_object('steps', jsonb_build_array(jsonb_build_object('name', repeat('x', 256), 'queue', 'q'))))$$, 'TK114');
SELECT attack.try('queue of 256 bytes', $$SELECT tasker.define_task('x', jsonb_build_object('steps', jsonb_build_array(jsonb_build_object('name', 'a', 'queue', repeat('x', 256)))))$$, 'TK114');
SELECT attack.try('key of 1025 bytes', $$SELECT tasker.create_task('sql', idempotency_key => repeat('x', 1025))$$, 'TK204');
SELECT attack.try('version that there is not', $$SELECT tasker.create_task('sql', version => '1.0.0'' OR true --')$$, 'TK201');

\c - :admin
-- Roles with such names: levels are theirs, and hints can be copied.
CREATE ROLE "attack', 'admin'); --" LOGIN;
CREATE ROLE "attack ""%s\'" LOGIN;
SELECT tasker.grant_access('attack "%s\''', 'submitter');
\o
SELECT * FROM no_plan();
SET SESSION AUTHORIZATION "attack ""%s\'";
SELECT is(tasker.access_level(), 'submitter', 'a role whose name is all quotes has its level');
SELECT isnt(tasker.define_task('roles', '{"steps": [{"name": "a", "sql": "SELECT to_jsonb(current_user::text)"}]}'), NULL, 'and defines');
SELECT tasker.create_task('roles') AS r \gset
CALL tasker.run();
SELECT is((SELECT results #>> '{}' FROM tasker.step_status WHERE task_id = :r), 'attack "%s\''', 'and its steps run as that role');
RESET SESSION AUTHORIZATION;
SELECT is((SELECT owner::text FROM tasker.task_status WHERE task_id = :r), 'attack "%s\''', 'and are its own');
GRANT USAGE ON SCHEMA tasker TO "attack', 'admin'); --";
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA tasker TO "attack', 'admin'); --";
CREATE FUNCTION attack.hint(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	hint text;
BEGIN
	EXECUTE statement;
	RETURN NULL;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN hint;
END $$;
SET ROLE "attack', 'admin'); --";
SELECT alike(attack.hint($$SELECT tasker.define_task('x', '{"steps": [{"name": "a", "queue": "q"}]}')$$), '%tasker.grant_access(''attack'''', ''''admin''''); --'', ''submitter'')%', 'a hint quotes the role''s name');
RESET ROLE;
SELECT lives_ok($$SELECT tasker.revoke_access('attack "%s\''')$$, 'the level is taken back');
DROP OWNED BY "attack ""%s\'", "attack', 'admin'); --";
DROP ROLE "attack ""%s\'", "attack', 'admin'); --";
SELECT ok((SELECT count(*) FROM tasker.tasks) > 30, 'the tasks are there');
SELECT is((SELECT count(*) FROM tasker.tasks t CROSS JOIN LATERAL tasker.verify_task(t.task_id) v), 0::bigint, 'verify_task finds nothing');
\ir ../lib/attack_end.sql
