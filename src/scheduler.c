/*
 * scheduler.c
 *	  One process a database: does what is due (due.c) and sees to it that each
 *	  role with work has executors. Between that it sleeps, until the next timer
 *	  or until a commit sets its latch (shared.c).
 *
 * Exit code 0 means "not needed": the extension is not there, or another
 * scheduler is, or it was told to stop. With any other the postmaster starts
 * it again after a second.
 */
#include "process.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "batch.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "definition_cache.h"
#include "engine.h"
#include "fault.h"
#include "guard.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "queues.h"
#include "retention.h"
#include "storage/ipc.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "version.h"

/* The longest sleep: a net under the latches, one index probe a minute. */
#define LONGEST_SLEEP_MS	60000
/* The shortest between two looks at a timer that can not be served now. */
#define SHORTEST_SLEEP_MS	100
#define TIMERS_AT_ONCE		1000
#define WARN_EVERY_MS		60000
#define RETRY_MS			1000

PGDLLEXPORT void tasker_scheduler_main(Datum arg);

/* Each lane of steps that run in the database, without reading its rows. */
static TaskerQuery lanes_with_work = {
	.sql = "WITH RECURSIVE l AS ("
	"(SELECT lane FROM tasker.ready_queue WHERE lane < 0 ORDER BY lane LIMIT 1) "
	"UNION ALL SELECT (SELECT q.lane FROM tasker.ready_queue q "
	"WHERE q.lane > l.lane AND q.lane < 0 ORDER BY q.lane LIMIT 1) FROM l WHERE l.lane IS NOT NULL) "
	"SELECT l.lane, CASE WHEN o.owner_id IS NOT NULL THEN COALESCE(o.role_oid, 0::oid) END, o.role_name FROM l LEFT JOIN tasker.owners o ON o.owner_id = -l.lane "
	"WHERE l.lane IS NOT NULL",
	.columns = {INT4OID, OIDOID, NAMEOID},
};

static TaskerQuery rename_owner = {
	.sql = "UPDATE tasker.owners SET role_name = $2 WHERE owner_id = $1",
	.args = {INT4OID, NAMEOID},
};

typedef struct Lane
{
	int			lane;
	Oid			role;
	NameData	role_name;
	bool		no_owner;
} Lane;

/* The executors that this scheduler has had started, by slot. */
static BackgroundWorkerHandle *handles[TASKER_MAX_EXECUTORS];

/* When, and for which lane, one of them could not connect, by slot. */
static struct
{
	TimestampTz at;
	int			lane;
}			refused[TASKER_MAX_EXECUTORS];

static void
leave(int code, Datum arg)
{
	TaskerShared *shared = tasker_shared();
	SchedulerSlot *slot;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = scheduler_slot(DatumGetObjectId(arg));
	if (slot != NULL && slot->pid == MyProcPid)
	{
		slot->pid = 0;
		slot->latch = NULL;
	}
	if (shared->launcher_latch != NULL)
		SetLatch(shared->launcher_latch);
	LWLockRelease(&shared->lock);
}

/* Take the database's slot; false if another scheduler has it, or it is to stop. */
static bool
take_slot(Oid database)
{
	TaskerShared *shared = tasker_shared();
	SchedulerSlot *slot;
	bool		taken;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = scheduler_slot(database);
	if (slot == NULL)
	{
		slot = scheduler_slot(InvalidOid);
		if (slot != NULL)
		{
			memset(slot, 0, sizeof(SchedulerSlot));
			slot->database = database;
		}
	}
	taken = slot != NULL && slot->pid == 0 && !slot->stop && !slot->aside && !slot->connecting;
	if (slot != NULL && slot->pid == 0 && slot->connecting)
		slot->database = InvalidOid;	/* the database is gone, or takes no
										 * connections */
	if (taken)
	{
		slot->connecting = true;
		slot->pid = MyProcPid;
		slot->latch = MyLatch;
	}
	LWLockRelease(&shared->lock);
	return taken;
}

static void
connected(void)
{
	TaskerShared *shared = tasker_shared();

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	scheduler_slot(MyDatabaseId)->connecting = false;
	LWLockRelease(&shared->lock);
}

static bool
told_to_stop(void)
{
	TaskerShared *shared = tasker_shared();
	SchedulerSlot *slot;
	bool		result;

	LWLockAcquire(&shared->lock, LW_SHARED);
	slot = scheduler_slot(MyDatabaseId);
	result = slot == NULL || slot->pid != MyProcPid || slot->stop || slot->aside;
	LWLockRelease(&shared->lock);
	return result;
}

