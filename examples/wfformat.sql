-- Runs workflows described in WfFormat 1.5, the JSON in which the WfCommons
-- project publishes executions of real scientific workflows (its schema:
-- github.com/wfcommons/WfFormat). Each task of the document becomes a step that
-- waits for its parents, sleeps as long as the real one ran, times a scale,
-- and records that it ran.
--
--     psql -f examples/wfformat.sql                     once, as a role with level submitter
--
--     \set document `cat montage.json`
--     SELECT wfformat.define(:'document') AS named_task_id, :'document'::jsonb ->> 'name' AS name \gset
--     SELECT tasker.create_task(:'name', '{"scale": 0.001}', namespace => 'wfformat');
--
-- The role needs CREATE on the database for the schema. examples/README.md has
-- a whole session.
\set ON_ERROR_STOP on

CREATE SCHEMA wfformat;
COMMENT ON SCHEMA wfformat IS 'Workflows imported from WfFormat documents, and what their steps did.';

CREATE TABLE wfformat.runtimes (
	namespace	text NOT NULL,
	name		text NOT NULL,
	version		text NOT NULL,
	step		text NOT NULL,
	seconds		double precision NOT NULL CHECK (seconds >= 0),
	PRIMARY KEY (namespace, name, version, step)
);
COMMENT ON TABLE wfformat.runtimes IS 'How long each step ran in the execution that the document describes.';

-- No unique constraint: a step that ran twice would be here twice.
CREATE TABLE wfformat.executions (
	task_id		bigint NOT NULL,
	step		text NOT NULL,
	attempt		int NOT NULL,
	started		timestamptz NOT NULL,
	ended		timestamptz NOT NULL
);
CREATE INDEX executions_task ON wfformat.executions (task_id);
COMMENT ON TABLE wfformat.executions IS 'A row for each step that ran, written by the step itself.';

-- ---- the handler of every step ---------------------------------------------

