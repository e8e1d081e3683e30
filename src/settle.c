/*
 * settle.c
 *	  What changes of steps mean for their tasks: a task begins with its first
 *	  step, is complete when every step is satisfied, in error when a step
 *	  failed for good and nothing else of it can run, and goes on when an
 *	  operator retried or resolved what had failed.
 *
 * Called by the trigger on steps (step_transition.c) and, for tasks with a failed
 * step, by the scheduler (due.c). A task's row is written only when its state
 * or its blocked flag changes; most steps of a task do not even lock it. Its
 * lock comes after those of steps.
 */
#include "engine.h"

#include "catalog/pg_type.h"
#include "shared.h"

/* How long after a step's failure the scheduler looks at the task, and again. */
#define FIRST_LOOK		(1 * USECS_PER_SEC)
#define NEXT_LOOK		(15 * USECS_PER_SEC)

static TaskerQuery look_at_tasks = {
	.sql = "SELECT t.task_id, t.state::text, t.blocked, t.started_at IS NOT NULL "
	"FROM ROWS FROM (pg_catalog.unnest($1)) AS c (task_id) "
	"JOIN tasker.tasks t ON t.task_id = c.task_id",
	.args = {INT8ARRAYOID},
	.columns = {INT8OID, TEXTOID, BOOLOID, BOOLOID},
};

static TaskerQuery lock_tasks = {
	.sql = "SELECT t.task_id, t.state::text, t.blocked, t.started_at IS NOT NULL "
	"FROM ROWS FROM (pg_catalog.unnest($1)) AS c (task_id) "
	"JOIN tasker.tasks t ON t.task_id = c.task_id "
	"FOR NO KEY UPDATE OF t",
	.args = {INT8ARRAYOID},
	.columns = {INT8OID, TEXTOID, BOOLOID, BOOLOID},
};

/*
 * Asked once the task is locked, hence .latest: what another transaction did to
 * a step before it let go of the task must be seen, or neither of them sees
 * that the task is complete.
 *
 * From the highest step down: the steps at the end of a task are the last to
 * be satisfied, so that the first row looked at nearly always answers.
 */
static TaskerQuery all_satisfied = {
	.sql = "SELECT NOT EXISTS (SELECT FROM (SELECT s.step_id FROM tasker.workflow_steps s "
	"WHERE s.task_id = $1 AND s.state NOT IN ('complete', 'resolved_manually', 'skipped') "
	"ORDER BY s.step_id DESC LIMIT 1) AS unsatisfied)",
	.args = {INT8OID},
	.columns = {BOOLOID},
	.latest = true,
};

static TaskerQuery failed_and_active = {
	.sql = "SELECT COALESCE(pg_catalog.bool_or(s.state IN ('error', 'cancelled')), false), "
	"COALESCE(pg_catalog.bool_or(s.state IN ('waiting', 'enqueued', 'in_progress', 'waiting_for_retry')), false) "
	"FROM tasker.workflow_steps s WHERE s.task_id = $1",
	.args = {INT8OID},
	.columns = {BOOLOID, BOOLOID},
	.latest = true,
};

static TaskerQuery change_tasks = {
	.sql = "UPDATE tasker.tasks t SET state = c.state, blocked = c.blocked, "
	"started_at = COALESCE(t.started_at, c.started_at), "
	"completed_at = CASE WHEN c.state = 'complete' THEN $5 ELSE t.completed_at END "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4)) "
	"AS c (task_id, state, blocked, started_at) "
	"WHERE t.task_id = c.task_id",
	.args = {INT8ARRAYOID, TEXTARRAYOID, BOOLARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZOID},
};

static TaskerQuery look_again = {
	.sql = "INSERT INTO tasker.timers (due_at, task_id, step_id) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING",
	.args = {TIMESTAMPTZOID, INT8OID},
};

/* A task whose row must be locked, as it was when locked. */
typedef struct LockedTask
{
	int64		task_id;
	TaskState	state;
	bool		blocked;
	bool		started;		/* has started_at */
} LockedTask;

void
task_changes_init(TaskChanges *changes)
{
	changes->length = 0;
	changes->space = 16;
	changes->items = palloc(changes->space * sizeof(TaskChange));
}

/*
 * The entry of a task, made if there is none. Steps come mostly task by task,
 * so the last entry is tried first; the list is in order of task_id, which is
 * also the order of the locks.
 */
TaskChange *
task_change(TaskChanges *changes, int64 task_id)
{
	int			low = 0;
	int			high = changes->length;

	if (high > 0 && changes->items[high - 1].task_id < task_id)
		low = high;
	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (changes->items[middle].task_id < task_id)
			low = middle + 1;
		else
			high = middle;
	}
	if (low < changes->length && changes->items[low].task_id == task_id)
		return &changes->items[low];

	if (changes->length == changes->space)
	{
		changes->space *= 2;
		changes->items = repalloc_huge(changes->items, changes->space * sizeof(TaskChange));
	}
	memmove(&changes->items[low + 1], &changes->items[low],
			(changes->length - low) * sizeof(TaskChange));
	changes->length++;
	memset(&changes->items[low], 0, sizeof(TaskChange));
	changes->items[low].task_id = task_id;
	return &changes->items[low];
}

/* The rows of the tasks, by look_at_tasks or lock_tasks. */
static LockedTask *
read_tasks(TaskerQuery *query, DatumList *ids, int *n)
{
	Datum		values[1] = {datum_list_array(ids)};
	LockedTask *tasks;

	*n = (int) tasker_run(query, values, NULL);
	tasks = palloc(Max(*n, 1) * sizeof(LockedTask));
	for (int i = 0; i < *n; i++)
	{
		tasks[i].task_id = DatumGetInt64(tasker_value_notnull(i, 1));
		tasks[i].state = task_state_from_text(tasker_value_notnull(i, 2));
		tasks[i].blocked = DatumGetBool(tasker_value_notnull(i, 3));
		tasks[i].started = DatumGetBool(tasker_value_notnull(i, 4));
	}
	return tasks;
}

