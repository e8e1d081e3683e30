-- Limits: how many, how large, how deep, how often. Passing one is an error with
-- a hint that names the setting; nobody but a superuser changes one; at the limit
-- all is well.
\ir ../lib/attack.sql
CREATE FUNCTION attack.nested(depth int) RETURNS jsonb LANGUAGE sql AS $$SELECT (repeat('[', $1) || repeat(']', $1))::jsonb$$;
CREATE FUNCTION attack.chain(n int) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('steps', jsonb_agg(jsonb_build_object('name', i::text, 'queue', 'chain') || CASE WHEN i > 1 THEN jsonb_build_object('depends_on', jsonb_build_array((i - 1)::text)) ELSE '{}' END))
	FROM generate_series(1, $1) i
$$;
-- An object of so many bytes.
CREATE FUNCTION attack.sized(bytes int) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('x', repeat('x', $1 - pg_column_size(jsonb_build_object('x', ''))))
$$;
-- What a call says of a document that passes a limit by one, and that it takes it
-- at the limit.
CREATE FUNCTION attack.documents(what text, call text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	document text;
	want text;
	got text;
BEGIN
	FOR document, want IN VALUES ('attack.sized(20480)', 'accepted'), ('attack.sized(20481)', what || ' too large'),
		('attack.nested(1000)', 'accepted'), ('attack.nested(1001)', what || ' nested too deeply') LOOP
		BEGIN
			EXECUTE 'SELECT ' || replace(call, 'DOCUMENT', replace(document, 'nested(', 'deep('));
			RAISE EXCEPTION 'accepted';
		EXCEPTION WHEN OTHERS THEN
			got := SQLERRM;
		END;
		INSERT INTO attack.outcome (name, want, got) VALUES (format('%s: %s', split_part(call, '(', 1), document), want, got);
	END LOOP;
END $$;
CREATE FUNCTION attack.deep(levels int) RETURNS jsonb LANGUAGE sql AS 'SELECT jsonb_build_object(''x'', attack.nested($1 - 1))';
-- A definition of so many bytes.
CREATE FUNCTION attack.described(bytes int) RETURNS jsonb LANGUAGE sql AS $$
	SELECT tasker.workflow(ARRAY[tasker.step('a', queue => 'q')], description => repeat('x', $1 + 1000
		- pg_column_size(tasker.workflow(ARRAY[tasker.step('a', queue => 'q')], description => repeat('x', 1000)))))
$$;
-- A definition with so many edges, of ten steps at most.
CREATE FUNCTION attack.edges(n int) RETURNS jsonb LANGUAGE sql AS $$
	SELECT tasker.workflow(array_agg(tasker.step(i::text, queue => 'q', depends_on => CASE WHEN i > 5 THEN (SELECT array_agg(j::text) FROM generate_series(1, LEAST(5, $1 - (i - 6) * 5)) j) END) ORDER BY i))
	FROM generate_series(1, 10) i WHERE i <= 5 OR $1 > (i - 6) * 5
$$;
-- The SQLSTATE and whether the hint, or the detail, names the setting.
CREATE FUNCTION attack.refused(name text, statement text, sqlstate text, setting text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	hint text;
	detail text;
	got text;
BEGIN
	BEGIN
		EXECUTE statement;
		got := 'accepted';
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT, detail = PG_EXCEPTION_DETAIL;
		got := format('%s %s', SQLSTATE, CASE WHEN hint = '' THEN 'no hint' WHEN hint || detail LIKE '%' || setting || '%' THEN setting ELSE hint END);
	END;
	INSERT INTO attack.outcome (name, want, got) VALUES (name, sqlstate || ' ' || setting, got);
END $$;
-- Open tasks are counted again only now and then: a refusal may be a moment old.
CREATE FUNCTION attack.try_for_a_while(name text, statement text, want text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	got text;
BEGIN
	FOR i IN 1..1000 LOOP
		BEGIN
			EXECUTE statement INTO got;
			EXIT;
		EXCEPTION WHEN OTHERS THEN
			got := SQLSTATE;
		END;
		PERFORM pg_sleep(0.005);
	END LOOP;
	INSERT INTO attack.outcome (name, want, got) VALUES (name, want, got);
END $$;
ALTER ROLE attack_mal SET tasker.max_steps = 10;
ALTER ROLE attack_mal SET tasker.max_edges = 20;
ALTER ROLE attack_mal SET tasker.max_depth = 5;
ALTER ROLE attack_mal SET tasker.max_attempts = 7;
ALTER ROLE attack_mal SET tasker.max_definition_size = '8kB';
ALTER ROLE attack_mal SET tasker.max_context_size = '20kB';
ALTER ROLE attack_mal SET tasker.max_result_size = '20kB';
ALTER ROLE attack_mal SET tasker.max_input_size = '50kB';
ALTER ROLE attack_mal SET tasker.max_claim = 4;
ALTER ROLE attack_mal SET tasker.max_open_tasks = 30;

\c - attack_mal
SELECT attack.try(format('resets %s', name), 'RESET ' || name, '42501') FROM pg_settings WHERE name LIKE 'tasker.max%' AND context = 'superuser' AND setting <> boot_val ORDER BY name;
SELECT attack.try(format('sets %s', name), format('SET %s = %s', name, boot_val), '42501') FROM pg_settings WHERE name LIKE 'tasker.max%' AND context = 'superuser' ORDER BY name;
SELECT attack.try(format('sets %s for its role', name), format('ALTER ROLE attack_mal SET %s = %s', name, boot_val), '42501') FROM pg_settings WHERE name LIKE 'tasker.max%' AND context = 'superuser' ORDER BY name;
-- -------------------------------------------------------------------- definitions
SELECT attack.refused('11 steps', $$SELECT tasker.define_task('x', tasker.workflow(array_agg(tasker.step(i::text, queue => 'q')))) FROM generate_series(1, 11) i$$, 'TK112', 'tasker.max_steps');
SELECT attack.try('10 steps', $$SELECT tasker.define_task('ten', tasker.workflow(array_agg(tasker.step(i::text, queue => 'q')))) > 0 FROM generate_series(1, 10) i$$, 'true');
SELECT attack.refused('21 edges', $$SELECT tasker.define_task('x', attack.edges(21))$$, 'TK118', 'tasker.max_edges');
SELECT attack.try('20 edges', $$SELECT tasker.define_task('twenty', attack.edges(20)) > 0$$, 'true');
SELECT attack.try('20 edges, counted', $$SELECT edge_count FROM tasker.named_tasks WHERE name = 'twenty'$$, '20');
SELECT attack.refused('25 edges', $$SELECT tasker.define_task('x', tasker.workflow(array_agg(tasker.step(i::text, queue => 'q', depends_on => CASE WHEN i > 5 THEN '{1,2,3,4,5}'::text[] END)))) FROM generate_series(1, 10) i$$, 'TK118', 'tasker.max_edges');
SELECT attack.refused('a chain of 6', $$SELECT tasker.define_task('x', attack.chain(6))$$, 'TK121', 'tasker.max_depth');
SELECT attack.refused('a chain of 6 from the end', $$SELECT tasker.define_task('x', jsonb_build_object('steps', (SELECT jsonb_agg(s ORDER BY n DESC) FROM jsonb_array_elements(attack.chain(6) -> 'steps') WITH ORDINALITY a (s, n))))$$, 'TK121', 'tasker.max_depth');
SELECT attack.try('a chain of 5', $$SELECT tasker.define_task('five', attack.chain(5)) > 0$$, 'true');
SELECT attack.refused('8 attempts', $$SELECT tasker.define_task('x', tasker.workflow(ARRAY[tasker.step('a', queue => 'q', max_attempts => 8)]))$$, 'TK111', 'tasker.max_attempts');
SELECT attack.refused('8 attempts by default', $$SELECT tasker.define_task('x', tasker.workflow(ARRAY[tasker.step('a', queue => 'q')], max_attempts => 8))$$, 'TK111', 'tasker.max_attempts');
SELECT attack.refused('8 delays', $$SELECT tasker.define_task('x', tasker.workflow(ARRAY[tasker.step('a', queue => 'q', backoff => 'list', delays => array_fill(interval '1 s', '{8}'))]))$$, 'TK120', 'tasker.max_attempts');
SELECT attack.try('7 attempts', $$SELECT tasker.define_task('seven', tasker.workflow(ARRAY[tasker.step('a', queue => 'q', max_attempts => 7, backoff => 'list', delays => array_fill(interval '1 s', '{7}'))])) > 0$$, 'true');
SELECT attack.refused('a definition of 9 kB', $$SELECT tasker.define_task('x', tasker.workflow(ARRAY[tasker.step('a', queue => 'q')], description => repeat('x', 9000)))$$, 'TK205', 'tasker.max_definition_size');
SELECT attack.refused('a definition of 8193 bytes', $$SELECT tasker.define_task('x', attack.described(8193))$$, 'TK205', 'tasker.max_definition_size');
SELECT attack.try('a definition of 8192 bytes', $$SELECT tasker.define_task('described', attack.described(8192)) > 0$$, 'true');
SELECT attack.refused('deep where a definition has nothing', $$SELECT tasker.define_task('x', jsonb_build_object('steps', attack.nested(900)))$$, 'TK115', 'Give');
-- --------------------------------------------------------------------------- tasks
SELECT tasker.define_task('one', '{"steps": [{"name": "a", "queue": "one"}]}');
SELECT attack.refused('a context of 21 kB', $$SELECT tasker.create_task('one', jsonb_build_object('x', repeat('x', 21000)))$$, 'TK205', 'tasker.max_context_size');
SELECT attack.refused('a context of 20481 bytes', $$SELECT tasker.create_task('one', attack.sized(20481))$$, 'TK205', 'tasker.max_context_size');
SELECT attack.refused('tags of 20481 bytes', $$SELECT tasker.create_task('one', tags => attack.sized(20481))$$, 'TK205', 'tasker.max_context_size');
SELECT attack.try('a context and tags of 20480 bytes', $$SELECT tasker.create_task('one', attack.sized(20480), tags => attack.sized(20480)) > 0$$, 'true');
SELECT tasker.cancel_task(max(task_id)) FROM tasker.tasks;
SELECT attack.refused('tags of 21 kB', $$SELECT tasker.create_task('one', tags => to_jsonb(repeat('x', 21000)))$$, 'TK205', 'tasker.max_context_size');
SELECT attack.refused('one context of many', $$SELECT tasker.create_tasks('one', ARRAY['{}', jsonb_build_object('x', repeat('x', 21000))])$$, 'TK205', 'tasker.max_context_size');
SELECT attack.refused('a context of 1001 levels', $$SELECT tasker.create_task('one', jsonb_build_object('x', attack.nested(1000)))$$, 'TK205', 'tasker.max_nesting');
SELECT attack.refused('tags of 1001 levels', $$SELECT tasker.create_task('one', tags => attack.nested(1001))$$, 'TK205', 'tasker.max_nesting');
SELECT attack.refused(what || ' of 8193 bytes', format($$SELECT tasker.create_task('one', %s => repeat('x', 8193))$$, what), 'TK205', 'Keep long texts') FROM unnest('{initiator,source_system,reason}'::text[]) what;
SELECT tasker.create_task('one', jsonb_build_object('x', attack.nested(999)), tags => attack.nested(1000), initiator => repeat('x', 8192), reason => repeat('x', 8192)) AS deep \gset
SELECT attack.refused('a reason of 8193 bytes', format('SELECT tasker.pause_task(%s, repeat(''x'', 8193))', :deep), 'TK205', 'Keep long texts');
SELECT attack.refused('a worker of 256 bytes', $$SELECT tasker.claim_steps('{one}', repeat('x', 256))$$, 'TK205', 'Keep long texts');
SELECT attack.refused('a claim of 5', $$SELECT tasker.claim_steps('{one}', 'w', 5)$$, 'TK204', 'tasker.max_claim');
SELECT attack.refused('completes 5', $$SELECT tasker.complete_steps(array_fill(1::bigint, '{5}'), array_fill(1, '{5}'), array_fill(gen_random_uuid(), '{5}'), array_fill('{}'::jsonb, '{5}'))$$, 'TK204', 'tasker.max_claim');
SELECT attack.try('completes 4', $$SELECT count(*) FROM tasker.complete_steps(array_fill(1::bigint, '{4}'), array_fill(1, '{4}'), array_fill(gen_random_uuid(), '{4}'), array_fill('{}'::jsonb, '{4}'))$$, '4');
SELECT task_id, step_id, lease FROM tasker.claim_steps('{one}', repeat('x', 255), 4) \gset
SELECT attack.refused('results of 21 kB', format('SELECT tasker.complete_step(%s, %s, %L, to_jsonb(repeat(''x'', 21000)))', :task_id, :step_id, :'lease'), 'TK400', 'tasker.max_result_size');
SELECT attack.refused('results of 1001 levels', format('SELECT tasker.complete_step(%s, %s, %L, attack.nested(1001))', :task_id, :step_id, :'lease'), 'TK400', 'tasker.max_nesting');
SELECT attack.refused('an error of 21 kB', format('SELECT tasker.fail_step(%s, %s, %L, jsonb_build_object(''message'', repeat(''x'', 21000)))', :task_id, :step_id, :'lease'), 'TK400', 'tasker.max_result_size');
SELECT attack.refused('a checkpoint of 21 kB', format('SELECT tasker.heartbeat(%s, %s, %L, checkpoint => to_jsonb(repeat(''x'', 21000)))', :task_id, :step_id, :'lease'), 'TK400', 'tasker.max_result_size');
SELECT attack.documents(what, format(statement, :task_id, :step_id, :'lease'))
FROM (VALUES ('the results of a step are', 'tasker.complete_step(%s, %s, %L, DOCUMENT)'), ('the results of a step are', 'tasker.resolve_step(%s, %s, DOCUMENT, %L)'),
	('the error of a step is', 'tasker.fail_step(%s, %s, %L, DOCUMENT)'), ('the checkpoint of a step is', 'tasker.heartbeat(%s, %s, %L, checkpoint => DOCUMENT)'),
	('the metadata of a worker is', 'tasker.register_worker(concat(%s, %s, %L), ''{q}'', DOCUMENT)')) v (what, statement);
SELECT attack.try('extended by nothing: the lease is what it was', format($$SELECT tasker.heartbeat(%1$s, %2$s, %3$L, '0') = lease_expires_at FROM tasker.workflow_steps WHERE (task_id, step_id) = (%1$s, %2$s)$$, :task_id, :step_id, :'lease'), 'true');
SELECT attack.refused('resolved with 21 kB', format('SELECT tasker.resolve_step(%s, %s, to_jsonb(repeat(''x'', 21000)))', :task_id, :step_id), 'TK400', 'tasker.max_result_size');
SELECT attack.try('results of 1000 levels', format('SELECT count(tasker.complete_step(%s, %s, %L, attack.nested(1000)))', :task_id, :step_id, :'lease'), '1');
-- A step whose input is too large fails, in a claim and in the database; the other
-- steps of the same claim are handed out.
SELECT tasker.define_task('wide', '{"steps": [{"name": "1", "queue": "wide"}, {"name": "2", "queue": "wide"}, {"name": "3", "queue": "wide"},
	{"name": "claimed", "queue": "join", "depends_on": ["1", "2", "3"], "priority": 1000}, {"name": "run", "sql": "SELECT $1", "depends_on": ["1", "2", "3"]}]}');
SELECT tasker.define_task('after', '{"steps": [{"name": "a", "queue": "join"}]}');
SELECT tasker.create_task('wide') AS wide \gset
SELECT tasker.create_task('after');
SELECT tasker.complete_step(task_id, step_id, lease, to_jsonb(repeat('x', 19000))) FROM tasker.claim_steps('{wide}', 'w', 4);
SELECT attack.try('a claim behind a step that can not be handed out', $$SELECT string_agg(name, ',') FROM tasker.claim_steps('{join}', 'w', 4)$$, 'a');
CALL tasker.run();
SELECT attack.try('a step whose input is too large: ' || n, format('SELECT state || '' '' || (last_error ->> ''sqlstate'') || '' '' || attempts FROM tasker.step_status WHERE task_id = %s AND name = %L', :wide, n), 'error TK406 1') FROM unnest('{claimed,run}'::text[]) n;
-- An error is kept, however long: its beginning.
SELECT tasker.define_task('loud', tasker.workflow(ARRAY[tasker.step('a', sql => $$DO 'BEGIN RAISE EXCEPTION ''%'', repeat(''é'', 1000000) USING DETAIL = repeat(''x'', 1000000), HINT = ''h''; END'$$, max_attempts => 1)]));
SELECT tasker.create_task('loud') AS loud \gset
CALL tasker.run();
SELECT attack.try('an error of megabytes', format('SELECT length(last_error ->> ''message'') || '' '' || length(last_error ->> ''detail'') || '' '' || (last_error ->> ''hint'') FROM tasker.step_status WHERE task_id = %s', :loud), '32771 65539 h');
-- ---------------------------------------------------------------------- open tasks
SELECT tasker.cancel_task(task_id) FROM tasker.tasks WHERE state NOT IN ('complete', 'cancelled');
SELECT attack.try('30 tasks', $$SELECT count(tasker.create_task('one')) FROM generate_series(1, 30)$$, '30');
SELECT attack.refused('31', $$SELECT tasker.create_task('one')$$, 'TK208', 'tasker.max_open_tasks');
SELECT tasker.pause_task(max(task_id)), tasker.cancel_task(min(task_id)) FROM tasker.tasks WHERE state = 'pending';
SELECT attack.try_for_a_while('one was cancelled, one paused: one more', $$SELECT tasker.create_task('one') > 0$$, 'true');
SELECT attack.try('and no other', $$SELECT tasker.create_task('one')$$, 'TK208');
SELECT count(tasker.cancel_task(task_id)) FROM tasker.tasks WHERE state NOT IN ('complete', 'cancelled');
SELECT attack.try('31 at once', $$SELECT tasker.create_tasks('one', array_fill('{}'::jsonb, '{31}'))$$, 'TK208');
SELECT attack.try_for_a_while('30 at once', $$SELECT count(*) FROM tasker.create_tasks('one', array_fill('{}'::jsonb, '{30}'))$$, '30');
-- A rollback, or a savepoint's, is no way around; nor is what is rolled back held against it for ever.
SELECT count(tasker.cancel_task(task_id)) FROM tasker.tasks WHERE state NOT IN ('complete', 'cancelled');
BEGIN;
SAVEPOINT a;
SELECT tasker.create_tasks('one', array_fill('{}'::jsonb, '{30}'));
ROLLBACK TO a;
SELECT attack.try_for_a_while('30 were rolled back', $$SELECT count(*) FROM tasker.create_tasks('one', array_fill('{}'::jsonb, '{30}'))$$, '30');
SAVEPOINT b;
SELECT tasker.cancel_task(max(task_id)) FROM tasker.tasks WHERE state = 'pending';
ROLLBACK TO b;
SELECT attack.try('a cancellation was rolled back', $$SELECT tasker.create_task('one')$$, 'TK208');
COMMIT;
\c - attack_vic
SELECT tasker.define_task('vic', '{"steps": [{"name": "a", "queue": "vic"}]}');
SELECT attack.try('another role has no such limit', $$SELECT count(*) FROM tasker.create_tasks('vic', array_fill('{}'::jsonb, '{100}'))$$, '100');

\c - :admin
\o
SELECT * FROM no_plan();
SELECT is((SELECT count(*) FROM tasker.tasks t CROSS JOIN LATERAL tasker.verify_task(t.task_id) v), 0::bigint, 'verify_task finds nothing');
SELECT is((SELECT string_agg(name, ', ') FROM pg_settings WHERE name LIKE 'tasker.max%' AND (short_desc = '' OR context NOT IN ('superuser', 'sighup'))), NULL, 'every limit is the administrator''s');
\ir ../lib/attack_end.sql
