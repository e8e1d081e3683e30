-- The parents of a step and its children are each found by the index made for
-- them, even where nearly every task has one edge, so that statistics see no
-- difference between the two, and the table is freshly vacuumed.
SET client_min_messages = warning;
INSERT INTO tasker.workflow_step_edges SELECT 910000 + i, 1, 2 FROM generate_series(1, 20000) AS i;
INSERT INTO tasker.workflow_step_edges SELECT 910000, i - 1, i FROM generate_series(2, 2000) AS i;
VACUUM (ANALYZE) tasker.workflow_step_edges;

-- what tasker pins around its own statements (src/query.c)
SET plan_cache_mode = force_generic_plan;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_material = off;
SET enable_seqscan = off;
PREPARE parents (bigint[], int[]) AS
	SELECT e.from_step_id FROM ROWS FROM (unnest($1), unnest($2)) AS c (task_id, step_id)
	JOIN tasker.workflow_step_edges e ON e.task_id = c.task_id AND e.to_step_id = c.step_id;
PREPARE children (bigint[], int[]) AS
	SELECT e.to_step_id FROM ROWS FROM (unnest($1), unnest($2)) AS c (task_id, step_id)
	JOIN tasker.workflow_step_edges e ON e.task_id = c.task_id AND e.from_step_id = c.step_id;
EXPLAIN (COSTS OFF) EXECUTE parents('{910000}', '{1999}');
EXPLAIN (COSTS OFF) EXECUTE children('{910000}', '{1999}');
RESET ALL;
SET client_min_messages = warning;
DELETE FROM tasker.workflow_step_edges WHERE task_id BETWEEN 910000 AND 930000;
VACUUM (ANALYZE) tasker.workflow_step_edges;
