/*
 * batch.c
 *	  One transaction's worth of steps: take them from the queue, run them, go on
 *	  with the children that they release, and write all that came of it with
 *	  one UPDATE, whose trigger does the rest.
 *
 * Within a batch nothing of a step's end is written until the batch ends, so a
 * step costs one row version and one row of history. What the batch believes
 * meanwhile it verifies when it writes: each row must still be in the state,
 * and with the counter, that it was found with. If not, the transaction is
 * rolled back, the handlers' work with it, and the steps are taken anew, more
 * carefully (BatchMode).
 *
 * Called by executor.c and run.c, in a transaction, outside of any section.
 * What it reads is batch_read.c's, the attempts themselves are attempt.c's.
 */
#include "batch_state.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "engine.h"
#include "fault.h"
#include "miscadmin.h"
#include "results.h"
#include "shared.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/*
 * Children that a batch has released it rather runs late than leave them to
 * the queue, which costs as much as they do.
 */
#define WAVE_INTERVALS	4
/* How often a single step may be taken away before it is at fault itself. */
#define MAX_CONFLICTS	5
/* More writing subtransactions would slow down every session's snapshots. */
#define MAX_PROTECTED	50

static TaskerQuery put_back = {
	.sql = "INSERT INTO tasker.ready_queue (lane, rank, task_id, step_id) "
	"SELECT s.lane, -s.priority, s.task_id, s.step_id "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS c (task_id, step_id) "
	"JOIN tasker.workflow_steps s ON s.task_id = c.task_id AND s.step_id = c.step_id "
	"ON CONFLICT DO NOTHING RETURNING lane, rank, task_id, step_id",
	.args = {INT8ARRAYOID, INT4ARRAYOID},
	.columns = {INT4OID, INT4OID, INT8OID, INT4OID},
};

static TaskerQuery write_ends = {
	.sql = "UPDATE tasker.workflow_steps s SET state = c.to_state, attempts = c.attempts, pending_parents = 0, "
	"last_attempted_at = c.started_at, completed_at = c.completed_at, next_attempt_at = c.next_attempt_at, "
	"results = c.results, last_error = COALESCE(c.error, s.last_error) "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4), "
	"pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), "
	"pg_catalog.unnest($9), pg_catalog.unnest($10), pg_catalog.unnest($11)) "
	"AS c (task_id, step_id, from_state, pending, to_state, attempts, started_at, completed_at, "
	"next_attempt_at, results, error) "
	"WHERE s.task_id = c.task_id AND s.step_id = c.step_id "
	"AND s.state = c.from_state AND s.pending_parents = c.pending",
	.args = {INT8ARRAYOID, INT4ARRAYOID, TEXTARRAYOID, INT4ARRAYOID, TEXTARRAYOID, INT4ARRAYOID,
	TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, JSONBARRAYOID, JSONBARRAYOID},
};

/* ---------------------------------------------------------------- running */

static double
elapsed_ms(Batch *batch)
{
	return (double) (GetCurrentTimestamp() - batch->begun) / 1000.0;
}

/* Would the step keep what has ended waiting for its commit? */
static bool
may_be_slow(const BatchStep *step)
{
	return step->def->handler->mean_ms < 0 || step->def->handler->mean_ms >= SLOW_MS;
}

/* Has it run for so many times its interval, or as many steps as it may? */
static bool
is_full(Batch *batch, int intervals)
{
	int			size = batch->runner->mode == BATCH_SINGLE ? 1 :
	batch->runner->mode == BATCH_PROTECTED ? Min(MAX_PROTECTED, tasker_batch_size) :
	tasker_batch_size;

	return batch->nended >= size || elapsed_ms(batch) >= (double) tasker_batch_interval * intervals;
}

static void
add_ended(Batch *batch, BatchStep *step)
{
	if (batch->nended == batch->space)
	{
		MemoryContext old_context = MemoryContextSwitchTo(batch->context);

		batch->space = Max(batch->space * 2, 64);
		batch->ended = batch->ended == NULL ?
			palloc(batch->space * sizeof(BatchStep *)) :
			repalloc(batch->ended, batch->space * sizeof(BatchStep *));
		MemoryContextSwitchTo(old_context);
	}
	step->ended = true;
	batch->ended[batch->nended++] = step;
}

/* Run the wave, or as much of it as fits. Returns how many of it ran. */
static int
run_wave(Batch *batch)
{
	int			i;

	for (i = 0; i < batch->nwave; i++)
	{
		BatchStep  *step = batch->wave[i];

		CHECK_FOR_INTERRUPTS();
		if (batch->nended > 0 && (is_full(batch, step->from == STEP_PENDING ? WAVE_INTERVALS : 1) || may_be_slow(step)))
			break;
		run_attempt(step, batch->runner, batch->context);
		if (step->superseded)
			continue;
		add_ended(batch, step);
		if (step->to != STEP_COMPLETE)
			batch->result.failed++;
	}
	return i;
}

/*
 * A slow handler would keep the others of the wave from any executor until it
 * ends: then all go back, and the next batch takes one.
 */
