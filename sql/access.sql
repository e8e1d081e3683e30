-- Who may reach what. A level is enforced by the functions themselves, in C; the
-- privileges granted here let a role reach them. A level counts only for a role
-- that has the schema's USAGE itself: the name alone may become another role's.
CREATE FUNCTION tasker.grant_access(role name, level text) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF role IS NULL OR level IS NULL OR level NOT IN ('viewer', 'submitter', 'worker', 'operator', 'admin') THEN
		RAISE EXCEPTION USING ERRCODE = 'TK204', MESSAGE = 'grant_access needs a role and a level',
			DETAIL = format('The level is %s.', COALESCE(quote_literal(level), 'null')),
			HINT = 'The levels are viewer, submitter, worker, operator and admin.';
	END IF;
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = role) THEN
		RAISE EXCEPTION USING ERRCODE = 'TK204', MESSAGE = format('role %s does not exist', quote_literal(role)),
			DETAIL = 'pg_roles has no role of this name.', HINT = 'CREATE ROLE it first; the name is taken as it is written.';
	END IF;
	EXECUTE format('GRANT USAGE ON SCHEMA tasker TO %I', role);
	-- Not the triggers' functions: on a table of its own a role could feed them anything.
	EXECUTE (SELECT format('GRANT EXECUTE ON ROUTINE %s TO %I', string_agg(p.oid::regprocedure::text, ', '), role)
		FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'tasker'::regnamespace
		AND p.prorettype <> 'trigger'::regtype AND p.proname NOT IN ('grant_access', 'revoke_access', 'lock_cut_off'));
	EXECUTE format('GRANT USAGE ON TYPE tasker.step_state, tasker.task_state TO %I', role);
	EXECUTE format('GRANT SELECT ON tasker.owners, tasker.task_namespaces, tasker.queues, tasker.named_tasks, '
		'tasker.named_steps, tasker.named_step_edges, tasker.tasks, tasker.workflow_steps, '
		'tasker.workflow_step_edges, tasker.workflow_step_results, tasker.task_transitions, '
		'tasker.workflow_step_transitions, tasker.overdue_tasks, tasker.task_status, tasker.step_status, tasker.task_history, '
		'tasker.executing, tasker.queue_status, tasker.worker_status, tasker.problems TO %I', role);
	INSERT INTO tasker.access_grants AS g (role_name, level) VALUES (role, grant_access.level)
		ON CONFLICT (role_name) DO UPDATE SET level = EXCLUDED.level;
END $$;
COMMENT ON FUNCTION tasker.grant_access(name, text) IS
'Gives a role access: viewer sees every task; submitter defines and creates tasks and operates on its own; worker claims from queues; operator operates on every task; admin may do all of it and start and stop. A superuser calls it. The last level given counts.
Errors: TK204 unknown role or level, 42501 not a superuser. Example: SELECT tasker.grant_access(''shop'', ''submitter'');';

CREATE FUNCTION tasker.revoke_access(role name) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM tasker.access_grants g WHERE g.role_name = role;
	IF EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = role) THEN
		EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA tasker FROM %I', role);
		EXECUTE format('REVOKE ALL ON ALL ROUTINES IN SCHEMA tasker FROM %I', role);
		EXECUTE format('REVOKE USAGE ON TYPE tasker.step_state, tasker.task_state FROM %I', role);
		EXECUTE format('REVOKE ALL ON SCHEMA tasker FROM %I', role);
	ELSIF NOT FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'TK204', MESSAGE = format('role %s has nothing to take back', COALESCE(quote_literal(role), 'null')),
			DETAIL = 'Neither pg_roles nor tasker.access_grants has a role of this name.', HINT = 'The name is taken as it is written.';
	END IF;
END $$;
COMMENT ON FUNCTION tasker.revoke_access(name) IS
'Takes back what grant_access gave, also from a role that was dropped. Its tasks stay, and go on. A superuser calls it.
Errors: TK204 unknown role, 42501 not a superuser. Example: SELECT tasker.revoke_access(''shop'');';

-- ---------------------------------------------------------------------- nobody's
-- Nothing is PUBLIC's, nor anybody's whom the default privileges of the role that
-- installs it name: with TRIGGER or INSERT on a table of tasker's one could have
-- code run, or rows believed, as that role.
REVOKE ALL ON ALL TABLES IN SCHEMA tasker FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA tasker FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA tasker FROM PUBLIC;
REVOKE ALL ON TYPE tasker.step_state, tasker.task_state FROM PUBLIC;
REVOKE ALL ON SCHEMA tasker FROM PUBLIC;
DO $$
DECLARE
	grantee text;
BEGIN
	FOR grantee IN
		SELECT DISTINCT a.grantee::regrole::text FROM (
			SELECT c.relacl FROM pg_catalog.pg_class c WHERE c.relnamespace = 'tasker'::regnamespace
			UNION ALL SELECT p.proacl FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'tasker'::regnamespace
			UNION ALL SELECT t.typacl FROM pg_catalog.pg_type t WHERE t.typnamespace = 'tasker'::regnamespace
			UNION ALL SELECT n.nspacl FROM pg_catalog.pg_namespace n WHERE n.oid = 'tasker'::regnamespace) AS x (acl),
			pg_catalog.aclexplode(x.acl) AS a
		WHERE a.grantee <> 0 AND a.grantee <> (SELECT n.nspowner FROM pg_catalog.pg_namespace n WHERE n.oid = 'tasker'::regnamespace)
	LOOP
		EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA tasker FROM %s', grantee);
		EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA tasker FROM %s', grantee);
		EXECUTE format('REVOKE ALL ON ALL ROUTINES IN SCHEMA tasker FROM %s', grantee);
		EXECUTE format('REVOKE ALL ON TYPE tasker.step_state, tasker.task_state FROM %s', grantee);
		EXECUTE format('REVOKE ALL ON SCHEMA tasker FROM %s', grantee);
	END LOOP;
END $$;

-- All is there.
SELECT tasker.installed();
