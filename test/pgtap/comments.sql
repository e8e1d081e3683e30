-- What holds for every object of the extension, whoever adds one: it says what
-- it is, is granted to nobody, is dumped, is guarded. Exceptions are listed
-- here, with their reasons.
SET client_min_messages = warning;
BEGIN;
SELECT * FROM no_plan();

-- Members of the extension. Leaves of partitioned tables are members too.
CREATE TEMP VIEW member AS
SELECT d.classid, d.objid, CASE d.classid
	WHEN 'pg_proc'::regclass THEN (SELECT CASE prokind WHEN 'p' THEN 'procedure' ELSE 'function' END FROM pg_proc WHERE oid = d.objid)
	WHEN 'pg_class'::regclass THEN (SELECT CASE relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence' ELSE relkind::text END FROM pg_class WHERE oid = d.objid)
	WHEN 'pg_type'::regclass THEN (SELECT CASE typtype WHEN 'd' THEN 'domain' ELSE 'type' END FROM pg_type WHERE oid = d.objid)
	WHEN 'pg_namespace'::regclass THEN 'schema'
	ELSE d.classid::regclass::text END AS kind,
	pg_describe_object(d.classid, d.objid, 0) AS name
FROM pg_depend d
WHERE d.refclassid = 'pg_extension'::regclass AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'tasker') AND d.deptype = 'e'
	-- some majors count row types and array types as members of their own
	AND NOT EXISTS (SELECT FROM pg_type t WHERE d.classid = 'pg_type'::regclass AND t.oid = d.objid AND (t.typrelid <> 0 OR t.typelem <> 0));
CREATE FUNCTION pg_temp.none(objects text[], what text) RETURNS text LANGUAGE sql AS $$
	SELECT is(array_to_string(objects, E'\n'), NULL, what)
$$;

SELECT ok((SELECT count(*) FROM member WHERE kind = k) >= n, format('at least %s %s', n, k))
FROM (VALUES ('function', 30), ('procedure', 1), ('table', 15), ('view', 4), ('domain', 2), ('sequence', 5), ('schema', 1)) v (k, n) ORDER BY k;
SELECT pg_temp.none((SELECT array_agg(DISTINCT kind) FROM member
	WHERE kind NOT IN ('function', 'procedure', 'table', 'view', 'domain', 'sequence', 'schema')),
	'no object of another kind: this test would not look at it');
SELECT pg_temp.none((SELECT array_agg(pg_describe_object(o.classid, o.oid, 0)) FROM (
	SELECT 'pg_proc'::regclass AS classid, oid FROM pg_proc WHERE pronamespace = 'tasker'::regnamespace
	UNION ALL SELECT 'pg_class'::regclass, oid FROM pg_class WHERE relnamespace = 'tasker'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
	UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typnamespace = 'tasker'::regnamespace AND typtype IN ('d', 'e', 'r')) o
	WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = o.classid AND m.objid = o.oid)),
	'everything in the schema belongs to the extension');

-- ------------------------------------------------------------------- comments
SELECT pg_temp.none((SELECT array_agg(name ORDER BY name) FROM member m
	WHERE COALESCE(obj_description(m.objid, m.classid::regclass::name), '') = ''), 'every object has a comment');
SELECT pg_temp.none((SELECT array_agg(m.name ORDER BY m.name) FROM member m JOIN pg_proc p ON p.oid = m.objid
	WHERE m.classid = 'pg_proc'::regclass AND p.prorettype <> 'trigger'::regtype
	AND COALESCE(obj_description(p.oid, 'pg_proc'), '') NOT LIKE '%Example:%'),
	'every function''s comment has an example');
SELECT pg_temp.none((SELECT array_agg(m.name ORDER BY m.name) FROM member m
	WHERE m.kind = 'view' AND COALESCE(obj_description(m.objid, 'pg_class'), '') NOT LIKE '%Example:%'),
	'every view''s comment has an example');

-- -------------------------------------------------------------------- granted
CREATE TEMP VIEW granted AS
SELECT m.name, a.grantee, a.privilege_type FROM member m
	CROSS JOIN LATERAL (SELECT CASE m.classid
		WHEN 'pg_proc'::regclass THEN (SELECT COALESCE(proacl, acldefault('f', proowner)) FROM pg_proc WHERE oid = m.objid)
		WHEN 'pg_class'::regclass THEN (SELECT COALESCE(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)) FROM pg_class WHERE oid = m.objid)
		WHEN 'pg_type'::regclass THEN (SELECT COALESCE(typacl, acldefault('T', typowner)) FROM pg_type WHERE oid = m.objid)
		WHEN 'pg_namespace'::regclass THEN (SELECT COALESCE(nspacl, acldefault('n', nspowner)) FROM pg_namespace WHERE oid = m.objid)
		END AS acl) AS x
	CROSS JOIN LATERAL aclexplode(x.acl) a
