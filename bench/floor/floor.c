/*
 * floor.c
 *	  What no orchestrator can avoid: the row changes of claiming and completing
 *	  steps, of releasing their children, and of one row of history each. No
 *	  handler, no input, no check, no owner, no timer.
 *
 * CALL floor.run(batch, take, steps, coalesced) works off what is ready, a
 * transaction a batch, as an executor in the database would that had nothing
 * else to do. So many steps at a time are taken, completed, recorded, and release
 * their children, set by set. Coalesced, what they release is run without being
 * written as ready, and the ends of all steps of a batch are written at once:
 * the fewest row changes there can be. With batch 1 it is one step at a time.
 *
 * floor.turn(tasks, steps, n) is the one call of an external worker's loop:
 * completes the given steps and claims the next n. pgbench calls it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

PG_MODULE_MAGIC;

/* A step and a number: parents that have not ended, or that have just ended. */
typedef struct Step
{
	int64		task;
	int64		step;
	int			n;
	int			ended;
	bool		ran;
} Step;

typedef struct Steps
{
	Step	   *items;
	int			length;
} Steps;

typedef struct Statement
{
	const char *sql;
	SPIPlanPtr	plan;
} Statement;

#define GIVEN "ROWS FROM (unnest($1), unnest($2), unnest($3)) AS c (task_id, step_id, n) "
#define GIVEN_STEP "s.task_id = c.task_id AND s.step_id = c.step_id "

/* A claim in the database lasts as long as its transaction: no row version. */
static Statement take = {
	"DELETE FROM floor.ready r USING (SELECT task_id, step_id FROM floor.ready "
	"ORDER BY task_id, step_id LIMIT $1 FOR UPDATE SKIP LOCKED) AS c "
	"WHERE r.task_id = c.task_id AND r.step_id = c.step_id RETURNING r.task_id, r.step_id, 0"
};

/* An external worker's is committed before the work. */
static Statement claim = {
	"UPDATE floor.steps s SET state = 1, lease = gen_random_uuid(), claimed_at = clock_timestamp() "
	"FROM " GIVEN "WHERE " GIVEN_STEP "AND s.state = 0"
};

static Statement children = {
	"SELECT e.task_id, e.to_step, s.pending FROM " GIVEN
	"JOIN floor.edges e ON e.task_id = c.task_id AND e.from_step = c.step_id "
	"JOIN floor.steps s ON s.task_id = e.task_id AND s.step_id = e.to_step"
};

static Statement complete = {
	"UPDATE floor.steps s SET state = 2, completed_at = clock_timestamp() FROM " GIVEN
	"WHERE " GIVEN_STEP "AND s.state < 2"
};

static Statement record = {
	"INSERT INTO floor.history SELECT c.task_id, c.step_id, clock_timestamp(), 2 FROM " GIVEN
};

static Statement release = {
	"UPDATE floor.steps s SET pending = s.pending - c.n FROM " GIVEN
	"WHERE " GIVEN_STEP "RETURNING s.task_id, s.step_id, s.pending"
};

static Statement enqueue = {
	"INSERT INTO floor.ready SELECT c.task_id, c.step_id FROM " GIVEN
};

static void
execute(Statement *statement, Oid *types, int ntypes, Datum *values)
{
	if (statement->plan == NULL)
	{
		statement->plan = SPI_prepare(statement->sql, ntypes, types);
		SPI_keepplan(statement->plan);
	}
	if (SPI_execute_plan(statement->plan, values, NULL, false, 0) < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", statement->sql);
}

/* The rows of the last statement. */
static Steps
rows(void)
{
	Steps		found = {palloc0((SPI_processed + 1) * sizeof(Step)), SPI_processed};

	for (int i = 0; i < found.length; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;

		found.items[i].task = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull));
		found.items[i].step = DatumGetInt32(SPI_getbinval(row, desc, 2, &isnull));
		found.items[i].n = DatumGetInt32(SPI_getbinval(row, desc, 3, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
	return found;
}

/* Run a statement for some steps, if there are any. */
static bool
for_steps(Statement *statement, Steps steps)
{
	Oid			types[3] = {INT8ARRAYOID, INT4ARRAYOID, INT4ARRAYOID};
	int			n = steps.length;
	Datum	   *a = palloc((3 * n + 1) * sizeof(Datum));
	Datum		values[3];

	if (n == 0)
		return false;
	for (int i = 0; i < n; i++)
	{
		a[i] = Int64GetDatum(steps.items[i].task);
		a[n + i] = Int32GetDatum((int32) steps.items[i].step);
		a[2 * n + i] = Int32GetDatum(steps.items[i].n);
	}
	values[0] = PointerGetDatum(construct_array(a, n, INT8OID, 8, true, TYPALIGN_DOUBLE));
	values[1] = PointerGetDatum(construct_array(a + n, n, INT4OID, 4, true, TYPALIGN_INT));
	values[2] = PointerGetDatum(construct_array(a + 2 * n, n, INT4OID, 4, true, TYPALIGN_INT));
	execute(statement, types, 3, values);
	return true;
}

static Steps
take_ready(int limit)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(limit)};

	execute(&take, types, 1, values);
	return rows();
}

static int
compare(const void *a, const void *b)
{
	const Step *x = a;
	const Step *y = b;

	if (x->task != y->task)
		return x->task < y->task ? -1 : 1;
	return x->step < y->step ? -1 : x->step > y->step;
}

