-- The public API as the design promises it: names, arguments by name, defaults,
-- columns. More arguments with defaults and more columns are allowed.
SET client_min_messages = warning;
BEGIN;
SELECT * FROM no_plan();

-- in: "name type", with " =" if there is a default; out: "name type".
CREATE TEMP VIEW api AS
SELECT p.oid, p.prokind, p.proname::text AS name, p.provolatile, p.proretset,
	p.prorettype::regtype::text AS result,
	ARRAY(SELECT format('%s %s%s', a.name, a.type::regtype, CASE WHEN a.nth > p.pronargs - p.pronargdefaults THEN ' =' END)
		FROM (SELECT a.*, row_number() OVER (ORDER BY a.ord) AS nth
			FROM unnest(COALESCE(p.proallargtypes, p.proargtypes::oid[]), p.proargnames, p.proargmodes)
				WITH ORDINALITY a (type, name, mode, ord)
			WHERE COALESCE(a.mode, 'i') IN ('i', 'b', 'v')) a
		ORDER BY a.ord) AS ins,
	ARRAY(SELECT format('%s %s', a.name, a.type::regtype)
		FROM unnest(p.proallargtypes, p.proargnames, p.proargmodes) WITH ORDINALITY a (type, name, mode, ord)
		WHERE a.mode IN ('o', 'b', 't') ORDER BY a.ord) AS outs
FROM pg_proc p WHERE p.pronamespace = 'tasker'::regnamespace;

CREATE TEMP TABLE promised (ord int GENERATED ALWAYS AS IDENTITY, kind "char" DEFAULT 'f', name text, ins text[], result text, outs text[] DEFAULT '{}', volatile "char" DEFAULT 'v');
INSERT INTO promised (name, ins, result) VALUES
	('define_task', '{name text,definition jsonb,namespace text =,version text =}', 'integer'),
	('set_default_version', '{name text,version text,namespace text =}', 'void'),
	('drop_named_task', '{name text,version text,namespace text =}', 'void'),
	('create_task', '{name text,context jsonb =,namespace text =,version text =,priority integer =,start_at timestamp with time zone =,idempotency_key text =,tags jsonb =,initiator text =,source_system text =,reason text =,correlation_id uuid =,traceparent text =}', 'bigint'),
	('create_tasks', '{name text,contexts jsonb[],namespace text =,version text =,priority integer =,start_at timestamp with time zone =,idempotency_keys text[] =,tags jsonb =,initiator text =,source_system text =,reason text =,correlation_id uuid =,traceparent text =}', 'bigint'),
	('task_wait', '{task_id bigint,timeout interval =}', 'text'),
	('cancel_task', '{task_id bigint,reason text =}', 'boolean'),
	('pause_task', '{task_id bigint,reason text =}', 'boolean'),
	('resume_task', '{task_id bigint,reason text =}', 'boolean'),
	('retry_step', '{task_id bigint,step_id integer,reason text =}', 'boolean'),
	('retry_step', '{task_id bigint,step text,reason text =}', 'boolean'),
	('retry_task', '{task_id bigint,reason text =}', 'bigint'),
	('resolve_step', '{task_id bigint,step_id integer,results jsonb =,reason text =}', 'boolean'),
	('resolve_step', '{task_id bigint,step text,results jsonb =,reason text =}', 'boolean'),
	('complete_step', '{task_id bigint,step_id integer,lease uuid,results jsonb =}', 'void'),
	('fail_step', '{task_id bigint,step_id integer,lease uuid,error jsonb =,retryable boolean =,retry_after interval =}', 'text'),
	('heartbeat', '{task_id bigint,step_id integer,lease uuid,extend interval =,checkpoint jsonb =}', 'timestamp with time zone'),
	('release_step', '{task_id bigint,step_id integer,lease uuid,delay interval =}', 'void'),
	('create_queue', '{queue text,description text =,notify boolean =}', 'boolean'),
	('pause_queue', '{queue text,reason text =}', 'boolean'),
	('resume_queue', '{queue text}', 'boolean'),
	('register_worker', '{worker text,queues text[],metadata jsonb =}', 'void'),
	('start', '{}', 'boolean'),
	('stop', '{}', 'boolean'),
	('tick', '{now timestamp with time zone =,max_timers integer =}', 'integer'),
	('grant_access', '{role name,level text}', 'void'),
	('revoke_access', '{role name}', 'void');
INSERT INTO promised (name, ins, outs) VALUES
	('claim_steps', '{queues text[],worker text,max_steps integer =,lease interval =,wait interval =}',
		'{task_id bigint,step_id integer,lease uuid,name text,queue text,attempt integer,max_attempts integer,input jsonb,idempotency_key text,lease_expires_at timestamp with time zone,checkpoint jsonb,deadline timestamp with time zone,traceparent text}'),
	('complete_steps', '{task_ids bigint[],step_ids integer[],leases uuid[],results jsonb[],queues text[] =,worker text =,max_steps integer =,lease interval =,wait interval =}',
		'{outcome text,task_id bigint,step_id integer,lease uuid,name text,queue text,attempt integer,max_attempts integer,input jsonb,idempotency_key text,lease_expires_at timestamp with time zone,checkpoint jsonb,deadline timestamp with time zone,traceparent text}');