/*
 * Before a look at everything: whatever is committed from now on, and might be
 * missed by it, sets the latch.
 */
static void
begin_turn(bool *queues_changed)
{
	TaskerShared *shared = tasker_shared();
	SchedulerSlot *slot;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = scheduler_slot(MyDatabaseId);
	if (slot != NULL)
	{
		slot->asked = false;
		slot->next_due = DT_NOEND;
		*queues_changed |= slot->queues_changed;
		slot->queues_changed = false;
	}
	ResetLatch(MyLatch);
	LWLockRelease(&shared->lock);
}

/* Leave for good, unless somebody asked for a scheduler since its last turn. */
static bool
give_up_slot(void)
{
	TaskerShared *shared = tasker_shared();
	SchedulerSlot *slot;
	bool		asked = false;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = scheduler_slot(MyDatabaseId);
	if (slot != NULL && slot->pid == MyProcPid)
	{
		asked = slot->asked && !slot->stop && !slot->aside;
		if (!asked)
		{
			slot->pid = 0;
			slot->latch = NULL;
			if (!slot->stop && !slot->aside)
				slot->database = InvalidOid;
		}
	}
	LWLockRelease(&shared->lock);
	return !asked;
}

/* ------------------------------------------------------------- preflight */

/* An error to record with steps that can not run. */
static ErrorData *
owner_error(const char *message, const char *detail, const char *hint)
{
	ErrorData  *error = palloc0(sizeof(ErrorData));

	error->sqlerrcode = ERRCODE_TASKER_OWNER_UNUSABLE;
	error->message = (char *) message;
	error->detail = (char *) detail;
	error->hint = (char *) hint;
	return error;
}

/* Why the role can have no session here, or NULL. The error names it. */
ErrorData *
role_unusable(Oid role, const char *name)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
	bool		may_login;

	if (!HeapTupleIsValid(tuple))
		return owner_error(psprintf("role \"%s\", which submitted the task, does not exist", name),
						   "It was dropped.",
						   "Create the task anew as another role.");
	may_login = ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;
	ReleaseSysCache(tuple);
	if (!may_login)
		return owner_error(psprintf("role \"%s\", which submitted the task, may not log in", name),
						   "It has NOLOGIN, and steps run in a session of their submitter.",
						   "ALTER ROLE … LOGIN, then tasker.retry_task.");
	if (superuser_arg(role) && !tasker_allow_superuser_steps)
		return owner_error(psprintf("role \"%s\", which submitted the task, is a superuser", name),
						   "tasker.allow_superuser_steps is off.",
						   "Set it, or create the task anew as an ordinary role.");
	if (tasker_database_aclcheck(MyDatabaseId, role) != ACLCHECK_OK)
		return owner_error(psprintf("role \"%s\", which submitted the task, may not connect to this database", name),
						   "It has no CONNECT privilege on it.",
						   "GRANT CONNECT ON DATABASE …, then tasker.retry_task.");
	return NULL;
}

/* The owner must be the role that it was: by oid and by name. */
static ErrorData *
check_owner(Lane *lane)
{
	char	   *name = NameStr(lane->role_name);
	char	   *current;
	Datum		values[2];
	TaskerSection section;

	if (lane->no_owner)
		return owner_error("the task's owner is unknown",
						   "Its row of tasker.owners is missing.",
						   "Create the task anew.");
	current = GetUserNameFromId(lane->role, true);
	if (current != NULL && strcmp(current, name) != 0)
	{
		if (OidIsValid(get_role_oid(name, true)))
			return owner_error(psprintf("role \"%s\" is not the one that submitted the task", name),
							   "A role of this name was created later.",
							   "Create the task anew.");
		/* ALTER ROLE … RENAME */
		values[0] = Int32GetDatum(-lane->lane);
		values[1] = DirectFunctionCall1(namein, CStringGetDatum(current));
		tasker_enter(&section);
		tasker_run(&rename_owner, values, NULL);
		tasker_leave(&section);
	}
	return role_unusable(lane->role, name);
}

/* ------------------------------------------------------------- executors */

/* Give back the slots of executors that ended without doing it themselves. */
static void
reap_executors(void)
{
	TaskerShared *shared = tasker_shared();

	for (int i = 0; i < TASKER_MAX_EXECUTORS; i++)
	{
		pid_t		pid;

		if (handles[i] == NULL || GetBackgroundWorkerPid(handles[i], &pid) != BGWH_STOPPED)
			continue;
		pfree(handles[i]);
		handles[i] = NULL;
		LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
		if (shared->executors[i].state == EXECUTOR_STARTING && shared->executors[i].pid == 0)
			shared->executors[i].state = EXECUTOR_FREE;
		if (!shared->executors[i].connected)
		{
			refused[i].at = GetCurrentTimestamp();
			refused[i].lane = -shared->executors[i].owner;
		}
		LWLockRelease(&shared->lock);
	}
}

