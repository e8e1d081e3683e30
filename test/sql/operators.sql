-- What an operator does to tasks and steps: its effect, who may, and how the task goes on.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
\set SHOW_CONTEXT never
SELECT tasker.stop() IS NOT NULL;
CREATE SCHEMA operators;
SET search_path = operators, pg_catalog;
CREATE ROLE operators_ann LOGIN;
CREATE ROLE operators_bob LOGIN;
CREATE ROLE operators_viewer LOGIN;
CREATE ROLE operators_operator LOGIN;
GRANT USAGE ON SCHEMA operators TO PUBLIC;
SELECT count(tasker.grant_access(r, l)) FROM (VALUES ('operators_ann'::name, 'submitter'), ('operators_bob', 'submitter'), ('operators_viewer', 'viewer'), ('operators_operator', 'operator')) AS v (r, l);
CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text; state text; message text; detail text; hint text;
BEGIN
	EXECUTE statement INTO result;
	RETURN 'accepted: ' || COALESCE(result, 'null');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN regexp_replace(format(E'%s %s\n   %s\n   %s', state, message, detail, hint), '([Tt]ask) \d+', '\1 N', 'g');
END $$;
CREATE FUNCTION shown(id bigint) RETURNS text LANGUAGE sql SECURITY DEFINER AS $$
	SELECT concat_ws(' ', t.state || ':', (SELECT string_agg(s.state || CASE WHEN s.attempts > 0 THEN '(' || s.attempts || ')' ELSE '' END, ' ' ORDER BY s.step_id)
		FROM tasker.workflow_steps s WHERE s.task_id = id)) FROM tasker.tasks t WHERE t.task_id = id
$$;
CREATE FUNCTION history(id bigint) RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS $$
	SELECT 'step ' || step_id || ': ' || string_agg(from_state || ' -> ' || to_state || COALESCE(' ' || (metadata - 'at' - 'context')::text, ''), ', ' ORDER BY h.created_at, h.xmin::text::bigint, h.cmin::text::bigint)
	FROM tasker.workflow_step_transitions h WHERE task_id = id GROUP BY step_id
	UNION ALL SELECT 'task: ' || string_agg(from_state || ' -> ' || to_state || COALESCE(' ' || metadata::text, ''), ', ' ORDER BY h.created_at, h.xmin::text::bigint, h.cmin::text::bigint) FROM tasker.task_transitions h WHERE task_id = id
	ORDER BY 1
$$;
-- Steps fail while there is a row for them.
CREATE TABLE broken (step text PRIMARY KEY);
CREATE TABLE done (task_id bigint, step text, parents jsonb);
GRANT SELECT ON broken TO operators_ann;
GRANT INSERT ON done TO operators_ann;
CREATE FUNCTION work(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM operators.broken WHERE step = input -> 'step' ->> 'name') THEN
		RAISE EXCEPTION '% is broken', input -> 'step' ->> 'name';
	END IF;
	INSERT INTO operators.done VALUES ((input -> 'task' -> 'id')::bigint, input -> 'step' ->> 'name', input -> 'parents');
	RETURN to_jsonb('done by ' || (input -> 'step' ->> 'name'));
END $$;
SELECT tasker.define_task('diamond', tasker.workflow(ARRAY[
	tasker.step('start', function => 'operators.work', max_attempts => 1),
	tasker.step('left', function => 'operators.work', depends_on => '{start}', max_attempts => 1),
	tasker.step('right', function => 'operators.work', depends_on => '{start}', max_attempts => 3, backoff => 'fixed', base => '1 day', jitter => 0),
	tasker.step('end', function => 'operators.work', depends_on => '{left,right}')]), 'operators') > 0;
CREATE FUNCTION make() RETURNS bigint LANGUAGE sql AS $$ SELECT tasker.create_task('diamond', namespace => 'operators') $$;

-- cancel
SET SESSION AUTHORIZATION operators_ann;
SELECT make() AS a \gset
SELECT tasker.cancel_task(:a, reason => 'ordered "twice"');
SELECT tasker.cancel_task(:a, reason => 'again');
CALL tasker.run();
SELECT shown(:a);
SELECT history(:a);
SELECT attempt(format('SELECT tasker.%s(%s)', f, :a)) FROM unnest('{pause_task,resume_task,retry_task}'::text[]) AS f;
SELECT attempt(format('SELECT tasker.retry_step(%s, 1)', :a)), attempt(format('SELECT tasker.resolve_step(%s, 1)', :a));
-- in the middle, and with a failed step
RESET SESSION AUTHORIZATION;
INSERT INTO broken VALUES ('left'), ('right');
SET SESSION AUTHORIZATION operators_ann;
SELECT make() AS a \gset
CALL tasker.run();
SELECT shown(:a);
SELECT tasker.cancel_task(:a);
SELECT shown(:a);
SELECT history(:a);
-- complete is complete
RESET SESSION AUTHORIZATION;
DELETE FROM broken;
SET SESSION AUTHORIZATION operators_ann;
SELECT make() AS a \gset
CALL tasker.run();
SELECT shown(:a);
SELECT attempt(format('SELECT tasker.%s(%s)', f, :a)) FROM unnest('{cancel_task,pause_task,resume_task,retry_task}'::text[]) AS f;
SELECT attempt(format('SELECT tasker.retry_step(%s, 1)', :a)), attempt(format('SELECT tasker.resolve_step(%s, 1)', :a));
SELECT shown(:a);