INSERT INTO promised (name, ins, outs) VALUES ('doctor', '{}', '{problem text,detail text,hint text}');
INSERT INTO promised (kind, name, ins) VALUES
	('p', 'run', '{max_duration interval =,max_steps integer =}'),
	('p', 'drain_queue', '{queue text,timeout interval =,reason text =,in_flight integer =}');
-- What only reads is STABLE: it works on a standby and in a transaction that can not write.
INSERT INTO promised (name, ins, result, volatile) VALUES
	('explain_step', '{task_id bigint,step_id integer}', 'text', 's'),
	('explain_step', '{task_id bigint,step text}', 'text', 's'),
	('step_id', '{task_id bigint,step text}', 'integer', 's'),
	('access_level', '{}', 'text', 's');
INSERT INTO promised (name, ins, outs, volatile) VALUES
	('ready_steps', '{task_id bigint}', '{step_id integer,name text}', 's'),
	('step_readiness', '{task_id bigint,step_ids integer[] =}', '{workflow_step_id integer,task_id bigint,named_step_id integer,name text,current_state text,dependencies_satisfied boolean,retry_eligible boolean,ready_for_execution boolean,last_failure_at timestamp with time zone,next_retry_at timestamp with time zone,total_parents integer,completed_parents integer,attempts integer,max_attempts integer,last_attempted_at timestamp with time zone}', 's'),
	('task_execution_context', '{task_id bigint}', '{task_id bigint,named_task_id integer,status text,total_steps bigint,pending_steps bigint,in_progress_steps bigint,completed_steps bigint,failed_steps bigint,ready_steps bigint,execution_status text,recommended_action text,completion_percentage numeric,health_status text,enqueued_steps bigint}', 's'),
	('dependency_levels', '{task_id bigint}', '{step_id integer,name text,level integer}', 's'),
	('step_ancestors', '{task_id bigint,step_id integer}', '{step_id integer,name text,distance integer,state text}', 's'),
	('verify_task', '{task_id bigint}', '{problem text,step_id integer,expected text,found text}', 's'),
	('state_machine', '{}', '{machine text,from_state text,to_state text,meaning text}', 'i');

-- The promise is the beginning of what there is; what there is besides has a default.
CREATE FUNCTION pg_temp.kept(p promised) RETURNS boolean LANGUAGE sql AS $$
	SELECT EXISTS (SELECT FROM api a
		WHERE a.name = p.name AND a.prokind = p.kind AND a.provolatile = p.volatile
		AND a.ins[1:cardinality(p.ins)] = p.ins
		AND NOT EXISTS (SELECT FROM unnest(a.ins[cardinality(p.ins) + 1:]) more WHERE more NOT LIKE '% =')
		AND (p.result IS NULL OR a.result = p.result)
		AND p.outs <@ a.outs)
$$;
SELECT ok(pg_temp.kept(p), format('%s(%s)', p.name, array_to_string(p.ins, ', ')))
	|| CASE WHEN pg_temp.kept(p) THEN '' ELSE E'\n' || diag(COALESCE((SELECT string_agg(format('there is: %s %s %s(%s) -> %s (%s)',
		a.prokind, a.provolatile, a.name, array_to_string(a.ins, ', '), a.result, array_to_string(a.outs, ', ')), E'\n')
		FROM api a WHERE a.name = p.name), 'there is none')) END
FROM promised p ORDER BY p.ord;

SELECT is((SELECT array_agg(DISTINCT a.name) FROM api a WHERE a.name IN ('ready_steps', 'step_readiness', 'task_execution_context',
	'dependency_levels', 'step_ancestors', 'verify_task', 'create_tasks', 'state_machine', 'claim_steps', 'complete_steps') AND NOT a.proretset), NULL,
	'what returns rows returns a set');

-- Every argument has a name: all can be given by name.
SELECT is((SELECT string_agg(a.oid::regprocedure::text, ', ') FROM api a
	WHERE EXISTS (SELECT FROM unnest(a.ins) i WHERE i LIKE ' %')), NULL, 'every argument has a name');

