/*
 * attempt.c
 *	  One attempt at one step: build its input, call its handler, and decide what
 *	  a failure means: another attempt, when, or the end.
 *
 * Called by batch.c, outside of any section.
 */
#include "attempt.h"

#include <math.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "engine.h"
#include "fault.h"
#include "handler.h"
#include "miscadmin.h"
#include "recorder.h"
#include "results.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

static TaskerQuery step_now = {
	.sql = "SELECT state::text, xmin FROM tasker.workflow_steps WHERE task_id = $1 AND step_id = $2",
	.args = {INT8OID, INT4OID},
	.columns = {TEXTOID, XIDOID},
};

/* The longest time that a handler may ask to be left alone: a year. */
#define MAX_RETRY_AFTER		(365.0 * SECS_PER_DAY)

/* Errors after which another attempt would fail just the same. */
static const int permanent_errors[] = {
	ERRCODE_TASKER_NO_FUNCTION,
	ERRCODE_TASKER_BAD_FUNCTION,
	ERRCODE_TASKER_FUNCTION_ACCESS,
	ERRCODE_TASKER_BAD_SQL,
	ERRCODE_TASKER_RESULT_TOO_LARGE,
	ERRCODE_TASKER_INPUT_TOO_LARGE,
	ERRCODE_TASKER_BAD_RESULT,
	ERRCODE_TASKER_OWNER_UNUSABLE,
	ERRCODE_TASKER_HANDLER_GONE,
	ERRCODE_TASKER_DO_NOT_RETRY,
};

/* Give the step's input one more parent. In the batch's memory context. */
void
attempt_add_parent(BatchStep *step, const char *name, Jsonb *results)
{
	if (step->nparents == step->parents_space)
	{
		int			space = Max(step->parents_space * 2, 4);

		if (step->parents_space == 0)
		{
			step->parent_names = palloc(space * sizeof(char *));
			step->parent_results = palloc(space * sizeof(Jsonb *));
		}
		else
		{
			step->parent_names = repalloc(step->parent_names, space * sizeof(char *));
			step->parent_results = repalloc(step->parent_results, space * sizeof(Jsonb *));
		}
		step->parents_space = space;
	}
	step->parent_names[step->nparents] = name;
	step->parent_results[step->nparents++] = results;
}

bool
input_too_large(const BatchStep *step)
{
	return step->input_size > (Size) tasker_max_input_size * 1024;
}

/* What is wrong with a step whose input is too large. */
ErrorData *
input_error(const BatchStep *step)
{
	ErrorData  *error = palloc0(sizeof(ErrorData));

	error->elevel = ERROR;
	error->sqlerrcode = ERRCODE_TASKER_INPUT_TOO_LARGE;
	error->message = psprintf("the input of step \"%s\" is too large", step->def->name);
	error->detail = psprintf("The task's context and the parents' results have %zu bytes, the limit is %d kB.",
							 step->input_size, tasker_max_input_size);
	error->hint = "Keep large data in a table and its key in the results, or raise tasker.max_input_size.";
	return error;
}

static bool
is_permanent(int sqlstate)
{
	for (int i = 0; i < lengthof(permanent_errors); i++)
		if (permanent_errors[i] == sqlstate)
			return true;
	return false;
}

/*
 * The delay that a handler asked for with TK411, in seconds, from the error's
 * DETAIL; below 0 if it is not an interval that makes sense.
 */
static double
retry_after(ErrorData *error)
{
	MemoryContext old_context = CurrentMemoryContext;
	ResourceOwner old_owner = CurrentResourceOwner;
	volatile double seconds = -1;

	if (error->sqlerrcode != ERRCODE_TASKER_RETRY_AFTER || error->detail == NULL)
		return -1;
	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		Datum		interval = DirectFunctionCall3(interval_in, CStringGetDatum(error->detail),
												   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));

		seconds = interval_seconds(DatumGetIntervalP(interval));
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old_context);
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old_context);
	CurrentResourceOwner = old_owner;
	return seconds <= MAX_RETRY_AFTER ? seconds : -1;
}

/*
 * What comes after a failed attempt, so many having been made: the end, or
 * another one at *next. A delay below 0 leaves it to the step's backoff.
 */
StepState
after_failure(const StepDef *def, int attempts, bool permanent, double delay,
			  TimestampTz at, TimestampTz *next)
{
	if (!def->retryable || permanent || attempts >= def->max_attempts)
		return STEP_ERROR;
	if (delay < 0)
		delay = backoff_seconds(&def->backoff, attempts,
								DatumGetFloat8(DirectFunctionCall1(drandom, (Datum) 0)));
	*next = at + (TimestampTz) rint(delay * USECS_PER_SEC);
	return STEP_WAITING_FOR_RETRY;
}

/* The attempt ended with an error: another one, or the end? */
void
attempt_failed(BatchStep *step, ErrorData *error)
{
	double		delay = retry_after(error);

	step->attempts++;
	step->error = error_document(error, step->attempts, step->ended_at);
	step->results = NULL;
	step->to = after_failure(step->def, step->attempts, is_permanent(error->sqlerrcode),
							 delay, step->ended_at, &step->next_attempt_at);
}