-- pause and resume, before and after the first step
SELECT make() AS a \gset
SELECT tasker.pause_task(:a, 'wait a moment'), tasker.pause_task(:a, 'wait more');
CALL tasker.run();
SELECT shown(:a);
SELECT tasker.resume_task(:a), tasker.resume_task(:a);
SELECT shown(:a);
CALL tasker.run(max_steps => 1);
SELECT shown(:a);
SELECT tasker.pause_task(:a);
CALL tasker.run();
SELECT shown(:a);
SELECT tasker.resume_task(:a, 'now');
CALL tasker.run();
SELECT shown(:a);
SELECT history(:a);
-- paused: what is resolved by hand goes on, but nothing is run
SELECT make() AS a \gset
SELECT tasker.pause_task(:a);
SELECT tasker.resolve_step(:a, 'start');
CALL tasker.run();
SELECT shown(:a);
SELECT tasker.resolve_step(:a, 'left'), tasker.resolve_step(:a, 'right');
SELECT tasker.resolve_step(:a, 'end');
SELECT shown(:a);
SELECT make() AS a \gset
SELECT tasker.pause_task(:a), tasker.cancel_task(:a);
SELECT shown(:a);

-- retry: the task really goes on
RESET SESSION AUTHORIZATION;
INSERT INTO broken VALUES ('start');
SET SESSION AUTHORIZATION operators_ann;
SELECT make() AS a \gset
CALL tasker.run();
SELECT shown(:a);
SELECT attempt(format('SELECT tasker.pause_task(%s)', :a));
SELECT attempt(format('SELECT tasker.resume_task(%s)', :a));
SELECT attempt(format('SELECT tasker.retry_step(%s, 2)', :a));
SELECT tasker.retry_step(:a, 1, reason => 'try again');
SELECT shown(:a);
CALL tasker.run();
SELECT shown(:a);
RESET SESSION AUTHORIZATION;
DELETE FROM broken;
SET SESSION AUTHORIZATION operators_ann;
SELECT tasker.retry_step(:a, 'start', reason => 'mended');
SELECT attempt(format('SELECT tasker.retry_step(%s, ''start'')', :a));
CALL tasker.run();
SELECT shown(:a);
SELECT history(:a);
SELECT step_id, attempts, results, last_error ->> 'message', completed_at IS NOT NULL FROM tasker.step_status WHERE task_id = :a ORDER BY 1;
-- a step that waits for its next attempt does not wait any longer, and has those that are left
RESET SESSION AUTHORIZATION;
INSERT INTO broken VALUES ('left'), ('right');
SET SESSION AUTHORIZATION operators_ann;
SELECT make() AS a \gset
CALL tasker.run();
SELECT shown(:a);
SELECT tasker.retry_task(:a);
SELECT tasker.retry_step(:a, 'right');
SELECT shown(:a);
CALL tasker.run();
SELECT tasker.retry_step(:a, 'right');
CALL tasker.run();
SELECT shown(:a);
-- retry_task: all of them
SELECT tasker.retry_task(:a, 'all of it');
SELECT shown(:a);
SELECT tasker.retry_task(:a, 'nothing to do');
RESET SESSION AUTHORIZATION;
DELETE FROM broken;
SET SESSION AUTHORIZATION operators_ann;
CALL tasker.run();
SELECT shown(:a);
SELECT history(:a);

