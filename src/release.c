/*
 * release.c
 *	  What follows when steps are satisfied or become ready: the counters of
 *	  their children go down, and what can run, waits or is claimed gets a hint.
 *
 * Called by the trigger on steps, inside a section. Steps are locked in the
 * order of (task_id, step_id).
 */
#include "engine.h"

#include "catalog/pg_type.h"

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

/*
 * Lower the children's counters; the trigger's own inner call goes on with
 * those that are released. False if some child was not pending any more.
 */
bool
lower_counters(StepRefs *children)
{
	Datum		values[4];

	if (children->length == 0)
		return true;
	merge_step_refs(children);
	step_refs_arrays(children, values);
	values[3] = TimestampTzGetDatum(tasker_now());
	return tasker_run(&release, values, NULL) == children->length;
}

/* A step whose children do not wait for it any more may be the last of its task. */
static void
note_last(const StepRefs *children, TaskChanges *changes)
{
	for (int i = 0; i < children->length; i++)
		task_change(changes, children->items[i].task_id)->may_complete = true;
}

/* Where what follows from changes of steps goes; NULL: it is done at once. */
static HeldBack *held = NULL;
static uint64 held_section = 0;

/* What is held back will be in the current memory context. */
void
held_back_init(HeldBack *what)
{
	memset(what, 0, sizeof(HeldBack));
	what->context = CurrentMemoryContext;
	step_history_init(&what->history);
	task_changes_init(&what->tasks);
}

/*
 * From here on, children of steps that are satisfied are not released, changes
 * of steps not recorded and tasks not settled, but noted. The caller takes the
 * children or calls release_held_back, then finish_held_back, in the same section;
 * one that an error ended holds back nothing.
 */
void
hold_back(HeldBack *what)
{
	Assert(tasker_inside());
	held = what;
	held_section = tasker_section_number();
}

/* Where to note it, if somebody does the rest later. */
HeldBack *
held_back(void)
{
	if (held != NULL && (!tasker_inside() || held_section != tasker_section_number()))
		held = NULL;
	return held;
}

/* All changes of steps are made: record them, and settle the tasks. */
void
finish_held_back(void)
{
	HeldBack   *what = held;

	held = NULL;
	record_step_history(&what->history);
	settle_tasks(&what->tasks);
	what->tasks.length = 0;
}

void
release_held_back(StepRefs *children, TaskChanges *changes)
{
	if (!lower_counters(children))
		note_last(children, changes);
}

/*
 * Release the children of the steps that a statement satisfied, but for
 * those that it satisfied as well. A step without children may be the last of
 * its task, and so may one whose children were skipped or resolved before it.
 */
void
release_children(StepRefs *satisfied, TaskChanges *changes)
{
	DatumList	tasks,
				steps;
	Datum		values[2];
	StepRefs	children = {0};
	uint64		n;

	if (satisfied->length == 0)
		return;
	qsort(satisfied->items, satisfied->length, sizeof(StepRef), step_ref_compare);
	datum_list_init(&tasks, INT8OID);
	datum_list_init(&steps, INT4OID);
	for (int i = 0; i < satisfied->length; i++)
	{
		datum_list_add(&tasks, Int64GetDatum(satisfied->items[i].task_id));
		datum_list_add(&steps, Int32GetDatum(satisfied->items[i].step_id));
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
			task_change(changes, task_id)->may_complete = true;
		else if (bsearch(&ref, satisfied->items, satisfied->length,
						 sizeof(StepRef), step_ref_compare) == NULL)
			step_refs_add(&children, task_id, child);
	}
	SPI_freetuptable(SPI_tuptable);
	if (held_back() != NULL)
	{
		MemoryContext old_context = MemoryContextSwitchTo(held->context);

		for (int i = 0; i < children.length; i++)
			step_refs_add(&held->children, children.items[i].task_id, children.items[i].step_id);
		MemoryContextSwitchTo(old_context);
	}
	else if (!lower_counters(&children))
		note_last(&children, changes);
}

void
step_hints_init(StepHints *hints)
{
	datum_list_init(&hints->ready_lane, INT4OID);
	datum_list_init(&hints->ready_rank, INT4OID);
	datum_list_init(&hints->ready_task, INT8OID);
	datum_list_init(&hints->ready_step, INT4OID);
	datum_list_init(&hints->timer_due, TIMESTAMPTZOID);
	datum_list_init(&hints->timer_task, INT8OID);
	datum_list_init(&hints->timer_step, INT4OID);
}

/* Write the hints that were collected. */
void
insert_hints(StepHints *hints)
{
	Datum		values[4];

	if (hints->ready_lane.length > 0)
	{
		values[0] = datum_list_array(&hints->ready_lane);
		values[1] = datum_list_array(&hints->ready_rank);
		values[2] = datum_list_array(&hints->ready_task);
		values[3] = datum_list_array(&hints->ready_step);
		tasker_run(&hint_ready, values, NULL);
	}
	if (hints->timer_due.length > 0)
	{
		values[0] = datum_list_array(&hints->timer_due);
		values[1] = datum_list_array(&hints->timer_task);
		values[2] = datum_list_array(&hints->timer_step);
		tasker_run(&hint_timer, values, NULL);
	}
	insert_lease_ends(&hints->leases);
}
