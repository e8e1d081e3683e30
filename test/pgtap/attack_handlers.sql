-- Whose code runs, and as whom: a handler that was replaced between definition
-- and run; one that looks for a way to another role, in CALL tasker.run() of a
-- session that is more than its owner; triggers that are deferred, cursors that
-- outlive it; calls of tasker from within. test/t/012_attacks.pl has the same in
-- sessions of executors.
\ir ../lib/attack.sql
CREATE ROLE attack_group;
GRANT attack_group TO attack_vic;
\c - attack_vic
CREATE SCHEMA vic;
GRANT USAGE ON SCHEMA vic TO PUBLIC;
CREATE TABLE vic.seen (what text);
CREATE FUNCTION vic.mine(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT ''"mine"''::jsonb';
CREATE FUNCTION vic.run(name text) RETURNS bigint LANGUAGE sql AS 'SELECT tasker.create_task($1)';
SELECT tasker.define_task('mine', '{"steps": [{"name": "a", "function": "vic.mine", "retry": {"max_attempts": 1}}]}');
CALL tasker.run();
-- what a task of the name gives, by a view of its own
CREATE FUNCTION vic.outcome(t bigint) RETURNS text LANGUAGE sql AS 'SELECT state || COALESCE('' '' || (results #>> ''{}''), '' '' || (last_error ->> ''sqlstate''), '''') FROM tasker.step_status WHERE task_id = $1 AND step_id = 1';
SELECT tasker.create_task('mine') AS t \gset
CALL tasker.run();
SELECT attack.try('a handler of its own', format('SELECT vic.outcome(%s)', :t), 'complete mine');
-- Replaced by its owner: that is what a function is for.
CREATE OR REPLACE FUNCTION vic.mine(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN RETURN '"mine, newer"'; END$$;
SELECT tasker.create_task('mine') AS t \gset
CALL tasker.run();
SELECT attack.try('its owner replaced it', format('SELECT vic.outcome(%s)', :t), 'complete mine, newer');
CREATE OR REPLACE FUNCTION vic.mine(jsonb) RETURNS jsonb LANGUAGE sql SECURITY DEFINER SET work_mem = '1MB' AS $$SELECT to_jsonb(current_setting('work_mem'))$$;
SELECT tasker.create_task('mine') AS t \gset
CALL tasker.run();
SELECT attack.try('its owner made it another kind of function', format('SELECT vic.outcome(%s)', :t), 'complete 1MB');
-- The schema is renamed, and somebody else makes one of its name.
ALTER SCHEMA vic RENAME TO vic_was_here;
\c - attack_mal
CREATE SCHEMA vic;
GRANT USAGE ON SCHEMA vic TO PUBLIC;
CREATE FUNCTION vic.mine(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN INSERT INTO vic_was_here.seen VALUES ('as ' || current_user); RETURN '"another''s"'; END$$;
\c - attack_vic
SELECT tasker.create_task('mine') AS t \gset
CALL tasker.run();
SELECT attack.try('another role''s function of the same name', format('SELECT vic_was_here.outcome(%s)', :t), 'error TK404');
SELECT attack.try('which ran as the victim', 'SELECT count(*) FROM vic_was_here.seen', '0');
\c - :admin
DROP SCHEMA vic CASCADE;
\c - attack_vic
ALTER SCHEMA vic_was_here RENAME TO vic;
SELECT tasker.retry_task(:t);
CALL tasker.run();
SELECT attack.try('the owner''s again', format('SELECT vic.outcome(%s)', :t), 'complete 1MB');
-- Dropped, and made anew by somebody who may create in the schema.
GRANT ALL ON SCHEMA vic TO attack_mal;
DROP FUNCTION vic.mine;
\c - attack_mal
CREATE FUNCTION vic.mine(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN INSERT INTO vic.seen VALUES ('as ' || current_user); RETURN '"another''s"'; END$$;
CREATE FUNCTION vic.mine(text) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN RETURN '"another''s"'; END$$;
CREATE FUNCTION vic.mine(jsonb, int DEFAULT 1) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN RETURN '"another''s"'; END$$;
\c - attack_vic
SELECT tasker.create_task('mine') AS t \gset
CALL tasker.run();
SELECT attack.try('dropped and made anew by another', format('SELECT vic.outcome(%s)', :t), 'error TK404');
\c - :admin
ALTER FUNCTION vic.mine(jsonb) OWNER TO attack_group;
\c - attack_vic
SELECT tasker.retry_task(:t);
CALL tasker.run();
SELECT attack.try('a role''s that it is a member of', format('SELECT vic.outcome(%s)', :t), 'complete another''s');
\c - :admin
REVOKE attack_group FROM attack_vic;
\c - attack_vic
SELECT tasker.create_task('mine') AS t \gset
CALL tasker.run();
SELECT attack.try('no longer a member', format('SELECT vic.outcome(%s)', :t), 'error TK404');
\c - :admin
ALTER FUNCTION vic.mine(jsonb) OWNER TO postgres;
\c - attack_vic
SELECT tasker.retry_task(:t);
CALL tasker.run();
SELECT attack.try('a superuser''s', format('SELECT vic.outcome(%s)', :t), 'complete another''s');
\c - :admin
REVOKE EXECUTE ON FUNCTION vic.mine(jsonb) FROM PUBLIC;
\c - attack_vic
SELECT tasker.create_task('mine') AS t \gset
CALL tasker.run();
SELECT attack.try('one that it may not execute any more', format('SELECT vic.outcome(%s)', :t), 'error TK109');
\c - :admin

-- ------------------------------------------------------- whom one creates tasks for
\c - attack_mal
CREATE SCHEMA mal;
GRANT USAGE ON SCHEMA mal TO PUBLIC;
CREATE TABLE mal.loot (what text, who name DEFAULT current_user, super text DEFAULT current_setting('is_superuser'));
GRANT INSERT ON mal.loot TO PUBLIC;
CREATE FUNCTION mal.trap(jsonb) RETURNS jsonb LANGUAGE sql AS $$INSERT INTO mal.loot VALUES ('trap'); SELECT '1'::jsonb$$;
SELECT tasker.define_task('trap', '{"steps": [{"name": "a", "function": "mal.trap"}]}');
SELECT tasker.define_task('trap', '{"steps": [{"name": "a", "function": "mal.trap"}]}', 'victims namespace');
\c - attack_vic
SELECT attack.try('creates a task of the attacker''s definition', 'SELECT tasker.create_task(''trap'')', 'TK500');
SELECT attack.try('many', 'SELECT tasker.create_tasks(''trap'', ARRAY[''{}'']::jsonb[])', 'TK500');
SELECT attack.try('in another namespace', 'SELECT tasker.create_task(''trap'', namespace => ''victims namespace'')', 'TK500');
\c - :admin
SELECT attack.try('a superuser creates one', 'SELECT tasker.create_task(''trap'') > 0', 'TK206');

-- -------------------------------------------------------------- the archive's function
-- It gets every role's tasks, so it must be the one that was chosen.
CREATE SCHEMA audit;
CREATE TABLE audit.kept (document jsonb);
ALTER TABLE audit.kept OWNER TO attack_vic;
CREATE FUNCTION audit.keep(jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO audit.kept VALUES ($1)';
ALTER SCHEMA audit OWNER TO attack_vic;
ALTER FUNCTION audit.keep(jsonb) OWNER TO attack_vic;
SELECT tasker.set_archive('audit.keep');
SELECT attack.try('the archive function', 'SELECT tasker.expire(''0 s'') >= 0', 'true');
SELECT attack.try('none is overdue', 'SELECT count(*) FROM tasker.overdue_tasks', '0');
\c - attack_vic
ALTER SCHEMA audit RENAME TO audit_was_here;
\c - attack_mal
CREATE SCHEMA audit;
CREATE FUNCTION audit.keep(jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO mal.loot VALUES (''archive: '' || $1::text)';
SELECT attack.try('chooses the archive function', 'SELECT tasker.set_archive(''audit.keep'')', 'TK500');
\c - :admin
SELECT attack.try('another role''s archive function', 'SELECT tasker.expire(''0 s'')', 'TK404');
SELECT attack.try('which got something', 'SELECT count(*) FROM mal.loot WHERE what LIKE ''archive%''', '0');
SELECT tasker.set_archive(NULL);

