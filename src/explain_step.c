/*
 * explain_step.c
 *	  tasker.explain_step()'s view of a step: its row, its hint, who has it in
 *	  hand, and how such things are written.
 */
#include "explain.h"

#include "access/subtrans.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/procarray.h"

#define MAX_SHOWN	200			/* bytes of a message or a reason */

static TaskerQuery find_step = {
	.sql = "SELECT t.state::text, s.state::text, n.name, s.attempts, n.max_attempts, n.retryable, "
	"s.lane, s.priority, s.next_attempt_at, s.last_attempted_at, s.completed_at, s.lease_expires_at, "
	"s.claimed_by, pg_catalog.left(COALESCE(s.last_error ->> 'message', s.last_error #>> '{}'), 1000), "
	"pg_catalog.left(s.last_error ->> 'sqlstate', 5), "
	"q.name, t.owner, COALESCE(o.role_oid, 0::oid), o.role_name, s.xmax, h.xmax, "
	"EXISTS (SELECT FROM tasker.timers d WHERE d.due_at = s.next_attempt_at "
	"AND d.task_id = s.task_id AND d.step_id = s.step_id) "
	"FROM tasker.tasks t "
	"JOIN tasker.workflow_steps s ON s.task_id = t.task_id "
	"LEFT JOIN tasker.named_steps n ON n.named_task_id = t.named_task_id AND n.step_no = s.step_no "
	"LEFT JOIN tasker.queues q ON q.queue_id = s.lane "
	"LEFT JOIN tasker.owners o ON o.owner_id = t.owner "
	"LEFT JOIN tasker.ready_queue h ON h.lane = s.lane AND h.rank = -s.priority "
	"AND h.task_id = s.task_id AND h.step_id = s.step_id "
	"WHERE t.task_id = $1 AND s.step_id = $2",
	.args = {INT8OID, INT4OID},
	.columns = {TEXTOID, TEXTOID, TEXTOID, INT4OID, INT4OID, BOOLOID,
		INT4OID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID,
		TEXTOID, TEXTOID, TEXTOID,
	TEXTOID, INT4OID, OIDOID, NAMEOID, XIDOID, XIDOID, BOOLOID},
	.read_only = true,
};

/* Where the hint of a step is whose priority was changed. */
static TaskerQuery find_hint = {
	.sql = "SELECT h.rank, h.xmax FROM tasker.ready_queue h "
	"WHERE h.lane = $1 AND h.task_id = $2 AND h.step_id = $3 ORDER BY h.rank LIMIT 1",
	.args = {INT4OID, INT8OID, INT4OID},
	.columns = {INT4OID, XIDOID},
	.read_only = true,
};

/* ------------------------------------------------------------------ helpers */

char *
explain_time(TimestampTz time)
{
	return DatumGetCString(DirectFunctionCall1(timestamptz_out, TimestampTzGetDatum(time)));
}

/* In double quotes; a long text ends with three dots. */
char *
explain_text(const char *text)
{
	int			length = strlen(text);

	if (length <= MAX_SHOWN)
		return psprintf("\"%s\"", text);
	length = pg_mbcliplen(text, length, MAX_SHOWN);
	return psprintf("\"%.*s...\"", length, text);
}

char *
explain_label(int step_id, const char *name)
{
	return name == NULL ? psprintf("step %d", step_id) : psprintf("step %d (\"%s\")", step_id, name);
}