-- Tables and views
CREATE TEMP TABLE promised_columns (relation text, columns text[]);
INSERT INTO promised_columns VALUES
	('tasks', '{task_id bigint,state tasker.task_state,owner integer,context jsonb,requested_at timestamp with time zone,started_at timestamp with time zone,completed_at timestamp with time zone,priority integer,correlation_id uuid,initiator text,source_system text,reason text,tags jsonb}'),
	('workflow_steps', '{task_id bigint,step_id integer,state tasker.step_state,attempts integer,pending_parents integer,next_attempt_at timestamp with time zone,lease uuid,results jsonb,last_error jsonb}'),
	('workflow_step_edges', '{task_id bigint,from_step_id integer,to_step_id integer}'),
	('workflow_step_results', '{task_id bigint,step_id integer,results jsonb}'),
	('workflow_step_transitions', '{task_id bigint,step_id integer,from_state text,to_state text,attempt integer,created_at timestamp with time zone,executor integer,metadata jsonb}'),
	('task_transitions', '{task_id bigint,from_state text,to_state text,created_at timestamp with time zone,metadata jsonb}'),
	('task_status', '{task_id bigint,name text,state tasker.task_state}'),
	('step_status', '{task_id bigint,step_id integer,name text,state tasker.step_state,attempts integer,results jsonb,last_error jsonb}'),
	('task_history', '{task_id bigint,created_at timestamp with time zone,step text,from_state text,to_state text}'),
	('executing', '{pid integer,owner name,task_id bigint,step_id integer}'),
	('queue_status', '{name text,paused_at timestamp with time zone,depth bigint,oldest_age interval,in_flight bigint,completed_last_minute bigint,workers bigint,claimed_at timestamp with time zone}'),
	('worker_status', '{worker text,role_name name,queues text[],metadata jsonb,last_seen_at timestamp with time zone,alive boolean}');
SELECT set_has(
	format('SELECT format(''%%s %%s'', attname, atttypid::regtype) FROM pg_attribute WHERE attrelid = ''tasker.%s''::regclass AND attnum > 0 AND NOT attisdropped', relation),
	format('SELECT unnest(%L::text[])', columns), 'columns of ' || relation)
FROM promised_columns ORDER BY relation;

-- The defaults are what the design says.
CREATE ROLE api_submitter LOGIN;
SELECT tasker.grant_access('api_submitter', 'submitter');
SET LOCAL ROLE api_submitter;
SELECT tasker.define_task('api', '{"steps": [{"name": "a", "queue": "api"}]}') \g /dev/null
SELECT tasker.create_task(name => 'api') AS t \gset
RESET ROLE;
SELECT results_eq(format('SELECT s.name, n.version, t.state::text COLLATE "default", t.priority, t.context, t.start_at, t.correlation_id IS NOT NULL
	FROM tasker.tasks t JOIN tasker.named_tasks n USING (named_task_id) JOIN tasker.task_namespaces s USING (namespace_id) WHERE task_id = %s', :t),
	$$VALUES ('default', '1.0.0', 'pending', 0, '{}'::jsonb, NULL::timestamptz, true)$$, 'what create_task takes by default');
SELECT results_eq('SELECT max_attempts, backoff, backoff_base, backoff_factor, backoff_cap, backoff_jitter, retryable, lease, timeout, priority
	FROM tasker.named_steps n JOIN tasker.named_tasks t USING (named_task_id) WHERE t.name = ''api''',
	$$VALUES (3, 'exponential', '1 s'::interval, 2::float8, '5 min'::interval, 0.1::float8, true, '30 s'::interval, NULL::interval, 0)$$,
	'what a step has by default');
-- What a claim takes by default: one step, for its own lease, without waiting.
SELECT tasker.create_task('api') AS t2 \gset
SELECT results_eq($$SELECT count(*), min(attempt), min(max_attempts), bool_and(lease_expires_at - clock_timestamp() BETWEEN '20 s' AND '30 s') FROM tasker.claim_steps('{api}', 'w')$$,
	'VALUES (1::bigint, 1, 3, true)', 'what claim_steps takes by default');
SELECT tasker.release_step(task_id, step_id, lease) FROM tasker.workflow_steps WHERE lease IS NOT NULL \g /dev/null
SELECT tasker.cancel_task(:t2) \g /dev/null
-- State reads as its name and is set by its name.-- State reads as its name and is set by its name.
SELECT lives_ok(format('UPDATE tasker.workflow_steps SET state = ''in_progress'' WHERE task_id = %s', :t), 'state is set by its name');
SELECT lives_ok(format('UPDATE tasker.workflow_steps SET state = ''complete'' WHERE task_id = %s', :t), 'state is set by its name again');
SELECT results_eq(format('SELECT state::text COLLATE "default" FROM tasker.task_status WHERE task_id = %s', :t), '{complete}'::text[], 'and the task follows');
SELECT throws_ok(format('UPDATE tasker.workflow_steps SET state = ''finished'' WHERE task_id = %s', :t), '23514', NULL, 'a state that there is not');
SELECT throws_ok(format('UPDATE tasker.workflow_steps SET state = NULL WHERE task_id = %s', :t), '23502', NULL, 'nor none at all');

SELECT * FROM finish();
ROLLBACK;
