-- Arguments that are of the right type and yet make no sense: refused with a code of tasker's own.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
\set SHOW_CONTEXT never
SELECT tasker.stop() IS NOT NULL;
CREATE SCHEMA arguments;
SET search_path = arguments, pg_catalog;
CREATE ROLE arguments_gone LOGIN;
-- what a call says when it is refused
CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text; state text; message text; detail text; hint text;
BEGIN
	EXECUTE statement INTO result;
	RETURN 'accepted: ' || COALESCE(result, 'null');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN format(E'%s %s\n   %s\n   %s', state, message, detail, hint);
END $$;

-- a limit of time below zero is not "for ever"
SELECT tasker.define_task('arguments', '{"steps": [{"name": "s", "queue": "arguments"}]}') > 0;
SELECT tasker.create_task('arguments') AS task \gset
SELECT attempt(format('SELECT tasker.task_wait(%s, timeout => %L)', :task, t)) FROM unnest('{0,-1 us,-178956970 years}'::text[]) AS t;
SELECT tasker.cancel_task(:task);
SELECT attempt(format('SELECT tasker.task_wait(%s)', :task)), attempt(format('SELECT tasker.task_wait(%s, timeout => %L)', :task, '178956970 years'));
\set VERBOSITY sqlstate
CALL tasker.run('-1 s');
CALL tasker.drain_queue('arguments', timeout => '-1 s');
\set VERBOSITY default

-- a delay that is no interval
SELECT call, attempt('SELECT tasker.backoff_delay(' || call || ')') FROM unnest(ARRAY[
	$$1, jitter => 'NaN'$$, $$1, random => 'Infinity'$$, $$1, 'fixed', '178956970 years', jitter => 0$$, $$1, 'fixed', '7300 days', jitter => 0$$,
	$$1, 'list', delays => '{-178956970 years}', jitter => 0$$, $$2147483647, base => '0', jitter => 0$$, $$2147483647, factor => 1e308, jitter => 0$$]) WITH ORDINALITY AS c (call, n) ORDER BY n;

-- an age
SELECT age, attempt(format('SELECT tasker.expire(%L, 0)', age)) FROM unnest('{0,-1 us,-178956970 years,178956970 years,1 mon -30 days}'::text[]) WITH ORDINALITY AS a (age, n) ORDER BY n;

-- numbers of timers
SELECT attempt('SELECT tasker.tick(max_timers => -1)'), attempt('SELECT tasker.tick(max_timers => 0) = 0');
SELECT attempt(format('SELECT tasker.tick(%L, 0)', now)) FROM unnest('{infinity,-infinity,294276-12-31 00:00+00,9000-01-01 00:00+00}'::text[]) WITH ORDINALITY AS t (now, n) ORDER BY n;

-- names of functions
SELECT name, attempt(format('SELECT tasker.set_archive(%L)', name)) FROM unnest(ARRAY['', ' ', '.', 'a.', '"', 'a b', 'a.b.c']) WITH ORDINALITY AS f (name, n) ORDER BY n;

-- roles that are not there, or not any more
SELECT attempt($$SELECT tasker.revoke_access(NULL)$$), attempt($$SELECT tasker.revoke_access('')$$), attempt($$SELECT tasker.revoke_access('arguments_nobody')$$);
SELECT tasker.grant_access('arguments_gone', 'submitter');
DROP OWNED BY arguments_gone;
DROP ROLE arguments_gone;
SELECT tasker.revoke_access('arguments_gone');
SELECT count(*) FROM tasker.access_grants WHERE role_name = 'arguments_gone';
DROP SCHEMA arguments CASCADE;
