/*
 * shared.c
 *	  tasker's shared memory, and what a transaction does there when it commits.
 *
 * A trigger that makes work notes it here; the transaction's commit sets a
 * latch: of an idle executor of that role, else of the database's scheduler.
 * So no poll and no NOTIFY stands between a commit and the first step.
 */
#include "shared.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "recorder.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "tasker.h"
#include "utils/memutils.h"

#include <signal.h>

static TaskerShared *shared = NULL;

#if PG_VERSION_NUM >= 150000
static shmem_request_hook_type previous_shmem_request_hook = NULL;
#endif
static shmem_startup_hook_type previous_shmem_startup_hook = NULL;

/* Lanes beyond these wake the scheduler, which finds them by itself. */
#define MAX_NOTED	16

/* What this transaction has made; cleared at its end. */
typedef struct Noted
{
	int			lanes[MAX_NOTED];
	int			nlanes;
	bool		all_lanes;		/* more than could be noted */
	int64	   *tasks;			/* in TopMemoryContext: told after the commit */
	int			ntasks;
	int			tasks_space;
	bool		scheduler;
	bool		launcher;
	bool		queues;			/* other queues are to be told of */
	TimestampTz due;
} Noted;

static Noted noted;

static void
attach(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("tasker", sizeof(TaskerShared), &found);
	if (!found)
	{
		memset(shared, 0, sizeof(TaskerShared));
		LWLockInitialize(&shared->lock, LWLockNewTrancheId());
		for (int i = 0; i < TASKER_MAX_EXECUTORS; i++)
		{
			pg_atomic_init_u64(&shared->executors[i].task_id, 0);
			pg_atomic_init_u32(&shared->executors[i].step_id, 0);
		}
		for (int i = 0; i < TASKER_MAX_QUEUES; i++)
			pg_atomic_init_u64(&shared->queues[i].served_at, 0);
		for (int i = 0; i < TASKER_MAX_DATABASES; i++)
			pg_atomic_init_u32(&shared->guards[i].word, 0);
	}
	recorder_attach(!found);
	LWLockRelease(AddinShmemInitLock);
	LWLockRegisterTranche(shared->lock.tranche, "tasker");
}

/* The shared memory, attached to on first use. */
TaskerShared *
tasker_shared(void)
{
	if (shared == NULL)
		attach();
	return shared;
}

/* The slot of a database's scheduler, or NULL. The caller holds the lock. */
SchedulerSlot *
scheduler_slot(Oid database)
{
	for (int i = 0; i < TASKER_MAX_DATABASES; i++)
		if (shared->schedulers[i].database == database)
			return &shared->schedulers[i];
	return NULL;
}

/*
 * Have the database's scheduler stay or be started, even if it is just leaving.
 * NULL if there is no slot left. The caller holds the lock, and tells the
 * launcher.
 */
SchedulerSlot *
ask_for_scheduler(Oid database)
{
	SchedulerSlot *slot = scheduler_slot(database);

	if (slot == NULL)
	{
		slot = scheduler_slot(InvalidOid);
		if (slot == NULL)
			return NULL;
		memset(slot, 0, sizeof(SchedulerSlot));
		slot->database = database;
	}
	slot->stop = false;
	slot->asked = true;
	slot->connecting = slot->connecting && slot->pid != 0;
	if (slot->latch != NULL)
		SetLatch(slot->latch);
	return slot;
}

void
wake_lane_at_commit(int lane)
{
	for (int i = 0; i < noted.nlanes; i++)
		if (noted.lanes[i] == lane)
			return;
	if (noted.nlanes < MAX_NOTED)
		noted.lanes[noted.nlanes++] = lane;
	else
		noted.scheduler = noted.all_lanes = true;
}

void
wake_timer_at_commit(TimestampTz due)
{
	if (noted.due == 0 || due < noted.due)
		noted.due = due;
}

