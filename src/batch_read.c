/*
 * batch_read.c
 *	  What a batch reads: the steps that it takes from the queue, the children
 *	  that they release, and what their handlers are to be given.
 *
 * Called by batch.c.
 */
#include "batch_state.h"

#include "access/detoast.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "engine.h"
#include "shared.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/*
 * Take steps in the order of their rank. A row whose step has ended for good
 * goes too; one whose step or task is merely not ready now stays. Steps that cost
 * an attempt when their process ended are taken by one batch at a time. Where rows
 * are looked for, and what is locked, and by somebody else makes a row be passed
 * over, are the macro's arguments.
 */
#define TAKE(place, locking) { \
	.sql = "WITH c AS (SELECT q.ctid AS place, q.rank, q.task_id, q.step_id, s.step_no, s.attempts, s.state::text AS state " \
	"FROM tasker.ready_queue q " \
	"JOIN tasker.workflow_steps s ON s.task_id = q.task_id AND s.step_id = q.step_id " \
	"JOIN tasker.tasks t ON t.task_id = q.task_id " \
	"WHERE q.lane = $1 AND " place " AND ((s.state = 'enqueued' AND t.state IN ('pending', 'in_progress')) " \
	"OR s.state IN ('complete', 'cancelled', 'skipped', 'resolved_manually')) " \
	"AND (s.attempts = 0 OR s.last_error IS NULL OR s.last_error ->> 'sqlstate' <> '" CUT_OFF_STATE "' " \
	"OR tasker.lock_cut_off()) " \
	"ORDER BY q.rank, q.task_id, q.step_id LIMIT $2 " locking "), " \
	"d AS (DELETE FROM tasker.ready_queue WHERE ctid = ANY (ARRAY(SELECT c.place FROM c))) " \
	"SELECT c.task_id, c.step_id, c.step_no, c.attempts, c.state, c.rank FROM c", \
	.args = {INT4OID, INT4OID, INT4OID, INT8OID, INT4OID, INT8OID, INT4OID}, \
	.columns = {INT8OID, INT4OID, INT4OID, INT4OID, TEXTOID, INT4OID}, \
}
#define TAKE_FROM(locking) \
	TAKE("(q.rank, q.task_id, q.step_id) >= ($3, $4, $5)", locking)
#define TAKE_RANGE(locking) \
	TAKE("q.rank = $3 AND (q.task_id, q.step_id) >= ($4, $5) AND q.task_id <= $6 AND (q.task_id < $6 OR q.step_id < $7)", locking)

#define OPTIMISTIC	"FOR UPDATE OF q SKIP LOCKED"
#define LOCKED		"FOR NO KEY UPDATE OF q, s, t SKIP LOCKED"

/* By whether steps are locked, and whether there is an end to the place, in the same rank. */
static TaskerQuery take[2][2] = {
	{TAKE_FROM(OPTIMISTIC), TAKE_RANGE(OPTIMISTIC)},
	{TAKE_FROM(LOCKED), TAKE_RANGE(LOCKED)},
};

static TaskerQuery read_tasks = {
	.sql = "SELECT t.task_id, t.named_task_id, t.priority, t.context, t.correlation_id::text, t.tags, t.traceparent "
	"FROM pg_catalog.unnest($1) AS c (task_id) JOIN tasker.tasks t ON t.task_id = c.task_id",
	.args = {INT8ARRAYOID},
	.columns = {INT8OID, INT4OID, INT4OID, JSONBOID, TEXTOID, JSONBOID, TEXTOID},
};

static TaskerQuery read_parents = {
	.sql = "SELECT e.task_id, e.to_step_id, e.from_step_id, p.step_no, "
	"COALESCE(p.results, (SELECT r.results FROM tasker.workflow_step_results r "
	"WHERE r.task_id = p.task_id AND r.step_id = p.step_id)) "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS c (task_id, step_id) "
	"JOIN tasker.workflow_step_edges e ON e.task_id = c.task_id AND e.to_step_id = c.step_id "
	"JOIN tasker.workflow_steps p ON p.task_id = e.task_id AND p.step_id = e.from_step_id",
	.args = {INT8ARRAYOID, INT4ARRAYOID},
	.columns = {INT8OID, INT4OID, INT4OID, INT4OID, JSONBOID},
};

