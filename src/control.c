/*
 * control.c
 *	  The background processes seen from SQL: start, stop, what is executing,
 *	  waiting for a task.
 */
#include "process.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "clock.h"
#include "engine.h"
#include "guard.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/tuplestore.h"
#include "version.h"

#define POLL_MIN_MS		2
#define POLL_MAX_MS		50

static TaskerQuery task_state = {
	.sql = "SELECT state::text FROM tasker.tasks WHERE task_id = $1",
	.args = {INT8OID},
	.columns = {TEXTOID},
};

/* Clear or set the stop flag of this database's scheduler; returns whether one runs. */
static bool
flag_scheduler(bool stop)
{
	TaskerShared *shared = tasker_shared();
	SchedulerSlot *slot;
	bool		runs;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = ask_for_scheduler(MyDatabaseId);
	runs = slot != NULL && slot->pid != 0;
	if (slot != NULL && stop)
	{
		slot->stop = true;
		slot->asked = false;
	}
	LWLockRelease(&shared->lock);
	return runs;
}

PG_FUNCTION_INFO_V1(tasker_start);
PG_FUNCTION_INFO_V1(tasker_stop);
PG_FUNCTION_INFO_V1(tasker_installed);
PG_FUNCTION_INFO_V1(tasker_executing);
PG_FUNCTION_INFO_V1(tasker_scheduler_pid);
PG_FUNCTION_INFO_V1(tasker_task_wait);

/* start(): have a scheduler for this database; false if there is one */
Datum
tasker_start(PG_FUNCTION_ARGS)
{
	check_admin("start");
	guard_require_enabled();
	guard_require_armed();
	if (flag_scheduler(false))
		PG_RETURN_BOOL(false);
	if (!register_scheduler(MyDatabaseId))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_NO_WORKER),
				 errmsg("the server has no background worker left for tasker"),
				 errdetail("All of max_worker_processes (%d) are taken.", max_worker_processes),
				 errhint("Raise max_worker_processes, or CALL tasker.run() from a session.")));
	PG_RETURN_BOOL(true);
}

/* stop(): no scheduler and no executors in this database until start() */
Datum
tasker_stop(PG_FUNCTION_ARGS)
{
	check_admin("stop");
	PG_RETURN_BOOL(flag_scheduler(true));
}

/* installed(): the scripts are at their end; once they commit a scheduler is started */
Datum
tasker_installed(PG_FUNCTION_ARGS)
{
	check_admin("install");
	extension_changed();
	guard_changed();
	wake_launcher_at_commit();
	PG_RETURN_VOID();
}

/* scheduler_pid(): of this database's scheduler, or null */
Datum
tasker_scheduler_pid(PG_FUNCTION_ARGS)
{
	TaskerShared *shared = tasker_shared();
	SchedulerSlot *slot;
	int			pid;

	LWLockAcquire(&shared->lock, LW_SHARED);
	slot = scheduler_slot(MyDatabaseId);
	pid = slot == NULL ? 0 : slot->pid;
	LWLockRelease(&shared->lock);
	if (pid == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT32(pid);
}

/* executors(): (pid, owner, state, since, task_id, step_id) of this database's */
Datum
tasker_executing(PG_FUNCTION_ARGS)
{
	static const char *const states[] = {
		[EXECUTOR_STARTING] = "starting",
		[EXECUTOR_IDLE] = "idle",
		[EXECUTOR_BUSY] = "busy",
	};
	TaskerShared *shared = tasker_shared();
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ExecutorSlot *slots = palloc(sizeof(shared->executors));

	LWLockAcquire(&shared->lock, LW_SHARED);
	memcpy(slots, shared->executors, sizeof(shared->executors));
	LWLockRelease(&shared->lock);

	tasker_begin_srf(fcinfo);
	for (int i = 0; i < TASKER_MAX_EXECUTORS; i++)
	{
		int64		task_id = (int64) pg_atomic_read_u64(&slots[i].task_id);
		Datum		values[6];
		bool		nulls[6] = {false};

		if (slots[i].state == EXECUTOR_FREE || slots[i].database != MyDatabaseId ||
			!may_see_owner(GetUserId(), slots[i].owner))
			continue;
		values[0] = Int32GetDatum(slots[i].pid);
		nulls[0] = slots[i].pid == 0;
		values[1] = Int32GetDatum(slots[i].owner);
		values[2] = CStringGetTextDatum(states[slots[i].state]);
		values[3] = TimestampTzGetDatum(slots[i].since);
		values[4] = Int64GetDatum(task_id);
		values[5] = Int32GetDatum((int) pg_atomic_read_u32(&slots[i].step_id));
		nulls[4] = nulls[5] = task_id == 0;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* The task's state as committed by now. */
static TaskState
state_of(int64 task_id)
{
	TaskerSection section;
	Datum		values[1] = {Int64GetDatum(task_id)};
	TaskState	state;

	tasker_enter(&section);
	if (tasker_run(&task_state, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_UNKNOWN_TASK),
				 errmsg("task " INT64_FORMAT " does not exist", task_id),
				 errdetail("It was deleted while it was waited for."),
				 errhint("tasker.task_status lists the tasks that you may see.")));
	state = task_state_from_text(tasker_value_notnull(0, 1));
	tasker_leave(&section);
	return state;
}

/* task_wait(task_id, timeout): the state when it is over, or at the timeout */
Datum
tasker_task_wait(PG_FUNCTION_ARGS)
{
	int64		task_id = PG_GETARG_INT64(0);
	TimestampTz begun = GetCurrentTimestamp();
	double		seconds = time_limit_argument(fcinfo, 1);
	long		pause = POLL_MIN_MS;
	TaskState	state;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	check_may_see(task_id);
	if (XactIsoLevel != XACT_READ_COMMITTED)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("task_wait needs isolation level READ COMMITTED"),
				 errdetail("In this transaction the task would never be seen to change."),
				 errhint("Call it in a transaction of its own.")));
	for (;;)
	{
		state = state_of(task_id);
		if (task_state_final(state) || state == TASK_ERROR ||
			(seconds >= 0 && (double) (GetCurrentTimestamp() - begun) / USECS_PER_SEC >= seconds))
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, pause, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		pause = Min(pause * 2, POLL_MAX_MS);
	}
	PG_RETURN_TEXT_P(cstring_to_text(task_state_name(state)));
}