/* Not at once again: its reason is in the log, and will not be gone yet. */
static bool
refused_lately(int lane)
{
	for (int i = 0; i < TASKER_MAX_EXECUTORS; i++)
		if (refused[i].lane == lane &&
			!TimestampDifferenceExceeds(refused[i].at, GetCurrentTimestamp(), RETRY_MS))
			return true;
	return false;
}

/*
 * Reserve a slot for one more executor of the lane, if it needs one: none is
 * idle or on its way, and the limits allow it. Returns -1 if not.
 */
static int
reserve_slot(const Lane *lane)
{
	TaskerShared *shared = tasker_shared();
	int			free_slot = -1;
	int			all = 0;
	int			of_role = 0;
	bool		enough = false;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < TASKER_MAX_EXECUTORS; i++)
	{
		ExecutorSlot *slot = &shared->executors[i];

		if (slot->state == EXECUTOR_FREE)
		{
			if (free_slot < 0 && handles[i] == NULL)
				free_slot = i;
			continue;
		}
		all++;
		if (slot->database != MyDatabaseId || slot->owner != -lane->lane)
			continue;
		of_role++;
		if (slot->state == EXECUTOR_STARTING)
			enough = true;
		else if (slot->state == EXECUTOR_IDLE)
		{
			enough = true;
			if (slot->latch != NULL)
				SetLatch(slot->latch);
		}
	}
	if (enough || all >= tasker_max_executors || of_role >= tasker_max_executors_per_role)
		free_slot = -1;
	if (free_slot >= 0)
	{
		ExecutorSlot *slot = &shared->executors[free_slot];

		slot->state = EXECUTOR_STARTING;
		slot->database = MyDatabaseId;
		slot->role = lane->role;
		slot->owner = -lane->lane;
		slot->pid = 0;
		slot->latch = NULL;
		slot->stop = false;
		slot->connected = false;
		slot->interrupted = false;
		slot->since = GetCurrentTimestamp();
	}
	LWLockRelease(&shared->lock);
	return free_slot;
}

/* Returns false if the server has no worker to give. */
static bool
start_executor(const Lane *lane)
{
	static TimestampTz warned = 0;
	MemoryContext old_context;
	int			slot;

	if (refused_lately(lane->lane))
		return false;
	slot = reserve_slot(lane);
	if (slot < 0)
		return true;
	old_context = MemoryContextSwitchTo(TopMemoryContext);
	handles[slot] = register_executor(slot);
	MemoryContextSwitchTo(old_context);
	if (handles[slot] != NULL)
		return true;

	LWLockAcquire(&tasker_shared()->lock, LW_EXCLUSIVE);
	tasker_shared()->executors[slot].state = EXECUTOR_FREE;
	LWLockRelease(&tasker_shared()->lock);
	if (TimestampDifferenceExceeds(warned, GetCurrentTimestamp(), WARN_EVERY_MS))
	{
		warned = GetCurrentTimestamp();
		ereport(WARNING,
				(errcode(ERRCODE_TASKER_NO_WORKER),
				 errmsg("tasker has no background worker left for role \"%s\"", NameStr(lane->role_name)),
				 errdetail("All of max_worker_processes (%d) are taken; its steps wait.", max_worker_processes),
				 errhint("Raise max_worker_processes.")));
	}
	return false;
}

/* The lanes with work, in the caller's memory context. */
static Lane *
find_lanes(int *n)
{
	TaskerSection section;
	MemoryContext context = CurrentMemoryContext;
	Lane	   *lanes;

	tasker_enter(&section);
	*n = (int) tasker_run(&lanes_with_work, NULL, NULL);
	lanes = MemoryContextAllocZero(context, Max(*n, 1) * sizeof(Lane));
	for (int i = 0; i < *n; i++)
	{
		Datum		role = tasker_value(i, 2, &lanes[i].no_owner);

		lanes[i].lane = DatumGetInt32(tasker_value_notnull(i, 1));
		if (lanes[i].no_owner)
			continue;
		lanes[i].role = DatumGetObjectId(role);
		lanes[i].role_name = *DatumGetName(tasker_value_notnull(i, 3));
	}
	tasker_leave(&section);
	return lanes;
}

/*
 * Returns false if some lane waits for a worker, or for a lock; counts the steps that were
 * refused, of which there may be more.
 */
