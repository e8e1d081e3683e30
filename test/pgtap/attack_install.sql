-- What was there before CREATE EXTENSION: somebody else's schema, functions,
-- operators, types, temporary objects, default privileges. And what it made:
-- no function that runs as its owner, nothing that is anybody's.
\ir ../lib/attack.sql
SELECT current_database() AS db \gset
-- A database as an attacker would prepare it, who may create in it and in public.
CREATE DATABASE tasker_attack;
GRANT ALL ON DATABASE tasker_attack TO attack_mal;
\c tasker_attack attack_mal
CREATE SCHEMA tasker;
CREATE TABLE tasker.tasks (task_id bigint);
\c tasker_attack :admin
\set ON_ERROR_STOP off
CREATE EXTENSION tasker;
\set squatted :SQLSTATE
CREATE EXTENSION tasker SCHEMA tasker;
\set elsewhere :SQLSTATE
\set ON_ERROR_STOP on
SELECT count(*) AS left_over FROM pg_proc WHERE pronamespace = 'tasker'::regnamespace \gset
DROP SCHEMA tasker CASCADE;
GRANT CREATE ON SCHEMA public TO attack_mal;
CREATE TABLE public.captured (what text, who name DEFAULT current_user);
GRANT INSERT ON public.captured TO PUBLIC;
\c tasker_attack attack_mal
\set ON_ERROR_STOP off
CREATE EXTENSION tasker;
\set not_mine :SQLSTATE
CREATE FUNCTION pg_catalog.format(text, name) RETURNS text LANGUAGE sql AS 'SELECT $1';
\set not_in_catalog :SQLSTATE
\set ON_ERROR_STOP on
-- The script's own words, with better matching arguments than the catalog's.
DO $$
DECLARE
	f text[];
BEGIN
	FOREACH f SLICE 1 IN ARRAY ARRAY[['format', 'text, name', 'text'], ['format', 'text, text', 'text'], ['now', '', 'timestamptz'], ['random', '', 'float8'], ['quote_literal', 'text', 'text'],
		['string_agg', 'text, text', 'text'], ['pg_extension_config_dump', 'regclass, text', 'void'], ['jsonb_strip_nulls', 'jsonb', 'jsonb'], ['to_jsonb', 'text[]', 'jsonb'], ['count', '', 'bigint'], ['clock_timestamp', '', 'timestamptz']]
	LOOP
		EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS %s LANGUAGE plpgsql AS $f$ BEGIN INSERT INTO public.captured VALUES (%L); RETURN%s; END $f$', f[1], f[2], f[3], f[1], CASE WHEN f[3] <> 'void' THEN ' NULL' END);
	END LOOP;
	EXECUTE 'CREATE FUNCTION public.eq(text, text) RETURNS boolean LANGUAGE plpgsql AS $f$ BEGIN INSERT INTO public.captured VALUES (''=''); RETURN true; END $f$';
	EXECUTE 'CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.eq)';
	EXECUTE 'CREATE OPERATOR public.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = public.eq)';
	EXECUTE 'CREATE DOMAIN public.text AS pg_catalog.text CHECK (VALUE IS NULL)';
	EXECUTE 'CREATE DOMAIN public.jsonb AS pg_catalog.jsonb CHECK (VALUE IS NULL)';
	EXECUTE 'CREATE DOMAIN public.bigint AS pg_catalog.int4';
END $$;
\c tasker_attack :admin
CREATE ROLE attack_reports;
-- What an administrator may have done for his own tables, without thinking of these.
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO attack_mal, attack_reports WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO attack_mal;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO attack_mal;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TYPES TO attack_mal, PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO attack_mal, PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
CREATE TEMP TABLE tasks (mine int);
CREATE FUNCTION pg_temp.now() RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.captured VALUES (''temp now''); RETURN NULL; END';
SET search_path = public, pg_temp, pg_catalog;
SET standard_conforming_strings = off;
SET check_function_bodies = off;
SET row_security = off;
CREATE EXTENSION tasker;
RESET ALL;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM attack_mal, attack_reports, PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON SEQUENCES FROM attack_mal;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM attack_mal;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TYPES FROM attack_mal;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON SCHEMAS FROM attack_mal, PUBLIC;
SELECT tasker.stop();
SELECT COALESCE(string_agg(format('%s: %s to %s', x.name, a.privilege_type, a.grantee::regrole), ', '), '') AS granted FROM (
	SELECT oid::regclass::text AS name, relacl, relowner FROM pg_class WHERE relnamespace = 'tasker'::regnamespace
	UNION ALL SELECT oid::regprocedure::text, proacl, proowner FROM pg_proc WHERE pronamespace = 'tasker'::regnamespace
	UNION ALL SELECT oid::regtype::text, typacl, typowner FROM pg_type WHERE typnamespace = 'tasker'::regnamespace AND typtype = 'd'
	UNION ALL SELECT nspname, nspacl, nspowner FROM pg_namespace WHERE nspname = 'tasker') x (name, acl, owner), aclexplode(x.acl) a WHERE a.grantee <> x.owner \gset
