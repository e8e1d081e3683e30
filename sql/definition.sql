-- Definitions: workflows, their versions, and a way to write them without JSON.
CREATE UNIQUE INDEX named_tasks_default ON tasker.named_tasks (namespace_id, name) WHERE is_default;
COMMENT ON INDEX tasker.named_tasks_default IS 'A name has at most one default version.';

CREATE FUNCTION tasker.define_task(
	name text,
	definition jsonb,
	namespace text DEFAULT 'default',
	version text DEFAULT '1.0.0',
	make_default boolean DEFAULT true
) RETURNS int
	AS 'MODULE_PATHNAME', 'tasker_define_task' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.define_task(text, jsonb, text, text, boolean) IS
'Stores a version of a workflow and returns its named_task_id. The same definition again under the same namespace, name and version changes nothing and returns the same id; another one is refused (TK113), since a stored definition does not change.
name, namespace, version: any text of 1 to 255 bytes. The namespace is made on first use; a name belongs to the role that defined its first version.
make_default: the new version becomes the one that create_task takes when it is given none.
definition: {"description": text, "defaults": {...}, "steps": [...]}. A step has
 "name": any text of 1 to 255 bytes, unique in the definition; "description": text;
 one handler: "function": "schema.function" with one jsonb argument, that returns jsonb or void, "sql": statements of which the last one returns one jsonb or nothing and $1 is the input, or "queue": a name that external workers claim from;
 "depends_on": names of the steps that must be satisfied before it;
 "retry": {"max_attempts": 1 to tasker.max_attempts (3), "backoff": "exponential" (the default), "linear", "fixed" or "list", "base": interval (1 s), "factor": 1 or more (2), "cap": interval (5 min), "jitter": 0 to 1 (0.1), "delays": intervals}, of which exponential takes base, factor and cap, linear base and cap, fixed base, list delays;
 "retryable": boolean (true); "timeout": interval (none) after which an attempt fails; "lease": interval (30 s) for which a worker has it before it must report; "priority": -1000000 to 1000000 (0), the higher the sooner.
"defaults" holds retry, retryable, timeout, lease, priority and queue for the steps that do not say otherwise; retry is merged key by key. An interval is text such as "90 s" or a number of seconds, at most 3650 days.
Needs level submitter; functions and SQL are checked with the caller''s rights and search_path. A definition that could not run is refused with its reason: TK100 to TK121, TK205 if it is too large, TK500 without the right.
Example: SELECT tasker.define_task(''hello'', ''{"steps": [{"name": "greet", "sql": "SELECT jsonb_build_object(''''hello'''', $1->''''task''''->''''context'''')"}]}'');';

CREATE FUNCTION tasker.set_default_version(name text, version text, namespace text DEFAULT 'default') RETURNS void
	AS 'MODULE_PATHNAME', 'tasker_set_default_version' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.set_default_version(text, text, text) IS
'Makes a version of a workflow the one that create_task takes when it is given none; tasks that exist keep theirs. TK201 if there is no such version, TK500 if the name is another role''s. Example: SELECT tasker.set_default_version(''order'', ''1.1.0'');';

CREATE FUNCTION tasker.drop_named_task(name text, version text, namespace text DEFAULT 'default') RETURNS void
	AS 'MODULE_PATHNAME', 'tasker_drop_named_task' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.drop_named_task(text, text, text) IS
'Removes a version of a workflow of which there are no tasks. TK306 if there are some, or if it is the default version and there are others; TK201 if there is no such version, TK500 if the name is another role''s. Example: SELECT tasker.drop_named_task(''order'', ''1.0.0'');';

-- ---------------------------------------------------------------------- guard
CREATE FUNCTION tasker.guard_definition() RETURNS trigger
	AS 'MODULE_PATHNAME', 'tasker_guard_definition' LANGUAGE C;