/* Text of the last query's first row, or NULL. */
char *
explain_text_at(uint64 row, int column)
{
	bool		isnull;
	Datum		value = tasker_value(row, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

TimestampTz
explain_time_at(int column)
{
	bool		isnull;
	Datum		value = tasker_value(0, column, &isnull);

	return isnull ? 0 : DatumGetTimestampTz(value);
}

int
explain_int_at(int column)
{
	bool		isnull;
	Datum		value = tasker_value(0, column, &isnull);

	return isnull ? 0 : DatumGetInt32(value);
}

/* The transaction that a row version names as its end, if it is under way and not ours. */
TransactionId
explain_transaction_at(uint64 row, int column)
{
	bool		isnull;
	Datum		value = tasker_value(row, column, &isnull);
	TransactionId xid = isnull ? InvalidTransactionId : DatumGetTransactionId(value);

	if (!TransactionIdIsNormal(xid) || TransactionIdIsCurrentTransactionId(xid) ||
		!TransactionIdIsInProgress(xid))
		return InvalidTransactionId;
	return xid;
}

/* "process 4711", or what there is to say of a transaction without one */
char *
explain_process(TransactionId xid)
{
	int			pid = BackendXidGetPid(SubTransGetTopmostTransaction(xid));

	return pid == 0 ? pstrdup("another session") : psprintf("process %d", pid);
}

/* ------------------------------------------------------------------ reading */

/* What shared memory knows: one look, under the lock. */
static void
look_at_processes(ExplainedStep *step)
{
	TaskerShared *shared = tasker_shared();
	SchedulerSlot *scheduler;

	step->slots = palloc(sizeof(shared->executors));
	LWLockAcquire(&shared->lock, LW_SHARED);
	scheduler = scheduler_slot(MyDatabaseId);
	step->scheduler = scheduler == NULL ? 0 : scheduler->pid;
	memcpy(step->slots, shared->executors, sizeof(shared->executors));
	LWLockRelease(&shared->lock);

	step->runs_it = NULL;
	for (int i = 0; i < TASKER_MAX_EXECUTORS; i++)
	{
		ExecutorSlot *slot = &step->slots[i];

		if (slot->state == EXECUTOR_BUSY && slot->database == MyDatabaseId &&
			(int64) pg_atomic_read_u64(&slot->task_id) == step->task_id &&
			(int) pg_atomic_read_u32(&slot->step_id) == step->step_id)
			step->runs_it = slot;
	}
}

/* A changed priority leaves the hint where it was. */
static void
look_for_hint(ExplainedStep *step)
{
	Datum		values[3] = {Int32GetDatum(step->lane), Int64GetDatum(step->task_id),
	Int32GetDatum(step->step_id)};

	if (tasker_run(&find_hint, values, NULL) == 0)
		return;
	step->hinted = true;
	step->rank = explain_int_at(1);
	step->taking = explain_transaction_at(0, 2);
}

void
explain_read(ExplainedStep *step, StringInfo out, int64 task_id, int step_id)
{
	Datum		values[2] = {Int64GetDatum(task_id), Int32GetDatum(step_id)};
	bool		isnull;
	Datum		value;

	if (tasker_run(&find_step, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_UNKNOWN_STEP),
				 errmsg("task " INT64_FORMAT " has no step %d", task_id, step_id),
				 errdetail("No row of tasker.workflow_steps has these ids."),
				 errhint("tasker.step_status lists the steps of the task.")));
	memset(step, 0, sizeof(ExplainedStep));
	step->out = out;
	step->task_id = task_id;
	step->step_id = step_id;
	step->task_state = task_state_from_text(tasker_value_notnull(0, 1));
	step->state = step_state_from_text(tasker_value_notnull(0, 2));
	step->name = explain_text_at(0, 3);
	step->label = explain_label(step_id, step->name);
	step->attempts = explain_int_at(4);
	step->max_attempts = explain_int_at(5);
	value = tasker_value(0, 6, &isnull);
	step->retryable = !isnull && DatumGetBool(value);
	step->lane = explain_int_at(7);
	step->rank = -explain_int_at(8);
	step->next_attempt_at = explain_time_at(9);
	step->last_attempted_at = explain_time_at(10);
	step->completed_at = explain_time_at(11);
	step->lease_expires_at = explain_time_at(12);
	step->claimed_by = explain_text_at(0, 13);
	step->error = explain_text_at(0, 14);
	step->sqlstate = explain_text_at(0, 15);
	step->queue = explain_text_at(0, 16);
	step->owner = explain_int_at(17);
	value = tasker_value(0, 18, &isnull);
	step->role = isnull ? InvalidOid : DatumGetObjectId(value);
	value = tasker_value(0, 19, &isnull);
	step->role_name = isnull ? NULL : pstrdup(NameStr(*DatumGetName(value)));
	step->changing = explain_transaction_at(0, 20);
	step->taking = explain_transaction_at(0, 21);
	(void) tasker_value(0, 21, &isnull);
	step->hinted = !isnull;
	step->timed = DatumGetBool(tasker_value_notnull(0, 22));
	look_at_processes(step);
	if (step->state == STEP_ENQUEUED && !step->hinted)
		look_for_hint(step);
}

/* The name of some step, or NULL. */
char *
explain_step_name(int64 task_id, int step_id)
{
	Datum		values[2] = {Int64GetDatum(task_id), Int32GetDatum(step_id)};

	return tasker_run(&find_step, values, NULL) == 0 ? NULL : explain_text_at(0, 3);
}