/* However many there are, only theirs are interrupted. */
void
interrupt_task_at_commit(int64 task_id)
{
	if (noted.ntasks > 0 && noted.tasks[noted.ntasks - 1] == task_id)
		return;
	if (noted.tasks == NULL)
	{
		noted.tasks = MemoryContextAlloc(TopMemoryContext, MAX_NOTED * sizeof(int64));
		noted.tasks_space = MAX_NOTED;
	}
	else if (noted.ntasks == noted.tasks_space)
	{
		noted.tasks = repalloc_huge(noted.tasks, 2 * noted.tasks_space * sizeof(int64));
		noted.tasks_space *= 2;
	}
	noted.tasks[noted.ntasks++] = task_id;
}

void
wake_launcher_at_commit(void)
{
	noted.launcher = true;
}

void
reload_queues_at_commit(void)
{
	noted.queues = true;
}

void
wake_scheduler(Oid database)
{
	SchedulerSlot *slot;

	tasker_shared();
	LWLockAcquire(&shared->lock, LW_SHARED);
	slot = scheduler_slot(database);
	if (slot != NULL && slot->latch != NULL)
		SetLatch(slot->latch);
	LWLockRelease(&shared->lock);
}

/* An executor of the lane that waits for work, or NULL. */
static ExecutorSlot *
idle_executor(int lane)
{
	for (int i = 0; i < TASKER_MAX_EXECUTORS; i++)
	{
		ExecutorSlot *slot = &shared->executors[i];

		if (slot->state == EXECUTOR_IDLE && slot->database == MyDatabaseId &&
			slot->owner == -lane && slot->pid != MyProcPid)
			return slot;
	}
	return NULL;
}

static int
compare_tasks(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return x < y ? -1 : x > y;
}

/*
 * Interrupt whoever runs a step of the tasks noted, which are in order. Whether
 * it was the right step the executor finds out by looking at it; a step
 * interrupted by mistake is repeated.
 */
static void
interrupt_executors(void)
{
	for (int i = 0; i < TASKER_MAX_EXECUTORS; i++)
	{
		ExecutorSlot *slot = &shared->executors[i];
		int64		task_id = (int64) pg_atomic_read_u64(&slot->task_id);

		if (slot->state == EXECUTOR_FREE || slot->database != MyDatabaseId ||
			slot->pid == MyProcPid || slot->pid == 0 || task_id == 0)
			continue;
		if (bsearch(&task_id, noted.tasks, noted.ntasks, sizeof(int64), compare_tasks) != NULL)
		{
			slot->interrupted = true;
			kill(slot->pid, SIGINT);
		}
	}
}

/* This session's slot while its claim waits. */
static WaiterSlot *my_wait = NULL;

static void
free_wait(int code, Datum arg)
{
	end_waiting();
}

/* False if all slots are taken: then the caller has to look from time to time. */
bool
begin_waiting(const int *lanes, int nlanes)
{
	static bool at_exit = false;

	tasker_shared();
	if (!at_exit)
	{
		before_shmem_exit(free_wait, (Datum) 0);
		at_exit = true;
	}
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < TASKER_MAX_WAITERS && my_wait == NULL; i++)
		if (!OidIsValid(shared->waiters[i].database))
			my_wait = &shared->waiters[i];
	if (my_wait != NULL)
	{
		my_wait->database = MyDatabaseId;
		my_wait->latch = MyLatch;
		my_wait->nlanes = nlanes;
		for (int i = 0; i < Min(nlanes, TASKER_WAITER_LANES); i++)
			my_wait->lanes[i] = lanes[i];
	}
	LWLockRelease(&shared->lock);
	return my_wait != NULL;
}

void
end_waiting(void)
{
	if (my_wait == NULL)
		return;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	my_wait->database = InvalidOid;
	LWLockRelease(&shared->lock);
	my_wait = NULL;
}