COMMENT ON FUNCTION tasker.guard_definition() IS
'Trigger function that refuses (TK305) to change or delete what is stored of a definition, but for the columns given to the trigger. Example: UPDATE tasker.named_tasks SET description = ''new'' is let through, SET version = ''2'' is not.';

CREATE TRIGGER guard_update AFTER UPDATE ON tasker.named_tasks
	REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION tasker.guard_definition('is_default', 'description');
CREATE TRIGGER guard_delete AFTER DELETE ON tasker.named_tasks REFERENCING OLD TABLE AS old_rows
	FOR EACH STATEMENT EXECUTE FUNCTION tasker.guard_definition();
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON tasker.named_tasks
	FOR EACH STATEMENT EXECUTE FUNCTION tasker.guard_definition();
CREATE TRIGGER guard_update AFTER UPDATE ON tasker.named_steps
	REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION tasker.guard_definition('description');
CREATE TRIGGER guard_delete AFTER DELETE ON tasker.named_steps REFERENCING OLD TABLE AS old_rows
	FOR EACH STATEMENT EXECUTE FUNCTION tasker.guard_definition();
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON tasker.named_steps
	FOR EACH STATEMENT EXECUTE FUNCTION tasker.guard_definition();
CREATE TRIGGER guard_update AFTER UPDATE ON tasker.named_step_edges
	REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION tasker.guard_definition();
CREATE TRIGGER guard_delete AFTER DELETE ON tasker.named_step_edges REFERENCING OLD TABLE AS old_rows
	FOR EACH STATEMENT EXECUTE FUNCTION tasker.guard_definition();
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON tasker.named_step_edges
	FOR EACH STATEMENT EXECUTE FUNCTION tasker.guard_definition();

ALTER TABLE tasker.named_tasks ENABLE ALWAYS TRIGGER guard_update;
ALTER TABLE tasker.named_tasks ENABLE ALWAYS TRIGGER guard_delete;
ALTER TABLE tasker.named_tasks ENABLE ALWAYS TRIGGER guard_truncate;
ALTER TABLE tasker.named_steps ENABLE ALWAYS TRIGGER guard_update;
ALTER TABLE tasker.named_steps ENABLE ALWAYS TRIGGER guard_delete;
ALTER TABLE tasker.named_steps ENABLE ALWAYS TRIGGER guard_truncate;
ALTER TABLE tasker.named_step_edges ENABLE ALWAYS TRIGGER guard_update;
ALTER TABLE tasker.named_step_edges ENABLE ALWAYS TRIGGER guard_delete;
ALTER TABLE tasker.named_step_edges ENABLE ALWAYS TRIGGER guard_truncate;

COMMENT ON TRIGGER guard_update ON tasker.named_tasks IS 'Only is_default and description may change.';
COMMENT ON TRIGGER guard_delete ON tasker.named_tasks IS 'Only drop_named_task deletes.';
COMMENT ON TRIGGER guard_truncate ON tasker.named_tasks IS 'Only drop_named_task deletes.';
COMMENT ON TRIGGER guard_update ON tasker.named_steps IS 'Only description may change.';
COMMENT ON TRIGGER guard_delete ON tasker.named_steps IS 'Only drop_named_task deletes.';
COMMENT ON TRIGGER guard_truncate ON tasker.named_steps IS 'Only drop_named_task deletes.';
COMMENT ON TRIGGER guard_update ON tasker.named_step_edges IS 'Nothing may change.';
COMMENT ON TRIGGER guard_delete ON tasker.named_step_edges IS 'Only drop_named_task deletes.';
COMMENT ON TRIGGER guard_truncate ON tasker.named_step_edges IS 'Only drop_named_task deletes.';