CREATE FUNCTION wfformat.execute(input jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
	began timestamptz := clock_timestamp();
	scale double precision := coalesce((input #>> '{task,context,scale}')::double precision, 0);
	runtime double precision;
BEGIN
	SELECT r.seconds INTO STRICT runtime FROM wfformat.runtimes r
		WHERE r.namespace = input #>> '{task,namespace}' AND r.name = input #>> '{task,name}'
			AND r.version = input #>> '{task,version}' AND r.step = input #>> '{step,name}';
	IF scale > 0 THEN
		PERFORM pg_sleep(runtime * scale);
	END IF;
	INSERT INTO wfformat.executions
		VALUES ((input #>> '{task,id}')::bigint, input #>> '{step,name}', (input #>> '{step,attempt}')::int,
				began, clock_timestamp());
	RETURN jsonb_build_object('seconds', runtime);
END $$;
COMMENT ON FUNCTION wfformat.execute(jsonb) IS
'The handler of every imported step: sleeps its runtime times context.scale (0 if there is none), records itself, returns its runtime.';

-- ---- the importer ----------------------------------------------------------

CREATE FUNCTION wfformat.refuse(reason text, what text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
		MESSAGE = format('not a workflow in WfFormat 1.5: %s', reason), DETAIL = what,
		HINT = 'wfformat.define reads name, schemaVersion, workflow.specification.tasks[] (id, parents[], children[]) and workflow.execution.tasks[] (id, runtimeInSeconds).';
END $$;
COMMENT ON FUNCTION wfformat.refuse(text, text) IS 'Raises the error with which a document is refused.';

CREATE FUNCTION wfformat.is_list_of_names(list jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
	SELECT CASE WHEN jsonb_typeof(list) = 'array' THEN
		NOT EXISTS (SELECT FROM jsonb_array_elements(list) AS e WHERE jsonb_typeof(e) <> 'string')
		ELSE false END
$$;
COMMENT ON FUNCTION wfformat.is_list_of_names(jsonb) IS 'Whether it is an array of strings.';

-- What define_task checks itself (cycles, a parent named twice, names that are
-- too long, too many steps) is left to it.
CREATE FUNCTION wfformat.check_document(document jsonb) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	tasks jsonb := document #> '{workflow,specification,tasks}';
	runs jsonb := coalesce(document #> '{workflow,execution,tasks}', '[]');
	bad record;
BEGIN
	IF jsonb_typeof(document) IS DISTINCT FROM 'object' THEN
		PERFORM wfformat.refuse('it is not a JSON object', format('It is %s.', coalesce(jsonb_typeof(document), 'null')));
	ELSIF document ->> 'schemaVersion' IS DISTINCT FROM '1.5' THEN
		PERFORM wfformat.refuse('another schemaVersion', format('It is %s.', coalesce(document ->> 'schemaVersion', 'missing')));
	ELSIF jsonb_typeof(tasks) IS DISTINCT FROM 'array' OR tasks = '[]' THEN
		PERFORM wfformat.refuse('there are no tasks', format('workflow.specification.tasks is %s.',
			CASE WHEN tasks = '[]' THEN 'empty' ELSE coalesce(jsonb_typeof(tasks), 'missing') END));
	ELSIF jsonb_typeof(runs) <> 'array' THEN
		PERFORM wfformat.refuse('the execution has no list of tasks', format('workflow.execution.tasks is %s.', jsonb_typeof(runs)));
	END IF;

	SELECT t.n, t.e ->> 'id' AS id INTO bad FROM jsonb_array_elements(tasks) WITH ORDINALITY AS t (e, n)
		WHERE jsonb_typeof(t.e -> 'id') IS DISTINCT FROM 'string'
			OR NOT wfformat.is_list_of_names(t.e -> 'parents') OR t.e -> 'parents' IS NULL
			OR NOT wfformat.is_list_of_names(t.e -> 'children') OR t.e -> 'children' IS NULL
		ORDER BY t.n LIMIT 1;
	IF FOUND THEN
		PERFORM wfformat.refuse('a task without an id or its lists',
			format('Task number %s (%s) needs a string id and arrays of strings parents and children.', bad.n, coalesce(bad.id, 'no id')));
	END IF;

	SELECT t.e ->> 'id' AS id INTO bad FROM jsonb_array_elements(tasks) AS t (e)
		GROUP BY 1 HAVING count(*) > 1 ORDER BY 1 LIMIT 1;
	IF FOUND THEN
		PERFORM wfformat.refuse('an id is there twice', format('The id is %s.', bad.id));
	END IF;

	-- An edge is told twice, by its parent and by its child.
	SELECT coalesce(p.parent, c.parent) AS parent, coalesce(p.child, c.child) AS child,
			CASE WHEN p.parent IS NULL THEN 'parents' ELSE 'children' END AS missing INTO bad
		FROM (SELECT DISTINCT q.parent, t.e ->> 'id' AS child
			  FROM jsonb_array_elements(tasks) AS t (e), jsonb_array_elements_text(t.e -> 'parents') AS q (parent)) AS p
		FULL JOIN (SELECT DISTINCT t.e ->> 'id' AS parent, q.child
			  FROM jsonb_array_elements(tasks) AS t (e), jsonb_array_elements_text(t.e -> 'children') AS q (child)) AS c
			ON p.parent = c.parent AND p.child = c.child
		WHERE p.parent IS NULL OR c.parent IS NULL
		ORDER BY 1, 2 LIMIT 1;
	IF FOUND THEN
		PERFORM wfformat.refuse('parents and children do not agree',
			format('%s is a parent of %s, but either there is no such task or its %s do not say so.',
				   bad.parent, bad.child, bad.missing));
	END IF;

	SELECT r.n INTO bad FROM jsonb_array_elements(runs) WITH ORDINALITY AS r (e, n)
		WHERE jsonb_typeof(r.e -> 'runtimeInSeconds') IS DISTINCT FROM 'number'
			OR r.e ->> 'runtimeInSeconds' LIKE '-%'
			OR NOT EXISTS (SELECT FROM jsonb_array_elements(tasks) AS t (e) WHERE t.e -> 'id' = r.e -> 'id')
		ORDER BY r.n LIMIT 1;
	IF FOUND THEN
		PERFORM wfformat.refuse('an execution of no task, or without its runtime',
			format('Number %s of workflow.execution.tasks needs the id of a task and a runtimeInSeconds of 0 or more.', bad.n));
	END IF;
END $$;
COMMENT ON FUNCTION wfformat.check_document(jsonb) IS
'Raises 22023 unless the document is a workflow in WfFormat 1.5, as far as wfformat.define needs it.';

CREATE FUNCTION wfformat.define(
	document jsonb,
	name text DEFAULT NULL,			-- the document's own
	namespace text DEFAULT 'wfformat',
	version text DEFAULT '1.0.0'
) RETURNS int
LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
	named_task_id int;
BEGIN
	PERFORM wfformat.check_document(document);
	name := coalesce(name, document ->> 'name');
	IF coalesce(name, '') = '' THEN
		PERFORM wfformat.refuse('it has no name', 'Neither the document nor the call names it.');
	END IF;

	SELECT tasker.define_task(name, jsonb_strip_nulls(jsonb_build_object(
			'description', document -> 'description',
			'steps', jsonb_agg(jsonb_build_object(
				'name', t.e -> 'id', 'function', 'wfformat.execute', 'depends_on', t.e -> 'parents') ORDER BY t.n))),
			namespace => namespace, version => version)
		INTO named_task_id
		FROM jsonb_array_elements(document #> '{workflow,specification,tasks}') WITH ORDINALITY AS t (e, n);

	-- The same document again is no error, here as in define_task.
	INSERT INTO wfformat.runtimes
		SELECT namespace, name, version, t.e ->> 'id', coalesce(max((r.e ->> 'runtimeInSeconds')::double precision), 0)
		FROM jsonb_array_elements(document #> '{workflow,specification,tasks}') AS t (e)
		LEFT JOIN jsonb_array_elements(document #> '{workflow,execution,tasks}') AS r (e)
			ON r.e ->> 'id' = t.e ->> 'id'
		GROUP BY t.e ->> 'id'
		ON CONFLICT DO NOTHING;
	RETURN named_task_id;
END $$;
COMMENT ON FUNCTION wfformat.define(jsonb, text, text, text) IS
'Defines the workflow of a WfFormat 1.5 document: a step for each of its tasks, which waits for its parents. Returns the named_task_id. Errors: 22023 if the document is malformed, and those of tasker.define_task.';