static HTAB *
new_children(void)
{
	HASHCTL		ctl = {.keysize = 2 * sizeof(int64),.entrysize = sizeof(Step),.hcxt = CurrentMemoryContext};

	return hash_create("children", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Count the children of steps that ended; those with no parent left are returned. */
static Steps
look_at_children(HTAB *seen, Steps ended)
{
	Steps		found = {NULL, 0};
	Steps		next = {NULL, 0};

	if (!for_steps(&children, ended))
		return next;
	found = rows();
	next.items = palloc((found.length + 1) * sizeof(Step));
	for (int i = 0; i < found.length; i++)
	{
		bool		known;
		Step	   *child = hash_search(seen, &found.items[i], HASH_ENTER, &known);

		if (!known)
			*child = found.items[i];
		if (++child->ended == child->n)
			next.items[next.length++] = *child;
	}
	return next;
}

/* Write the ends of steps, and what they mean for children that have not run. */
static void
finish(Steps done, HTAB *seen)
{
	Steps		left = {palloc((hash_get_num_entries(seen) + 1) * sizeof(Step)), 0};
	HASH_SEQ_STATUS all;
	Step	   *child;
	int			n = 0;

	qsort(done.items, done.length, sizeof(Step), compare);
	for_steps(&complete, done);
	for_steps(&record, done);
	hash_seq_init(&all, seen);
	while ((child = hash_seq_search(&all)) != NULL)
	{
		if (child->ran)
			continue;
		left.items[left.length] = *child;
		left.items[left.length++].n = child->ended;
	}
	qsort(left.items, left.length, sizeof(Step), compare);
	if (!for_steps(&release, left))
		return;
	left = rows();
	for (int i = 0; i < left.length; i++)
		if (left.items[i].n == 0)
			left.items[n++] = left.items[i];
	left.length = n;
	for_steps(&enqueue, left);
}

static void
append(Steps *to, int *space, Steps from)
{
	if (to->length + from.length > *space)
	{
		*space = 2 * (to->length + from.length);
		to->items = to->items ? repalloc(to->items, *space * sizeof(Step)) : palloc(*space * sizeof(Step));
	}
	memcpy(to->items + to->length, from.items, from.length * sizeof(Step));
	to->length += from.length;
}

static int
run_coalesced(int batch, int take)
{
	HTAB	   *seen = new_children();
	Steps		done = {NULL, 0};
	Steps		wave = {NULL, 0};
	int			space = 0;

	while (done.length < batch)
	{
		if (wave.length == 0)
			wave = take_ready(Min(take, batch - done.length));
		if (wave.length == 0)
			break;
		for (int i = 0; i < wave.length; i++)
		{
			Step	   *child = hash_search(seen, &wave.items[i], HASH_FIND, NULL);

			if (child != NULL)
				child->ran = true;
		}
		append(&done, &space, wave);
		wave = look_at_children(seen, wave);
		wave.length = Min(wave.length, batch - done.length);
	}
	finish(done, seen);
	return done.length;
}

static int
run_waves(int batch, int take)
{
	int			done = 0;

	while (done < batch)
	{
		HTAB	   *seen = new_children();
		Steps		wave = take_ready(Min(take, batch - done));

		if (wave.length == 0)
			break;
		look_at_children(seen, wave);
		finish(wave, seen);
		done += wave.length;
	}
	return done;
}

PG_FUNCTION_INFO_V1(floor_run);

/* run(batch, take, steps, coalesced): until so many are done, or none is ready */
Datum
floor_run(PG_FUNCTION_ARGS)
{
	int			batch = PG_GETARG_INT32(0);
	int			take = Max(PG_GETARG_INT32(1), 1);
	int			left = PG_GETARG_INT32(2);
	bool		coalesced = PG_GETARG_BOOL(3);
	MemoryContext context;

	SPI_connect_ext(SPI_OPT_NONATOMIC);
	context = AllocSetContextCreate(CurrentMemoryContext, "floor", ALLOCSET_DEFAULT_SIZES);
	while (left > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		int			n = coalesced ? run_coalesced(Min(batch, left), take) : run_waves(Min(batch, left), take);

		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
		SPI_commit();
		CHECK_FOR_INTERRUPTS();
		if (n == 0)
			break;
		left -= n;
	}
	SPI_finish();
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(floor_turn);

/* turn(tasks, steps, n): complete, then claim; a row for each step claimed */
Datum
floor_turn(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Steps		steps = {NULL, 0};
	HTAB	   *seen;
	Datum	   *tasks;
	Datum	   *ids;

	InitMaterializedSRF(fcinfo, 0);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), INT8OID, 8, true, TYPALIGN_DOUBLE, &tasks, NULL, &steps.length);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), INT4OID, 4, true, TYPALIGN_INT, &ids, NULL, &steps.length);
	SPI_connect();
	seen = new_children();
	steps.items = palloc0((steps.length + 1) * sizeof(Step));
	for (int i = 0; i < steps.length; i++)
	{
		steps.items[i].task = DatumGetInt64(tasks[i]);
		steps.items[i].step = DatumGetInt32(ids[i]);
	}
	if (steps.length > 0)
	{
		look_at_children(seen, steps);
		finish(steps, seen);
	}
	steps = take_ready(PG_GETARG_INT32(2));
	for_steps(&claim, steps);
	for (int i = 0; i < steps.length; i++)
	{
		Datum		row[2] = {Int64GetDatum(steps.items[i].task), Int32GetDatum((int32) steps.items[i].step)};
		bool		isnull[2] = {false, false};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, row, isnull);
	}
	SPI_finish();
	return (Datum) 0;
}
