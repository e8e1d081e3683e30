-- A role puts objects of its own where a name without a schema might find them:
-- every operator that tasker could use, functions, tables, types, in its own
-- schema, in public and in pg_temp, in front of pg_catalog in its search_path;
-- and changes every setting that it may. Then it uses all of tasker. None of
-- its code may be called by tasker, least of all as tasker's owner.
\ir ../lib/attack.sql
-- 16 renamed it
\o
SELECT name AS parallel FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query') \gset
\o /dev/null
CREATE TABLE attack.captured (what text, who name DEFAULT current_user);
GRANT INSERT ON attack.captured TO PUBLIC;
-- as it was up to PostgreSQL 14
GRANT CREATE ON SCHEMA public TO PUBLIC;

\c - attack_mal
CREATE SCHEMA mal;
GRANT USAGE ON SCHEMA mal TO PUBLIC;
-- A function that tells on whoever calls it, and an operator with it, for every
-- operator of these types that pg_catalog has.
DO $$
DECLARE
	o record;
	schema text;
	n int := 0;
BEGIN
	FOR o IN SELECT oprname, oprleft::regtype::text AS l, oprright::regtype::text AS r, oprresult::regtype::text AS res FROM pg_operator
		WHERE oprkind = 'b' AND oprnamespace = 'pg_catalog'::regnamespace
		AND oprleft = ANY ('{text,int,bigint,smallint,jsonb,timestamptz,uuid,boolean,name,oid,interval,float8,xid,numeric}'::regtype[])
		AND oprright = ANY ('{text,int,bigint,smallint,jsonb,timestamptz,uuid,boolean,name,oid,interval,float8,xid,numeric,text[],int[]}'::regtype[])
	LOOP
		n := n + 1;
		EXECUTE format('CREATE FUNCTION mal.op%s(%s, %s) RETURNS %s LANGUAGE plpgsql AS $f$ BEGIN INSERT INTO attack.captured (what) VALUES (%L); RETURN NULL; END $f$',
			n, o.l, o.r, o.res, format('operator %s (%s, %s)', o.oprname, o.l, o.r));
		FOREACH schema IN ARRAY '{mal,public}'::text[] LOOP
			EXECUTE format('CREATE OPERATOR %s.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = mal.op%s)', schema, o.oprname, o.l, o.r, n);
		END LOOP;
	END LOOP;
	IF n < 200 THEN
		RAISE EXCEPTION 'only % operators', n;
	END IF;
END $$;
-- Functions that tasker's statements use, and tasker's own.
DO $$
DECLARE
	f record;
	schema text;
	n int := 0;