static void
attempt_succeeded(BatchStep *step)
{
	step->attempts++;
	step->to = STEP_COMPLETE;
}

/* Call the handler in the current (sub)transaction. */
static void
call(BatchStep *step, MemoryContext context)
{
	MemoryContext call_context = AllocSetContextCreate(CurrentMemoryContext, "tasker handler",
													   ALLOCSET_SMALL_SIZES);
	MemoryContext old_context = MemoryContextSwitchTo(call_context);
	Jsonb	   *input;

	if (input_too_large(step))
		ThrowErrorData(input_error(step));
	input = step_input(step->task, step->def, step->key.step_id, step->attempts + 1,
					   step->parent_names, step->parent_results, step->nparents);
	fault_point("handler");
	step->results = call_handler(step->def, input, context);
	if (step->results != NULL)
		check_results_size(step->results);
	MemoryContextSwitchTo(old_context);
	MemoryContextDelete(call_context);
}

/*
 * Did the handler end its own step, by cancelling its task or resolving the
 * step? Then that is what came of it. Asked only of a step that runs alone: in
 * a larger batch it may have been another one's handler. What another session
 * did to the step is found when the batch is written.
 */
static bool
ended_by_handler(BatchStep *step)
{
	TaskerSection section;
	Datum		values[2] = {Int64GetDatum(step->key.task_id), Int32GetDatum(step->key.step_id)};
	bool		result;

	PushActiveSnapshot(GetTransactionSnapshot());
	tasker_enter(&section);
	result = tasker_run(&step_now, values, NULL) == 1 &&
		step_state_from_text(tasker_value_notnull(0, 1)) != step->from &&
		TransactionIdIsCurrentTransactionId(DatumGetTransactionId(tasker_value_notnull(0, 2)));
	tasker_leave(&section);
	PopActiveSnapshot();
	return result;
}

/* An error that says the batch, not the handler, is at fault. */
static bool
is_batchs_fault(ErrorData *error, BatchRunner *runner)
{
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		return runner->interrupted != NULL && runner->interrupted();
	return runner->mode != BATCH_SINGLE &&
		(error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED ||
		 error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE);
}

/* Make "canceling statement" say what it was. */
static void
say_timeout(BatchStep *step, ErrorData *error)
{
	error->sqlerrcode = ERRCODE_TASKER_STEP_TIMEOUT;
	error->message = psprintf("step \"%s\" ran longer than its timeout", step->def->name);
	error->detail = psprintf("Its timeout, or its role's statement_timeout, is %d ms.",
							 handler_timeout(step->def));
	error->hint = pstrdup("Give the step a longer timeout, or its handler less to do.");
}

/*
 * The attempt in a subtransaction of its own: an error rolls back only what
 * the handler did. Its deferred constraints are checked here, before the step
 * is called complete.
 */
static void
call_protected(BatchStep *step, BatchRunner *runner, MemoryContext context)
{
	MemoryContext old_context = CurrentMemoryContext;
	ResourceOwner old_owner = CurrentResourceOwner;
	bool		confined = handler_is_guest();

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(old_context);
	PG_TRY();
	{
		if (confined)
			handler_confine();
		call(step, context);
		AfterTriggerFireDeferred();
		if (confined)
			handler_release();
		step->superseded = runner->mode == BATCH_SINGLE && ended_by_handler(step);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(old_context);
		CurrentResourceOwner = old_owner;
		attempt_succeeded(step);
	}
	PG_CATCH();
	{
		ErrorData  *error;
		bool		over_time = handler_timed_out();

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = old_owner;
		if (!over_time && is_batchs_fault(error, runner))
			ReThrowError(error);
		if (over_time && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			say_timeout(step, error);
		step->ended_at = tasker_now();
		attempt_failed(step, error);
		MemoryContextSwitchTo(old_context);
	}
	PG_END_TRY();
}

/*
 * A mean that follows changes. The first run counts little, since most of it is
 * often compiling and planning, and no single one counts for much: on a busy
 * machine any may be interrupted.
 */
static void
note_duration(Handler *handler, double ms)
{
	handler->mean_ms = handler->mean_ms < 0 ? ms / 4 :
		(handler->mean_ms * 7 + Min(ms, 4 * SLOW_MS)) / 8;
}

/*
 * Run the step and note in it what came of it. In an optimistic batch an error
 * of the handler leaves through the batch.
 */
void
run_attempt(BatchStep *step, BatchRunner *runner, MemoryContext context)
{
	TimestampTz begun = GetCurrentTimestamp();
	TimestampTz ended;

	runner->last_task = step->key.task_id;
	runner->last_step = step->key.step_id;
	step->started_at = tasker_now();
	recorder_step(step->key.task_id, step->key.step_id, begun);
	if (runner->running != NULL)
		runner->running(step->key.task_id, step->key.step_id);
	if (runner->mode == BATCH_OPTIMISTIC)
	{
		call(step, context);
		attempt_succeeded(step);
	}
	else
		call_protected(step, runner, context);
	if (runner->running != NULL)
		runner->running(0, 0);
	recorder_step_ended();
	ended = GetCurrentTimestamp();
	note_duration(step->def->handler, (double) (ended - begun) / 1000.0);
	if (step->ended_at == 0)
		step->ended_at = tasker_now();
}
