-- What the load of the chaos needs, in the database postgres: roles, the table
-- of effects, handlers, definitions.
CREATE EXTENSION tasker;
CREATE ROLE chaos LOGIN;
CREATE ROLE hand LOGIN;
CREATE ROLE boss LOGIN;
SELECT tasker.grant_access('chaos', 'submitter');
SELECT tasker.grant_access('hand', 'worker');
SELECT tasker.grant_access('boss', 'operator');
-- For the step that kills its own backend.
GRANT pg_execute_server_program TO chaos;

CREATE SCHEMA chaos AUTHORIZATION chaos;
SET ROLE chaos;

-- A row for whatever a step did. No key, on purpose: what happens twice is to be
-- seen. seq is in the order of the events, whatever the clocks say.
CREATE TABLE chaos.effects (
	seq bigserial,
	task_id bigint,
	step_id int,
	attempt int,
	parents jsonb,
	pid int DEFAULT pg_backend_pid()
);
GRANT USAGE ON SCHEMA chaos TO hand;
GRANT INSERT ON chaos.effects TO hand;
GRANT USAGE ON SEQUENCE chaos.effects_seq_seq TO hand;

-- The handler in the database. The context says how long it takes, for which
-- steps how many attempts fail, and which step fails for good.
CREATE FUNCTION chaos.work(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	step jsonb := input -> 'step';
	context jsonb := input #> '{task,context}';
	attempt int := (step ->> 'attempt')::int;
BEGIN
	INSERT INTO chaos.effects (task_id, step_id, attempt, parents)
	VALUES ((input #>> '{task,id}')::bigint, (step ->> 'id')::int, attempt, input -> 'parents');
	PERFORM pg_sleep((context ->> 'sleep')::float8);
	IF attempt <= (context #>> ARRAY['fail', step ->> 'name'])::int THEN
		RAISE EXCEPTION 'attempt % fails', attempt;
	ELSIF context ->> 'doomed' = step ->> 'name' THEN
		PERFORM tasker.do_not_retry('doomed');
	ELSIF context ->> 'kills' = step ->> 'name' THEN
		COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID; cat';
	END IF;
	RETURN jsonb_build_object('step', step -> 'name', 'attempt', attempt);
END $$;

-- chaos.define(name, steps): step name -> [handler, parent...], handler a queue or db
CREATE FUNCTION chaos.define(name text, steps jsonb) RETURNS void LANGUAGE sql AS $$
	SELECT tasker.define_task(name, jsonb_build_object(
		'defaults', '{"lease": "1 s", "retry": {"max_attempts": 60, "base": "50 ms", "factor": 1, "jitter": 0.5}}'::jsonb,
		'steps', (SELECT jsonb_agg(jsonb_build_object('name', s.key, 'depends_on', s.value - 0) ||
			CASE s.value ->> 0 WHEN 'db' THEN '{"function": "chaos.work"}'
			ELSE jsonb_build_object('queue', s.value -> 0) END)
			FROM jsonb_each(steps) AS s)));
$$;
SELECT chaos.define('one', '{"a": ["db"]}');
SELECT chaos.define('chain', '{"a": ["db"], "b": ["db", "a"], "c": ["db", "b"]}');
SELECT chaos.define('diamond', '{"a": ["db"], "b": ["db", "a"], "c": ["db", "a"], "d": ["db", "a"],
	"e": ["db", "b", "c", "d"], "f": ["db", "e"]}');
SELECT chaos.define('mixed', '{"a": ["db"], "b": ["tx", "a"], "c": ["db", "b"], "d": ["plain", "b"], "e": ["db", "c", "d"]}');
SELECT chaos.define('leaves', '{"a": ["tx"], "b": ["tx", "a"], "c": ["tx", "a"], "d": ["plain", "a"], "e": ["db", "a"],
	"f": ["tx", "a"], "g": ["db", "a"], "h": ["tx", "a"]}');
SELECT chaos.define('hand', '{"a": ["plain"], "b": ["tx", "a"]}');