BEGIN
	FOR f IN SELECT DISTINCT ON (proname, pg_get_function_identity_arguments(oid)) proname, oid, pg_get_function_identity_arguments(oid) AS args, prorettype::regtype::text AS res, proretset
		FROM pg_proc WHERE prokind = 'f' AND provariadic = 0 AND proargmodes IS NULL
		AND (pronamespace = 'tasker'::regnamespace AND prorettype <> 'trigger'::regtype OR pronamespace = 'pg_catalog'::regnamespace AND proname = ANY ('{now,clock_timestamp,random,gen_random_uuid,generate_series,
		unnest,left,length,format,quote_literal,to_jsonb,jsonb_build_object,jsonb_strip_nulls,nullif,coalesce,array_to_string,set_config,current_setting,jsonb_array_elements,lower,upper,aclexplode}'::text[]))
		AND prorettype <> ALL ('{anyelement,anyarray,record,internal}'::regtype[])
		AND NOT proargtypes::oid[] && ARRAY['internal', '"any"']::regtype[]::oid[]
	LOOP
		FOREACH schema IN ARRAY '{mal,public,pg_temp}'::text[] LOOP
			n := n + 1;
			EXECUTE format('CREATE FUNCTION %s.%I(%s) RETURNS %s%s LANGUAGE plpgsql AS $f$ BEGIN INSERT INTO attack.captured (what) VALUES (%L); RETURN%s; END $f$',
				schema, f.proname, f.args, CASE WHEN f.proretset THEN 'SETOF ' END, f.res, format('function %s.%s', schema, f.proname),
				CASE WHEN NOT f.proretset AND f.res <> 'void' THEN ' NULL' END);
		END LOOP;
	END LOOP;
	IF n < 100 THEN
		RAISE EXCEPTION 'only % functions', n;
	END IF;
END $$;
-- Tables and views of the names of tasker's and of the catalogs, types of the
-- names of types.
DO $$
DECLARE
	r record;
	schema text;
BEGIN
	FOR r IN SELECT relname FROM pg_class WHERE relnamespace = 'tasker'::regnamespace AND relkind IN ('r', 'p', 'v')
		UNION ALL SELECT unnest('{pg_roles,pg_class,pg_proc,pg_namespace,pg_stat_activity,pg_cursors,pg_authid}'::text[])
	LOOP
		FOREACH schema IN ARRAY '{mal,public,pg_temp}'::text[] LOOP
			EXECUTE format('CREATE TABLE %s.%I (mine int)', schema, r.relname);
		END LOOP;
	END LOOP;
	FOREACH schema IN ARRAY '{mal,public,pg_temp}'::text[] LOOP
		EXECUTE format('CREATE DOMAIN %s.jsonb AS pg_catalog.jsonb CHECK (false)', schema);
		EXECUTE format('CREATE DOMAIN %s.text AS pg_catalog.text CHECK (false)', schema);
		EXECUTE format('CREATE DOMAIN %s.int4 AS pg_catalog.int4 CHECK (false)', schema);
		EXECUTE format('CREATE DOMAIN %s.uuid AS pg_catalog.uuid CHECK (false)', schema);
		EXECUTE format('CREATE DOMAIN %s."interval" AS pg_catalog."interval" CHECK (false)', schema);
		EXECUTE format('CREATE DOMAIN %s.step_state AS pg_catalog.text CHECK (false)', schema);
	END LOOP;
END $$;
CREATE FUNCTION mal.handler(pg_catalog.jsonb) RETURNS pg_catalog.jsonb LANGUAGE plpgsql SET search_path = pg_catalog AS 'BEGIN RETURN $1 -> ''step''; END';

-- Everything that may be called, in such a session. Arguments are cast to types
-- with their schemas, so that the statements themselves need no operator.
SET search_path = mal, public, pg_temp, pg_catalog;
SET standard_conforming_strings = off;
SET escape_string_warning = off;
SET backslash_quote = on;
SET transform_null_equals = on;
SET quote_all_identifiers = on;
SET "IntervalStyle" = sql_standard;
SET "DateStyle" = 'SQL, DMY';
SET "TimeZone" = 'Asia/Kathmandu';
SET extra_float_digits = -15;
SET bytea_output = escape;
SET xmloption = document;
SET array_nulls = off;
SET check_function_bodies = off;
SET default_transaction_deferrable = on;
SET constraint_exclusion = on;
SET plan_cache_mode = force_custom_plan;
SET enable_nestloop = off;
SET enable_indexscan = off;
SET enable_indexonlyscan = off;
SET enable_hashagg = off;
SET geqo_threshold = 2;
SET from_collapse_limit = 1;
SET join_collapse_limit = 1;
SET random_page_cost = 1e10;
SET cpu_tuple_cost = 0;
SET :parallel = on;
SET parallel_setup_cost = 0;
SET min_parallel_table_scan_size = 0;
SET jit = on;
SET jit_above_cost = 0;
SET work_mem = '64kB';
SET default_table_access_method = heap;
SET row_security = on;
SET lock_timeout = '10s';
SET statement_timeout = '20s';
SELECT tasker.define_task('captured', '{"defaults": {"retry": {"base": "1 ms", "max_attempts": 2}}, "steps": [
	{"name": "fn", "function": "mal.handler"}, {"name": "sql", "sql": "SELECT $1", "depends_on": ["fn"]},
	{"name": "q", "queue": "captured", "timeout": "1 min"}, {"name": "r", "queue": "captured", "depends_on": ["q"]}, {"name": "s", "queue": "captured"}, {"name": "t", "queue": "captured"}]}');