-- resolve: the children get the results; in any state before the end
RESET SESSION AUTHORIZATION;
INSERT INTO broken VALUES ('left');
TRUNCATE done;
SET SESSION AUTHORIZATION operators_ann;
SELECT make() AS a \gset
CALL tasker.run();
SELECT shown(:a);
SELECT tasker.resolve_step(:a, 'left', '{"paid": [true, null]}', reason => 'by bank transfer');
SELECT shown(:a);
CALL tasker.run();
SELECT shown(:a);
SELECT history(:a);
RESET SESSION AUTHORIZATION;
SELECT parents FROM done WHERE task_id = :a AND step = 'end';
SET SESSION AUTHORIZATION operators_ann;
-- before its parents, without results, with JSON's null, with large results
SELECT make() AS a \gset
SELECT tasker.resolve_step(:a, 'end', 'null');
SELECT tasker.resolve_step(:a, 2);
SELECT tasker.resolve_step(:a, 'right', to_jsonb(repeat('large', 2000)));
SELECT shown(:a);
CALL tasker.run();
SELECT shown(:a);
SELECT name, length(results::text), jsonb_typeof(results), attempts, completed_at IS NOT NULL FROM tasker.step_status WHERE task_id = :a ORDER BY step_id;
SELECT make() AS a \gset
SELECT attempt(format('SELECT tasker.resolve_step(%s, 1, to_jsonb(repeat(''x'', 1024 * 1024)))', :a));
-- once: what its children may have read does not change
SELECT tasker.resolve_step(:a, 'start', '1');
SELECT attempt(format('SELECT tasker.resolve_step(%s, ''start'', ''2'')', :a));
SELECT results FROM tasker.step_status WHERE task_id = :a AND name = 'start';
CALL tasker.run(max_steps => 1);
SELECT shown(:a);

-- unknown ids, nulls, other roles' tasks
SELECT attempt(format('SELECT tasker.%s', f)) FROM unnest('{cancel_task(0),pause_task(-1),resume_task(9223372036854775807),retry_task(0),"retry_step(0, 1)","resolve_step(0, 1)","step_id(0, ''a'')","retry_step(0, ''a'')"}'::text[]) AS f;
SELECT attempt(format('SELECT tasker.%s(%s, %s)', f, :a, s)) FROM (VALUES ('retry_step', '99'), ('retry_step', '0'), ('resolve_step', '99'), ('resolve_step', '-1'), ('step_id', '''middle'''),
	('retry_step', '''middle'''), ('resolve_step', '''End'''), ('step_id', '''''')) AS v (f, s);
SELECT attempt(format('SELECT tasker.%s', replace(f, '$', :a::text))) FROM unnest('{cancel_task(NULL),pause_task(NULL),resume_task(NULL),retry_task(NULL),"retry_step(NULL, 1)","retry_step($, NULL::int)","retry_step($, NULL::text)",
	"resolve_step($, NULL::int)","resolve_step(NULL, ''a'')","step_id($, NULL)"}'::text[]) AS f;
SET SESSION AUTHORIZATION operators_bob;
SELECT attempt(format('SELECT tasker.%s', replace(f, '$', :a::text))) FROM unnest('{cancel_task($),pause_task($),resume_task($),retry_task($),"retry_step($, 1)","resolve_step($, 1)","step_id($, ''left'')"}'::text[]) AS f;
SET SESSION AUTHORIZATION operators_viewer;
SELECT attempt(format('SELECT tasker.%s', replace(f, '$', :a::text))) FROM unnest('{cancel_task($),pause_task($),resume_task($),retry_task($),"retry_step($, 1)","resolve_step($, 1)","step_id($, ''left'')"}'::text[]) AS f;
SELECT shown(:a);
-- an operator may, and is named; the text of the reason is only text
SET SESSION AUTHORIZATION operators_operator;
SELECT tasker.pause_task(:a, E'''; DROP TABLE x; --\n"é" $1'), tasker.resume_task(:a, ''), tasker.cancel_task(:a, repeat('why ', 100)), tasker.step_id(:a, 'left');
SELECT length(history), regexp_replace(history, '(why )+', 'why ', 'g') FROM history(:a) WHERE history LIKE 'task%';
-- a member of the owner's role acts for it
RESET SESSION AUTHORIZATION;
GRANT operators_ann TO operators_bob;
SET SESSION AUTHORIZATION operators_ann;
SELECT make() AS a \gset
SET SESSION AUTHORIZATION operators_bob;
SELECT tasker.cancel_task(:a);
SELECT history(:a);
RESET SESSION AUTHORIZATION;
-- a call that fails, or is rolled back, leaves no note for the next change
SET SESSION AUTHORIZATION operators_ann;
SELECT make() AS a \gset
BEGIN;
SELECT attempt(format('SELECT tasker.retry_step(%s, 4, ''refused'')', :a));
SAVEPOINT s;
SELECT tasker.cancel_task(:a, 'rolled back');
ROLLBACK TO s;
RESET SESSION AUTHORIZATION;
UPDATE tasker.tasks SET state = 'paused' WHERE task_id = :a;
COMMIT;
SELECT history(:a);

SELECT count(tasker.revoke_access(r)) FROM unnest('{operators_ann,operators_bob,operators_viewer,operators_operator}'::name[]) AS r;
DROP SCHEMA operators CASCADE;
DROP ROLE operators_ann, operators_bob, operators_viewer, operators_operator;