-- It works there, and the attacker's objects are in nobody's way.
SELECT tasker.grant_access('attack_vic', 'submitter');
\c tasker_attack attack_mal
\set ON_ERROR_STOP off
CREATE TRIGGER mine AFTER INSERT ON tasker.tasks EXECUTE FUNCTION suppress_redundant_updates_trigger();
\set no_trigger :SQLSTATE
INSERT INTO tasker.access_grants VALUES ('attack_mal', 'admin');
\set no_level :SQLSTATE
\set ON_ERROR_STOP on
\c tasker_attack attack_vic
SELECT tasker.define_task('works', '{"steps": [{"name": "a", "sql": "SELECT $1"}]}');
SELECT tasker.create_task('works') AS works \gset
CALL tasker.run();
SELECT state AS works FROM tasker.tasks WHERE task_id = :works \gset
\c tasker_attack :admin
SELECT COALESCE(string_agg(format('%s as %s', what, who), ', '), '') AS captured FROM public.captured \gset
SELECT count(*) AS wrong_types FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = 'tasker'::regnamespace AND a.attnum > 0
	AND a.atttypid NOT IN (SELECT oid FROM pg_type WHERE typnamespace IN ('pg_catalog'::regnamespace, 'tasker'::regnamespace)) \gset
DROP EXTENSION tasker;
SELECT count(*) AS left_behind FROM pg_namespace WHERE nspname = 'tasker' \gset
\c :db :admin
DROP DATABASE tasker_attack WITH (FORCE);
DROP ROLE attack_reports;

\c :db attack_mal
SELECT attack.try('a hook: an event trigger', 'CREATE EVENT TRIGGER mine ON ddl_command_end EXECUTE FUNCTION attack.try()', '42501');
SELECT attack.try('updates the extension', 'ALTER EXTENSION tasker UPDATE', '42501');
\c :db :admin
\o
SELECT * FROM no_plan();
SELECT is(:'squatted'::text, '42P06', 'a schema of the name is there: refused');
SELECT is(:'elsewhere'::text, '0A000', 'nor is it put into that schema');
SELECT is(:left_over, 0, 'and nothing of it is left');
SELECT is(:'not_mine'::text, '42501', 'who is no superuser does not install it');
SELECT is(:'not_in_catalog'::text, '42501', 'nor puts anything into pg_catalog');
SELECT is(:'granted'::text, '', 'default privileges leave nothing to anybody');
SELECT is(:'no_trigger'::text, '42501', 'so nobody attaches a trigger');
SELECT is(:'no_level'::text, '42501', 'nor gives itself a level');
SELECT is(:'captured'::text, '', 'nothing of the attacker''s was called');
SELECT is(:wrong_types, 0, 'no column has a type of the attacker''s');
SELECT is(:'works'::text, 'complete', 'it works');
SELECT is(:left_behind, 0, 'and goes without a trace');

-- ------------------------------------------------------- each function, one by one
-- Who may call it, and as whom it runs: a new one has to be looked at here.
SELECT is((SELECT string_agg(p.oid::regprocedure::text, ', ' ORDER BY 1) FROM pg_proc p WHERE p.pronamespace = 'tasker'::regnamespace AND p.prosecdef), NULL,
	'no function is SECURITY DEFINER');
