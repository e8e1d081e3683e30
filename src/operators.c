/*
 * operators.c
 *	  What an operator does to a task or a step: cancel, pause, resume, retry,
 *	  resolve. Each is atomic and leaves who did it, and why, in the history.
 *
 * What follows from it is the triggers' business (step_transition.c) and
 * task_steps.c's, which a plain UPDATE of a task's state comes to as well.
 *
 * Lock order: steps by id, then the task.
 */
#include "engine.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "results.h"
#include "shared.h"

static TaskerQuery lock_steps = {
	.sql = "SELECT pg_catalog.count(*) FROM (SELECT s.step_id FROM tasker.workflow_steps s "
	"WHERE s.task_id = $1 AND ($2 IS NULL OR s.state = $2) ORDER BY s.step_id FOR NO KEY UPDATE) AS locked",
	.args = {INT8OID, TEXTOID},
	.columns = {INT8OID},
};

static TaskerQuery lock_task = {
	.sql = "SELECT state::text, started_at IS NOT NULL FROM tasker.tasks WHERE task_id = $1 FOR NO KEY UPDATE",
	.args = {INT8OID},
	.columns = {TEXTOID, BOOLOID},
};

static TaskerQuery set_task_state = {
	.sql = "UPDATE tasker.tasks SET state = $2 WHERE task_id = $1",
	.args = {INT8OID, TEXTOID},
};

static TaskerQuery lock_step = {
	.sql = "SELECT state::text, pending_parents FROM tasker.workflow_steps WHERE task_id = $1 AND step_id = $2 FOR NO KEY UPDATE",
	.args = {INT8OID, INT4OID},
	.columns = {TEXTOID, INT4OID},
};

static TaskerQuery task_state_now = {
	.sql = "SELECT state::text FROM tasker.tasks WHERE task_id = $1",
	.args = {INT8OID},
	.columns = {TEXTOID},
};

static TaskerQuery retry_one = {
	.sql = "UPDATE tasker.workflow_steps SET state = 'enqueued', next_attempt_at = NULL, "
	"attempts = CASE WHEN state = 'error' THEN 0 ELSE attempts END "
	"WHERE task_id = $1 AND step_id = $2",
	.args = {INT8OID, INT4OID},
};

static TaskerQuery resolve_one = {
	.sql = "UPDATE tasker.workflow_steps SET state = 'resolved_manually', results = $3, "
	"lease = NULL, lease_expires_at = NULL, completed_at = $4 "
	"WHERE task_id = $1 AND step_id = $2",
	.args = {INT8OID, INT4OID, JSONBOID, TIMESTAMPTZOID},
};

static TaskerQuery find_step = {
	.sql = "SELECT s.step_id FROM tasker.tasks t "
	"JOIN tasker.named_steps n ON n.named_task_id = t.named_task_id AND n.name = $2 "
	"JOIN tasker.workflow_steps s ON s.task_id = t.task_id AND s.step_no = n.step_no "
	"WHERE t.task_id = $1",
	.args = {INT8OID, TEXTOID},
	.columns = {INT4OID},
	.read_only = true,
};

/* ------------------------------------------------------------------ helpers */

static void
push_text(JsonbParseState **state, const char *key, const char *value)
{
	JsonbValue	v;

	v.type = jbvString;
	v.val.string.val = (char *) key;
	v.val.string.len = strlen(key);
	pushJsonbValue(state, WJB_KEY, &v);
	v.val.string.val = (char *) value;
	v.val.string.len = strlen(value);
	pushJsonbValue(state, WJB_VALUE, &v);
}

/*
 * Open a section for an operator's call, whose first arguments are ids: check
 * the caller, leave the note.
 */
static void
begin_call(TaskerSection *section, FunctionCallInfo fcinfo, int ids, int reason_arg, const char *action)
{
	JsonbParseState *state = NULL;

	for (int i = 0; i < ids; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
					 errmsg("%s needs to know the task and the step", action),
					 errdetail("Argument %d is null.", i + 1),
					 errhint("tasker.task_status and tasker.step_status list them.")));

	tasker_enter(section);
	check_may_operate(PG_GETARG_INT64(0));
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_text(&state, "action", action);
	push_text(&state, "by", GetUserNameFromId(tasker_caller(), false));
	if (!PG_ARGISNULL(reason_arg))
	{
		check_remark(PG_GETARG_TEXT_PP(reason_arg), "the reason", TASKER_MAX_REMARK);
		push_text(&state, "reason", text_to_cstring(PG_GETARG_TEXT_PP(reason_arg)));
	}
	history_set_note(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

static void
end_call(TaskerSection *section)
{
	history_set_note(NULL);
	tasker_leave(section);
}

static Datum
one_task(int64 task_id)
{
	Datum		element = Int64GetDatum(task_id);
	DatumList	list;

	datum_list_init(&list, INT8OID);
	datum_list_add(&list, element);
	return datum_list_array(&list);
}

/* Lock the task's row. */
static TaskState
task_locked(int64 task_id, bool *started)
{
	Datum		values[1] = {Int64GetDatum(task_id)};

	note_all_taken();
	if (tasker_run(&lock_task, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_UNKNOWN_TASK),
				 errmsg("task " INT64_FORMAT " does not exist", task_id),
				 errdetail("It was deleted a moment ago."),
				 errhint("tasker.task_status lists the tasks that you may see.")));
	if (started != NULL)
		*started = DatumGetBool(tasker_value_notnull(0, 2));
	return task_state_from_text(tasker_value_notnull(0, 1));
}

