/*
 * launcher.c
 *	  One process a cluster, started by shared_preload_libraries: has a scheduler
 *	  started in each database that may have the extension.
 *
 * On a hot standby it waits for the promotion, and until then sees to it that the
 * data directory is known to be its primary's successor (guard_marker.c).
 *
 * At its start it tries every database once; a scheduler that does not find
 * the extension leaves at once. After that CREATE EXTENSION tells it
 * (processes.sql), and a scheduler that goes tells it too.
 */
#include "process.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_database.h"
#include "guard.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#define LAUNCHER_SLEEP_MS	60000
#define RETRY_MS			1000
#define RECOVERY_POLL_MS	500
#define WARN_EVERY_MS		60000

PGDLLEXPORT void tasker_launcher_main(Datum arg);

static void
leave(int code, Datum arg)
{
	TaskerShared *shared = tasker_shared();

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	shared->launcher_latch = NULL;
	shared->launcher_pid = 0;
	LWLockRelease(&shared->lock);
}

/* Ask for a scheduler in every database that takes connections. */
static void
ask_for_all(void)
{
	TaskerShared *shared = tasker_shared();
	Relation	relation;
	TableScanDesc scan;
	HeapTuple	tuple;

	process_begin_transaction();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		SchedulerSlot *slot;

		if (!database->datallowconn || database->datistemplate)
			continue;
		LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
		if (scheduler_slot(database->oid) == NULL)
		{
			slot = scheduler_slot(InvalidOid);
			if (slot != NULL)
			{
				memset(slot, 0, sizeof(SchedulerSlot));
				slot->database = database->oid;
			}
		}
		LWLockRelease(&shared->lock);
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	process_commit();
}

/* Start what is asked for. Returns false if the server has no worker to give. */
static bool
start_asked_for(TimestampTz *tried, TimestampTz *warned)
{
	TaskerShared *shared = tasker_shared();
	bool		all = true;

	for (int i = 0; i < TASKER_MAX_DATABASES; i++)
	{
		SchedulerSlot *slot = &shared->schedulers[i];
		Oid			database = InvalidOid;
		bool		asked;

		LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
		asked = slot->asked;
		slot->asked = asked && slot->pid != 0;
		if (slot->pid == 0 && slot->connecting)
			slot->database = InvalidOid;	/* it could not connect */
		if (slot->pid == 0 && !slot->stop && !slot->aside)
			database = slot->database;
		LWLockRelease(&shared->lock);
		if (!OidIsValid(database))
			continue;
		/* not at once again, unless somebody asked for it since */
		if (!asked && !TimestampDifferenceExceeds(tried[i], GetCurrentTimestamp(), RETRY_MS))
		{
			all = false;
			continue;
		}
		tried[i] = GetCurrentTimestamp();
		if (register_scheduler(database))
			continue;
		all = false;
		if (!TimestampDifferenceExceeds(*warned, GetCurrentTimestamp(), WARN_EVERY_MS))
			continue;
		*warned = GetCurrentTimestamp();
		ereport(WARNING,
				(errcode(ERRCODE_TASKER_NO_WORKER),
				 errmsg("tasker has no background worker left for database %u", database),
				 errdetail("All of max_worker_processes (%d) are taken.", max_worker_processes),
				 errhint("Raise max_worker_processes.")));
	}
	return all;
}

/* A promotion wakes nobody, so it is looked for. */
static void
wait_for_promotion(void)
{
	bool		marked = false;

	while (RecoveryInProgress())
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (!marked && standby_has_streamed())
		{
			standby_mark();
			marked = true;
		}
		(void) process_wait(RECOVERY_POLL_MS);
	}
}

void
tasker_launcher_main(Datum arg)
{
	TaskerShared *shared = tasker_shared();
	TimestampTz tried[TASKER_MAX_DATABASES] = {0};
	TimestampTz warned = 0;

	before_shmem_exit(leave, (Datum) 0);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	shared->launcher_latch = MyLatch;
	shared->launcher_pid = MyProcPid;
	LWLockRelease(&shared->lock);

	wait_for_promotion();
	ask_for_all();
	for (;;)
	{
		bool		all;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		all = start_asked_for(tried, &warned);
		(void) process_wait(all ? LAUNCHER_SLEEP_MS : RETRY_MS);
	}
}

/* Called when the library is preloaded. */
void
launcher_init(void)
{
	BackgroundWorker worker;

	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;
	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_library_name, "tasker", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "tasker_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "tasker launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "tasker launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}
