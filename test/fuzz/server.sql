-- The part of the fuzzer that runs in the server: many inputs a statement, each
-- in a subtransaction that is rolled back. Read by test/property/fuzz.
CREATE SCHEMA fuzz;
GRANT USAGE ON SCHEMA fuzz TO PUBLIC;
CREATE FUNCTION fuzz.handler(input jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT input';

-- What a refusal must be: of class TK, with a detail and a hint; not "internal
-- error" of either kind. Others are named by the caller.
CREATE FUNCTION fuzz.objection(state text, message text, detail text, hint text, others text[]) RETURNS text LANGUAGE sql AS $$
	SELECT CASE
		WHEN state LIKE 'XX%' OR state = 'TK699' OR state = 'P0004' THEN 'internal error'
		WHEN state IN ('TK410', 'TK411') THEN NULL	-- raised for handlers, in their words
		WHEN state LIKE 'TK%' AND (detail = '' OR hint = '') THEN 'no detail or hint'
		WHEN state LIKE 'TK%' OR state = ANY (others) THEN NULL
		ELSE 'not of class TK' END
$$;

-- A definition: refused as it should be, or accepted, and then a task of it can
-- be created, looked at, and is in order.
CREATE FUNCTION fuzz.define(definition text, OUT state text, OUT objection text) LANGUAGE plpgsql AS $$
DECLARE
	task bigint; message text; detail text; hint text; wrong text;
BEGIN
	BEGIN
		PERFORM tasker.define_task('fuzzed', definition::jsonb);
		state := 'accepted';
		task := tasker.create_task('fuzzed', '{"a": 1}');
		SELECT string_agg(v::text, ' ') INTO wrong FROM tasker.verify_task(task) AS v;
		PERFORM tasker.explain_step(task, s.step_id) FROM tasker.workflow_steps AS s WHERE s.task_id = task AND s.step_id IN (1, 2, 9);
		PERFORM tasker.claim_steps('{mail,fuzz}', 'fuzzer', 10);
		RAISE EXCEPTION USING ERRCODE = 'FZ000';
	EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
		IF SQLSTATE <> 'FZ000' THEN
			GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
			objection := fuzz.objection(SQLSTATE, message, detail, hint, '{}');
			IF state = 'accepted' THEN
				objection := 'accepted, and then no task of it';
			END IF;
			state := SQLSTATE;
		ELSIF wrong IS NOT NULL THEN
			objection := 'verify_task: ' || wrong;
		END IF;
		objection := objection || format(': %s %s | %s | %s', state, message, detail, hint);
	END;
END $$;
CREATE FUNCTION fuzz.define_all(definitions text[]) RETURNS TABLE (state text, objection text, n bigint, example text) LANGUAGE sql AS $$
	SELECT f.state, f.objection, count(*), min(d) FROM unnest(definitions) AS d, fuzz.define(d) AS f GROUP BY 1, 2
$$;

-- Calls, one after the other, in one transaction of the given role: each is
-- accepted, or refused as it should be; then every task is in order. All of it
-- is rolled back.
CREATE FUNCTION fuzz.call(of_role text, calls text[], others text[]) RETURNS TABLE (state text, objection text, call text) LANGUAGE plpgsql AS $$
DECLARE
	message text; detail text; hint text; wrong text;
	seen record; answers text[] := '{}';
BEGIN
	BEGIN
		PERFORM set_config('role', of_role, true);
		FOREACH call IN ARRAY calls LOOP
			objection := NULL;
			BEGIN
				EXECUTE call;
				state := '00000';
			EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN
				GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
				state := SQLSTATE;
				objection := fuzz.objection(state, message, detail, hint, others) || format(': %s %s | %s | %s', state, message, detail, hint);
			END;
			RETURN NEXT;
		END LOOP;
		PERFORM set_config('role', 'none', true);
		SELECT string_agg(format('task %s: %s', t.task_id, v), ' ') INTO wrong FROM tasker.tasks AS t, tasker.verify_task(t.task_id) AS v;
		RAISE EXCEPTION USING ERRCODE = 'FZ000';
	EXCEPTION WHEN OTHERS THEN
		IF SQLSTATE <> 'FZ000' THEN
			GET STACKED DIAGNOSTICS message = MESSAGE_TEXT;
			wrong := format('%s %s', SQLSTATE, message);
		END IF;
	END;
	IF wrong IS NOT NULL THEN
		state := 'wrong';
		call := array_to_string(calls, '; ');
		objection := wrong;
		RETURN NEXT;
	END IF;
END $$;