static void
set_state(int64 task_id, TaskState state)
{
	Datum		values[2] = {Int64GetDatum(task_id), CStringGetTextDatum(task_state_name(state))};

	tasker_run(&set_task_state, values, NULL);
}

/* Lock the task's steps, all or those in one state, in order. */
static int64
steps_locked(int64 task_id, const char *state)
{
	Datum		values[2] = {Int64GetDatum(task_id), (Datum) 0};

	if (state != NULL)
		values[1] = CStringGetTextDatum(state);
	note_all_taken();
	tasker_run(&lock_steps, values, state == NULL ? " n" : NULL);
	return DatumGetInt64(tasker_value_notnull(0, 1));
}

static StepState
step_locked(int64 task_id, int step_id)
{
	Datum		values[2] = {Int64GetDatum(task_id), Int32GetDatum(step_id)};

	note_all_taken();
	if (tasker_run(&lock_step, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_UNKNOWN_STEP),
				 errmsg("task " INT64_FORMAT " has no step %d", task_id, step_id),
				 errdetail("No row of tasker.workflow_steps has these ids."),
				 errhint("tasker.step_status lists the steps of the task.")));
	return step_state_from_text(tasker_value_notnull(0, 1));
}

/* The steps of a task that is over stay as they are. */
static void
check_task_open(int64 task_id, const char *what)
{
	Datum		values[1] = {Int64GetDatum(task_id)};
	TaskState	state;

	if (tasker_run(&task_state_now, values, NULL) == 0)
		return;
	state = task_state_from_text(tasker_value_notnull(0, 1));
	if (task_state_final(state))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_ILLEGAL_TRANSITION),
				 errmsg("no step of task " INT64_FORMAT " can be %s", task_id, what),
				 errdetail("The task is in state %s.", task_state_name(state)),
				 errhint("Create a new task.")));
}

/* ---------------------------------------------------------------- the calls */

PG_FUNCTION_INFO_V1(tasker_cancel_task);
PG_FUNCTION_INFO_V1(tasker_pause_task);
PG_FUNCTION_INFO_V1(tasker_resume_task);
PG_FUNCTION_INFO_V1(tasker_retry_step);
PG_FUNCTION_INFO_V1(tasker_retry_task);
PG_FUNCTION_INFO_V1(tasker_resolve_step);
PG_FUNCTION_INFO_V1(tasker_step_id);

/* cancel_task(task_id, reason): false if it was cancelled before */
Datum
tasker_cancel_task(PG_FUNCTION_ARGS)
{
	int64		task_id = PG_GETARG_INT64(0);
	TaskerSection section;
	bool		changes;

	begin_call(&section, fcinfo, 1, 1, "cancel_task");
	steps_locked(task_id, NULL);
	changes = task_locked(task_id, NULL) != TASK_CANCELLED;
	if (changes)
	{
		set_state(task_id, TASK_CANCELLED);
		cancel_steps(one_task(task_id));
	}
	end_call(&section);
	PG_RETURN_BOOL(changes);
}

/* pause_task(task_id, reason): false if it was paused before */
Datum
tasker_pause_task(PG_FUNCTION_ARGS)
{
	int64		task_id = PG_GETARG_INT64(0);
	TaskerSection section;
	bool		changes;

	begin_call(&section, fcinfo, 1, 1, "pause_task");
	remove_hints(one_task(task_id));
	changes = task_locked(task_id, NULL) != TASK_PAUSED;
	if (changes)
		set_state(task_id, TASK_PAUSED);
	end_call(&section);
	PG_RETURN_BOOL(changes);
}

