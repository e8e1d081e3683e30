/*
 * executor.c
 *	  The process that runs steps in the database: a session of their submitter,
 *	  started by the scheduler when there is work for that role, gone after a
 *	  time without any.
 *
 * Its slot in shared memory says what it does. It calls itself idle before it
 * looks for work, not after: a commit that makes work in between sets its
 * latch, so nothing is missed.
 */
#include "process.h"

#include "access/xact.h"
#include "batch.h"
#include "catalog/namespace.h"
#include "commands/prepare.h"
#include "definition_cache.h"
#include "fault.h"
#include "guard.h"
#include "handler.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "recorder.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "unusable.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "version.h"

/* How long it rests after an error that is not a step's. */
#define PAUSE_MS	1000

PGDLLEXPORT void tasker_executor_main(Datum arg);

static ExecutorSlot *my_slot = NULL;

static void
set_state(ExecutorState state)
{
	TaskerShared *shared = tasker_shared();

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	my_slot->state = state;
	my_slot->since = GetCurrentTimestamp();
	LWLockRelease(&shared->lock);
}

/*
 * Is this executor one too many, since a limit was lowered? Then as many as it
 * allows have slots before this one.
 */
static bool
is_surplus(void)
{
	TaskerShared *shared = tasker_shared();
	int			all = 0;
	int			of_role = 0;

	LWLockAcquire(&shared->lock, LW_SHARED);
	for (ExecutorSlot *slot = shared->executors; slot < my_slot; slot++)
	{
		if (slot->state == EXECUTOR_FREE)
			continue;
		all++;
		of_role += slot->database == my_slot->database && slot->owner == my_slot->owner;
	}
	LWLockRelease(&shared->lock);
	return all >= tasker_max_executors || of_role >= tasker_max_executors_per_role;
}

static void
free_slot(int code, Datum arg)
{
	TaskerShared *shared = tasker_shared();
	Oid			database = my_slot->database;
	bool		connected = my_slot->connected;

	recorder_close(my_slot->stop);	/* it was in somebody's way: no step's
									 * fault */
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	pg_atomic_write_u64(&my_slot->task_id, 0);
	my_slot->state = EXECUTOR_FREE;
	my_slot->pid = 0;
	my_slot->latch = NULL;
	LWLockRelease(&shared->lock);
	/* there may be work that came after its last look */
	if (connected)
		wake_scheduler(database);
}

/*
 * It has work now. If there may be more, or somebody woke it after it looked,
 * the scheduler is to see whether another executor is due.
 */
static void
note_taken(bool more)
{
	set_state(EXECUTOR_BUSY);
	if (more || MyLatch->is_set)
		ask_for_executor(-my_slot->owner);
}

/* Tell the world which step runs; task 0 for none. */
static void
note_running(int64 task_id, int step_id)
{
	my_slot->since = GetCurrentTimestamp();
	pg_atomic_write_u32(&my_slot->step_id, step_id);
	pg_atomic_write_u64(&my_slot->task_id, task_id);
}

/* Did a cancellation of a task interrupt this executor? Forgets it. */
static bool
was_interrupted(void)
{
	TaskerShared *shared = tasker_shared();
	bool		result;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	result = my_slot->interrupted;
	my_slot->interrupted = false;
	LWLockRelease(&shared->lock);
	return result;
}

/*
 * The batch failed as carefully as can be: the step that ran last is at fault.
 * If none did, or not even that can be recorded, no repetition will help soon.
 */
static void
blame_step(BatchRunner *runner, ErrorData *error)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		if (runner->last_task == 0)
			ReThrowError(error);
		process_begin_transaction();
		refuse_steps(runner->lane, runner->last_task, runner->last_step, error);
		process_commit();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		EmitErrorReport();
		process_abort();
		process_pause(PAUSE_MS);
	}
	PG_END_TRY();
}

/* May the role have a session still? If not the scheduler deals with its steps. */
static bool
may_go_on(void)
{
	return definition_cache_check() && library_fits(0) && role_unusable(my_slot->role) == NULL;
}

