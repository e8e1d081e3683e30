/*
 * task_transition.c
 *	  The trigger on tasks: every change of a task's state, whoever makes it, is
 *	  checked and recorded; what somebody's plain UPDATE means for the steps is
 *	  done here, as the calls of operators.c do it.
 */
#include "engine.h"

#include "catalog/pg_type.h"
#include "changed_rows.h"

/* Columns of tasks. */
enum
{
	TASKS_TASK_ID = 1,
	TASKS_NAMED_TASK_ID = 7,
	TASKS_OWNER = 8,
	TASKS_STATE = 11
};

static TaskerQuery unfinished_step = {
	.sql = "SELECT s.step_id, s.state::text FROM tasker.workflow_steps s "
	"WHERE s.task_id = $1 AND s.state NOT IN ('complete', 'resolved_manually', 'skipped') "
	"ORDER BY s.step_id DESC LIMIT 1",
	.args = {INT8OID},
	.columns = {INT4OID, TEXTOID},
};

static void
check_task_transition(int64 task_id, TaskState from, TaskState to)
{
	if (task_transition_legal(from, to))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_ILLEGAL_TRANSITION),
			 errmsg("task " INT64_FORMAT " can not go from %s to %s", task_id,
					task_state_name(from), task_state_name(to)),
			 errdetail("The task is in state %s.", task_state_name(from)),
			 errhint("From there it can go to: %s.", task_legal_targets(from))));
}

/* Only a task all of whose steps are satisfied is complete. */
static void
check_task_finished(Datum task_id)
{
	Datum		values[1] = {task_id};

	if (tasker_run(&unfinished_step, values, NULL) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_NOT_FINISHED),
				 errmsg("task " INT64_FORMAT " is not finished", DatumGetInt64(task_id)),
				 errdetail("Its step %d is in state %s.",
						   DatumGetInt32(tasker_value_notnull(0, 1)),
						   TextDatumGetCString(tasker_value_notnull(0, 2))),
				 errhint("Complete, resolve or skip its steps; the task then completes by itself.")));
}

/* Only a task of which a step failed and nothing else can run is in error. */
static void
check_task_failed(Datum task_id)
{
	if (!task_has_failed(DatumGetInt64(task_id)))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_NOT_FINISHED),
				 errmsg("task " INT64_FORMAT " is not in error", DatumGetInt64(task_id)),
				 errdetail("No step of it failed, or other steps of it can still run."),
				 errhint("Cancel the task, or fail its steps; the task's state then follows by itself.")));
}

/*
 * Tasks in error that somebody put back in progress, and whose failed steps
 * are enqueued again: one where there was nothing to retry is not left without
 * anything that could ever run.
 */
static void
settle_retried(DatumList *task_ids)
{
	TaskChanges changes;

	task_changes_init(&changes);
	for (int i = 0; i < task_ids->length; i++)
		task_change(&changes, DatumGetInt64(task_ids->values[i]))->revived = true;
	settle_tasks(&changes);
}

PG_FUNCTION_INFO_V1(tasker_tasks_changed);

/* tasks_changed(): the trigger on tasks */
Datum
tasker_tasks_changed(PG_FUNCTION_ARGS)
{
	bool		by_engine = tasker_inside();
	DatumList	changed,
				from_states,
				to_states,
				closed,
				completed,
				failed,
				paused,
				resumed,
				retried;
	TaskerSection section;
	Pairs		pairs;

	datum_list_init(&changed, INT8OID);
	datum_list_init(&from_states, TEXTOID);
	datum_list_init(&to_states, TEXTOID);
	datum_list_init(&closed, INT8OID);
	datum_list_init(&completed, INT8OID);
	datum_list_init(&failed, INT8OID);
	datum_list_init(&paused, INT8OID);
	datum_list_init(&resumed, INT8OID);
	datum_list_init(&retried, INT8OID);

	pairs_begin(&pairs, fcinfo, "tasks");
	while (pairs_next(&pairs))
	{
		Datum		task_id = column(pairs.new_slot, TASKS_TASK_ID);
		TaskState	from = task_state_from_text(column(pairs.old_slot, TASKS_STATE));
		TaskState	to = task_state_from_text(column(pairs.new_slot, TASKS_STATE));

		if (column(pairs.old_slot, TASKS_TASK_ID) != task_id ||
			column(pairs.old_slot, TASKS_NAMED_TASK_ID) != column(pairs.new_slot, TASKS_NAMED_TASK_ID) ||
			column(pairs.old_slot, TASKS_OWNER) != column(pairs.new_slot, TASKS_OWNER))
			key_changed("task", "task_id, named_task_id, owner");
		if (from == to)
			continue;
		check_task_transition(DatumGetInt64(task_id), from, to);
		datum_list_add(&changed, task_id);
		datum_list_add(&from_states, CStringGetTextDatum(task_state_name(from)));
		datum_list_add(&to_states, CStringGetTextDatum(task_state_name(to)));
		if (to == TASK_CANCELLED || to == TASK_RESOLVED_MANUALLY)
			datum_list_add(&closed, task_id);
		else if (to == TASK_COMPLETE)
			datum_list_add(&completed, task_id);
		else if (to == TASK_ERROR)
			datum_list_add(&failed, task_id);
		else if (to == TASK_PAUSED)
			datum_list_add(&paused, task_id);
		else if (from == TASK_PAUSED)
			datum_list_add(&resumed, task_id);
		else if (from == TASK_ERROR)
			datum_list_add(&retried, task_id);
	}
	pairs_end(&pairs);
	if (changed.length == 0)
		return PointerGetDatum(NULL);

	tasker_enter(&section);
	record_task_history(&changed, &from_states, &to_states);

	/* What somebody's plain UPDATE means, the API's functions have done. */
	if (!by_engine)
	{
		for (int i = 0; i < completed.length; i++)
			check_task_finished(completed.values[i]);
		for (int i = 0; i < failed.length; i++)
			check_task_failed(failed.values[i]);
		if (closed.length > 0)
			cancel_steps(datum_list_array(&closed));
		if (paused.length > 0)
			remove_hints(datum_list_array(&paused));
		if (resumed.length > 0)
			enqueue_hints(datum_list_array(&resumed));
		if (retried.length > 0)
		{
			retry_failed_steps(datum_list_array(&retried));
			settle_retried(&retried);
		}
	}
	tasker_leave(&section);
	return PointerGetDatum(NULL);
}