static TaskerQuery read_children = {
	.sql = "SELECT e.task_id, e.to_step_id, s.step_no, s.attempts, s.pending_parents "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS c (task_id, step_id) "
	"JOIN tasker.workflow_step_edges e ON e.task_id = c.task_id AND e.from_step_id = c.step_id "
	"JOIN tasker.workflow_steps s ON s.task_id = e.task_id AND s.step_id = e.to_step_id "
	"JOIN tasker.tasks t ON t.task_id = e.task_id "
	"WHERE s.state = 'pending' AND s.lane = $3 AND s.next_attempt_at IS NULL AND s.last_error IS NULL "
	"AND t.state IN ('pending', 'in_progress')",
	.args = {INT8ARRAYOID, INT4ARRAYOID, INT4OID},
	.columns = {INT8OID, INT4OID, INT4OID, INT4OID, INT4OID},
};

/* Statements of a batch run between these two. */
void
begin_statements(Batch *batch, TaskerSection *section)
{
	PushActiveSnapshot(GetTransactionSnapshot());
	tasker_enter(section);
	MemoryContextSwitchTo(batch->context);
}

void
end_statements(TaskerSection *section)
{
	tasker_leave(section);
	PopActiveSnapshot();
	CommandCounterIncrement();
}

/* A batch with nothing in it yet, in a memory context of the transaction's. */
Batch *
batch_begin(BatchRunner *runner)
{
	MemoryContext context = AllocSetContextCreate(TopTransactionContext, "tasker batch",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old_context = MemoryContextSwitchTo(context);
	Batch	   *batch = palloc0(sizeof(Batch));
	HASHCTL		ctl;

	batch->runner = runner;
	batch->context = context;
	batch->begun = GetCurrentTimestamp();
	ctl.hcxt = context;
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(TaskInput);
	batch->tasks = hash_create("tasks of a batch", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.keysize = sizeof(BatchStepKey);
	ctl.entrysize = sizeof(BatchStep);
	batch->steps = hash_create("steps of a batch", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	MemoryContextSwitchTo(old_context);
	return batch;
}

/* The batch's entry of a step, made if there is none. */
BatchStep *
batch_step(Batch *batch, int64 task_id, int step_id, bool *found)
{
	BatchStepKey key = {task_id, step_id, 0};
	BatchStep  *step = hash_search(batch->steps, &key, HASH_ENTER, found);

	if (!*found)
	{
		memset(step, 0, sizeof(BatchStep));
		step->key = key;
	}
	return step;
}

static BatchStep *
find_step(Batch *batch, int64 task_id, int step_id)
{
	BatchStepKey key = {task_id, step_id, 0};

	return hash_search(batch->steps, &key, HASH_FIND, NULL);
}

/* The ids of steps as two arrays, for a query. */
void
step_arrays(BatchStep **steps, int n, Datum *values)
{
	DatumList	tasks,
				ids;

	datum_list_init(&tasks, INT8OID);
	datum_list_init(&ids, INT4OID);
	for (int i = 0; i < n; i++)
	{
		datum_list_add(&tasks, Int64GetDatum(steps[i]->key.task_id));
		datum_list_add(&ids, Int32GetDatum(steps[i]->key.step_id));
	}
	values[0] = datum_list_array(&tasks);
	values[1] = datum_list_array(&ids);
}

/* Read the tasks of the wave that the batch has not met yet. */
static void
load_tasks(Batch *batch)
{
	DatumList	ids;
	Datum		values[1];
	uint64		n;

	datum_list_init(&ids, INT8OID);
	for (int i = 0; i < batch->nwave; i++)
	{
		int64		task_id = batch->wave[i]->key.task_id;
		bool		found;
		TaskInput  *task = hash_search(batch->tasks, &task_id, HASH_ENTER, &found);

		if (!found)
		{
			task->def = NULL;
			datum_list_add(&ids, Int64GetDatum(task_id));
		}
		batch->wave[i]->task = task;	/* dynahash entries stay where they
										 * are */
	}
	if (ids.length == 0)
		return;
	values[0] = datum_list_array(&ids);
	n = tasker_run(&read_tasks, values, NULL);
	{
		SPITupleTable *rows = SPI_tuptable;

		for (uint64 row = 0; row < n; row++)
		{
			HeapTuple	tuple = rows->vals[row];
			TupleDesc	desc = rows->tupdesc;
			bool		isnull;
			bool		no_correlation;
			bool		no_tags;
			bool		no_trace;
			int64		task_id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull));
			TaskInput  *task = hash_search(batch->tasks, &task_id, HASH_FIND, NULL);
			Datum		correlation = SPI_getbinval(tuple, desc, 5, &no_correlation);
			Datum		tags = SPI_getbinval(tuple, desc, 6, &no_tags);
			Datum		trace = SPI_getbinval(tuple, desc, 7, &no_trace);

			task->correlation_id = no_correlation ? NULL : TextDatumGetCString(correlation);
			task->traceparent = no_trace ? NULL : TextDatumGetCString(trace);
			task->def = task_def(DatumGetInt32(SPI_getbinval(tuple, desc, 2, &isnull)));
			task->document = task_document(task_id, task->def,
										   DatumGetInt32(SPI_getbinval(tuple, desc, 3, &isnull)),
										   DatumGetJsonbP(SPI_getbinval(tuple, desc, 4, &isnull)),
										   task->correlation_id,
										   no_tags ? NULL : DatumGetJsonbP(tags));
		}
	}
}

/* Read the results of the parents of the wave, but for those the batch has itself. */
static void
load_parents(Batch *batch)
{
	BatchStep **with_parents = palloc(Max(batch->nwave, 1) * sizeof(BatchStep *));
	int			n = 0;
	Datum		values[2];
	uint64		rows;

	for (int i = 0; i < batch->nwave; i++)
		if (batch->wave[i]->def->parents > 0)
			with_parents[n++] = batch->wave[i];
	if (n == 0)
		return;
	step_arrays(with_parents, n, values);
	rows = tasker_run(&read_parents, values, NULL);
	for (uint64 row = 0; row < rows; row++)
	{
		int64		task_id = DatumGetInt64(tasker_value_notnull(row, 1));
		BatchStep  *step = find_step(batch, task_id, DatumGetInt32(tasker_value_notnull(row, 2)));
		BatchStep  *parent = find_step(batch, task_id, DatumGetInt32(tasker_value_notnull(row, 3)));
		StepDef    *parent_def = step_def(step->task->def, DatumGetInt32(tasker_value_notnull(row, 4)));
		bool		mine = parent != NULL && parent->ended;
		bool		isnull;
		Datum		results = tasker_value(row, 5, &isnull);

		if (mine)
			step->input_size += parent->results == NULL ? 0 : VARSIZE(parent->results);
		else
			step->input_size += isnull ? 0 : toast_raw_datum_size(results);
		if (input_too_large(step))
			continue;			/* it will not be run: no need to hold it all */
		attempt_add_parent(step, parent_def->name,
						   mine ? parent->results : isnull ? NULL : DatumGetJsonbPCopy(results));
	}
	SPI_freetuptable(SPI_tuptable);
}

/* Everything that the handlers of the wave are to be given. */
void
load_inputs(Batch *batch)
{
	load_tasks(batch);
	for (int i = 0; i < batch->nwave; i++)
	{
		batch->wave[i]->def = step_def(batch->wave[i]->task->def, batch->wave[i]->step_no);
		batch->wave[i]->input_size = VARSIZE(batch->wave[i]->task->document);
	}
	load_parents(batch);
}

/* Where in the lane a row of take is. */
static LaneKey
taken_key(int row)
{
	return lane_key(DatumGetInt32(tasker_value_notnull(row, 6)), DatumGetInt64(tasker_value_notnull(row, 1)),
					DatumGetInt32(tasker_value_notnull(row, 2)));
}

/* Add the steps of n rows of take to the wave. */
static void
add_taken(Batch *batch, int n)
{
	for (int row = 0; row < n; row++)
	{
		BatchStep  *step;
		bool		found;

		if (step_state_from_text(tasker_value_notnull(row, 5)) != STEP_ENQUEUED)
			continue;
		step = batch_step(batch, DatumGetInt64(tasker_value_notnull(row, 1)),
						  DatumGetInt32(tasker_value_notnull(row, 2)), &found);
		if (found)
			continue;			/* its priority was changed: two hints, one
								 * step */
		step->step_no = DatumGetInt32(tasker_value_notnull(row, 3));
		step->attempts = DatumGetInt32(tasker_value_notnull(row, 4));
		step->from = STEP_ENQUEUED;
		batch->wave[batch->nwave++] = step;
	}
}

/* Take so many steps, if there are, in the range. Returns up to where all were taken that could be. */
static LaneKey
take_range(Batch *batch, const LaneRange *range, int wanted, bool lock)
{
	bool		ends = range->from.rank == range->to.rank;
	LaneKey		last = ends ? range->to : lane_end;
	Datum		values[7] = {Int32GetDatum(batch->runner->lane), Int32GetDatum(wanted),
		Int32GetDatum(range->from.rank), Int64GetDatum(range->from.task_id), Int32GetDatum(range->from.step_id),
	Int64GetDatum(range->to.task_id), Int32GetDatum(range->to.step_id)};
	int			n = (int) tasker_run(&take[lock][ends], values, NULL);

	batch->result.taken += n;
	if (n > 0)
		note_rows_taken(batch->runner->lane, taken_key(0), taken_key(n - 1));
	if (n == wanted)
		last = taken_key(n - 1);
	add_taken(batch, n);
	return last;
}

/*
 * Take the first wave from the queue. Steps are locked only if no handler runs
 * under the lock: whoever cancels a task waits for it.
 */
void
take_steps(Batch *batch, int limit, bool lock)
{
	LaneLook	look = look_at_lane(batch->runner->lane, 0);
	LaneKey		last = lane_end;
	TaskerSection section;

	begin_statements(batch, &section);
	batch->wave = palloc(limit * sizeof(BatchStep *));
	for (int i = 0; i < look.rows.n && batch->result.taken < limit; i++)
		last = take_range(batch, &look.rows.range[i], limit - batch->result.taken, lock);
	lane_looked_at(&look, batch->result.taken < limit ? lane_end : last);
	load_inputs(batch);
	end_statements(&section);
}

/* The children that the last wave released, as far as this batch may run them. */
void
next_wave(Batch *batch, BatchStep **last, int nlast)
{
	TaskerSection section;
	Datum		values[3];
	uint64		n;

	batch->nwave = 0;
	begin_statements(batch, &section);
	step_arrays(last, nlast, values);
	values[2] = Int32GetDatum(batch->runner->lane);
	n = tasker_run(&read_children, values, NULL);
	batch->wave = palloc(Max(n, 1) * sizeof(BatchStep *));
	for (uint64 row = 0; row < n; row++)
	{
		bool		found;
		BatchStep  *child = batch_step(batch, DatumGetInt64(tasker_value_notnull(row, 1)),
									   DatumGetInt32(tasker_value_notnull(row, 2)), &found);

		child->step_no = DatumGetInt32(tasker_value_notnull(row, 3));
		child->attempts = DatumGetInt32(tasker_value_notnull(row, 4));
		child->pending = DatumGetInt32(tasker_value_notnull(row, 5));
		child->from = STEP_PENDING;
		if (++child->seen == child->pending)
			batch->wave[batch->nwave++] = child;
	}
	load_inputs(batch);
	end_statements(&section);
}