SELECT tasker.define_task('built', tasker.workflow(ARRAY[tasker.step('a', queue => 'captured', timeout => '1 min 2 s', delays => '{1 s, 2 min}', backoff => 'list')], cap => '1 h'));
SELECT tasker.set_default_version('captured', '1.0.0');
SELECT tasker.create_task('captured', '{"a": 1}', idempotency_key => 'a', tags => '["x"]', reason => 'r') AS t \gset
SELECT tasker.create_task('captured', '{"a": 1}', idempotency_key => 'a');
SELECT tasker.create_tasks('captured', ARRAY['{}', '{}']::pg_catalog.jsonb[], start_at => pg_catalog.now(), idempotency_keys => ARRAY['x', NULL]::pg_catalog.text[]);
SELECT tasker.pause_task(:t), tasker.resume_task(:t);
SELECT task_id, step_id, lease FROM tasker.claim_steps('{captured}', 'mal', 2, '1 min') OFFSET 1 \gset
SELECT tasker.heartbeat(:task_id, :step_id, :'lease', '1 min', '{"c": 1}');
SELECT tasker.fail_step(:task_id, :step_id, :'lease', '{"message": "x"}', true, '1 s');
SELECT task_id, step_id, lease FROM tasker.claim_steps('{captured}', 'mal', 1) \gset
SELECT tasker.release_step(:task_id, :step_id, :'lease', '1 ms');
SELECT task_id, step_id, lease FROM tasker.claim_steps('{captured,nothing}', 'mal', 1, wait => '10 ms') \gset
SELECT * FROM tasker.complete_steps(ARRAY[:task_id]::pg_catalog.int8[], ARRAY[:step_id]::pg_catalog.int4[], ARRAY[:'lease']::pg_catalog.uuid[], ARRAY['{}']::pg_catalog.jsonb[], '{captured}', 'mal', 1);
CALL tasker.run();
SELECT tasker.explain_step(:t, 'q'), tasker.explain_step(:t, 1), tasker.step_id(:t, 'q');
SELECT * FROM tasker.ready_steps(:t);
SELECT * FROM tasker.ready_steps_by_recursion(:t);
SELECT * FROM tasker.step_readiness(:t, '{1,2}');
SELECT * FROM tasker.task_execution_context(:t);
SELECT * FROM tasker.dependency_levels(:t);
SELECT * FROM tasker.step_ancestors(:t, 2);
SELECT * FROM tasker.step_descendants(:t, 1);
SELECT * FROM tasker.verify_task(:t);
SELECT * FROM tasker.executors();
SELECT tasker.task_wait(:t, '0'), tasker.access_level(), tasker.now(), tasker.may_see_queues(), tasker.backoff_delay(2), tasker.scheduler_pid(), tasker.next_task_id();
SELECT * FROM tasker.state_machine();
SELECT t FROM tasker.tasks t;
SELECT t FROM tasker.workflow_steps t;
SELECT t FROM tasker.named_tasks t;
SELECT t FROM tasker.named_steps t;
SELECT t FROM tasker.queues t;
SELECT t FROM tasker.task_namespaces t;
SELECT t FROM tasker.owners t;
SELECT t FROM tasker.task_status t;
SELECT t FROM tasker.step_status t;
SELECT t FROM tasker.task_history t;
SELECT t FROM tasker.executing t;
SELECT tasker.resolve_step(:t, 's', '{}', 'reason');
SELECT tasker.resolve_step(:t, 't');
SELECT tasker.retry_task(:t);
SELECT tasker.cancel_task(:t, 'reason');
\set ON_ERROR_STOP off
SELECT tasker.retry_step(:t, 'q', 'reason');
SELECT tasker.do_not_retry('a', 'b');
SELECT tasker.retry_after('1 s', 'b');
SELECT tasker.grant_access('attack_mal', 'admin');
SELECT tasker.revoke_access('attack_vic');
\set ON_ERROR_STOP on

-- The same objects are in everybody's way: the victim's, whose search_path has
-- public, and the superuser's.
\c - attack_vic
SELECT tasker.define_task('theirs', '{"steps": [{"name": "a", "sql": "SELECT $1"}]}', 'vic');
SELECT tasker.create_task('theirs', namespace => 'vic') AS theirs \gset
CALL tasker.run();
\c - :admin
SET search_path = mal, public, pg_temp, pg_catalog;
SELECT tasker.grant_access('attack_vic', 'operator');
SELECT tasker.tick();
SELECT tasker.verify_task(:theirs);
SELECT tasker.revoke_access('attack_view');
UPDATE tasker.tasks SET reason = 'changed by hand';
SET search_path = pg_catalog;

\o
RESET search_path;
SET search_path = pg_catalog, public;
SELECT * FROM no_plan();
SELECT is((SELECT string_agg(DISTINCT format('%s as %s', what, who), ', ') FROM attack.captured), NULL, 'nothing of the attacker''s was called');
SELECT is((SELECT state::text FROM tasker.tasks WHERE task_id = :theirs), 'complete', 'the victim''s task ran');
SELECT is((SELECT state::text FROM tasker.tasks WHERE task_id = :t), 'cancelled', 'the attacker''s was cancelled');
SELECT is((SELECT count(*) FROM tasker.workflow_steps WHERE task_id = :t AND state IN ('complete', 'resolved_manually')), 4::bigint, 'and some of its steps had run');
SELECT is((SELECT count(*) FROM tasker.tasks t CROSS JOIN LATERAL tasker.verify_task(t.task_id) v), 0::bigint, 'verify_task finds nothing');
SELECT is((SELECT array_agg(interval ORDER BY interval) FROM (SELECT backoff_cap AS interval FROM tasker.named_steps s JOIN tasker.named_tasks USING (named_task_id) WHERE named_tasks.name = 'built') x), '{1 h}'::interval[], 'intervals are what they were meant to be');
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
\ir ../lib/attack_end.sql