-- -------------------------------------------------------------------- builder
-- These functions only write JSON: NULL leaves a key out, define_task checks.
CREATE FUNCTION tasker.step(
	name text,
	function text DEFAULT NULL,
	sql text DEFAULT NULL,
	queue text DEFAULT NULL,
	depends_on text[] DEFAULT NULL,
	description text DEFAULT NULL,
	max_attempts int DEFAULT NULL,
	backoff text DEFAULT NULL,
	base interval DEFAULT NULL,
	factor float8 DEFAULT NULL,
	cap interval DEFAULT NULL,
	jitter float8 DEFAULT NULL,
	delays interval[] DEFAULT NULL,
	retryable boolean DEFAULT NULL,
	timeout interval DEFAULT NULL,
	lease interval DEFAULT NULL,
	priority int DEFAULT NULL
) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	SET intervalstyle = postgres
AS $$
	SELECT jsonb_strip_nulls(jsonb_build_object(
		'name', name, 'description', description,
		'function', function, 'sql', sql, 'queue', queue,
		'depends_on', to_jsonb(depends_on),
		'retry', nullif(jsonb_strip_nulls(jsonb_build_object(
			'max_attempts', max_attempts, 'backoff', backoff, 'base', base, 'factor', factor,
			'cap', cap, 'jitter', jitter, 'delays', to_jsonb(delays))), '{}'),
		'retryable', retryable, 'timeout', timeout, 'lease', lease, 'priority', priority))
$$;
COMMENT ON FUNCTION tasker.step(text, text, text, text, text[], text, int, text, interval, float8, interval, float8, interval[], boolean, interval, interval, int) IS
'Writes one step of a definition as JSON, for tasker.workflow(). Give its name, one of function, sql and queue, and by name whatever differs from the defaults; null leaves a key out. max_attempts, backoff, base, factor, cap, jitter and delays make up "retry"; what they mean, their units and limits: see define_task, which checks them. Raises nothing itself. Example: SELECT tasker.step(''ship'', queue => ''shipping'', depends_on => ''{reserve,charge}'', max_attempts => 5, backoff => ''fixed'', base => ''10 s'', timeout => ''1 min'');';

CREATE FUNCTION tasker.workflow(
	steps jsonb[],
	description text DEFAULT NULL,
	queue text DEFAULT NULL,
	max_attempts int DEFAULT NULL,
	backoff text DEFAULT NULL,
	base interval DEFAULT NULL,
	factor float8 DEFAULT NULL,
	cap interval DEFAULT NULL,
	jitter float8 DEFAULT NULL,
	delays interval[] DEFAULT NULL,
	retryable boolean DEFAULT NULL,
	timeout interval DEFAULT NULL,
	lease interval DEFAULT NULL,
	priority int DEFAULT NULL
) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	SET intervalstyle = postgres
AS $$
	SELECT jsonb_strip_nulls(jsonb_build_object('description', description, 'defaults', nullif(jsonb_strip_nulls(jsonb_build_object(
		'queue', queue,
		'retry', nullif(jsonb_strip_nulls(jsonb_build_object(
			'max_attempts', max_attempts, 'backoff', backoff, 'base', base, 'factor', factor,
			'cap', cap, 'jitter', jitter, 'delays', to_jsonb(delays))), '{}'),
		'retryable', retryable, 'timeout', timeout, 'lease', lease, 'priority', priority)), '{}')))
		|| jsonb_build_object('steps', to_jsonb(steps))
$$;
COMMENT ON FUNCTION tasker.workflow(jsonb[], text, text, int, text, interval, float8, interval, float8, interval[], boolean, interval, interval, int) IS
'Writes a definition as JSON, for define_task: the steps that tasker.step() wrote, a description, and defaults for steps that do not say otherwise; null leaves a key out. What the defaults mean, their units and limits: see define_task, which checks them. Raises nothing itself. Example: SELECT tasker.define_task(''order'', tasker.workflow(ARRAY[tasker.step(''validate'', function => ''shop.validate''), tasker.step(''ship'', queue => ''shipping'', depends_on => ''{validate}'')], description => ''From the basket to the parcel'', max_attempts => 5));';