SELECT is((SELECT string_agg(p.oid::regprocedure::text, ', ' ORDER BY p.oid::regprocedure::text) FROM pg_proc p WHERE p.pronamespace = 'tasker'::regnamespace
	AND NOT has_function_privilege('attack_mal', p.oid, 'EXECUTE')),
	'tasker.edges_changed(), tasker.grant_access(name,text), tasker.guard_definition(), tasker.lock_cut_off(), tasker.revoke_access(name), tasker.steps_changed(), tasker.tasks_arrive(), tasker.tasks_changed()',
	'what grant_access does not give');
SELECT is((SELECT string_agg(p.oid::regprocedure::text, ', ') FROM pg_proc p WHERE p.pronamespace = 'tasker'::regnamespace AND has_function_privilege('attack_none', p.oid, 'EXECUTE')), NULL,
	'without it there is nothing');
-- Called with nulls and extremes by whoever may: refused or answered, never an internal error.
CREATE FUNCTION attack.call(p oid, v text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	args text;
BEGIN
	SELECT string_agg(CASE WHEN v = 'null' THEN 'NULL::' || t::regtype
		WHEN t::regtype::text = 'timestamp with time zone' THEN format('%L::timestamptz', CASE v WHEN 'low' THEN '-infinity' ELSE 'infinity' END)
		WHEN t::regtype::text = 'integer' THEN CASE v WHEN 'low' THEN '-2147483648' ELSE '2147483647' END
		WHEN t::regtype::text = 'bigint' THEN CASE v WHEN 'low' THEN '(-9223372036854775808)' ELSE '9223372036854775807' END
		WHEN t::regtype::text = 'double precision' THEN format('%L::float8', CASE v WHEN 'low' THEN 'NaN' ELSE 'Infinity' END)
		-- not so long a wait that it would not end
		WHEN t::regtype::text = 'interval' THEN format('%L::interval', CASE v WHEN 'low' THEN '-178000000 years' ELSE '1 microsecond' END)
		WHEN t::regtype::text = 'interval[]' THEN format('%L::interval[]', CASE v WHEN 'low' THEN '{}' ELSE '{NULL,178000000 years}' END)
		WHEN t::regtype::text LIKE '%[]' THEN format('%L::%s', CASE v WHEN 'low' THEN '{{}}' ELSE '{NULL}' END, t::regtype)
		WHEN t::regtype::text = 'jsonb' THEN format('%L::jsonb', CASE v WHEN 'low' THEN '[]' ELSE '1e1000' END)
		WHEN t::regtype::text = 'uuid' THEN 'gen_random_uuid()'
		WHEN t::regtype::text = 'boolean' THEN CASE v WHEN 'low' THEN 'false' ELSE 'true' END
		ELSE format('%L::%s', CASE v WHEN 'low' THEN '' ELSE repeat('x', 60) END, t::regtype) END, ', ' ORDER BY n)
	INTO args FROM unnest((SELECT proargtypes FROM pg_proc WHERE oid = p)) WITH ORDINALITY a (t, n);
	EXECUTE format('SELECT count(*) FROM (SELECT %s(%s) OFFSET 0) x', p::regproc, COALESCE(args, ''));
	RAISE EXCEPTION 'answered';
EXCEPTION WHEN OTHERS THEN
	RETURN CASE WHEN SQLERRM = 'answered' OR SQLSTATE ~ '^(TK[1-6]|22|42501|42602|54000)' THEN 'ok' ELSE format('%s: %s %s', args, SQLSTATE, SQLERRM) END;
END $$;
SELECT p.oid::regprocedure::text AS f, p.oid INTO attack.callable FROM pg_proc p WHERE p.pronamespace = 'tasker'::regnamespace AND p.prokind = 'f' AND has_function_privilege('attack_mal', p.oid, 'EXECUTE');
GRANT SELECT ON attack.callable TO PUBLIC;
SELECT is((SELECT count(*) > 40 FROM attack.callable), true, 'functions to be called');
SET SESSION AUTHORIZATION attack_mal;
SELECT is(attack.call(oid, v), 'ok', format('%s: %s', v, f)) FROM attack.callable, unnest('{null,low,high}'::text[]) v ORDER BY f, v;
RESET SESSION AUTHORIZATION;
SELECT is((SELECT string_agg(x, E'\n') FROM attack.callable, unnest('{null,low,high}'::text[]) v, attack.call(oid, v) x WHERE f !~ '^tasker.(start|stop|installed)' AND x <> 'ok'), NULL,
	'nor when a superuser calls them');
\ir ../lib/attack_end.sql