/*
 * A step began that was taken before the task was paused. The task's row has to
 * say so, or it would be resumed as one that has not begun.
 */
static bool
begins_paused(const LockedTask *task, const TaskChange *change)
{
	return change->began && task->state == TASK_PAUSED && !task->started;
}

/*
 * The tasks whose rows may have to change, in order. The others, with a step
 * that ended in the middle of a task without failures, are left alone.
 */
static void
tasks_to_lock(TaskChanges *changes, DatumList *ids)
{
	DatumList	all;
	LockedTask *tasks;
	int			n;

	datum_list_init(&all, INT8OID);
	for (int i = 0; i < changes->length; i++)
		datum_list_add(&all, Int64GetDatum(changes->items[i].task_id));
	tasks = read_tasks(&look_at_tasks, &all, &n);
	for (int i = 0; i < n; i++)
	{
		TaskChange *change = task_change(changes, tasks[i].task_id);

		if (change->may_complete || change->failed || change->revived || change->recheck ||
			(change->ended && tasks[i].blocked) ||
			(change->began && tasks[i].state == TASK_PENDING) ||
			begins_paused(&tasks[i], change))
			datum_list_add(ids, Int64GetDatum(tasks[i].task_id));
	}
}

/* The state and flag that the task, now locked, should have. */
static TaskState
settled_state(const LockedTask *task, const TaskChange *change, bool *blocked)
{
	Datum		values[1] = {Int64GetDatum(task->task_id)};
	bool		may_complete = change->may_complete || change->revived || task->blocked;
	bool		active;

	*blocked = task->blocked;
	if (task_state_final(task->state))
		return task->state;

	if (may_complete)
	{
		tasker_run(&all_satisfied, values, NULL);
		if (DatumGetBool(tasker_value_notnull(0, 1)))
		{
			*blocked = false;
			return TASK_COMPLETE;
		}
	}
	if (task->blocked || change->failed || change->revived)
	{
		tasker_run(&failed_and_active, values, NULL);
		*blocked = DatumGetBool(tasker_value_notnull(0, 1));
		active = DatumGetBool(tasker_value_notnull(0, 2));
		if (*blocked && !active)
			return TASK_ERROR;
	}
	if (task->state == TASK_ERROR || (task->state == TASK_PENDING && change->began))
		return TASK_IN_PROGRESS;
	return task->state;
}

/* Did a step fail, or was one cancelled, and can nothing else run? Inside a section. */
bool
task_has_failed(int64 task_id)
{
	Datum		values[1] = {Int64GetDatum(task_id)};

	tasker_run(&failed_and_active, values, NULL);
	return DatumGetBool(tasker_value_notnull(0, 1)) && !DatumGetBool(tasker_value_notnull(0, 2));
}

/*
 * A step that ends in a transaction which has not seen the task's blocked flag
 * does not look at the task: so somebody looks again a moment later.
 */
static void
recheck_later(const TaskChange *change)
{
	Datum		values[2];
	TimestampTz due = tasker_now() + (change->recheck ? NEXT_LOOK : FIRST_LOOK);

	values[0] = TimestampTzGetDatum(due);
	values[1] = Int64GetDatum(change->task_id);
	tasker_run(&look_again, values, NULL);
	wake_timer_at_commit(due);
}

/* Bring the tasks' rows up to date. Inside a section. */
void
settle_tasks(TaskChanges *changes)
{
	DatumList	ids,
				states,
				blocked,
				started;
	LockedTask *tasks;
	Datum		values[5];
	int			n;

	if (changes->length == 0)
		return;
	datum_list_init(&ids, INT8OID);
	tasks_to_lock(changes, &ids);
	if (ids.length == 0)
		return;
	tasks = read_tasks(&lock_tasks, &ids, &n);

	datum_list_init(&ids, INT8OID);
	datum_list_init(&states, TEXTOID);
	datum_list_init(&blocked, BOOLOID);
	datum_list_init(&started, TIMESTAMPTZOID);
	for (int i = 0; i < n; i++)
	{
		TaskChange *change = task_change(changes, tasks[i].task_id);
		bool		is_blocked;
		TaskState	state = settled_state(&tasks[i], change, &is_blocked);

		if (is_blocked && !task_state_final(state) && state != TASK_ERROR &&
			(!tasks[i].blocked || change->recheck))
			recheck_later(change);
		if (state == tasks[i].state && is_blocked == tasks[i].blocked &&
			!begins_paused(&tasks[i], change))
			continue;
		datum_list_add(&ids, Int64GetDatum(tasks[i].task_id));
		datum_list_add(&states, CStringGetTextDatum(task_state_name(state)));
		datum_list_add(&blocked, BoolGetDatum(is_blocked));
		if (change->began)
			datum_list_add(&started, TimestampTzGetDatum(change->began_at != 0 ?
														 change->began_at : tasker_now()));
		else
			datum_list_add_null(&started);
	}
	if (ids.length == 0)
		return;
	values[0] = datum_list_array(&ids);
	values[1] = datum_list_array(&states);
	values[2] = datum_list_array(&blocked);
	values[3] = datum_list_array(&started);
	values[4] = TimestampTzGetDatum(tasker_now());
	tasker_run(&change_tasks, values, NULL);
}