/* Wake the claims that wait for the lane; 0 stands for any. */
static void
wake_waiters(int lane)
{
	for (int i = 0; i < TASKER_MAX_WAITERS; i++)
	{
		WaiterSlot *waiter = &shared->waiters[i];
		bool		wanted = lane == 0 || waiter->nlanes > TASKER_WAITER_LANES;

		if (waiter->database != MyDatabaseId)
			continue;
		for (int j = 0; j < Min(waiter->nlanes, TASKER_WAITER_LANES) && !wanted; j++)
			wanted = waiter->lanes[j] == lane;
		if (wanted)
			SetLatch(waiter->latch);
	}
}

/* ------------------------------------------------------------------- queues */

/* The queue's slot, or NULL. The caller holds the lock. */
static QueueSlot *
queue_slot(int queue_id)
{
	for (int i = 0; i < TASKER_MAX_QUEUES; i++)
		if (shared->queues[i].queue_id == queue_id && shared->queues[i].database == MyDatabaseId)
			return &shared->queues[i];
	return NULL;
}

/*
 * The same, made if there is none: of a free one, else of the one that nobody
 * has asked for longest. The caller holds the lock exclusively.
 */
static QueueSlot *
make_queue_slot(int queue_id)
{
	QueueSlot  *slot = queue_slot(queue_id);

	if (slot != NULL)
		return slot;
	for (int i = 0; i < TASKER_MAX_QUEUES; i++)
	{
		QueueSlot  *candidate = &shared->queues[i];

		if (!OidIsValid(candidate->database))
		{
			slot = candidate;
			break;
		}
		if (!candidate->watched &&
			(slot == NULL || pg_atomic_read_u64(&candidate->served_at) < pg_atomic_read_u64(&slot->served_at)))
			slot = candidate;
	}
	if (slot == NULL)
		return NULL;
	slot->database = MyDatabaseId;
	slot->queue_id = queue_id;
	slot->watched = slot->pending = false;
	pg_atomic_write_u64(&slot->served_at, 0);
	return slot;
}

/* Somebody asks the queue for steps. */
void
queue_served(int queue_id)
{
	uint64		now = (uint64) tasker_now();
	QueueSlot  *slot;

	tasker_shared();
	LWLockAcquire(&shared->lock, LW_SHARED);
	slot = queue_slot(queue_id);
	if (slot != NULL)
		pg_atomic_write_u64(&slot->served_at, now);
	LWLockRelease(&shared->lock);
	if (slot != NULL)
		return;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = make_queue_slot(queue_id);
	if (slot != NULL)
		pg_atomic_write_u64(&slot->served_at, now);
	LWLockRelease(&shared->lock);
}

/* When somebody last did; 0 if it is not known that anybody ever did. */
TimestampTz
queue_served_at(int queue_id)
{
	QueueSlot  *slot;
	TimestampTz result;

	tasker_shared();
	LWLockAcquire(&shared->lock, LW_SHARED);
	slot = queue_slot(queue_id);
	result = slot == NULL ? 0 : (TimestampTz) pg_atomic_read_u64(&slot->served_at);
	LWLockRelease(&shared->lock);
	return result;
}

/* The queues of this database whose listeners the scheduler tells. */
void
set_watched_queues(const Datum *queue_ids, int n)
{
	SchedulerSlot *scheduler;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < TASKER_MAX_QUEUES; i++)
		if (shared->queues[i].database == MyDatabaseId)
			shared->queues[i].watched = false;
	for (int i = 0; i < n; i++)
	{
		QueueSlot  *slot = make_queue_slot(DatumGetInt32(queue_ids[i]));

		if (slot != NULL)
			slot->watched = true;
	}
	scheduler = scheduler_slot(MyDatabaseId);
	if (scheduler != NULL)
		scheduler->notifies = n > 0;
	LWLockRelease(&shared->lock);
}

