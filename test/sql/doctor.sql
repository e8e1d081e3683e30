-- What doctor() finds, one thing after the other, that it does not any more when
-- it is put right, and who may know. What needs other processes is in
-- test/t/018_doctor.pl.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SELECT tasker.stop() IS NOT NULL;
DO $$ BEGIN WHILE tasker.scheduler_pid() IS NOT NULL LOOP PERFORM pg_sleep(0.01); END LOOP; END $$;
CREATE ROLE doctor_ann LOGIN;
CREATE ROLE doctor_bob LOGIN;
CREATE ROLE doctor_viewer LOGIN;
SELECT tasker.grant_access('doctor_ann', 'submitter'), tasker.grant_access('doctor_bob', 'submitter'), tasker.grant_access('doctor_viewer', 'viewer');
SET tasker.clock = '2030-01-01 00:00+00';
SET TIME ZONE 'UTC';
-- what other tests have left is none of its business
SELECT count(tasker.cancel_task(task_id)) >= 0 FROM tasker.task_status WHERE state IN ('pending', 'in_progress', 'paused', 'error');
DO $$ BEGIN WHILE tasker.tick() > 0 LOOP END LOOP; END $$;
CREATE TABLE public.doctor_before AS SELECT problem, detail FROM tasker.doctor();
-- what it finds now and did not before
CREATE FUNCTION public.found() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT problem || ': ' || regexp_replace(regexp_replace(detail, '[Tt]ask \d+', 'task N', 'g'), '\d+, the (first|last) one is \d+', 'some')
		|| E'\n\t' || regexp_replace(regexp_replace(hint, '\(\d+', '(N'), '[0-9a-f-]{36}', 'LEASE')
	FROM tasker.doctor() d WHERE NOT EXISTS (SELECT FROM public.doctor_before b WHERE (b.problem, b.detail) = (d.problem, d.detail))
		AND problem <> 'a session holds back vacuum'	-- since 2026, it seems to it
	ORDER BY problem COLLATE "C", detail
$$;
SELECT problem, detail FROM doctor_before WHERE problem LIKE 'no scheduler%';
SELECT count(*) FROM found();

-- queues
SET SESSION AUTHORIZATION doctor_ann;
SELECT tasker.define_task('doctor', '{"steps": [{"name": "a", "queue": "doctor''s", "retry": {"jitter": 0}}, {"name": "b", "queue": "doctor''s", "depends_on": ["a"]}]}') IS NOT NULL;
SELECT tasker.create_task('doctor') AS t \gset
RESET SESSION AUTHORIZATION;
SELECT found();
SELECT tasker.register_worker('w', '{doctor''s}');
SELECT found();
SELECT tasker.pause_queue('doctor''s', reason => 'holidays');
SELECT found();
SELECT tasker.resume_queue('doctor''s');
SELECT count(*) FROM tasker.claim_steps('{doctor''s}', 'w');
SELECT count(*) FROM found();

-- an orphaned lease, a lease that nobody looks at, a time that nobody looks at
BEGIN;
DELETE FROM tasker.leases;
SELECT found();
SELECT hint AS cure FROM tasker.doctor() WHERE problem = 'a lease is orphaned' \gset
SELECT (regexp_match(:'cure', '^SELECT (.*\)) has'))[1] AS cure \gset
SELECT :cure;
SELECT count(*) FROM found() f WHERE f LIKE '%orphaned%';
ROLLBACK;
SET tasker.clock = '2030-01-01 00:01+00';
SELECT found();
SELECT tasker.tick() > 0;
SELECT count(*) FROM found();
SET tasker.clock = '2030-01-01 01:00+00';
SELECT found();
SELECT tasker.tick() > 0;
SELECT count(*) FROM tasker.claim_steps('{doctor''s}', 'w');
SELECT count(*) FROM found();

-- counters, triggers
BEGIN;
ALTER TABLE tasker.workflow_steps DISABLE TRIGGER steps_changed;
UPDATE tasker.workflow_steps SET pending_parents = 7 WHERE task_id = :t AND step_id = 2;
SELECT found();
UPDATE tasker.workflow_steps SET pending_parents = 1 WHERE task_id = :t AND step_id = 2;
SELECT found();
ALTER TABLE tasker.workflow_steps ENABLE ALWAYS TRIGGER steps_changed;
SELECT count(*) FROM found();
COMMIT;
ALTER TABLE tasker.tasks DISABLE TRIGGER tasks_arrive;
SELECT found();
SELECT count(*) > 0 FROM tasker.adopt();
SELECT count(*) FROM found();

