/*
 * transition.c
 *	  The triggers on workflow_steps and tasks: every change of state, whoever
 *	  makes it, is checked, recorded, and has its consequences here.
 *
 * Both are AFTER UPDATE statement triggers that read the two transition
 * tables in lockstep, so that a batch of steps costs a handful of statements.
 * A change of a step's state is recorded; a step that is satisfied releases
 * its children; one that becomes ready or must wait leaves a hint in
 * ready_queue or timers; and the task it belongs to is settled (settle.c).
 *
 * Lock order: steps by (task_id, step_id), then tasks by task_id.
 */
#include "engine.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "shared.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

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

/* Columns of tasks. */
enum
{
	TASKS_TASK_ID = 1,
	TASKS_NAMED_TASK_ID = 7,
	TASKS_OWNER = 8,
	TASKS_STATE = 11
};

/* What an operator's call wants in the history; put there by its updates. */
static Jsonb *note = NULL;
static TransactionId note_xid = InvalidTransactionId;

static TaskerQuery record_steps = {
	.sql = "INSERT INTO tasker.workflow_step_transitions "
	"(slot, executor, task_id, created_at, started_at, step_id, attempt, from_state, to_state, metadata) "
	"SELECT 0, $1, task_id, $2, started_at, step_id, attempt, from_state, to_state, metadata "
	"FROM ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5), "
	"pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9)) "
	"AS c (task_id, started_at, step_id, attempt, from_state, to_state, metadata)",
	.args = {INT4OID, TIMESTAMPTZOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID, INT4ARRAYOID,
	INT4ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, JSONBARRAYOID},
};

static TaskerQuery record_tasks = {
	.sql = "INSERT INTO tasker.task_transitions "
	"(slot, executor, task_id, created_at, from_state, to_state, metadata) "
	"SELECT 0, $1, task_id, $2, from_state, to_state, $6 "
	"FROM ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5)) "
	"AS c (task_id, from_state, to_state)",
	.args = {INT4OID, TIMESTAMPTZOID, INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, JSONBOID},
};

static TaskerQuery children_of = {
	.sql = "SELECT f.task_id, e.to_step_id "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS f (task_id, step_id) "
	"LEFT JOIN tasker.workflow_step_edges e ON e.task_id = f.task_id AND e.from_step_id = f.step_id",
	.args = {INT8ARRAYOID, INT4ARRAYOID},
	.columns = {INT8OID, INT4OID},
	.latest = true,
};

/* $4 is the time: a step that has a start time of its own waits for it. */
static TaskerQuery release = {
	.sql = "UPDATE tasker.workflow_steps s "
	"SET pending_parents = s.pending_parents - c.satisfied, "
	"state = CASE WHEN s.pending_parents > c.satisfied THEN 'pending' "
	"WHEN s.next_attempt_at > $4 THEN 'waiting' ELSE 'enqueued' END "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) "
	"AS c (task_id, step_id, satisfied) "
	"WHERE s.task_id = c.task_id AND s.step_id = c.step_id AND s.state = 'pending'",
	.args = {INT8ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, TIMESTAMPTZOID},
};

/*
 * For a paused task too: somebody may be resuming it who does not see what
 * this transaction makes ready, nor this one that.
 */
static TaskerQuery hint_ready = {
	.sql = "INSERT INTO tasker.ready_queue (lane, rank, task_id, step_id) "
	"SELECT c.lane, c.rank, c.task_id, c.step_id "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4)) "
	"AS c (lane, rank, task_id, step_id) "
	"JOIN tasker.tasks t ON t.task_id = c.task_id "
	"WHERE t.state IN ('pending', 'in_progress', 'paused', 'error') "
	"ON CONFLICT DO NOTHING",
	.args = {INT4ARRAYOID, INT4ARRAYOID, INT8ARRAYOID, INT4ARRAYOID},
};

static TaskerQuery hint_timer = {
	.sql = "INSERT INTO tasker.timers (due_at, task_id, step_id) "
	"SELECT due_at, task_id, step_id "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) "
	"AS c (due_at, task_id, step_id) "
	"ON CONFLICT DO NOTHING",
	.args = {TIMESTAMPTZARRAYOID, INT8ARRAYOID, INT4ARRAYOID},
};