-- ------------------------------------------------------------- CALL tasker.run()
-- In a session that is more than the steps' owner: the superuser's after SET
-- ROLE, or a role's that has the attacker's role and others.
\c - attack_mal
CREATE FUNCTION mal.climb(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE input #>> '{task,context,try}';
	INSERT INTO mal.loot VALUES (input #>> '{task,context,try}');
	RETURN NULL;
END $$;
CREATE FUNCTION mal.later() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE new.what;
	INSERT INTO mal.loot VALUES ('deferred: ' || new.what);
	RETURN NULL;
END $$;
CREATE TABLE mal.deferred (what text);
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON mal.deferred DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mal.later();
CREATE FUNCTION mal.reset_role() RETURNS text LANGUAGE plpgsql AS $$BEGIN RESET ROLE; RESET SESSION AUTHORIZATION; INSERT INTO mal.loot VALUES ('cursor'); RETURN current_user; END$$;
CREATE FUNCTION mal.with_role() RETURNS void LANGUAGE sql SET role = 'none' AS 'INSERT INTO mal.loot VALUES (''function with SET role'')';
SELECT tasker.define_task('climb', '{"steps": [{"name": "a", "function": "mal.climb", "retry": {"max_attempts": 1}}]}');
SELECT tasker.define_task('by sql', jsonb_build_object('steps', (SELECT jsonb_agg(jsonb_build_object('name', s, 'sql', s, 'retry', '{"max_attempts": 1}'::jsonb))
	FROM unnest(ARRAY['RESET ROLE', 'SET ROLE NONE', 'RESET SESSION AUTHORIZATION', 'SET SESSION AUTHORIZATION DEFAULT', 'SET LOCAL ROLE none',
		'DECLARE held CURSOR WITH HOLD FOR SELECT mal.reset_role()', 'DECLARE held2 SCROLL CURSOR WITH HOLD FOR SELECT to_jsonb(mal.reset_role())']) s)));
CREATE FUNCTION mal.submit() RETURNS bigint[] LANGUAGE sql AS $$
	SELECT array_agg(tasker.create_task('climb', jsonb_build_object('try', s))) || tasker.create_task('by sql') FROM unnest(ARRAY['RESET ROLE', 'SET ROLE NONE', 'SET ROLE postgres', 'RESET SESSION AUTHORIZATION', 'SET SESSION AUTHORIZATION DEFAULT',
		'SELECT set_config(''role'', ''none'', false)', 'SELECT set_config(''session_authorization'', ''postgres'', true)', 'SELECT mal.with_role()', 'DISCARD ALL', 'SET ROLE attack_vic',
		'INSERT INTO mal.deferred VALUES (''RESET ROLE'')', 'INSERT INTO mal.deferred VALUES (''RESET SESSION AUTHORIZATION'')', 'INSERT INTO mal.deferred VALUES (''SET ROLE attack_vic'')', 'COMMIT', 'ROLLBACK', 'RESET ALL']) s
$$;
CREATE FUNCTION mal.running(tasks bigint[]) RETURNS text LANGUAGE sql AS $$SELECT count(*)::text FROM tasker.tasks WHERE task_id = ANY ($1) AND state NOT IN ('error', 'complete')$$;
SELECT mal.submit() AS t \gset
\c - :admin
SET ROLE attack_mal;
CALL tasker.run();
RESET ROLE;
INSERT INTO attack.outcome (name, want, got) VALUES ('the superuser''s session is its own again', 'postgres attack', current_user || ' ' || (SELECT 'attack' FROM pg_authid LIMIT 1));
SET SESSION AUTHORIZATION attack_mal;
SELECT mal.running(:'t') AS running, mal.submit() AS t2 \gset
CALL tasker.run();
SELECT mal.running(:'t2') AS running2 \gset
RESET SESSION AUTHORIZATION;
INSERT INTO attack.outcome (name, want, got) VALUES ('SET ROLE: all of them came to an end', '0', :'running'), ('SET SESSION AUTHORIZATION: all of them came to an end', '0', :'running2');
CREATE ROLE attack_web LOGIN NOINHERIT;
GRANT attack_mal, attack_vic TO attack_web;
SET SESSION AUTHORIZATION attack_mal;
SELECT mal.submit();
RESET SESSION AUTHORIZATION;
\c - attack_web
SET ROLE attack_mal;
CALL tasker.run();
RESET ROLE;
SELECT attack.try('the session is its own again', 'SELECT current_user', 'attack_web');
\c - :admin
INSERT INTO attack.outcome (name, want, got) SELECT 'got to another role: ' || string_agg(DISTINCT format('%s (%s) as %s', what, super, who), ', '), NULL, string_agg('x', '') FROM mal.loot WHERE who <> 'attack_mal' OR super = 'on';
INSERT INTO attack.outcome (name, want, got) SELECT 'RESET ALL went through, in three sessions', '3', count(*) FROM mal.loot WHERE what = 'RESET ALL';
INSERT INTO attack.outcome (name, want, got) SELECT 'the step that left a cursor: ' || (last_error ->> 'message'), '42501', last_error ->> 'sqlstate' FROM tasker.step_status WHERE name LIKE 'DECLARE%' AND task_id = (:'t2'::bigint[])[17] ORDER BY step_id;
TRUNCATE mal.loot;
-- In its own session it may do what its role may.
\c - attack_mal
SELECT mal.submit() AS t \gset
CALL tasker.run();
SELECT attack.try('in its own session: RESET ROLE', format('SELECT state FROM tasker.step_status WHERE task_id = %s', (:'t'::bigint[])[1]), 'complete');
SELECT attack.try('in its own session: a cursor WITH HOLD', format('SELECT count(*) FROM tasker.step_status WHERE task_id = %s AND name LIKE ''DECLARE%%'' AND state = ''complete''', (:'t'::bigint[])[17]), '2');
SELECT attack.try('as itself', 'SELECT string_agg(DISTINCT who, '','') FROM mal.loot', 'attack_mal');

-- --------------------------------------------------------------------- from within
CREATE FUNCTION mal.within(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE replace(input #>> '{task,context,try}', 'TASK', input #>> '{task,id}') INTO result;
	RETURN to_jsonb(result);
END $$;
SELECT tasker.define_task('within', '{"steps": [{"name": "a", "function": "mal.within", "retry": {"max_attempts": 1}}, {"name": "b", "queue": "within"}]}');
CREATE FUNCTION mal.within(try text) RETURNS bigint LANGUAGE sql AS $$SELECT tasker.create_task('within', jsonb_build_object('try', try))$$;
SELECT mal.within('SELECT tasker.create_task(''within'', start_at => ''infinity'')') AS w1, mal.within('SELECT tasker.create_task(''within'', start_at => now() + interval ''1 day'') > 0') AS w2,
	mal.within('SELECT tasker.define_task(''within 2'', ''{"steps": [{"name": "a", "queue": "q"}]}'') > 0') AS w3, mal.within('SELECT tasker.cancel_task(TASK, ''from within'')') AS w4,
	mal.within('SELECT tasker.resolve_step(TASK, 1, ''"resolved"'')') AS w5, mal.within('SELECT tasker.complete_step(TASK, 1, gen_random_uuid())') AS w6,
	mal.within('SELECT name FROM tasker.claim_steps(''{within}'', ''me'')') AS w7, mal.within('SELECT tasker.task_wait(TASK, ''10 ms'')') AS w8,
	mal.within('SELECT state FROM tasker.tasks WHERE task_id = TASK') AS w9, mal.within('SELECT tasker.retry_step(TASK, 1)') AS w10, mal.within('SELECT tasker.tick()') AS w11 \gset
CALL tasker.run();
SELECT attack.try(what, format('SELECT state || COALESCE('' '' || (results #>> ''{}''), '' '' || (last_error ->> ''sqlstate''), '''') FROM tasker.step_status WHERE task_id = %s AND step_id = 1', t), want)
FROM (VALUES ('from within: an infinite start', :w1, 'error TK204'), ('from within: create_task', :w2, 'complete true'), ('from within: define_task', :w3, 'complete true'), ('from within: cancel_task of itself', :w4, 'cancelled'),
	('from within: resolve_step of itself', :w5, 'resolved_manually resolved'), ('from within: complete_step of itself', :w6, 'error TK420'), ('from within: claim_steps', :w7, 'complete b'),
	('from within: task_wait of itself', :w8, 'complete pending'), ('from within: its own task', :w9, 'complete pending'), ('from within: retry_step of itself', :w10, 'error TK300'), ('from within: tick', :w11, 'error TK500')) v (what, t, want);
SELECT attack.try('CALL run from a function', 'DO ''BEGIN CALL tasker.run(); END''', '2D000');

\c - :admin
\o
SELECT * FROM no_plan();
SELECT is((SELECT count(*) FROM vic.seen), 2::bigint, 'only the functions of roles that the victim trusts ran as the victim');
SELECT is((SELECT count(*) FROM mal.loot WHERE what = 'trap'), 0::bigint, 'nobody fell into the trap');
SELECT is((SELECT count(*) FROM tasker.tasks t CROSS JOIN LATERAL tasker.verify_task(t.task_id) v), 0::bigint, 'verify_task finds nothing');
\o /dev/null
DROP OWNED BY attack_web, attack_group CASCADE;
DROP ROLE attack_web, attack_group;
\o
\ir ../lib/attack_end.sql