/* What handlers left in the session is not for those of the next batch. */
static void
forget_leftovers(void)
{
	PortalHashTableDeleteAll(); /* cursors WITH HOLD */
	DropAllPreparedStatements();
	ResetTempTableNamespace();
}

/* One batch, one transaction. Returns how many steps it took. */
static int
one_batch(BatchRunner *runner)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile blame = NULL;
	volatile int taken = 0;

	PG_TRY();
	{
		BatchResult result = {0};

		process_begin_transaction();
		forget_leftovers();
		PopActiveSnapshot();
		if (may_go_on())
			result = run_batch(runner);
		else
			my_slot->stop = true;
		process_commit();
		recorder_clear();
		LockReleaseAll(USER_LOCKMETHOD, true);	/* session's advisory locks */
		fault_point("batch-committed");
		batch_succeeded(runner, &result);
		taken = result.taken;
	}
	PG_CATCH();
	{
		ErrorData  *error;
		bool		interrupted;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		note_running(0, 0);
		(void) handler_timed_out();
		interrupted = was_interrupted();
		process_abort();
		recorder_clear();
		LockReleaseAll(USER_LOCKMETHOD, true);
		MemoryContextSwitchTo(context);
		ereport(DEBUG1,
				(errcode(error->sqlerrcode),
				 errmsg_internal("tasker repeats a batch with more care: %s", error->message)));
		if (batch_failed(runner, error) && !interrupted)
			blame = error;
		taken = 1;				/* look again at once */
	}
	PG_END_TRY();
	if (blame != NULL)
		blame_step(runner, blame);
	return taken;
}

static bool
should_leave(void)
{
	return my_slot->stop || my_slot->give_way || !tasker_enabled || guard_was_revoked() || is_surplus();
}

void
tasker_executor_main(Datum arg)
{
	TaskerShared *shared = tasker_shared();
	MemoryContext context;
	BatchRunner runner;
	TimestampTz idle_since;

	my_slot = &shared->executors[DatumGetInt32(arg)];
	before_shmem_exit(free_slot, (Datum) 0);
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	my_slot->pid = MyProcPid;
	LWLockRelease(&shared->lock);

	handler_limit(process_begin(my_slot->database, my_slot->role));
	pgstat_report_appname("tasker executor");
	recorder_open();
	batch_runner_init(&runner, -my_slot->owner);
	runner.taken = note_taken;
	runner.running = note_running;
	runner.interrupted = was_interrupted;
	context = AllocSetContextCreate(TopMemoryContext, "tasker executor", ALLOCSET_DEFAULT_SIZES);

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	my_slot->latch = MyLatch;
	my_slot->connected = true;
	LWLockRelease(&shared->lock);

	idle_since = GetCurrentTimestamp();
	while (!should_leave())
	{
		set_state(EXECUTOR_IDLE);
		ResetLatch(MyLatch);
		MemoryContextSwitchTo(context);
		MemoryContextReset(context);
		process_check();
		pgstat_report_activity(STATE_RUNNING, "running steps");
		if (one_batch(&runner) > 0)
		{
			idle_since = GetCurrentTimestamp();
			continue;
		}
		pgstat_report_activity(STATE_IDLE, NULL);
		if (TimestampDifferenceExceeds(idle_since, GetCurrentTimestamp(),
									   tasker_executor_idle_timeout * 1000))
			break;
		(void) process_wait(Max(tasker_executor_idle_timeout * 1000L / 4, 100L));
	}
}

/* Have the postmaster start an executor for a slot that was filled in. */
BackgroundWorkerHandle *
register_executor(int slot)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = Int32GetDatum(slot);
	worker.bgw_notify_pid = MyProcPid;
	strlcpy(worker.bgw_library_name, "tasker", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "tasker_executor_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "tasker executor", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "tasker executor", BGW_MAXLEN);
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
		return NULL;
	return handle;
}
