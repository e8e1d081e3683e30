/*
 * explain.c
 *	  tasker.explain_step(): why a step is not running, and what to do about it,
 *	  in a sentence or two.
 *
 * One function a state (explainers), which all read the step as one query
 * found it (find_step). What keeps a ready step from an executor is a list of
 * obstacles, asked in turn; the first that is there is the answer. Nothing is
 * written and nothing locked: it works on a standby and in a transaction that
 * can not write.
 */
#include "tasker.h"

#include "access/subtrans.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "shared.h"
#include "storage/procarray.h"
#include "utils/acl.h"
#include "utils/syscache.h"

#define MAX_NAMED		3		/* steps that are named, the rest is counted */
#define MAX_AHEAD		10000	/* steps ahead that are counted */
#define MAX_MESSAGE		200		/* bytes of an error's message or a reason */

static TaskerQuery find_step = {
	.sql = "SELECT t.state::text, s.state::text, n.name, s.attempts, n.max_attempts, n.retryable, "
	"s.lane, s.priority, s.next_attempt_at, s.last_attempted_at, s.completed_at, s.lease_expires_at, "
	"s.claimed_by, pg_catalog.left(COALESCE(s.last_error ->> 'message', s.last_error #>> '{}'), 1000), "
	"pg_catalog.left(s.last_error ->> 'sqlstate', 5), "
	"q.name, t.owner, o.role_oid, o.role_name, s.xmax, h.xmax, "
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

/* The parents that are not satisfied; $3 of them, and how many there are. */
static TaskerQuery find_parents = {
	.sql = "SELECT p.step_id, n.name, p.state::text, (pg_catalog.count(*) OVER ())::int "
	"FROM tasker.workflow_step_edges e "
	"JOIN tasker.workflow_steps p ON p.task_id = e.task_id AND p.step_id = e.from_step_id "
	"JOIN tasker.tasks t ON t.task_id = e.task_id "
	"LEFT JOIN tasker.named_steps n ON n.named_task_id = t.named_task_id AND n.step_no = p.step_no "
	"WHERE e.task_id = $1 AND e.to_step_id = $2 "
	"AND p.state NOT IN ('complete', 'resolved_manually', 'skipped') "
	"ORDER BY p.state NOT IN ('error', 'cancelled'), p.state = 'pending', p.step_id LIMIT $3",
	.args = {INT8OID, INT4OID, INT4OID},
	.columns = {INT4OID, TEXTOID, TEXTOID, INT4OID},
	.read_only = true,
};

/*
 * What stands at the head of all that a pending step waits for: its ancestors
 * through pending steps only, each visited once. Those that failed come first.
 */
static TaskerQuery find_head = {
	.sql = "WITH RECURSIVE up (step_id, state) AS ("
	"SELECT s.step_id, s.state::text FROM tasker.workflow_steps s WHERE s.task_id = $1 AND s.step_id = $2 "
	"UNION SELECT p.step_id, p.state::text FROM up "
	"JOIN tasker.workflow_step_edges e ON e.task_id = $1 AND e.to_step_id = up.step_id "
	"JOIN tasker.workflow_steps p ON p.task_id = $1 AND p.step_id = e.from_step_id "
	"WHERE up.state = 'pending' AND p.state NOT IN ('complete', 'resolved_manually', 'skipped')) "
	"SELECT up.step_id, up.state IN ('error', 'cancelled'), "
	"(pg_catalog.count(*) FILTER (WHERE up.state = 'error') OVER ())::int, "
	"(pg_catalog.count(*) FILTER (WHERE up.state = 'cancelled') OVER ())::int "
	"FROM up WHERE up.state <> 'pending' "
	"ORDER BY up.state NOT IN ('error', 'cancelled'), up.state = 'cancelled', "
	"up.state <> 'in_progress', up.state <> 'enqueued', up.step_id LIMIT 1",
	.args = {INT8OID, INT4OID},
	.columns = {INT4OID, BOOLOID, INT4OID, INT4OID},
	.read_only = true,
};

/* How and by whom it got into the state that it is in. */
static TaskerQuery find_change = {
	.sql = "SELECT h.created_at, h.metadata ->> 'by', h.metadata ->> 'action', "
	"pg_catalog.left(h.metadata ->> 'reason', 1000) "
	"FROM tasker.workflow_step_transitions h "
	"WHERE h.task_id = $1 AND h.step_id = $2 AND h.to_state = $3 ORDER BY h.created_at DESC LIMIT 1",
	.args = {INT8OID, INT4OID, TEXTOID},
	.columns = {TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID},
	.read_only = true,
};

static TaskerQuery count_ahead = {
	.sql = "SELECT pg_catalog.count(*)::int FROM (SELECT FROM tasker.ready_queue q "
	"WHERE q.lane = $1 AND (q.rank, q.task_id, q.step_id) < ($2, $3, $4) LIMIT $5) AS ahead",
	.args = {INT4OID, INT4OID, INT8OID, INT4OID, INT4OID},
	.columns = {INT4OID},
	.read_only = true,
};

/* What pg_stat_activity calls a background worker is its own affair. */
static TaskerQuery count_workers = {
	.sql = "SELECT pg_catalog.count(*)::int FROM pg_catalog.pg_stat_activity a WHERE a.backend_type NOT IN "
	"('client backend', 'autovacuum launcher', 'autovacuum worker', 'walsender', 'walreceiver', 'walwriter', "
	"'walsummarizer', 'checkpointer', 'background writer', 'startup', 'archiver', 'logger', 'slotsync worker', "
	"'standalone backend', 'io worker', 'stats collector')",
	.columns = {INT4OID},
	.read_only = true,
};

/* A step as find_step found it. Strings are NULL, times 0 where it has none. */
typedef struct Step
{
	StringInfo	out;			/* the answer */
	int64		task_id;
	int			step_id;
	char	   *name;
	char	   *label;			/* step 3 ("charge") */
	TaskState	task_state;
	StepState	state;
	int			attempts;
	int			max_attempts;
	bool		retryable;
	int			lane;
	int			rank;
	TimestampTz next_attempt_at;
	TimestampTz last_attempted_at;
	TimestampTz completed_at;
	TimestampTz lease_expires_at;
	char	   *claimed_by;
	char	   *error;
	char	   *sqlstate;
	char	   *queue;
	int			owner;
	Oid			role;
	char	   *role_name;
	TransactionId changing;		/* has changed or locked the row and is still
								 * under way */
	bool		hinted;
	TransactionId taking;		/* the same of its hint */
	bool		timed;

	/* from shared memory */
	int			scheduler;		/* its process id, 0: none */
	ExecutorSlot *slots;		/* this server's, free ones too */
	ExecutorSlot *runs_it;		/* the executor that is at it, or NULL */
} Step;

typedef void (*Explainer) (Step *step);
typedef char *(*Obstacle) (Step *step);

/* ------------------------------------------------------------------ helpers */

static char *
shown_time(TimestampTz time)
{
	return DatumGetCString(DirectFunctionCall1(timestamptz_out, TimestampTzGetDatum(time)));
}

/* In double quotes; a long text ends with three dots. */
static char *
shown_text(const char *text)
{
	int			length = strlen(text);

	if (length <= MAX_MESSAGE)
		return psprintf("\"%s\"", text);
	length = pg_mbcliplen(text, length, MAX_MESSAGE);
	return psprintf("\"%.*s...\"", length, text);
}

static char *
shown_step(int step_id, const char *name)
{
	return name == NULL ? psprintf("step %d", step_id) : psprintf("step %d (\"%s\")", step_id, name);
}

static char *
shown_error(const Step *step)
{
	if (step->error == NULL)
		return pstrdup("an error without a message");
	if (step->sqlstate == NULL)
		return shown_text(step->error);
	return psprintf("%s (SQLSTATE %s)", shown_text(step->error), step->sqlstate);
}

/* Text of the last query's first row, or NULL. */
static char *
text_at(uint64 row, int column)
{
	bool		isnull;
	Datum		value = tasker_value(row, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

static TimestampTz
time_at(int column)
{
	bool		isnull;
	Datum		value = tasker_value(0, column, &isnull);

	return isnull ? 0 : DatumGetTimestampTz(value);
}

static int
int_at(int column)
{
	bool		isnull;
	Datum		value = tasker_value(0, column, &isnull);

	return isnull ? 0 : DatumGetInt32(value);
}

/* The transaction that a row version names as its end, if it is under way and not ours. */
static TransactionId
transaction_at(int column)
{
	bool		isnull;
	Datum		value = tasker_value(0, column, &isnull);
	TransactionId xid = isnull ? InvalidTransactionId : DatumGetTransactionId(value);

	if (!TransactionIdIsNormal(xid) || TransactionIdIsCurrentTransactionId(xid) ||
		!TransactionIdIsInProgress(xid))
		return InvalidTransactionId;
	return xid;
}

/* "process 4711", or what there is to say of a transaction without one */
static char *
shown_process(TransactionId xid)
{
	int			pid = BackendXidGetPid(SubTransGetTopmostTransaction(xid));

	return pid == 0 ? pstrdup("another session") : psprintf("process %d", pid);
}

/* ------------------------------------------------------------------ reading */

/* What shared memory knows: one look, under the lock. */
static void
look_at_processes(Step *step)
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
look_for_hint(Step *step)
{
	Datum		values[3] = {Int32GetDatum(step->lane), Int64GetDatum(step->task_id),
	Int32GetDatum(step->step_id)};

	if (tasker_run(&find_hint, values, NULL) == 0)
		return;
	step->hinted = true;
	step->rank = int_at(1);
	step->taking = transaction_at(2);
}

static void
read_step(Step *step, StringInfo out, int64 task_id, int step_id)
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
	memset(step, 0, sizeof(Step));
	step->out = out;
	step->task_id = task_id;
	step->step_id = step_id;
	step->task_state = task_state_from_text(tasker_value_notnull(0, 1));
	step->state = step_state_from_text(tasker_value_notnull(0, 2));
	step->name = text_at(0, 3);
	step->label = shown_step(step_id, step->name);
	step->attempts = int_at(4);
	step->max_attempts = int_at(5);
	value = tasker_value(0, 6, &isnull);
	step->retryable = !isnull && DatumGetBool(value);
	step->lane = int_at(7);
	step->rank = -int_at(8);
	step->next_attempt_at = time_at(9);
	step->last_attempted_at = time_at(10);
	step->completed_at = time_at(11);
	step->lease_expires_at = time_at(12);
	step->claimed_by = text_at(0, 13);
	step->error = text_at(0, 14);
	step->sqlstate = text_at(0, 15);
	step->queue = text_at(0, 16);
	step->owner = int_at(17);
	value = tasker_value(0, 18, &isnull);
	step->role = isnull ? InvalidOid : DatumGetObjectId(value);
	value = tasker_value(0, 19, &isnull);
	step->role_name = isnull ? NULL : pstrdup(NameStr(*DatumGetName(value)));
	step->changing = transaction_at(20);
	step->taking = transaction_at(21);
	(void) tasker_value(0, 21, &isnull);
	step->hinted = !isnull;
	step->timed = DatumGetBool(tasker_value_notnull(0, 22));
	look_at_processes(step);
	if (step->state == STEP_ENQUEUED && !step->hinted)
		look_for_hint(step);
}

/* ---------------------------------------------- what keeps the scheduler away */

static char *
call_run(const Step *step)
{
	if (step->lane > 0 || step->role_name == NULL)
		return pstrdup("CALL tasker.run()");
	return psprintf("CALL tasker.run() as role \"%s\"", step->role_name);
}

static char *
is_standby(Step *step)
{
	if (!RecoveryInProgress())
		return NULL;
	return pstrdup("this server is a standby, where nothing runs: ask its primary");
}

static char *
is_switched_off(Step *step)
{
	if (tasker_enabled)
		return NULL;
	return psprintf("tasker.enabled is off on this server: ALTER SYSTEM SET tasker.enabled = on "
					"and SELECT pg_reload_conf(), or %s", call_run(step));
}

static char *
has_no_scheduler(Step *step)
{
	if (step->scheduler != 0)
		return NULL;
	return psprintf("no scheduler runs in this database: SELECT tasker.start(), or %s", call_run(step));
}

/* The first obstacle that there is, or NULL. */
static char *
first_obstacle(Step *step, const Obstacle *obstacles, int n)
{
	char	   *obstacle = NULL;

	for (int i = 0; i < n && obstacle == NULL; i++)
		obstacle = obstacles[i] (step);
	return obstacle;
}

/* Why nobody serves timers, or NULL. */
static char *
scheduler_obstacle(Step *step)
{
	static const Obstacle obstacles[] = {is_standby, is_switched_off, has_no_scheduler};

	return first_obstacle(step, obstacles, lengthof(obstacles));
}

/* ------------------------------------------------- what keeps executors away */

/* The owner must be the role that it was, and able to have a session. */
static char *
has_unusable_owner(Step *step)
{
	char	   *current = GetUserNameFromId(step->role, true);
	HeapTuple	tuple;
	bool		may_login;

	if (step->role_name == NULL)
		return pstrdup("its owner's row of tasker.owners is missing: create the task anew");
	if (current == NULL || (strcmp(current, step->role_name) != 0 &&
							OidIsValid(get_role_oid(step->role_name, true))))
		return psprintf("role \"%s\", which submitted the task and as which it would run, was dropped: "
						"create the task anew as another role", step->role_name);
	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(step->role));
	may_login = !HeapTupleIsValid(tuple) || ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	if (!may_login)
		return psprintf("role \"%s\", as which it would run, may not log in: ALTER ROLE %s LOGIN",
						current, quote_identifier(current));
	if (superuser_arg(step->role) && !tasker_allow_superuser_steps)
		return psprintf("role \"%s\", as which it would run, is a superuser and tasker.allow_superuser_steps "
						"is off: ALTER ROLE %s NOSUPERUSER, or set it on", current, quote_identifier(current));
	if (tasker_database_aclcheck(MyDatabaseId, step->role) != ACLCHECK_OK)
		return psprintf("role \"%s\", as which it would run, may not connect to this database: "
						"GRANT CONNECT ON DATABASE ... TO %s", current, quote_identifier(current));
	return NULL;
}

/* What an executor of the same owner is at, for a list. */
static char *
shown_work(const ExecutorSlot *slot)
{
	int64		task_id = (int64) pg_atomic_read_u64(&((ExecutorSlot *) slot)->task_id);
	int			step_id = (int) pg_atomic_read_u32(&((ExecutorSlot *) slot)->step_id);
	Datum		values[2] = {Int64GetDatum(task_id), Int32GetDatum(step_id)};
	char	   *name = NULL;

	if (task_id == 0)
		return psprintf("process %d between two steps", slot->pid);
	if (tasker_run(&find_step, values, NULL) > 0)
		name = text_at(0, 3);
	return psprintf("process %d with %s of task " INT64_FORMAT " since %s", slot->pid,
					shown_step(step_id, name), task_id, shown_time(slot->since));
}

/* The executors of the step's owner in a state: how many. */
static int
count_executors(const Step *step, ExecutorState state)
{
	int			n = 0;

	for (int i = 0; i < TASKER_MAX_EXECUTORS; i++)
		n += step->slots[i].state == state && step->slots[i].database == MyDatabaseId &&
			step->slots[i].owner == step->owner;
	return n;
}

static char *
has_executor(Step *step)
{
	if (count_executors(step, EXECUTOR_IDLE) > 0)
		return pstrdup("an executor is just looking for work and takes it in a moment");
	if (count_executors(step, EXECUTOR_STARTING) > 0)
		return pstrdup("its executor is just being started");
	return NULL;
}

static char *
has_busy_executors(Step *step)
{
	int			busy = count_executors(step, EXECUTOR_BUSY);
	int			named = 0;
	StringInfoData list;

	if (busy < tasker_max_executors_per_role)
		return NULL;
	initStringInfo(&list);
	for (int i = 0; i < TASKER_MAX_EXECUTORS && named < MAX_NAMED; i++)
	{
		ExecutorSlot *slot = &step->slots[i];

		if (slot->state == EXECUTOR_BUSY && slot->database == MyDatabaseId && slot->owner == step->owner)
			appendStringInfo(&list, "%s%s", named++ > 0 ? ", " : "", shown_work(slot));
	}
	if (busy > named)
		appendStringInfo(&list, " and %d more", busy - named);
	return psprintf("all executors that role \"%s\" may have (tasker.max_executors_per_role, %d) are busy: %s",
					step->role_name, tasker_max_executors_per_role, list.data);
}

static char *
has_full_server(Step *step)
{
	int			all = 0;

	for (int i = 0; i < TASKER_MAX_EXECUTORS; i++)
		all += step->slots[i].state != EXECUTOR_FREE;
	if (all < tasker_max_executors)
		return NULL;
	return psprintf("all executors of this server (tasker.max_executors, %d) are in use, %d of them by role \"%s\": "
					"raise the setting, or wait for one to be idle for tasker.executor_idle_timeout",
					tasker_max_executors, count_executors(step, EXECUTOR_BUSY), step->role_name);
}

static char *
has_no_worker(Step *step)
{
	if (count_executors(step, EXECUTOR_BUSY) > 0)
		return NULL;
	tasker_run(&count_workers, NULL, NULL);
	if (int_at(1) < max_worker_processes)
		return NULL;
	return psprintf("the server has no background worker left for an executor (max_worker_processes is %d): "
					"raise that setting, or %s", max_worker_processes, call_run(step));
}

static char *
comes_soon(Step *step)
{
	return pstrdup("the scheduler has not yet given it to an executor, which it does in a moment: "
				   "if it does not, the server's log says why");
}

/* ------------------------------------------------------------- the sentences */

static void
begin_sentence(Step *step)
{
	if (step->out->len > 0)
		appendStringInfo(step->out, " S%s", step->label + 1);
	else
		appendStringInfo(step->out, "S%s of task " INT64_FORMAT, step->label + 1, step->task_id);
}

/* More sentences that hold for whatever waits for a time. */
static void
add_time_obstacles(Step *step)
{
	char	   *obstacle = scheduler_obstacle(step);

	if (step->task_state == TASK_PAUSED)
		appendStringInfo(step->out, " Its task is paused, too: SELECT tasker.resume_task(" INT64_FORMAT ").",
						 step->task_id);
	if (obstacle != NULL)
		appendStringInfo(step->out, " But %s.", obstacle);
}

/* It is not over, but the task is. Returns whether it is so. */
static bool
is_task_over(Step *step)
{
	if (!task_state_final(step->task_state))
		return false;
	begin_sentence(step);
	appendStringInfo(step->out, " is %s, but its task is %s and nothing of it will run: create a new task.",
					 step_state_name(step->state), task_state_name(step->task_state));
	return true;
}

/* Somebody has it in hand. Returns whether it is so. */
static bool
is_running(Step *step)
{
	TransactionId xid = TransactionIdIsValid(step->taking) ? step->taking : step->changing;

	if (step->runs_it != NULL)
	{
		begin_sentence(step);
		appendStringInfo(step->out, " is running right now, attempt %d of %d: process %d, an executor of role \"%s\", "
						 "has been at it since %s.", step->attempts + 1, step->max_attempts, step->runs_it->pid,
						 step->role_name, shown_time(step->runs_it->since));
		return true;
	}
	if (!TransactionIdIsValid(xid))
		return false;
	begin_sentence(step);
	appendStringInfo(step->out, " is %s and in the hands of %s, which runs or changes it in a transaction "
					 "that has not ended.", step_state_name(step->state), shown_process(xid));
	return true;
}

static void
add_change(Step *step)
{
	Datum		values[3] = {Int64GetDatum(step->task_id), Int32GetDatum(step->step_id),
	CStringGetTextDatum(step_state_name(step->state))};
	char	   *by;
	char	   *action;
	char	   *reason;

	if (tasker_run(&find_change, values, NULL) == 0)
		return;
	by = text_at(0, 2);
	action = text_at(0, 3);
	reason = text_at(0, 4);
	appendStringInfo(step->out, " at %s", shown_time(time_at(1)));
	if (by != NULL)
		appendStringInfo(step->out, " by role \"%s\"", by);
	if (action != NULL)
		appendStringInfo(step->out, " with %s", action);
	if (reason != NULL)
		appendStringInfo(step->out, ", because of %s", shown_text(reason));
}

static void
explain_complete(Step *step)
{
	begin_sentence(step);
	appendStringInfoString(step->out, " is complete");
	if (step->completed_at != 0)
		appendStringInfo(step->out, " since %s", shown_time(step->completed_at));
	if (step->attempts > 0)
		appendStringInfo(step->out, ", by attempt %d of %d", step->attempts, step->max_attempts);
	appendStringInfoString(step->out, ": there is nothing to do.");
}

static void
explain_resolved(Step *step)
{
	begin_sentence(step);
	appendStringInfoString(step->out, " was resolved manually");
	add_change(step);
	appendStringInfoString(step->out, ": it counts as complete and there is nothing to do.");
}

static void
explain_skipped(Step *step)
{
	begin_sentence(step);
	appendStringInfoString(step->out, " was skipped");
	add_change(step);
	appendStringInfoString(step->out, ": its children go on without it and there is nothing to do.");
}

static void
explain_cancelled(Step *step)
{
	begin_sentence(step);
	appendStringInfoString(step->out, " was cancelled");
	add_change(step);
	if (task_state_final(step->task_state))
		appendStringInfo(step->out, ". Its task is %s and nothing of it will run: create a new task.",
						 task_state_name(step->task_state));
	else
		appendStringInfo(step->out, ". It will not run; for the steps after it to run give it a result: "
						 "SELECT tasker.resolve_step(" INT64_FORMAT ", %d, '{...}').", step->task_id, step->step_id);
}

static void
explain_error(Step *step)
{
	bool		attempts_left = step->attempts < step->max_attempts;

	if (is_task_over(step))
		return;
	begin_sentence(step);
	appendStringInfo(step->out, " failed for good with %s", shown_error(step));
	if (step->last_attempted_at != 0)
		appendStringInfo(step->out, " at %s", shown_time(step->last_attempted_at));
	appendStringInfo(step->out, ", in attempt %d of %d%s. When the cause is gone SELECT tasker.retry_step("
					 INT64_FORMAT ", %d) gives it all its attempts again; "
					 "SELECT tasker.resolve_step(" INT64_FORMAT ", %d, '{...}') goes on without it.",
					 step->attempts, step->max_attempts,
					 !attempts_left ? "" : step->retryable ? ", after an error that is not retried" :
					 " (the step is not retryable)",
					 step->task_id, step->step_id, step->task_id, step->step_id);
	if (TransactionIdIsValid(step->changing))
		appendStringInfo(step->out, " Just now it is in the hands of %s, in a transaction that has not ended.",
						 shown_process(step->changing));
}

/* For a step that waits for its time: has it come, and who will see to it? */
static void
add_timer(Step *step)
{
	if (step->next_attempt_at > tasker_now())
		add_time_obstacles(step);
	else if (scheduler_obstacle(step) != NULL || step->task_state == TASK_PAUSED)
		add_time_obstacles(step);
	else
		appendStringInfoString(step->out, " That time has come: the scheduler makes it ready in a moment.");
	if (!step->timed)
		appendStringInfo(step->out, " But no timer is set for that time: UPDATE tasker.workflow_steps "
						 "SET state = 'enqueued' WHERE task_id = " INT64_FORMAT " AND step_id = %d makes it ready now.",
						 step->task_id, step->step_id);
}

static void
explain_waiting(Step *step)
{
	if (is_task_over(step) || is_running(step))
		return;
	begin_sentence(step);
	appendStringInfo(step->out, " waits for its start time, %s.",
					 step->next_attempt_at == 0 ? "which it does not have" : shown_time(step->next_attempt_at));
	add_timer(step);
}

static void
explain_retry(Step *step)
{
	if (is_task_over(step) || is_running(step))
		return;
	begin_sentence(step);
	appendStringInfo(step->out, " failed with %s in attempt %d of %d; the next attempt begins at %s, "
					 "or now with SELECT tasker.retry_step(" INT64_FORMAT ", %d).",
					 shown_error(step), step->attempts, step->max_attempts, shown_time(step->next_attempt_at),
					 step->task_id, step->step_id);
	add_timer(step);
}

static void
explain_in_progress(Step *step)
{
	char	   *obstacle = scheduler_obstacle(step);

	if (is_task_over(step))
		return;
	begin_sentence(step);
	appendStringInfo(step->out, " is in progress, attempt %d of %d", Max(step->attempts, 1), step->max_attempts);
	if (step->runs_it != NULL)
		appendStringInfo(step->out, ", in process %d", step->runs_it->pid);
	if (step->claimed_by != NULL)
		appendStringInfo(step->out, ", claimed by %s", shown_text(step->claimed_by));
	if (step->last_attempted_at != 0)
		appendStringInfo(step->out, " since %s", shown_time(step->last_attempted_at));
	if (step->lease_expires_at == 0 && step->runs_it == NULL)
		appendStringInfo(step->out, ", without a lease: nobody will take it away. If nobody works on it, "
						 "UPDATE tasker.workflow_steps SET state = 'enqueued' WHERE task_id = " INT64_FORMAT
						 " AND step_id = %d.", step->task_id, step->step_id);
	else if (step->lease_expires_at == 0)
		appendStringInfoString(step->out, ".");
	else if (step->lease_expires_at > tasker_now())
		appendStringInfo(step->out, ". Unless its worker completes, fails or extends it, its lease runs out at %s.",
						 shown_time(step->lease_expires_at));
	else if (obstacle == NULL)
		appendStringInfo(step->out, ". Its lease ran out at %s: the scheduler takes it away in a moment.",
						 shown_time(step->lease_expires_at));
	else
		appendStringInfo(step->out, ". Its lease ran out at %s, but %s.",
						 shown_time(step->lease_expires_at), obstacle);
}

/* ------------------------------------------------------------------ enqueued */

static void
add_ahead(Step *step)
{
	Datum		values[5] = {Int32GetDatum(step->lane), Int32GetDatum(step->rank), Int64GetDatum(step->task_id),
	Int32GetDatum(step->step_id), Int32GetDatum(MAX_AHEAD + 1)};
	int			ahead;

	tasker_run(&count_ahead, values, NULL);
	ahead = int_at(1);
	if (ahead > MAX_AHEAD)
		appendStringInfo(step->out, " More than %d steps are before it.", MAX_AHEAD);
	else if (ahead > 0)
		appendStringInfo(step->out, ngettext(" %d step is before it.", " %d steps are before it.", ahead), ahead);
	else
		appendStringInfoString(step->out, " It is the next one.");
}

static void
explain_enqueued(Step *step)
{
	static const Obstacle obstacles[] = {is_standby, has_unusable_owner, is_switched_off, has_no_scheduler,
	has_executor, has_busy_executors, has_full_server, has_no_worker, comes_soon};

	if (is_task_over(step) || is_running(step))
		return;
	begin_sentence(step);
	if (step->task_state == TASK_PAUSED)
		appendStringInfo(step->out, " is ready, but its task is paused: SELECT tasker.resume_task(" INT64_FORMAT ").",
						 step->task_id);
	else if (!step->hinted)
		appendStringInfo(step->out, " is ready, but tasker.ready_queue has no row for it, which should not be: "
						 "SELECT tasker.pause_task(" INT64_FORMAT "), then tasker.resume_task(" INT64_FORMAT "), "
						 "makes one.", step->task_id, step->task_id);
	else if (step->lane > 0)
	{
		appendStringInfo(step->out, " is ready and waits for a worker to claim it from queue \"%s\".",
						 step->queue == NULL ? "" : step->queue);
		add_ahead(step);
	}
	else
	{
		appendStringInfo(step->out, " is ready to run, but %s.",
						 first_obstacle(step, obstacles, lengthof(obstacles)));
		add_ahead(step);
	}
}

/* ------------------------------------------------------------------- pending */

static void explain_one(StringInfo out, int64 task_id, int step_id);

/* "its parent step 1 ("a"), which is enqueued"; returns whether there is one. */
static bool
add_parents(Step *step)
{
	Datum		values[3] = {Int64GetDatum(step->task_id), Int32GetDatum(step->step_id), Int32GetDatum(MAX_NAMED)};
	int			named = (int) tasker_run(&find_parents, values, NULL);
	int			all;

	if (named == 0)
		return false;
	all = int_at(4);
	appendStringInfo(step->out, all == 1 ? " waits for its parent " : " waits for %d of its parents: ", all);
	for (int i = 0; i < named; i++)
		appendStringInfo(step->out, "%s%s, %s%s", i == 0 ? "" : i + 1 == all ? ", and " : ", ",
						 shown_step(DatumGetInt32(tasker_value_notnull(i, 1)), text_at(i, 2)),
						 all == 1 ? "which is " : "", text_at(i, 3));
	if (all > named)
		appendStringInfo(step->out, ", and %d more", all - named);
	appendStringInfoString(step->out, ".");
	return true;
}

/* An ancestor failed: it is that one which needs somebody. */
static void
add_failed_ancestor(Step *step, Step *failed, int errors, int cancelled)
{
	appendStringInfo(step->out, " It can not run before %s, which ", failed->label);
	if (failed->state == STEP_ERROR)
		appendStringInfo(step->out, "failed for good with %s, is retried or resolved: SELECT tasker.retry_step("
						 INT64_FORMAT ", %d), or tasker.resolve_step(" INT64_FORMAT ", %d, '{...}').",
						 shown_error(failed), step->task_id, failed->step_id, step->task_id, failed->step_id);
	else
		appendStringInfo(step->out, "was cancelled, is resolved: SELECT tasker.resolve_step("
						 INT64_FORMAT ", %d, '{...}').", step->task_id, failed->step_id);
	if (errors + cancelled > 1)
		appendStringInfo(step->out, " So must %d more of the steps before it that are in error or cancelled",
						 errors + cancelled - 1);
	if (errors > 1)
		appendStringInfo(step->out, "; SELECT tasker.retry_task(" INT64_FORMAT ") retries all that are in error",
						 step->task_id);
	if (errors + cancelled > 1)
		appendStringInfoString(step->out, ".");
}

static void
explain_pending(Step *step)
{
	Datum		values[2] = {Int64GetDatum(step->task_id), Int32GetDatum(step->step_id)};
	int			head;
	bool		failed;

	if (is_task_over(step) || is_running(step))
		return;
	begin_sentence(step);
	if (!add_parents(step))
		appendStringInfoString(step->out, " is pending.");
	if (tasker_run(&find_head, values, NULL) == 0)
	{
		appendStringInfo(step->out, " Nothing that it waits for is under way, so it should have been released: "
						 "SELECT * FROM tasker.verify_task(" INT64_FORMAT ") looks into it.", step->task_id);
		return;
	}
	head = int_at(1);
	failed = DatumGetBool(tasker_value_notnull(0, 2));
	if (failed)
	{
		int			errors = int_at(3);
		int			cancelled = int_at(4);
		Step		ancestor;

		read_step(&ancestor, step->out, step->task_id, head);
		add_failed_ancestor(step, &ancestor, errors, cancelled);
	}
	if (step->task_state == TASK_PAUSED)
		appendStringInfo(step->out, " Its task is paused, too: SELECT tasker.resume_task(" INT64_FORMAT ").",
						 step->task_id);
	else if (!failed)
		explain_one(step->out, step->task_id, head);
}

/* ------------------------------------------------------------------- the call */

/* Say it of one step. The head of what a pending step waits for is not pending itself. */
static void
explain_one(StringInfo out, int64 task_id, int step_id)
{
	static const Explainer explainers[STEP_STATES] = {
		[STEP_PENDING] = explain_pending,
		[STEP_WAITING] = explain_waiting,
		[STEP_ENQUEUED] = explain_enqueued,
		[STEP_IN_PROGRESS] = explain_in_progress,
		[STEP_WAITING_FOR_RETRY] = explain_retry,
		[STEP_COMPLETE] = explain_complete,
		[STEP_ERROR] = explain_error,
		[STEP_SKIPPED] = explain_skipped,
		[STEP_CANCELLED] = explain_cancelled,
		[STEP_RESOLVED_MANUALLY] = explain_resolved,
	};
	Step		step;

	read_step(&step, out, task_id, step_id);
	explainers[step.state] (&step);
}

PG_FUNCTION_INFO_V1(tasker_explain_step);

/* explain_step(task_id bigint, step_id int) */
Datum
tasker_explain_step(PG_FUNCTION_ARGS)
{
	int64		task_id = PG_GETARG_INT64(0);
	TaskerSection section;
	StringInfoData out;

	initStringInfo(&out);		/* outlives the section */
	tasker_enter(&section);
	check_may_see(task_id);
	explain_one(&out, task_id, PG_GETARG_INT32(1));
	tasker_leave(&section);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(out.data, out.len));
}