static bool
serve_lanes(int *refusals)
{
	bool		served = true;
	int			n;
	Lane	   *lanes = find_lanes(&n);

	for (int i = 0; i < n; i++)
	{
		ErrorData  *error = check_owner(&lanes[i]);

		if (error == NULL)
			served &= start_executor(&lanes[i]);
		else
		{
			int			refused_now = refuse_steps(lanes[i].lane, 0, 0, error);

			*refusals += refused_now;
			served &= refused_now > 0;	/* somebody has them locked */
		}
	}
	return served;
}

/* ------------------------------------------------------------- the loop */

static long
ms_until(TimestampTz due)
{
	return due == DT_NOEND ? LONGEST_SLEEP_MS :
		(long) Min((due - tasker_now()) / 1000 + 1, LONGEST_SLEEP_MS);
}

/* Do what is to be done now. Returns for how long to sleep. */
static long
one_turn(bool *queues_changed)
{
	TaskerShared *shared = tasker_shared();
	TimestampTz due;
	TimestampTz retention_due;
	long		sleep;
	bool		served;
	int			done;
	int			refusals = 0;

	process_begin_transaction();
	if (!definition_cache_check())
	{
		process_commit();
		return -1;
	}
	/* switched off or not, what is a copy is to be known for one */
	if (!library_fits(WARNING) || guard_check().state != GUARD_ARMED || !tasker_enabled)
	{
		process_commit();
		return LONGEST_SLEEP_MS;
	}
	if (*queues_changed)
		watch_queues();
	*queues_changed = false;
	done = tick(tasker_now(), TIMERS_AT_ONCE);
	notify_queues();
	fault_point("scheduler-ticked");
	process_commit();

	process_begin_transaction();
	reap_executors();
	record_cut_offs();
	served = serve_lanes(&refusals);
	due = next_due();
	process_commit();

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	scheduler_slot(MyDatabaseId)->next_due = due;
	LWLockRelease(&shared->lock);

	retention_due = retention_turn();

	if (done >= TIMERS_AT_ONCE || refusals > 0)
		return 0;
	sleep = Max(ms_until(due), done > 0 ? 0 : SHORTEST_SLEEP_MS);
	sleep = Min(sleep, Max(ms_until(retention_due), 0));
	return served ? sleep : Min(sleep, 1000);
}

/* The same; an error is logged and the loop goes on. */
static long
one_safe_turn(MemoryContext context, bool *queues_changed)
{
	volatile long sleep = 1000;

	PG_TRY();
	{
		sleep = one_turn(queues_changed);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		EmitErrorReport();
		process_abort();
	}
	PG_END_TRY();
	return sleep;
}

static void
stop_executors(void)
{
	TaskerShared *shared = tasker_shared();

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < TASKER_MAX_EXECUTORS; i++)
	{
		ExecutorSlot *slot = &shared->executors[i];

		if (slot->state == EXECUTOR_FREE || slot->database != MyDatabaseId)
			continue;
		slot->stop = true;
		if (slot->latch != NULL)
			SetLatch(slot->latch);
	}
	LWLockRelease(&shared->lock);
}

void
tasker_scheduler_main(Datum arg)
{
	Oid			database = DatumGetObjectId(arg);
	MemoryContext context;
	bool		queues_changed = true;

	if (!take_slot(database))
		proc_exit(0);
	before_shmem_exit(leave, arg);
	(void) process_begin(database, InvalidOid);
	connected();
	pgstat_report_appname("tasker scheduler");
	context = AllocSetContextCreate(TopMemoryContext, "tasker scheduler", ALLOCSET_DEFAULT_SIZES);

	do
	{
		while (!told_to_stop())
		{
			long		sleep;

			begin_turn(&queues_changed);
			MemoryContextSwitchTo(context);
			MemoryContextReset(context);
			sleep = one_safe_turn(context, &queues_changed);
			if (sleep < 0)
				break;			/* the extension is gone */
			pgstat_report_activity(STATE_IDLE, NULL);
			if (sleep > 0)
				(void) process_wait(sleep);
			else
				process_check();
		}
		stop_executors();
	} while (!give_up_slot());
	proc_exit(0);
}

/* Have the postmaster start a scheduler. Returns false if it has no worker left. */
bool
register_scheduler(Oid database)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = MyProcPid;
	strlcpy(worker.bgw_library_name, "tasker", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "tasker_scheduler_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "tasker scheduler", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "tasker scheduler", BGW_MAXLEN);
	return RegisterDynamicBackgroundWorker(&worker, &handle);
}