/* A queue of this database whose listeners are to be told now; 0 if none is. */
int
next_queue_to_notify(void)
{
	int			queue_id = 0;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < TASKER_MAX_QUEUES && queue_id == 0; i++)
	{
		QueueSlot  *slot = &shared->queues[i];

		if (slot->database == MyDatabaseId && slot->pending)
		{
			slot->pending = false;
			queue_id = slot->queue_id;
		}
	}
	LWLockRelease(&shared->lock);
	return queue_id;
}

/* The queue has got steps, 0 for any: its listeners are to be told, if it has some. */
static void
note_for_listeners(int queue_id)
{
	SchedulerSlot *scheduler = scheduler_slot(MyDatabaseId);

	if (scheduler == NULL || !scheduler->notifies)
		return;
	for (int i = 0; i < TASKER_MAX_QUEUES; i++)
	{
		QueueSlot  *slot = &shared->queues[i];

		if (slot->database != MyDatabaseId || !slot->watched || (queue_id != 0 && slot->queue_id != queue_id))
			continue;
		slot->pending = true;
		if (scheduler->latch != NULL)
			SetLatch(scheduler->latch);
	}
}

/* ------------------------------------------------------------------ telling */

/* Tell everybody concerned. Runs after the commit: it can not fail. */
static void
tell(void)
{
	SchedulerSlot *scheduler;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < noted.nlanes; i++)
	{
		ExecutorSlot *executor;

		if (noted.lanes[i] > 0)
		{
			wake_waiters(noted.lanes[i]);
			note_for_listeners(noted.lanes[i]);
			continue;
		}
		executor = idle_executor(noted.lanes[i]);
		if (executor == NULL)
			noted.scheduler = true;
		else if (executor->latch != NULL)
			SetLatch(executor->latch);
	}
	if (noted.all_lanes)
	{
		wake_waiters(0);
		note_for_listeners(0);
	}
	if (noted.ntasks > 0)
		interrupt_executors();
	scheduler = scheduler_slot(MyDatabaseId);
	if (scheduler != NULL && noted.queues)
		scheduler->queues_changed = noted.scheduler = true;
	if (scheduler != NULL && scheduler->latch != NULL && scheduler->pid != MyProcPid &&
		(noted.scheduler || (noted.due != 0 && noted.due < scheduler->next_due)))
		SetLatch(scheduler->latch);
	if (noted.launcher)
	{
		(void) ask_for_scheduler(MyDatabaseId);
		if (shared->launcher_latch != NULL)
			SetLatch(shared->launcher_latch);
	}
	LWLockRelease(&shared->lock);
}

static bool
anything_noted(void)
{
	return noted.nlanes > 0 || noted.ntasks > 0 || noted.scheduler ||
		noted.launcher || noted.queues || noted.due != 0;
}

static void
forget_noted(void)
{
	if (noted.tasks != NULL)
		pfree(noted.tasks);
	memset(&noted, 0, sizeof(noted));
}

static void
xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (anything_noted())
			{
				tell();
				forget_noted();
			}
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			forget_noted();
			break;
		case XACT_EVENT_PRE_COMMIT:
			/* Attaching may fail, so it is done while failing is allowed. */
			if (shared == NULL && anything_noted())
				attach();
			if (noted.ntasks > 1)
				qsort(noted.tasks, noted.ntasks, sizeof(int64), compare_tasks);
			break;
		default:
			break;
	}
}

#if PG_VERSION_NUM >= 150000
static void
shmem_request(void)
{
	if (previous_shmem_request_hook)
		previous_shmem_request_hook();
	RequestAddinShmemSpace(MAXALIGN(sizeof(TaskerShared)));
}
#endif

static void
shmem_startup(void)
{
	if (previous_shmem_startup_hook)
		previous_shmem_startup_hook();
	attach();
}

void
tasker_shared_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
	if (!process_shared_preload_libraries_in_progress)
		return;
#if PG_VERSION_NUM >= 150000
	previous_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
#else
	RequestAddinShmemSpace(MAXALIGN(sizeof(TaskerShared)));
#endif
	previous_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}