UNION ALL
SELECT format('column %s of %s', c.attname, m.name), a.grantee, a.privilege_type FROM member m
	JOIN pg_attribute c ON c.attrelid = m.objid AND m.classid = 'pg_class'::regclass
	CROSS JOIN LATERAL aclexplode(c.attacl) a;
SELECT pg_temp.none((SELECT array_agg(format('%s: %s', name, privilege_type) ORDER BY name) FROM granted WHERE grantee = 0),
	'nothing is granted to PUBLIC');
SELECT pg_temp.none((SELECT array_agg(format('%s: %s', name, privilege_type) ORDER BY name) FROM granted
	WHERE grantee NOT IN (0, (SELECT nspowner FROM pg_namespace WHERE nspname = 'tasker'))),
	'nor to anybody else before grant_access');
SELECT pg_temp.none((SELECT array_agg(m.name ORDER BY m.name) FROM member m JOIN pg_proc p ON p.oid = m.objid
	WHERE m.classid = 'pg_proc'::regclass AND p.prosecdef), 'no function is SECURITY DEFINER: they check the caller in C');
SELECT pg_temp.none((SELECT array_agg(m.name ORDER BY m.name) FROM member m JOIN pg_proc p ON p.oid = m.objid
	JOIN pg_language l ON l.oid = p.prolang
	WHERE m.classid = 'pg_proc'::regclass AND l.lanname <> 'c'
	AND NOT COALESCE(p.proconfig::text LIKE '%search_path=pg_catalog, pg_temp%', false)),
	'a function that is not in C pins its search_path');
SELECT pg_temp.none((SELECT array_agg(m.name ORDER BY m.name) FROM member m JOIN pg_class c ON c.oid = m.objid
	WHERE m.kind = 'view' AND NOT COALESCE('security_barrier=true' = ANY (c.reloptions) OR 'security_barrier' = ANY (c.reloptions), false)),
	'every view is a security barrier');

-- -------------------------------------------------------------- row security
SELECT pg_temp.none((SELECT array_agg(m.name ORDER BY m.name) FROM member m JOIN pg_class c ON c.oid = m.objid
	WHERE m.kind = 'table' AND NOT c.relrowsecurity), 'every table has row security');
SELECT pg_temp.none((SELECT array_agg(m.name ORDER BY m.name) FROM member m JOIN pg_class c ON c.oid = m.objid
	WHERE m.kind = 'table' AND NOT c.relispartition AND NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid)
	AND c.relname NOT IN (
		-- granted to nobody: without a policy nobody sees a row
		'access_grants', 'idempotency_keys', 'ready_queue', 'timers', 'leases', 'workers', 'here', 'origin',
		'archive', 'history_ring', 'history_walk')),
	'every table that roles may read has a policy');

-- ----------------------------------------------------------------------- dump
SELECT pg_temp.none((SELECT array_agg(m.name ORDER BY m.name) FROM member m JOIN pg_class c ON c.oid = m.objid
	WHERE m.kind IN ('table', 'sequence')
	AND c.oid <> ALL ((SELECT extconfig FROM pg_extension WHERE extname = 'tasker')::oid[])
	AND c.relname NOT IN (
		-- partitioned: registering the parent has no effect, each leaf is registered
		'task_transitions', 'workflow_step_transitions',
		-- the workers of the original are not the copy's
		'workers',
		-- a position in a file
		'history_walk',
		-- says where the database is, so a dump must not have it
		'here')),
	'every table, leaf and sequence with users'' data is dumped');
SELECT pg_temp.none((SELECT array_agg(c.oid::regclass::text) FROM pg_extension e, unnest(e.extconfig, e.extcondition) x (oid, condition)
	JOIN pg_class c ON c.oid = x.oid WHERE e.extname = 'tasker' AND x.condition <> ''), 'with every row of it');
-- pg_restore -j loads the tables in any order, and their constraints are there before.
SELECT pg_temp.none((SELECT array_agg(format('%s on %s', k.conname, k.conrelid::regclass) ORDER BY 1) FROM pg_constraint k
	JOIN member m ON m.objid = k.conrelid AND m.classid = 'pg_class'::regclass WHERE k.contype = 'f'),
	'no foreign key, which a parallel restore would trip over');
-- A row that the install script inserts makes a restore lose the table.
CREATE FUNCTION pg_temp.rows_of(c regclass) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	n bigint;
BEGIN
	EXECUTE format('SELECT count(*) FROM %s', c) INTO n;
	RETURN n;
