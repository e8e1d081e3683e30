-- The rule that tells a copy from the original, line by line; what a copy refuses;
-- what adopt() puts right. In a database of the test's own, without a scheduler.
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT current_database() AS regression \gset
CREATE ROLE guard_ann LOGIN;
CREATE ROLE guard_bob LOGIN;
CREATE DATABASE tasker_regress_guard TEMPLATE template0;
\c tasker_regress_guard
SET client_min_messages = warning;
CREATE EXTENSION tasker;
CREATE PROCEDURE still() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM tasker.stop();
	COMMIT;
	WHILE tasker.scheduler_pid() IS NOT NULL LOOP
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
CALL still();
CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
BEGIN
	EXECUTE statement;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN sqlstate || ' ' || sqlerrm || ' | ' || detail;
END $$;
SELECT tasker.grant_access('guard_ann', 'submitter');
SELECT tasker.grant_access('guard_bob', 'submitter');

-- a new one is armed by its first definition, if that stays
SELECT state, reason, since FROM tasker.guard();
SELECT count(*) FROM tasker.claim_steps('{q}', 'w');
BEGIN;
SELECT tasker.define_task('work', tasker.workflow(queue => 'q', steps => ARRAY[tasker.step('a'), tasker.step('b', depends_on => '{a}')])) > 0;
SELECT state, reason FROM tasker.guard();
SELECT count(*) FROM tasker.claim_steps('{q}', 'w');
ROLLBACK;
SELECT state FROM tasker.guard();
BEGIN;
SAVEPOINT s;
SELECT tasker.define_task('work', tasker.workflow(queue => 'q', steps => ARRAY[tasker.step('a'), tasker.step('b', depends_on => '{a}')])) > 0;
ROLLBACK TO s;
COMMIT;
SELECT state FROM tasker.guard();
SET SESSION AUTHORIZATION guard_ann;
SELECT tasker.define_task('work', tasker.workflow(queue => 'q', steps => ARRAY[tasker.step('a', backoff => 'fixed', base => '1 h', lease => '1 h'), tasker.step('b', depends_on => '{a}')])) > 0;
RESET SESSION AUTHORIZATION;
SELECT state, reason, since IS NOT NULL FROM tasker.guard();
SELECT count(*), bool_and(o.token = h.token) FROM tasker.origin o, tasker.here h;