-- a copy: rows that came from elsewhere
INSERT INTO tasker.tasks SELECT (t).* FROM (SELECT t FROM tasker.tasks t WHERE false) x;
SELECT found();
SELECT count(*) > 0 FROM tasker.adopt(keep_leases => true);
SELECT count(*) FROM found();

-- an error
SELECT tasker.fail_step(task_id, step_id, lease, retryable => false) FROM tasker.workflow_steps WHERE lease IS NOT NULL;
SELECT found();
SELECT tasker.cancel_task(:t);
SELECT count(*) FROM found();

-- owners, handlers, grants
SET SESSION AUTHORIZATION doctor_bob;
SELECT tasker.define_task('doctor bob', '{"steps": [{"name": "a", "sql": "SELECT NULL::jsonb"}]}') IS NOT NULL;
SELECT tasker.create_task('doctor bob', start_at => '2030-06-01 00:00+00') AS bobs \gset
RESET SESSION AUTHORIZATION;
ALTER ROLE doctor_bob NOLOGIN;
SELECT found();
ALTER ROLE doctor_bob LOGIN SUPERUSER;
SELECT found();
ALTER ROLE doctor_bob NOSUPERUSER;
SELECT count(*) FROM found();
ALTER ROLE doctor_bob RENAME TO doctor_robert;
SELECT found();
CREATE ROLE doctor_bob;
SELECT found();
DROP ROLE doctor_bob;
ALTER ROLE doctor_robert RENAME TO doctor_bob;
SELECT count(*) FROM found();
BEGIN;
SELECT tasker.revoke_access('doctor_bob');
DROP ROLE doctor_bob;
SELECT found();
ROLLBACK;
BEGIN;
DELETE FROM tasker.owners WHERE role_name = 'doctor_bob';
SELECT found();
ROLLBACK;
SELECT tasker.cancel_task(:bobs);
CREATE FUNCTION public.doctors_handler(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
SET SESSION AUTHORIZATION doctor_ann;
SELECT tasker.define_task('doctor''s handler', '{"steps": [{"name": "a", "function": "public.doctors_handler"}]}') IS NOT NULL;
RESET SESSION AUTHORIZATION;
DROP FUNCTION public.doctors_handler(jsonb);
SELECT found();
CREATE FUNCTION public.doctors_handler(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
SELECT count(*) FROM found();

-- retention and its archive
CREATE FUNCTION public.doctors_archive(jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the disk is full'; END $$;
SELECT tasker.set_archive('public.doctors_archive');
SET tasker.clock = '2030-02-01 00:00+00';
SET client_min_messages = error;
SELECT tasker.expire('1 day') >= 0;
SET client_min_messages = warning;
SELECT problem, detail ~ '^It refused \d+ tasks, task \d+ with: the disk is full.$', hint FROM tasker.doctor() WHERE problem LIKE '%archive%';
ALTER FUNCTION public.doctors_archive(jsonb) RENAME TO doctors_drawer;
SELECT problem, detail, hint FROM tasker.doctor() WHERE problem LIKE '%archive%is gone';
SELECT tasker.set_archive(NULL);
SET tasker.clock = '2030-03-01 00:00+00';
SELECT tasker.expire('1 day') > 0;
DO $$ BEGIN WHILE tasker.tick() > 0 LOOP END LOOP; END $$;
SELECT count(*) FROM found();

-- autovacuum
ALTER TABLE tasker.workflow_steps SET (autovacuum_enabled = off);
SELECT found();
ALTER TABLE tasker.workflow_steps RESET (autovacuum_enabled);
SELECT count(*) FROM found();

-- versions
UPDATE pg_extension SET extversion = '9' WHERE extname = 'tasker';
\c -
SELECT problem, regexp_replace(detail, 'version [0-9.]+,', 'version V,'), hint FROM tasker.doctor();
UPDATE pg_extension SET extversion = tasker.library_version() WHERE extname = 'tasker';
\c -
SET client_min_messages = warning;
SELECT count(*) FROM tasker.doctor() WHERE problem LIKE '%does not fit the extension';

-- a viewer is told, others are not
SET SESSION AUTHORIZATION doctor_viewer;
SELECT count(*) > 0 FROM tasker.doctor();
SELECT count(*) > 0 FROM tasker.problems;
SET SESSION AUTHORIZATION doctor_ann;
SELECT count(*) FROM tasker.doctor();
RESET SESSION AUTHORIZATION;
DROP FUNCTION public.found();
DROP TABLE public.doctor_before;
DROP FUNCTION public.doctors_drawer(jsonb), public.doctors_handler(jsonb);
SELECT tasker.revoke_access('doctor_ann'), tasker.revoke_access('doctor_bob'), tasker.revoke_access('doctor_viewer');
DROP ROLE doctor_ann, doctor_bob, doctor_viewer;