static TaskerQuery unfinished_step = {
	.sql = "SELECT s.step_id, s.state::text FROM tasker.workflow_steps s "
	"WHERE s.task_id = $1 AND s.state NOT IN ('complete', 'resolved_manually', 'skipped') "
	"ORDER BY s.step_id DESC LIMIT 1",
	.args = {INT8OID},
	.columns = {INT4OID, TEXTOID},
};

/* The pairs of old and new rows of a statement, in lockstep. */
typedef struct Pairs
{
	Tuplestorestate *old_rows;
	Tuplestorestate *new_rows;
	TupleTableSlot *old_slot;
	TupleTableSlot *new_slot;
} Pairs;

/* Everything that a statement's changes of steps lead to. */
typedef struct StepChanges
{
	/* history */
	DatumList	h_task,
				h_started,
				h_step,
				h_attempt,
				h_from,
				h_to,
				h_metadata;
	/* hints */
	DatumList	r_lane,
				r_rank,
				r_task,
				r_step;
	DatumList	t_due,
				t_task,
				t_step;
	StepRef    *satisfied;
	int			nsatisfied;
	int			space;
	StepRef    *promoted;		/* pending, but no parent is left to wait for */
	int			npromoted;
	int			promoted_space;
	TaskChanges tasks;
} StepChanges;

/*
 * Give the history rows written from here to the end of the transaction a
 * metadata of an operator's. NULL takes it back.
 */
void
transition_set_note(Jsonb *new_note)
{
	if (note != NULL && TransactionIdEquals(note_xid, GetTopTransactionIdIfAny()))
		pfree(note);
	note = NULL;
	if (new_note != NULL)
	{
		Size		size = VARSIZE(new_note);

		note = MemoryContextAlloc(TopTransactionContext, size);
		memcpy(note, new_note, size);
		note_xid = GetTopTransactionId();
	}
}

/* The note of this transaction; one that an aborted transaction left is void. */
static Jsonb *
current_note(void)
{
	if (note != NULL && !TransactionIdEquals(note_xid, GetTopTransactionIdIfAny()))
		note = NULL;
	return note;
}

int
step_ref_compare(const void *a, const void *b)
{
	const StepRef *x = a;
	const StepRef *y = b;

	if (x->task_id != y->task_id)
		return x->task_id < y->task_id ? -1 : 1;
	return x->step_id < y->step_id ? -1 : x->step_id > y->step_id;
}

static void
pairs_begin(Pairs *pairs, TriggerData *trigger)
{
	TupleDesc	desc = RelationGetDescr(trigger->tg_relation);

	pairs->old_rows = trigger->tg_oldtable;
	pairs->new_rows = trigger->tg_newtable;
	tuplestore_rescan(pairs->old_rows);
	tuplestore_rescan(pairs->new_rows);
	pairs->old_slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	pairs->new_slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
}

static bool
pairs_next(Pairs *pairs)
{
	CHECK_FOR_INTERRUPTS();
	return tuplestore_gettupleslot(pairs->old_rows, true, false, pairs->old_slot) &&
		tuplestore_gettupleslot(pairs->new_rows, true, false, pairs->new_slot);
}

static void
pairs_end(Pairs *pairs)
{
	ExecDropSingleTupleTableSlot(pairs->old_slot);
	ExecDropSingleTupleTableSlot(pairs->new_slot);
}

/* The value of a column that is NOT NULL. */
static Datum
column(TupleTableSlot *slot, int number)
{
	bool		isnull;

	return slot_getattr(slot, number, &isnull);
}

static void
check_called_as(FunctionCallInfo fcinfo)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ||
		trigger->tg_oldtable == NULL || trigger->tg_newtable == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("this function is for tasker's own AFTER UPDATE statement triggers"),
				 errdetail("It needs both transition tables."),
				 errhint("Reinstall the extension if its trigger was changed.")));
}

/* ------------------------------------------------------------------- steps */