-- the rule, line by line: what is changed, what is said
CREATE FUNCTION said(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
BEGIN
	BEGIN
		EXECUTE statement;
		SELECT state || ': ' || reason INTO answer FROM tasker.guard();
		RAISE division_by_zero;
	EXCEPTION WHEN division_by_zero THEN
		RETURN answer;
	END;
END $$;
SELECT said('DELETE FROM tasker.here; DELETE FROM tasker.origin');
SELECT said('DELETE FROM tasker.here');
SELECT said('UPDATE tasker.here SET armed = false, reason = ''it is a test''');
SELECT said('UPDATE tasker.here SET armed = false');
SELECT said('INSERT INTO tasker.origin VALUES (gen_random_uuid(), now())');
SELECT said('DELETE FROM tasker.origin');
SELECT said('UPDATE tasker.here SET database_oid = 1');
SELECT said('UPDATE tasker.here SET database_oid = 1, system_identifier = 1, catalog_xid = ''1''');
-- pg_upgrade: new catalogs, the same row
CREATE FUNCTION update_row(changes text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'UPDATE tasker.here SET ' || changes;
	-- the same transaction, so the same xmin
	UPDATE tasker.here SET row_xid = h.xmin FROM tasker.here h;
END $$;
SELECT said('SELECT update_row(''system_identifier = 1, catalog_xid = catalog_xid'')');
SELECT said('SELECT update_row(''system_identifier = 1, catalog_xid = ''''1'''''')');
-- replication: another row
SELECT said('UPDATE tasker.here SET system_identifier = 1, catalog_xid = ''1''');

SET SESSION AUTHORIZATION guard_ann;
SELECT tasker.create_task('work'), tasker.create_task('work'), tasker.create_task('work', start_at => now() + '1 h');
RESET SESSION AUTHORIZATION;
-- tasks without a token
SELECT said('DELETE FROM tasker.here; DELETE FROM tasker.origin');
-- since the server's start it was found armed, so where it is is not asked again
SELECT said('UPDATE tasker.here SET system_identifier = 1');
SELECT said('UPDATE tasker.here SET database_oid = 1');

-- a copy refuses
SELECT lease FROM tasker.claim_steps('{q}', 'w') \gset
SELECT format('1, 1, ''%s''', :'lease') AS held \gset
UPDATE tasker.here SET armed = false, reason = 'it is a test';
-- what is known is asked again in the scheduler's turns
SELECT attempt(format('SELECT tasker.heartbeat(%s)', :'held')), set_config('guard.held', :'held', false) = :'held';
SELECT tasker.start() IS NOT NULL;
DO $$
BEGIN
	FOR i IN 1 .. 1000 LOOP
		EXIT WHEN attempt(format('SELECT tasker.heartbeat(%s)', current_setting('guard.held'))) ~ 'TK602';
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
CALL still();
SELECT attempt(format(s, :'held')) FROM unnest(ARRAY['SELECT * FROM tasker.claim_steps(''{q}'', ''w'')', 'SELECT tasker.complete_step(%s)', 'SELECT tasker.fail_step(%s)',
	'SELECT tasker.heartbeat(%s)', 'SELECT tasker.release_step(%s)', 'SELECT * FROM tasker.complete_steps(''{1}'', ''{1}'', ARRAY[''00000000-0000-0000-0000-000000000000''::uuid], ARRAY[NULL::jsonb])',
	'SELECT tasker.tick()', 'SELECT tasker.start()']) s;
CALL tasker.run();
SELECT tasker.explain_step(1, 1) ~ 'claimed by "w".* But this database is disarmed, because it is a test: .*SELECT tasker.adopt\(\)';
SELECT tasker.explain_step(2, 1);
SELECT tasker.explain_step(3, 1) ~ 'waits for its start time, .* But this database is disarmed, because it is a test';
-- but takes tasks, and what people do to them
SET SESSION AUTHORIZATION guard_ann;
SELECT tasker.create_task('work') AS t \gset
SELECT tasker.cancel_task(:t);
SELECT state, reason FROM tasker.guard();
SELECT attempt('SELECT * FROM tasker.adopt()');
RESET SESSION AUTHORIZATION;

-- adopt(): leases and hints
DELETE FROM tasker.ready_queue;
DELETE FROM tasker.timers;
SELECT * FROM tasker.adopt();
SELECT state, reason FROM tasker.guard();
SELECT t.task_id, v FROM tasker.tasks t CROSS JOIN LATERAL tasker.verify_task(t.task_id) AS v ORDER BY 1;
SELECT attempt(format('SELECT tasker.complete_step(%s)', :'held')) ~ '^TK420';
DO $$
BEGIN
	-- which the scheduler does now
	FOR i IN 1 .. 1000 LOOP
		EXIT WHEN (SELECT state FROM tasker.workflow_steps WHERE task_id = 1 AND step_id = 1) <> 'in_progress';
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
SELECT state, last_error ->> 'sqlstate' FROM tasker.workflow_steps WHERE task_id = 1 AND step_id = 1;
SELECT count(*) FROM tasker.claim_steps('{q}', 'w');
SELECT * FROM tasker.adopt();

-- sequences, as replication leaves them
ALTER SEQUENCE tasker.task_id_seq RESTART;
ALTER SEQUENCE tasker.owners_owner_id_seq RESTART;
ALTER SEQUENCE tasker.task_namespaces_namespace_id_seq RESTART;
ALTER SEQUENCE tasker.queues_queue_id_seq RESTART;
ALTER SEQUENCE tasker.named_tasks_named_task_id_seq RESTART;
SELECT done FROM tasker.adopt() WHERE action = 'move sequences';
SELECT done FROM tasker.adopt() WHERE action = 'move sequences';
-- keys of tasks that are gone count as well
SELECT nextval('tasker.task_id_seq') + 10 AS gone \gset
INSERT INTO tasker.idempotency_keys VALUES (1, 'gone', :gone);
SELECT done FROM tasker.adopt() WHERE action = 'move sequences';
SELECT last_value = :gone FROM tasker.task_id_seq;
SELECT tasker.define_task('other', tasker.workflow(queue => 'q2', steps => ARRAY[tasker.step('a')]), namespace => 'other') > 0, tasker.create_task('work') > 4;

-- triggers, as pg_restore --disable-triggers leaves them; a user's own are a user's
CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER own AFTER DELETE ON tasker.tasks FOR EACH STATEMENT EXECUTE FUNCTION own();
ALTER TABLE tasker.tasks ENABLE TRIGGER ALL;
ALTER TABLE tasker.workflow_steps DISABLE TRIGGER ALL;
SELECT done FROM tasker.adopt() WHERE action = 'enable triggers';
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid IN ('tasker.tasks'::regclass, 'tasker.workflow_steps'::regclass) ORDER BY 1;
DROP FUNCTION own CASCADE;

-- owners of a restored database: ann, dropped and created again at home, has another
-- oid here; the oid that bob had is ann's; somebody is missing, with cy's oid
CREATE ROLE guard_cy;
ALTER ROLE guard_bob RENAME TO guard_robert;
INSERT INTO tasker.owners (role_name, role_oid) VALUES ('guard_robert', 'guard_ann'::regrole), ('guard_missing', 'guard_cy'::regrole),
	('guard_cy', 1), ('guard_cy', 2), ('guard_cy', 3);
CREATE VIEW shown AS SELECT owner_id, o.role_name, r.rolname FROM tasker.owners o LEFT JOIN pg_roles r ON r.oid = o.role_oid
	WHERE o.role_name LIKE 'guard%' ORDER BY 1;
SELECT * FROM shown;
BEGIN;
-- the files' copy: roles are the same
UPDATE tasker.here SET armed = false;
SELECT update_row('armed = false, reason = ''it is a test''');
SELECT done, detail FROM tasker.adopt() WHERE action = 'map owners to roles';
ROLLBACK;
-- rows' copy
DELETE FROM tasker.here;
SELECT done, detail FROM tasker.adopt() WHERE action IN ('map owners to roles', 'arm');
SELECT * FROM shown;
CREATE ROLE guard_missing;
SELECT done, detail FROM tasker.adopt() WHERE action = 'map owners to roles';
SELECT * FROM shown;
SELECT done, detail FROM tasker.adopt() WHERE action = 'map owners to roles';
-- a role that is dropped later stays so
DROP ROLE guard_missing;
CREATE ROLE guard_missing;
SELECT done, detail FROM tasker.adopt() WHERE action = 'map owners to roles';

-- rows that come by other ways than the API
\set insert 'INSERT INTO tasker.tasks (task_id, requested_at, named_task_id, owner, priority, state, context) SELECT 1000, now(), named_task_id, owner, 0, ''pending'', ''{}'' FROM tasker.tasks WHERE task_id = 1'
BEGIN;
:insert;
ROLLBACK;
SELECT state FROM tasker.guard();
SET session_replication_role = replica;
:insert;
RESET session_replication_role;
SELECT state, reason FROM tasker.guard();
SELECT attempt('SELECT * FROM tasker.claim_steps(''{q}'', ''w'')') ~ '^TK602';
SELECT attempt('SELECT tasker.tasks_arrive()');
SELECT done, detail FROM tasker.adopt() WHERE action = 'arm';
SELECT state FROM tasker.guard();

-- dropped and created again, it is new
DROP EXTENSION tasker CASCADE;
CREATE EXTENSION tasker;
SELECT state FROM tasker.guard();
SELECT tasker.define_task('work', tasker.workflow(ARRAY[tasker.step('a', queue => 'q')])) > 0;
SELECT state FROM tasker.guard();
\c :regression
DROP DATABASE tasker_regress_guard;
DROP ROLE guard_ann, guard_robert, guard_cy, guard_missing;