END $$;
SELECT pg_temp.none((SELECT array_agg(c.oid::regclass::text) FROM pg_extension e, unnest(e.extconfig) x (oid)
	JOIN pg_class c ON c.oid = x.oid WHERE e.extname = 'tasker' AND c.relkind = 'r' AND pg_temp.rows_of(c.oid::regclass) > 0),
	'the install script leaves what is dumped empty');
SELECT pg_temp.none((SELECT array_agg(format('%s.%s', a.attrelid::regclass, a.attname)) FROM member m JOIN pg_attribute a ON a.attrelid = m.objid
	WHERE m.kind = 'table' AND a.attnum > 0 AND a.atttypid IN ('regproc'::regtype, 'regprocedure'::regtype, 'regnamespace'::regtype,
	'regoper'::regtype, 'regoperator'::regtype, 'regconfig'::regtype, 'regdictionary'::regtype, 'regcollation'::regtype, 'regrole'::regtype)),
	'no column of a type that pg_upgrade refuses or a restore trips over');

-- ------------------------------------------------------------------- triggers
SELECT pg_temp.none((SELECT array_agg(format('%s on %s', t.tgname, t.tgrelid::regclass) ORDER BY 1) FROM pg_trigger t
	JOIN member m ON m.objid = t.tgrelid AND m.classid = 'pg_class'::regclass WHERE NOT t.tgisinternal AND t.tgenabled <> 'A'),
	'every trigger is ENABLE ALWAYS: a replication role does not switch it off');
SELECT pg_temp.none((SELECT array_agg(format('%s on %s', t.tgname, t.tgrelid::regclass) ORDER BY 1) FROM pg_trigger t
	JOIN member m ON m.objid = t.tgrelid AND m.classid = 'pg_class'::regclass
	WHERE NOT t.tgisinternal AND (t.tgtype & 1) = 1), 'no trigger is for each row');
SELECT set_has($$SELECT t.tgrelid::regclass::text FROM pg_trigger t WHERE NOT t.tgisinternal$$,
	$$VALUES ('tasker.tasks'), ('tasker.workflow_steps'), ('tasker.workflow_step_edges'), ('tasker.named_tasks'), ('tasker.named_steps'), ('tasker.named_step_edges')$$,
	'tables that have triggers');

-- ----------------------------------------------------------------------- keys
SELECT pg_temp.none((SELECT array_agg(m.name ORDER BY m.name) FROM member m
	WHERE m.kind = 'table' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = m.objid AND i.indisprimary)
	-- appended to, moved from leaf to leaf (replica identity full), and truncated leaf by leaf
	AND m.name !~ '(task|workflow_step)_transitions(_\d+)?$'),
	'a table whose rows are changed or deleted has a primary key');
-- Everything of a task is found by its id; the claim's table begins with the lane.
SELECT pg_temp.none((SELECT array_agg(i.indexrelid::regclass::text ORDER BY 1) FROM member m
	JOIN pg_attribute t ON t.attrelid = m.objid AND t.attname = 'task_id' AND NOT t.attisdropped
	JOIN pg_index i ON i.indrelid = m.objid AND i.indisunique
	WHERE m.kind = 'table' AND m.classid = 'pg_class'::regclass AND t.attnum <> ALL (i.indkey)
	-- by design keyed by the owner's key
	AND m.objid <> 'tasker.idempotency_keys'::regclass),
	'task_id is part of every unique index of a task''s tables');

-- -------------------------------------------- columns, as the C code counts them
SELECT results_eq('SELECT attname::text COLLATE "default" FROM pg_attribute WHERE attrelid = ''tasker.workflow_steps''::regclass AND attnum BETWEEN 1 AND 16 ORDER BY attnum',
	'{task_id,next_attempt_at,last_attempted_at,completed_at,lease_expires_at,lease,step_id,step_no,lane,priority,pending_parents,attempts,state,claimed_by,results,last_error}'::text[],
	'columns of workflow_steps where the trigger expects them');
SELECT results_eq('SELECT attnum::int FROM pg_attribute WHERE attrelid = ''tasker.tasks''::regclass AND attname IN (''task_id'', ''named_task_id'', ''owner'', ''state'') ORDER BY attnum',
	'{1,7,8,11}'::int[], 'columns of tasks where the trigger expects them');
SELECT results_eq('SELECT attname::text COLLATE "default" FROM pg_attribute WHERE attrelid = ''tasker.tasks''::regclass AND attnum IN (1, 7, 8, 11) ORDER BY attnum',
	'{task_id,named_task_id,owner,state}'::text[], 'and they are these');

SELECT * FROM finish();
ROLLBACK;
