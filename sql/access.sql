-- Nothing is PUBLIC's. A level is enforced by the functions themselves, in C;
-- the privileges granted here let a role reach them.
REVOKE ALL ON ALL TABLES IN SCHEMA tasker FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA tasker FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA tasker FROM PUBLIC;
REVOKE ALL ON ALL PROCEDURES IN SCHEMA tasker FROM PUBLIC;
REVOKE USAGE ON TYPE tasker.step_state, tasker.task_state FROM PUBLIC;

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
	EXECUTE format('GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA tasker TO %I', role);
	EXECUTE format('GRANT EXECUTE ON ALL PROCEDURES IN SCHEMA tasker TO %I', role);
	EXECUTE format('GRANT USAGE ON TYPE tasker.step_state, tasker.task_state TO %I', role);
	EXECUTE format('GRANT SELECT ON tasker.owners, tasker.task_namespaces, tasker.queues, tasker.named_tasks, '
		'tasker.named_steps, tasker.named_step_edges, tasker.tasks, tasker.workflow_steps, '
		'tasker.workflow_step_edges, tasker.workflow_step_results, tasker.task_transitions, '
		'tasker.workflow_step_transitions, tasker.overdue_tasks, tasker.task_status, tasker.step_status, tasker.task_history, '
		'tasker.executing TO %I', role);
	INSERT INTO tasker.access_grants AS g (role_name, level) VALUES (role, grant_access.level)
		ON CONFLICT (role_name) DO UPDATE SET level = EXCLUDED.level;
END $$;
COMMENT ON FUNCTION tasker.grant_access(name, text) IS
'Gives a role access: viewer sees every task; submitter defines and creates tasks and operates on its own; worker claims from queues; operator operates on every task; admin may do all of it and start and stop. A superuser calls it. The last level given counts.
Errors: TK204 unknown role or level, 42501 not a superuser. Example: SELECT tasker.grant_access(''shop'', ''submitter'');';

CREATE FUNCTION tasker.revoke_access(role name) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA tasker FROM %I', role);
	EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA tasker FROM %I', role);
	EXECUTE format('REVOKE ALL ON ALL PROCEDURES IN SCHEMA tasker FROM %I', role);
	EXECUTE format('REVOKE USAGE ON TYPE tasker.step_state, tasker.task_state FROM %I', role);
	EXECUTE format('REVOKE ALL ON SCHEMA tasker FROM %I', role);
	DELETE FROM tasker.access_grants g WHERE g.role_name = role;
END $$;
COMMENT ON FUNCTION tasker.revoke_access(name) IS
'Takes back what grant_access gave. Its tasks stay, and go on. A superuser calls it. Example: SELECT tasker.revoke_access(''shop'');';
REVOKE ALL ON FUNCTION tasker.grant_access(name, text), tasker.revoke_access(name) FROM PUBLIC;