static bool
begins_slowly(Batch *batch)
{
	return batch->nwave > 1 && may_be_slow(batch->wave[0]);
}

/* ---------------------------------------------------------------- writing */

static int
compare_steps(const void *a, const void *b)
{
	const BatchStepKey *x = &(*(BatchStep *const *) a)->key;
	const BatchStepKey *y = &(*(BatchStep *const *) b)->key;

	if (x->task_id != y->task_id)
		return x->task_id < y->task_id ? -1 : 1;
	return x->step_id < y->step_id ? -1 : x->step_id > y->step_id;
}

static void
add_time(DatumList *list, TimestampTz time)
{
	if (time == 0)
		datum_list_add_null(list);
	else
		datum_list_add(list, TimestampTzGetDatum(time));
}

static void
add_document(DatumList *list, Jsonb *document)
{
	if (document == NULL)
		datum_list_add_null(list);
	else
		datum_list_add(list, JsonbPGetDatum(document));
}

/* A column of what write_ends is given: its type, and the value of a step. */
enum
{
	END_TASK, END_STEP, END_FROM, END_PENDING, END_TO, END_ATTEMPTS, END_STARTED,
	END_COMPLETED, END_NEXT, END_RESULTS, END_ERROR, END_COLUMNS
};

static void
end_arrays(Batch *batch, Datum *values)
{
	static const Oid types[END_COLUMNS] = {INT8OID, INT4OID, TEXTOID, INT4OID, TEXTOID, INT4OID,
	TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, JSONBOID, JSONBOID};
	DatumList	columns[END_COLUMNS];

	for (int c = 0; c < END_COLUMNS; c++)
		datum_list_init(&columns[c], types[c]);
	for (int i = 0; i < batch->nended; i++)
	{
		BatchStep  *step = batch->ended[i];
		bool		apart = step->results != NULL && results_live_apart(step->results);

		if (apart)
			store_results_apart(step->key.task_id, step->key.step_id, step->results);
		datum_list_add(&columns[END_TASK], Int64GetDatum(step->key.task_id));
		datum_list_add(&columns[END_STEP], Int32GetDatum(step->key.step_id));
		datum_list_add(&columns[END_FROM], CStringGetTextDatum(step_state_name(step->from)));
		datum_list_add(&columns[END_PENDING], Int32GetDatum(step->pending));
		datum_list_add(&columns[END_TO], CStringGetTextDatum(step_state_name(step->to)));
		datum_list_add(&columns[END_ATTEMPTS], Int32GetDatum(step->attempts));
		add_time(&columns[END_STARTED], step->started_at);
		add_time(&columns[END_COMPLETED], step->to == STEP_COMPLETE ? step->ended_at : 0);
		add_time(&columns[END_NEXT], step->next_attempt_at);
		add_document(&columns[END_RESULTS], apart ? NULL : step->results);
		add_document(&columns[END_ERROR], step->error);
	}
	for (int c = 0; c < END_COLUMNS; c++)
		values[c] = datum_list_array(&columns[c]);
}

/* Do not wait for a lock for long while there is another way to go on. */
static void
bound_lock_waits(Batch *batch)
{
	static const char *const waits[] = {
		[BATCH_OPTIMISTIC] = "200ms",
		[BATCH_PROTECTED] = "1s",
	};

	if (batch->runner != NULL && batch->runner->mode != BATCH_SINGLE)
		(void) set_config_option("lock_timeout", waits[batch->runner->mode],
								 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/* Put back steps that were taken and did not run. */
static void
put_back_rest(BatchStep **rest, int nrest)
{
	Datum		values[2];

	step_arrays(rest, nrest, values);
	wake_lanes_of_rows(tasker_run(&put_back, values, NULL));
}

/* Write what came of the steps that ran, and put back those that did not. */
static void
write_batch(Batch *batch, BatchStep **rest, int nrest)
{
	TaskerSection section;
	HeldBack	own;
	Datum		values[END_COLUMNS];

	begin_statements(batch, &section);
	bound_lock_waits(batch);
	/* unless a claim does, which refuses steps */
	if (held_back() == NULL)
	{
		held_back_init(&own);
		hold_back(&own);
	}
	if (batch->nended > 0)
	{
		qsort(batch->ended, batch->nended, sizeof(BatchStep *), compare_steps);
		end_arrays(batch, values);
		if (tasker_run(&write_ends, values, NULL) != batch->nended)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("a step was changed while it ran"),
					 errdetail("It was cancelled, resolved or changed by another session."),
					 errhint("What it did is rolled back; the others are repeated.")));
	}
	if (held_back() == &own)
	{
		release_held_back(&own.children, &own.tasks);
		finish_held_back();
	}
	if (nrest > 0)
		put_back_rest(rest, nrest);
	end_statements(&section);
}

/* The step's attempt failed before it began. */
static void
refuse_step(Batch *batch, BatchStep *step, ErrorData *error)
{
	step->started_at = step->ended_at = tasker_now();
	attempt_failed(step, error);
	add_ended(batch, step);
}

/* ---------------------------------------------------------------- the batch */

