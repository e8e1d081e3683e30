-- 10,000 steps with 40,000 dependencies, in an order that makes most work.
SET statement_timeout = '60 s';
CREATE TABLE large AS
SELECT jsonb_build_object('steps', jsonb_agg(jsonb_build_object('name', 'step ' || i, 'queue', 'queue ' || i % 100, 'depends_on',
	(SELECT jsonb_agg(DISTINCT 'step ' || p) FROM unnest(ARRAY[i - 1, i - 2, i - 3 - i * 7919 % 13, i - 20 - i * 104729 % 1000]) AS p WHERE p > 0))
	ORDER BY i DESC)) AS definition
FROM generate_series(1, 10000) AS i;
UPDATE large SET definition = (SELECT jsonb_build_object('steps', jsonb_agg(jsonb_strip_nulls(s))) FROM jsonb_array_elements(definition -> 'steps') AS s);
SELECT tasker.define_task('large', definition) = tasker.define_task('large', definition) AS same FROM large;
SELECT step_count, edge_count > 38000 AS edges FROM tasker.named_tasks WHERE name = 'large';
SELECT count(*), min(step_no), max(step_no), bool_and(name = 'step ' || step_no) AS in_order, sum(parents) = (
	SELECT count(*) FROM tasker.named_step_edges e WHERE e.named_task_id = s.named_task_id) AS edges
FROM tasker.named_steps s WHERE named_task_id = (SELECT named_task_id FROM tasker.named_tasks WHERE name = 'large') GROUP BY named_task_id;
-- all in one wide join, and all by SQL
SELECT tasker.define_task('wide', tasker.workflow(
	(SELECT array_agg(tasker.step('s' || i, sql => 'SELECT $1')) FROM generate_series(1, 5000) AS i)
	|| tasker.step('end', queue => 'q', depends_on => (SELECT array_agg('s' || i) FROM generate_series(1, 5000) AS i)))) > 0 AS defined;
SELECT step_count, edge_count, runs_in_database FROM tasker.named_tasks WHERE name = 'wide';
-- one step too many closes a cycle through all of them
UPDATE large SET definition = jsonb_set(definition, '{steps,9999,depends_on}', '["step 10000"]');
\set VERBOSITY terse
SELECT tasker.define_task('cyclic', definition) FROM large;
DROP TABLE large;
SELECT tasker.drop_named_task(name, version) FROM tasker.named_tasks WHERE name IN ('large', 'wide') ORDER BY name;
