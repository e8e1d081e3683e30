/*
 * step_transition.c
 *	  The trigger on workflow_steps: every change of a step's state, whoever makes
 *	  it, is checked, recorded, and has its consequences.
 *
 * It looks at all rows that a statement changed, and notes what follows from
 * each; then does it with a handful of statements, however many rows there
 * were: history (history.c), children and hints (release.c), the tasks
 * (settle.c).
 */
#include "engine.h"

#include "catalog/pg_type.h"
#include "changed_rows.h"
#include "shared.h"

/* Columns of workflow_steps, in the order of sql/tables.sql. */
enum
{
	STEPS_TASK_ID = 1,
	STEPS_NEXT_ATTEMPT_AT,
	STEPS_LAST_ATTEMPTED_AT,
	STEPS_COMPLETED_AT,
	STEPS_LEASE_EXPIRES_AT,
	STEPS_LEASE,
	STEPS_STEP_ID,
	STEPS_STEP_NO,
	STEPS_LANE,
	STEPS_PRIORITY,
	STEPS_PENDING_PARENTS,
	STEPS_ATTEMPTS,
	STEPS_STATE,
	STEPS_CLAIMED_BY,
	STEPS_RESULTS,
	STEPS_LAST_ERROR
};

/* Everything that a statement's changes of steps lead to. */
typedef struct StepChanges
{
	StepHistory *history;
	StepHints	hints;
	StepRefs	satisfied;
	StepRefs	promoted;		/* pending, but no parent is left to wait for */
	TaskChanges *tasks;
} StepChanges;

static void
check_step_keys(Pairs *pairs)
{
	static const int fixed[] = {STEPS_TASK_ID, STEPS_STEP_ID, STEPS_STEP_NO, STEPS_LANE};

	/* all of them are passed by value (bigint and int) */
	for (int i = 0; i < lengthof(fixed); i++)
		if (column(pairs->old_slot, fixed[i]) != column(pairs->new_slot, fixed[i]))
			key_changed("step", "task_id, step_id, step_no, lane");
	if (!tasker_inside() &&
		column(pairs->old_slot, STEPS_PENDING_PARENTS) != column(pairs->new_slot, STEPS_PENDING_PARENTS))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_KEY_CHANGED),
				 errmsg("pending_parents is kept by tasker"),
				 errdetail("It counts the parents of the step that are not satisfied yet."),
				 errhint("Resolve or skip the parents, or delete the edge.")));
}

/* Refuse a change of state that the state machine does not have. */
static void
check_step_transition(int64 task_id, int step_id, StepState from, StepState to, Pairs *pairs)
{
	int			pending = DatumGetInt32(column(pairs->new_slot, STEPS_PENDING_PARENTS));
	bool		begun = from == STEP_PENDING && (to == STEP_IN_PROGRESS || to == STEP_COMPLETE);
	bool		needs_parents = begun ||
	(from == STEP_PENDING && (to == STEP_ENQUEUED || to == STEP_WAITING));

	if (begun && !tasker_inside())
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_ILLEGAL_TRANSITION),
				 errmsg("step %d of task " INT64_FORMAT " can not go from %s to %s", step_id, task_id,
						step_state_name(from), step_state_name(to)),
				 errdetail("The step is in state pending, and has not been run."),
				 errhint("Resolve or skip it; only tasker itself begins a step that was pending.")));
	if (!step_transition_legal(from, to))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_ILLEGAL_TRANSITION),
				 errmsg("step %d of task " INT64_FORMAT " can not go from %s to %s", step_id, task_id,
						step_state_name(from), step_state_name(to)),
				 errdetail("The step is in state %s.", step_state_name(from)),
				 errhint("From there it can go to: %s.", step_legal_targets(from))));
	if (needs_parents && pending > 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_ILLEGAL_TRANSITION),
				 errmsg("step %d of task " INT64_FORMAT " can not go from %s to %s", step_id, task_id,
						step_state_name(from), step_state_name(to)),
				 errdetail_plural("%d of its parents is not satisfied yet.",
								  "%d of its parents are not satisfied yet.", pending, pending),
				 errhint("Complete, resolve or skip its parents, or resolve or skip the step itself.")));
}

/* A step that waits for a time must have one. */
static void
check_step_time(int64 task_id, int step_id, StepState state, Pairs *pairs)
{
	bool		isnull;

	if (state != STEP_WAITING && state != STEP_WAITING_FOR_RETRY)
		return;
	(void) slot_getattr(pairs->new_slot, STEPS_NEXT_ATTEMPT_AT, &isnull);
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_ILLEGAL_TRANSITION),
				 errmsg("step %d of task " INT64_FORMAT " can not wait for ever", step_id, task_id),
				 errdetail("It would be in state %s without next_attempt_at.", step_state_name(state)),
				 errhint("Set next_attempt_at in the same UPDATE.")));
}