void
batch_runner_init(BatchRunner *runner, int lane)
{
	memset(runner, 0, sizeof(BatchRunner));
	runner->lane = lane;
	runner->claim = 1;
}

static int
claim_limit(const BatchRunner *runner)
{
	switch (runner->mode)
	{
		case BATCH_SINGLE:
			return 1;
		case BATCH_PROTECTED:
			return Min(Min(runner->claim, MAX_PROTECTED), tasker_batch_size);
		default:
			return Min(runner->claim, tasker_batch_size);
	}
}

/*
 * How many steps the next batch is to take: so many that they, and what they
 * release, just fit. What does not fit goes through the queue once more.
 */
static int
next_claim(Batch *batch, bool all, bool alone)
{
	int			claim = batch->runner->claim;

	if (alone)
		return 1;
	if (!all)
		return Max(claim / 2, 1);
	if (batch->nended * 2 > tasker_batch_size || elapsed_ms(batch) * 2 > tasker_batch_interval)
		return claim;
	return Min(claim * 2, Max(tasker_batch_size / 10, 1));
}

/*
 * Run a batch in the current transaction, which the caller commits. An error
 * is nobody's step's: the caller rolls back and calls batch_failed.
 */
BatchResult
run_batch(BatchRunner *runner)
{
	MemoryContext old_context = CurrentMemoryContext;
	Batch	   *batch = batch_begin(runner);
	int			ran = 0;
	bool		all;
	bool		alone;

	runner->last_task = 0;
	take_steps(batch, claim_limit(runner), false);
	if (batch->result.taken == 0)
		return batch->result;
	if (runner->taken != NULL)
		runner->taken(batch->result.taken >= claim_limit(runner));
	alone = begins_slowly(batch);
	for (;;)
	{
		ran = alone ? 0 : run_wave(batch);
		all = ran == batch->nwave;
		if (!all || batch->nwave == 0 || runner->mode != BATCH_OPTIMISTIC || is_full(batch, 1))
			break;
		next_wave(batch, batch->wave, batch->nwave);
		if (batch->nwave == 0)
			break;
	}
	if (batch->result.taken == 1 && batch->nended > 0)
		alone = may_be_slow(batch->ended[0]);
	/* children that did not run are released by the write itself */
	if (!all && batch->wave[ran]->from == STEP_ENQUEUED)
		write_batch(batch, &batch->wave[ran], batch->nwave - ran);
	else
		write_batch(batch, NULL, 0);
	fault_point("batch-written");

	batch->result.ended = batch->nended;
	runner->claim = next_claim(batch, all, alone);
	{
		BatchResult result = batch->result;

		MemoryContextSwitchTo(old_context);
		MemoryContextDelete(batch->context);
		return result;
	}
}

/* The batch was committed: be less careful again, if nothing failed in it. */
void
batch_succeeded(BatchRunner *runner, const BatchResult *result)
{
	runner->last_task = 0;
	runner->conflicts = 0;
	if (result->failed == 0)
		runner->mode = BATCH_OPTIMISTIC;
}

/*
 * The batch was rolled back: be more careful. Returns true if it can not be
 * more careful, so the step that ran last is at fault and the error is to be
 * recorded as its attempt's (refuse_steps); if last_task is 0 none ran. A step
 * that somebody else took away is not, unless that seems to happen for ever.
 */
bool
batch_failed(BatchRunner *runner, ErrorData *error)
{
	bool		conflict = error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
	error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE;

	if (runner->mode != BATCH_SINGLE)
	{
		runner->mode++;
		return false;
	}
	return !conflict || ++runner->conflicts > MAX_CONFLICTS;
}

/*
 * Take steps of the lane, at most as many as a protected batch, and record the
 * error as that of an attempt. With a task_id, only of that step. Returns how
 * many there were.
 */
int
refuse_steps(int lane, int64 task_id, int step_id, ErrorData *error)
{
	BatchRunner runner;
	Batch	   *batch;
	BatchStep **rest;
	int			nrest = 0;

	batch_runner_init(&runner, lane);
	runner.mode = BATCH_PROTECTED;
	runner.claim = MAX_PROTECTED;
	batch = batch_begin(&runner);
	take_steps(batch, claim_limit(&runner), true);
	rest = MemoryContextAlloc(batch->context, Max(batch->nwave, 1) * sizeof(BatchStep *));
	for (int i = 0; i < batch->nwave; i++)
	{
		BatchStep  *step = batch->wave[i];

		if (task_id != 0 && (step->key.task_id != task_id || step->key.step_id != step_id))
		{
			rest[nrest++] = step;
			continue;
		}
		refuse_step(batch, step, error);
	}
	write_batch(batch, rest, nrest);
	return batch->nended;
}

/* Refuse the steps of a claim's wave, whose input is too large to be handed out. */
void
refuse_steps_of_wave(Batch *batch)
{
	for (int i = 0; i < batch->nwave; i++)
		refuse_step(batch, batch->wave[i], input_error(batch->wave[i]));
	if (batch->nwave > 0)
		write_batch(batch, NULL, 0);
}
