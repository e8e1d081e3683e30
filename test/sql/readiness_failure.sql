-- When a step failed is known, whatever DateStyle and time zone its session had.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SELECT FROM tasker.stop();
CREATE ROLE readiness_failure LOGIN;
SELECT tasker.grant_access('readiness_failure', 'submitter');
SET SESSION AUTHORIZATION readiness_failure;
SET tasker.clock = '2030-01-02 12:00:00.25+00';
SET timezone = 'America/New_York';
SELECT tasker.define_task('failure', '{"steps": [{"name": "a", "sql": "SELECT to_jsonb(1 / 0)", "retryable": false}]}', 'readiness') > 0;
SET datestyle = 'German';
SELECT tasker.create_task('failure', namespace => 'readiness') AS german \gset
CALL tasker.run();
SET datestyle = 'SQL, DMY';
SELECT tasker.create_task('failure', namespace => 'readiness') AS sql \gset
CALL tasker.run();
SET datestyle = 'Postgres, MDY';
SELECT tasker.create_task('failure', namespace => 'readiness') AS postgres \gset
CALL tasker.run();
SET datestyle = 'ISO, DMY';
SET timezone = 'UTC';
SELECT name, current_state, last_failure_at FROM unnest(ARRAY[:german, :sql, :postgres]) t, tasker.step_readiness(t) ORDER BY task_id;
SELECT last_error ->> 'at' FROM tasker.step_status WHERE task_id IN (:german, :sql, :postgres) ORDER BY task_id;
RESET SESSION AUTHORIZATION;
SELECT tasker.revoke_access('readiness_failure');
DROP ROLE readiness_failure;
