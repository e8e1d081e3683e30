-- The floor's tables: what a step, an edge and a change of state need at least.
-- Room for new versions is left in a page of steps as in tasker's.
CREATE SCHEMA floor;
CREATE TABLE floor.steps (
	task_id bigint NOT NULL,
	claimed_at timestamptz,
	completed_at timestamptz,
	lease uuid,
	step_id int NOT NULL,
	pending int NOT NULL,
	state smallint NOT NULL DEFAULT 0,
	PRIMARY KEY (task_id, step_id)
) WITH (fillfactor = 25);
CREATE TABLE floor.edges (
	task_id bigint NOT NULL,
	from_step int NOT NULL,
	to_step int NOT NULL,
	PRIMARY KEY (task_id, from_step, to_step)
);
CREATE TABLE floor.ready (
	task_id bigint NOT NULL,
	step_id int NOT NULL,
	PRIMARY KEY (task_id, step_id)
);
CREATE TABLE floor.history (
	task_id bigint NOT NULL,
	step_id int NOT NULL,
	at timestamptz NOT NULL,
	state smallint NOT NULL
);

CREATE PROCEDURE floor.run(batch int, take int, steps int, coalesced boolean) AS 'bench_floor', 'floor_run' LANGUAGE C;
CREATE FUNCTION floor.turn(tasks bigint[], steps int[], n int, OUT task_id bigint, OUT step_id int)
	RETURNS SETOF record AS 'bench_floor', 'floor_turn' LANGUAGE C STRICT;

-- n tasks of a graph, from id first on: parents and children of its edges, counted from 0
CREATE FUNCTION floor.create(first int, n int, steps int, parents int[], children int[]) RETURNS void LANGUAGE sql AS $$
	INSERT INTO floor.steps (task_id, step_id, pending)
		SELECT t, s, (SELECT count(*) FROM unnest(children) AS c WHERE c = s)
		FROM generate_series(first, first + n - 1) AS t, LATERAL (SELECT s FROM generate_series(0, steps - 1) AS s) AS x;
	INSERT INTO floor.edges SELECT t, e.p, e.c FROM generate_series(first, first + n - 1) AS t, unnest(parents, children) AS e (p, c);
	INSERT INTO floor.ready SELECT task_id, step_id FROM floor.steps WHERE pending = 0 AND task_id >= first;
$$;

-- Joins follow the ids, as in tasker's sections.
SELECT format('ALTER DATABASE %I SET %s', current_database(), s) FROM unnest(ARRAY[
	'plan_cache_mode = force_generic_plan', 'enable_hashjoin = off', 'enable_mergejoin = off', 'enable_seqscan = off',
	'enable_bitmapscan = off', 'enable_material = off', 'join_collapse_limit = 1', 'jit = off']) AS s \gexec
