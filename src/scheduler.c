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

#include "access/xact.h"
#include "definition_cache.h"
#include "engine.h"
#include "fault.h"
#include "guard.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "queues.h"
#include "retention.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "version.h"

/* The longest sleep: a net under the latches, one index probe a minute. */
#define LONGEST_SLEEP_MS	60000
/* The shortest between two looks at a timer that can not be served now. */
#define SHORTEST_SLEEP_MS	100
#define TIMERS_AT_ONCE		1000
/*
 * How often all timers and leases are looked at, whatever was noted of them; less
 * often if so many times what it takes is longer.
 */
#define LOOK_AT_ALL			(10 * USECS_PER_SEC)
#define TIMES_ITS_COST		20

PGDLLEXPORT void tasker_scheduler_main(Datum arg);

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

/* What a turn leaves to the next one. */
typedef struct Turns
{
	bool		queues_changed;
	DueFrom		due;			/* where timers and leases begin */
	TimestampTz looked_at_all;	/* when that was found without trusting it ... */
	int64		took;			/* ... and how many µs it took */
} Turns;

/* What was committed may be due before all others. The caller holds the lock. */
static void
heed_what_came(Turns *turns, SchedulerSlot *slot)
{
	turns->due.timer = Min(turns->due.timer, slot->came);
	turns->due.lease = Min(turns->due.lease, slot->came);
	slot->came = DT_NOEND;
}

/* What this turn has committed sets no latch. */
static void
heed_own(Turns *turns)
{
	TaskerShared *shared = tasker_shared();

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	heed_what_came(turns, scheduler_slot(MyDatabaseId));
	LWLockRelease(&shared->lock);
}

/*
 * Before a look: whatever is committed from now on, and might be missed by it,
 * sets the latch.
 */
static void
begin_turn(Turns *turns)
{
	TaskerShared *shared = tasker_shared();
	SchedulerSlot *slot;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = scheduler_slot(MyDatabaseId);
	if (slot != NULL)
	{
		slot->asked = false;
		slot->next_due = DT_NOEND;
		heed_what_came(turns, slot);
		turns->queues_changed |= slot->queues_changed;
		slot->queues_changed = false;
	}
	ResetLatch(MyLatch);
	LWLockRelease(&shared->lock);
}

/*
 * Is it time to look at all timers and leases? What the end of a session that had
 * it locked leaves there, or the commit of a prepared transaction adds before all
 * others if tasker is not preloaded, nobody tells of.
 */
static bool
time_for_all(const Turns *turns, TimestampTz now)
{
	return long_ago(turns->looked_at_all, now, Max(LOOK_AT_ALL, TIMES_ITS_COST * turns->took));
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

/* ------------------------------------------------------------- the loop */

static long
ms_until(TimestampTz due)
{
	return due == DT_NOEND ? LONGEST_SLEEP_MS :
		(long) Min((due - tasker_now()) / 1000 + 1, LONGEST_SLEEP_MS);
}

/* Do what is to be done now. Returns for how long to sleep. */
static long
one_turn(Turns *turns)
{
	TaskerShared *shared = tasker_shared();
	SchedulerSlot *slot;
	TimestampTz begun = GetCurrentTimestamp();
	TimestampTz due;
	TimestampTz retention_due;
	bool		all;
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
		turns->looked_at_all = 0;
		return LONGEST_SLEEP_MS;
	}
	if (turns->queues_changed)
		watch_queues();
	turns->queues_changed = false;
	all = time_for_all(turns, begun);
	if (all)
		turns->due = due_from_ever;
	done = tick(turns->due, tasker_now(), TIMERS_AT_ONCE);
	notify_queues();
	fault_point("scheduler-ticked");
	process_commit();

	heed_own(turns);			/* retries of what has just failed */
	process_begin_transaction();
	reap_executors();
	leave_lanes_alone(record_cut_offs());
	served = serve_lanes(&refusals);
	turns->due = next_due(turns->due);
	if (all)
	{
		turns->looked_at_all = begun;
		turns->took = GetCurrentTimestamp() - begun;
	}
	process_commit();

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = scheduler_slot(MyDatabaseId);
	heed_what_came(turns, slot);
	due = slot->next_due = Min(turns->due.timer, turns->due.lease);
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
one_safe_turn(MemoryContext context, Turns *turns)
{
	volatile long sleep = 1000;

	PG_TRY();
	{
		sleep = one_turn(turns);
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

void
tasker_scheduler_main(Datum arg)
{
	Oid			database = DatumGetObjectId(arg);
	MemoryContext context;
	Turns		turns = {.queues_changed = true,.due = due_from_ever};

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

			begin_turn(&turns);
			MemoryContextSwitchTo(context);
			MemoryContextReset(context);
			sleep = one_safe_turn(context, &turns);
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