static void
key_changed(const char *what, const char *columns)
{
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_KEY_CHANGED),
			 errmsg("what identifies a %s can not be changed", what),
			 errdetail("One of the columns %s would change.", columns),
			 errhint("Change its state; create a new task for anything else.")));
}

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
	bool		needs_parents = from == STEP_PENDING &&
	(to == STEP_ENQUEUED || to == STEP_WAITING || to == STEP_COMPLETE);

	if (from == STEP_PENDING && to == STEP_COMPLETE && !tasker_inside())
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_ILLEGAL_TRANSITION),
				 errmsg("step %d of task " INT64_FORMAT " can not go from %s to %s", step_id, task_id,
						step_state_name(from), step_state_name(to)),
				 errdetail("The step is in state pending, and has not been run."),
				 errhint("Resolve or skip it; only an executor completes a step that was pending.")));
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

static void
step_refs_add(StepRef **refs, int *length, int *space, int64 task_id, int step_id)
{
	if (*refs == NULL)
	{
		*space = 16;
		*refs = palloc(*space * sizeof(StepRef));
	}
	else if (*length == *space)
	{
		*space *= 2;
		*refs = repalloc_huge(*refs, *space * sizeof(StepRef));
	}
	(*refs)[(*length)++] = (StepRef)
	{
		task_id, step_id, 1
	};
}

/* Note one change of state for the history. */
static void
note_history(StepChanges *changes, Pairs *pairs, StepState from, StepState to)
{
	bool		attempt_ended = to == STEP_COMPLETE || to == STEP_ERROR || to == STEP_WAITING_FOR_RETRY;
	bool		isnull = true;
	Datum		started = (Datum) 0;

	datum_list_add(&changes->h_task, column(pairs->new_slot, STEPS_TASK_ID));
	datum_list_add(&changes->h_step, column(pairs->new_slot, STEPS_STEP_ID));
	datum_list_add(&changes->h_attempt, column(pairs->new_slot, STEPS_ATTEMPTS));
	datum_list_add(&changes->h_from, CStringGetTextDatum(step_state_name(from)));
	datum_list_add(&changes->h_to, CStringGetTextDatum(step_state_name(to)));

	if (attempt_ended)
		started = slot_getattr(pairs->new_slot, STEPS_LAST_ATTEMPTED_AT, &isnull);
	if (isnull)
		datum_list_add_null(&changes->h_started);
	else
		datum_list_add(&changes->h_started, started);

	if (to == STEP_ERROR || to == STEP_WAITING_FOR_RETRY)
	{
		Datum		error = slot_getattr(pairs->new_slot, STEPS_LAST_ERROR, &isnull);

		if (!isnull)
		{
			/* the slot's copy goes with the row */
			datum_list_add(&changes->h_metadata, PointerGetDatum(PG_DETOAST_DATUM_COPY(error)));
			return;
		}
	}
	if (current_note() != NULL)
		datum_list_add(&changes->h_metadata, JsonbPGetDatum(current_note()));
	else
		datum_list_add_null(&changes->h_metadata);
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
		int			lane = DatumGetInt32(column(pairs->new_slot, STEPS_LANE));

		datum_list_add(&changes->r_lane, Int32GetDatum(lane));
		datum_list_add(&changes->r_rank,
					   Int32GetDatum(-DatumGetInt32(column(pairs->new_slot, STEPS_PRIORITY))));
		datum_list_add(&changes->r_task, Int64GetDatum(task_id));
		datum_list_add(&changes->r_step, step_id);
		wake_lane_at_commit(lane);
	}
	else if (to == STEP_WAITING || to == STEP_WAITING_FOR_RETRY)
		due = slot_getattr(pairs->new_slot, STEPS_NEXT_ATTEMPT_AT, &isnull);
	else if (to == STEP_IN_PROGRESS)
		due = slot_getattr(pairs->new_slot, STEPS_LEASE_EXPIRES_AT, &isnull);
	else if (to == STEP_CANCELLED || to == STEP_SKIPPED || to == STEP_RESOLVED_MANUALLY)
		interrupt_task_at_commit(task_id);

	if (!isnull)
	{
		datum_list_add(&changes->t_due, due);
		datum_list_add(&changes->t_task, Int64GetDatum(task_id));
		datum_list_add(&changes->t_step, step_id);
		wake_timer_at_commit(DatumGetTimestampTz(due));
	}
}