/* resume_task(task_id, reason): false if it was not paused */
Datum
tasker_resume_task(PG_FUNCTION_ARGS)
{
	int64		task_id = PG_GETARG_INT64(0);
	TaskerSection section;
	TaskState	state;
	bool		started;

	begin_call(&section, fcinfo, 1, 1, "resume_task");
	state = task_locked(task_id, &started);
	if (state != TASK_PAUSED && state != TASK_PENDING && state != TASK_IN_PROGRESS)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_ILLEGAL_TRANSITION),
				 errmsg("task " INT64_FORMAT " is not paused", task_id),
				 errdetail("The task is in state %s.", task_state_name(state)),
				 errhint("From there it can go to: %s.", task_legal_targets(state))));
	if (state == TASK_PAUSED)
	{
		set_state(task_id, started ? TASK_IN_PROGRESS : TASK_PENDING);
		enqueue_hints(one_task(task_id));
	}
	end_call(&section);
	PG_RETURN_BOOL(state == TASK_PAUSED);
}

/* retry_step(task_id, step_id, reason): at once, with all its attempts if it had failed for good */
Datum
tasker_retry_step(PG_FUNCTION_ARGS)
{
	int64		task_id = PG_GETARG_INT64(0);
	int			step_id = PG_GETARG_INT32(1);
	TaskerSection section;
	StepState	state;
	Datum		values[2] = {Int64GetDatum(task_id), Int32GetDatum(step_id)};

	begin_call(&section, fcinfo, 2, 2, "retry_step");
	state = step_locked(task_id, step_id);
	check_task_open(task_id, "retried");
	if (state != STEP_ERROR && state != STEP_WAITING_FOR_RETRY)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_ILLEGAL_TRANSITION),
				 errmsg("step %d of task " INT64_FORMAT " can not be retried", step_id, task_id),
				 errdetail("The step is in state %s.", step_state_name(state)),
				 errhint("Only a step in error or waiting_for_retry can; tasker.explain_step says what this one waits for.")));
	tasker_run(&retry_one, values, NULL);
	end_call(&section);
	PG_RETURN_BOOL(true);
}

/* retry_task(task_id, reason): how many failed steps are retried */
Datum
tasker_retry_task(PG_FUNCTION_ARGS)
{
	int64		task_id = PG_GETARG_INT64(0);
	TaskerSection section;
	int64		n;

	begin_call(&section, fcinfo, 1, 1, "retry_task");
	n = steps_locked(task_id, "error");
	check_task_open(task_id, "retried");
	if (n > 0)
		retry_failed_steps(one_task(task_id));
	end_call(&section);
	PG_RETURN_INT64(n);
}

/* resolve_step(task_id, step_id, results, reason): the operator did the step's work */
Datum
tasker_resolve_step(PG_FUNCTION_ARGS)
{
	int64		task_id = PG_GETARG_INT64(0);
	int			step_id = PG_GETARG_INT32(1);
	Jsonb	   *results;
	TaskerSection section;
	StepState	state;
	Datum		values[4] = {Int64GetDatum(task_id), Int32GetDatum(step_id), (Datum) 0, (Datum) 0};
	bool		apart;

	results = PG_ARGISNULL(2) ? NULL : PG_GETARG_JSONB_P(2);
	if (results != NULL)
		check_results_size(results);

	begin_call(&section, fcinfo, 2, 3, "resolve_step");
	state = step_locked(task_id, step_id);
	check_task_open(task_id, "resolved");
	if (state == STEP_RESOLVED_MANUALLY)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_ILLEGAL_TRANSITION),
				 errmsg("step %d of task " INT64_FORMAT " is resolved already", step_id, task_id),
				 errdetail("Its children may have read its results."),
				 errhint("Create a new task, or resolve the children with what they should have given.")));
	apart = results != NULL && results_live_apart(results);
	if (apart)
		store_results_apart(task_id, step_id, results);
	values[2] = JsonbPGetDatum(results);
	values[3] = TimestampTzGetDatum(tasker_now());
	tasker_run(&resolve_one, values, results == NULL || apart ? "  n " : NULL);
	end_call(&section);
	PG_RETURN_BOOL(true);
}

/* step_id(task_id, name): the id of the step of that name */
Datum
tasker_step_id(PG_FUNCTION_ARGS)
{
	int64		task_id = PG_GETARG_INT64(0);
	Datum		values[2] = {Int64GetDatum(task_id), PG_GETARG_DATUM(1)};
	TaskerSection section;
	int			step_id;

	tasker_enter(&section);
	check_may_see(task_id);
	if (tasker_run(&find_step, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_UNKNOWN_STEP),
				 errmsg("task " INT64_FORMAT " has no step \"%s\"", task_id,
						text_to_cstring(PG_GETARG_TEXT_PP(1))),
				 errdetail("The named task that it runs has no step of this name."),
				 errhint("tasker.step_status lists the steps of the task.")));
	step_id = DatumGetInt32(tasker_value_notnull(0, 1));
	tasker_leave(&section);
	PG_RETURN_INT32(step_id);
}