/* Whether a step that waits for a time, and goes on doing so, got another one. */
static bool
time_changed(Pairs *pairs, StepState state)
{
	bool		isnull;

	return (state == STEP_WAITING || state == STEP_WAITING_FOR_RETRY) &&
		slot_getattr(pairs->old_slot, STEPS_NEXT_ATTEMPT_AT, &isnull) !=
		slot_getattr(pairs->new_slot, STEPS_NEXT_ATTEMPT_AT, &isnull);
}

/* Note one change of state for the history. */
static void
note_history(StepChanges *changes, Pairs *pairs, StepState from, StepState to)
{
	bool		attempt_ended = to == STEP_COMPLETE || to == STEP_ERROR || to == STEP_WAITING_FOR_RETRY;
	MemoryContext old_context = MemoryContextSwitchTo(changes->history->context);
	bool		isnull = true;
	Datum		started = (Datum) 0;

	datum_list_add(&changes->history->task, column(pairs->new_slot, STEPS_TASK_ID));
	datum_list_add(&changes->history->step, column(pairs->new_slot, STEPS_STEP_ID));
	datum_list_add(&changes->history->attempt, column(pairs->new_slot, STEPS_ATTEMPTS));
	datum_list_add(&changes->history->from, CStringGetTextDatum(step_state_name(from)));
	datum_list_add(&changes->history->to, CStringGetTextDatum(step_state_name(to)));

	if (attempt_ended)
		started = slot_getattr(pairs->new_slot, STEPS_LAST_ATTEMPTED_AT, &isnull);
	if (isnull)
		datum_list_add_null(&changes->history->started);
	else
		datum_list_add(&changes->history->started, started);

	if (to == STEP_ERROR || to == STEP_WAITING_FOR_RETRY)
	{
		Datum		error = slot_getattr(pairs->new_slot, STEPS_LAST_ERROR, &isnull);

		if (!isnull)
		{
			/* the slot's copy goes with the row */
			datum_list_add(&changes->history->metadata, PointerGetDatum(PG_DETOAST_DATUM_COPY(error)));
			MemoryContextSwitchTo(old_context);
			return;
		}
	}
	if (history_note() != NULL)
		datum_list_add(&changes->history->metadata, JsonbPGetDatum(history_note()));
	else
		datum_list_add_null(&changes->history->metadata);
	MemoryContextSwitchTo(old_context);
}

/* Where in its lane the step's row of ready_queue is. */
static LaneKey
row_of_slot(TupleTableSlot *slot)
{
	return lane_key(-DatumGetInt32(column(slot, STEPS_PRIORITY)), DatumGetInt64(column(slot, STEPS_TASK_ID)),
					DatumGetInt32(column(slot, STEPS_STEP_ID)));
}

/* The step's row can be taken. */
static void
note_row(Pairs *pairs)
{
	wake_lane_at_commit(DatumGetInt32(column(pairs->new_slot, STEPS_LANE)), row_of_slot(pairs->new_slot));
}

/* Note the hints that the step's new state needs. */
static void
note_hints(StepChanges *changes, Pairs *pairs, int64 task_id, StepState from, StepState to)
{
	Datum		step_id = column(pairs->new_slot, STEPS_STEP_ID);
	bool		isnull = true;
	Datum		due = (Datum) 0;

	if (to == STEP_ENQUEUED)
	{
		int			rank = -DatumGetInt32(column(pairs->new_slot, STEPS_PRIORITY));

		datum_list_add(&changes->hints.ready_lane, column(pairs->new_slot, STEPS_LANE));
		datum_list_add(&changes->hints.ready_rank, Int32GetDatum(rank));
		datum_list_add(&changes->hints.ready_task, Int64GetDatum(task_id));
		datum_list_add(&changes->hints.ready_step, step_id);
		note_row(pairs);
	}
	else if (to == STEP_WAITING || to == STEP_WAITING_FOR_RETRY)
		due = slot_getattr(pairs->new_slot, STEPS_NEXT_ATTEMPT_AT, &isnull);
	else if (to == STEP_IN_PROGRESS)
	{
		bool		endless;
		Datum		end = slot_getattr(pairs->new_slot, STEPS_LEASE_EXPIRES_AT, &endless);

		if (!endless)
			lease_ends_add(&changes->hints.leases, DatumGetTimestampTz(end), task_id,
						   DatumGetInt32(step_id));
	}
	else if (to == STEP_CANCELLED || to == STEP_SKIPPED || to == STEP_RESOLVED_MANUALLY)
		interrupt_task_at_commit(task_id);

	if (!isnull)
	{
		datum_list_add(&changes->hints.timer_due, due);
		datum_list_add(&changes->hints.timer_task, Int64GetDatum(task_id));
		datum_list_add(&changes->hints.timer_step, step_id);
		wake_timer_at_commit(DatumGetTimestampTz(due));
	}
}