/* Note what the change means for the task. */
static void
note_task(StepChanges *changes, Pairs *pairs, int64 task_id, StepState from, StepState to)
{
	TaskChange *task = task_change(&changes->tasks, task_id);
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
	if (to == STEP_PENDING &&
		DatumGetInt32(column(pairs->new_slot, STEPS_PENDING_PARENTS)) == 0)
		step_refs_add(&changes->promoted, &changes->npromoted, &changes->promoted_space, task_id, step_id);
	if (from == to)
	{
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
		step_refs_add(&changes->satisfied, &changes->nsatisfied, &changes->space, task_id, step_id);
}

static void
record_step_history(StepChanges *changes)
{
	Datum		values[9];

	if (changes->h_task.length == 0)
		return;
	values[0] = Int32GetDatum(MyProcPid);
	values[1] = TimestampTzGetDatum(tasker_now());
	values[2] = datum_list_array(&changes->h_task);
	values[3] = datum_list_array(&changes->h_started);
	values[4] = datum_list_array(&changes->h_step);
	values[5] = datum_list_array(&changes->h_attempt);
	values[6] = datum_list_array(&changes->h_from);
	values[7] = datum_list_array(&changes->h_to);
	values[8] = datum_list_array(&changes->h_metadata);
	tasker_run(&record_steps, values, NULL);
}

/*
 * Lower the children's counters; the trigger's own inner call goes on with
 * those that are released. False if some child was not pending any more.
 */
static bool
lower_counters(StepRef *children, int n)
{
	DatumList	tasks,
				steps,
				counts;
	Datum		values[4];

	if (n == 0)
		return true;
	datum_list_init(&tasks, INT8OID);
	datum_list_init(&steps, INT4OID);
	datum_list_init(&counts, INT4OID);
	qsort(children, n, sizeof(StepRef), step_ref_compare);
	for (int i = 0; i < n;)
	{
		StepRef		child = children[i++];

		for (; i < n && step_ref_compare(&children[i], &child) == 0; i++)
			child.count += children[i].count;
		datum_list_add(&tasks, Int64GetDatum(child.task_id));
		datum_list_add(&steps, Int32GetDatum(child.step_id));
		datum_list_add(&counts, Int32GetDatum(child.count));
	}
	values[0] = datum_list_array(&tasks);
	values[1] = datum_list_array(&steps);
	values[2] = datum_list_array(&counts);
	values[3] = TimestampTzGetDatum(tasker_now());
	return tasker_run(&release, values, NULL) == tasks.length;
}

/*
 * Release the children of the steps that this statement satisfied, but for
 * those that it satisfied as well. A step without children may be the last of
 * its task, and so may one whose children were skipped or resolved before it.
 */
static void
release_children(StepChanges *changes)
{
	DatumList	tasks,
				steps;
	Datum		values[2];
	StepRef    *children = NULL;
	int			nchildren = 0;
	int			space = 0;
	uint64		n;

	if (changes->nsatisfied == 0)
		return;
	qsort(changes->satisfied, changes->nsatisfied, sizeof(StepRef), step_ref_compare);
	datum_list_init(&tasks, INT8OID);
	datum_list_init(&steps, INT4OID);
	for (int i = 0; i < changes->nsatisfied; i++)
	{
		datum_list_add(&tasks, Int64GetDatum(changes->satisfied[i].task_id));
		datum_list_add(&steps, Int32GetDatum(changes->satisfied[i].step_id));
	}
	values[0] = datum_list_array(&tasks);
	values[1] = datum_list_array(&steps);
	n = tasker_run(&children_of, values, NULL);
	for (uint64 row = 0; row < n; row++)
	{
		int64		task_id = DatumGetInt64(tasker_value_notnull(row, 1));
		bool		isnull;
		int			child = DatumGetInt32(tasker_value(row, 2, &isnull));
		StepRef		ref = {task_id, child, 1};

		if (isnull)
			task_change(&changes->tasks, task_id)->may_complete = true;
		else if (bsearch(&ref, changes->satisfied, changes->nsatisfied,
						 sizeof(StepRef), step_ref_compare) == NULL)
			step_refs_add(&children, &nchildren, &space, task_id, child);
	}
	SPI_freetuptable(SPI_tuptable);
	if (!lower_counters(children, nchildren))
		for (int i = 0; i < nchildren; i++)
			task_change(&changes->tasks, children[i].task_id)->may_complete = true;
}

static void
insert_hints(StepChanges *changes)
{
	Datum		values[4];

	if (changes->r_lane.length > 0)
	{
		values[0] = datum_list_array(&changes->r_lane);
		values[1] = datum_list_array(&changes->r_rank);
		values[2] = datum_list_array(&changes->r_task);
		values[3] = datum_list_array(&changes->r_step);
		tasker_run(&hint_ready, values, NULL);
	}
	if (changes->t_due.length > 0)
	{
		values[0] = datum_list_array(&changes->t_due);
		values[1] = datum_list_array(&changes->t_task);
		values[2] = datum_list_array(&changes->t_step);
		tasker_run(&hint_timer, values, NULL);
	}
}

PG_FUNCTION_INFO_V1(tasker_steps_changed);

/* steps_changed(): the trigger on workflow_steps */
Datum
tasker_steps_changed(PG_FUNCTION_ARGS)
{
	StepChanges changes = {0};
	TaskerSection section;
	Pairs		pairs;

	check_called_as(fcinfo);
	datum_list_init(&changes.h_task, INT8OID);
	datum_list_init(&changes.h_started, TIMESTAMPTZOID);
	datum_list_init(&changes.h_step, INT4OID);
	datum_list_init(&changes.h_attempt, INT4OID);
	datum_list_init(&changes.h_from, TEXTOID);
	datum_list_init(&changes.h_to, TEXTOID);
	datum_list_init(&changes.h_metadata, JSONBOID);
	datum_list_init(&changes.r_lane, INT4OID);
	datum_list_init(&changes.r_rank, INT4OID);
	datum_list_init(&changes.r_task, INT8OID);
	datum_list_init(&changes.r_step, INT4OID);
	datum_list_init(&changes.t_due, TIMESTAMPTZOID);
	datum_list_init(&changes.t_task, INT8OID);
	datum_list_init(&changes.t_step, INT4OID);
	task_changes_init(&changes.tasks);

	pairs_begin(&pairs, (TriggerData *) fcinfo->context);
	while (pairs_next(&pairs))
		look_at_step(&changes, &pairs);
	pairs_end(&pairs);

	/* The trigger's own updates that change no state end here. */
	if (changes.h_task.length == 0 && changes.npromoted == 0 && changes.t_due.length == 0)
		return PointerGetDatum(NULL);

	tasker_enter(&section);
	record_step_history(&changes);
	release_children(&changes);
	insert_hints(&changes);
	for (int i = 0; i < changes.npromoted; i++)
		changes.promoted[i].count = 0;
	(void) lower_counters(changes.promoted, changes.npromoted);
	settle_tasks(&changes.tasks);
	tasker_leave(&section);
	return PointerGetDatum(NULL);
}

/* ------------------------------------------------------------------- tasks */

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

	check_called_as(fcinfo);
	datum_list_init(&changed, INT8OID);
	datum_list_init(&from_states, TEXTOID);
	datum_list_init(&to_states, TEXTOID);
	datum_list_init(&closed, INT8OID);
	datum_list_init(&completed, INT8OID);
	datum_list_init(&failed, INT8OID);
	datum_list_init(&paused, INT8OID);
	datum_list_init(&resumed, INT8OID);
	datum_list_init(&retried, INT8OID);

	pairs_begin(&pairs, (TriggerData *) fcinfo->context);
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
	{
		Datum		values[6];

		values[0] = Int32GetDatum(MyProcPid);
		values[1] = TimestampTzGetDatum(tasker_now());
		values[2] = datum_list_array(&changed);
		values[3] = datum_list_array(&from_states);
		values[4] = datum_list_array(&to_states);
		values[5] = JsonbPGetDatum(current_note());
		tasker_run(&record_tasks, values, current_note() == NULL ? "     n" : NULL);
	}

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