/* Note what the change means for the task. */
static void
note_task(StepChanges *changes, Pairs *pairs, int64 task_id, StepState from, StepState to)
{
	TaskChange *task = task_change(changes->tasks, task_id);
	bool		isnull;

	if (to == STEP_IN_PROGRESS || to == STEP_COMPLETE || to == STEP_ERROR || to == STEP_WAITING_FOR_RETRY)
	{
		Datum		at = slot_getattr(pairs->new_slot, STEPS_LAST_ATTEMPTED_AT, &isnull);

		task->began = true;
		if (!isnull && (task->began_at == 0 || DatumGetTimestampTz(at) < task->began_at))
			task->began_at = DatumGetTimestampTz(at);
	}
	if (to == STEP_ERROR || to == STEP_CANCELLED)
		task->failed = true;
	if (from == STEP_ERROR || from == STEP_CANCELLED)
		task->revived = true;
	if (step_state_satisfies(to) || to == STEP_ERROR || to == STEP_CANCELLED)
		task->ended = true;
}

/* Check one row and note what follows from it. */
static void
look_at_step(StepChanges *changes, Pairs *pairs)
{
	int64		task_id = DatumGetInt64(column(pairs->new_slot, STEPS_TASK_ID));
	int			step_id = DatumGetInt32(column(pairs->new_slot, STEPS_STEP_ID));
	StepState	from = step_state_from_text(column(pairs->old_slot, STEPS_STATE));
	StepState	to = step_state_from_text(column(pairs->new_slot, STEPS_STATE));

	check_step_keys(pairs);
	if (from == STEP_ENQUEUED)
	{
		LaneKey		row = row_of_slot(pairs->old_slot);

		note_rows_taken(DatumGetInt32(column(pairs->old_slot, STEPS_LANE)), row, row);
	}
	if (to == STEP_PENDING &&
		DatumGetInt32(column(pairs->new_slot, STEPS_PENDING_PARENTS)) == 0)
		step_refs_add(&changes->promoted, task_id, step_id);
	if (from == to)
	{
		/* others have passed over it meanwhile */
		if (to == STEP_ENQUEUED)
			note_row(pairs);
		check_step_time(task_id, step_id, to, pairs);
		if (time_changed(pairs, to))
			note_hints(changes, pairs, task_id, from, to);
		return;
	}

	check_step_transition(task_id, step_id, from, to, pairs);
	check_step_time(task_id, step_id, to, pairs);
	note_history(changes, pairs, from, to);
	note_hints(changes, pairs, task_id, from, to);
	note_task(changes, pairs, task_id, from, to);
	if (step_state_satisfies(to))
		step_refs_add(&changes->satisfied, task_id, step_id);
}

PG_FUNCTION_INFO_V1(tasker_steps_changed);

/* steps_changed(): the trigger on workflow_steps */
Datum
tasker_steps_changed(PG_FUNCTION_ARGS)
{
	StepChanges changes = {0};
	HeldBack	own;
	HeldBack   *held = held_back();
	int			recorded;
	TaskerSection section;
	Pairs		pairs;

	if (held == NULL)
		held_back_init(&own);
	changes.history = held == NULL ? &own.history : &held->history;
	changes.tasks = held == NULL ? &own.tasks : &held->tasks;
	step_hints_init(&changes.hints);
	recorded = changes.history->task.length;

	pairs_begin(&pairs, fcinfo, "workflow_steps");
	while (pairs_next(&pairs))
		look_at_step(&changes, &pairs);
	pairs_end(&pairs);

	/* The trigger's own updates that change no state end here. */
	if (changes.history->task.length == recorded && changes.promoted.length == 0 &&
		changes.hints.timer_due.length == 0)
		return PointerGetDatum(NULL);

	tasker_enter(&section);
	if (held == NULL)
		record_step_history(&own.history);
	release_children(&changes.satisfied, changes.tasks);
	insert_hints(&changes.hints);
	for (int i = 0; i < changes.promoted.length; i++)
		changes.promoted.items[i].count = 0;
	(void) lower_counters(&changes.promoted);
	if (held == NULL)
		settle_tasks(&own.tasks);
	tasker_leave(&section);
	return PointerGetDatum(NULL);
}
