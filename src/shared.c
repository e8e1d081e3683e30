/*
 * shared.c
 *	  tasker's shared memory, and what a transaction does there when it commits.
 *
 * A trigger that makes work notes it here; the transaction's commit sets a
 * latch: of an idle executor of that role, else of the database's scheduler, if it
 * could start one. So no poll and no NOTIFY stands between a commit and the first
 * step.
 */
#include "shared.h"

#include "access/xact.h"
#include "compat.h"
#include "miscadmin.h"
#include "recorder.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "tasker.h"
#include "utils/memutils.h"

#include <signal.h>

static TaskerShared *shared = NULL;

static shmem_startup_hook_type previous_shmem_startup_hook = NULL;

/* Lanes beyond these wake the scheduler, which finds them by itself. */
#define MAX_NOTED	16

/* Where this transaction has put rows into a lane, and where it has taken some. */
typedef struct NotedLane
{
	int			lane;
	LaneRanges	came;
	LaneRanges	taken;
} NotedLane;

/* What this transaction has made; cleared at its end. */
typedef struct Noted
{
	bool		came;			/* some lane has got rows ... */
	bool		all_came;		/* ... more than could be noted */
	int			taken;			/* the deepest level of transactions that took
								 * rows, 0: none ... */
	bool		all_taken;		/* ... from lanes that could not be noted */
	int64	   *tasks;			/* in TopMemoryContext: told after the commit */
	int			ntasks;
	int			tasks_space;
	bool		scheduler;
	bool		launcher;
	bool		queues;			/* other queues are to be told of */
	TimestampTz due;
	int			nlanes;
	NotedLane	lanes[MAX_NOTED];	/* not cleared */
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
		for (int i = 0; i < TASKER_MAX_LANES; i++)
			pg_atomic_init_u64(&shared->lanes[i].served_at, 0);
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

/* What is noted of the lane; NULL if nothing is, or, to be made, there is no room. */
static NotedLane *
noted_lane(int lane, bool make)
{
	NotedLane  *result;

	for (int i = 0; i < noted.nlanes; i++)
		if (noted.lanes[i].lane == lane)
			return &noted.lanes[i];
	if (!make || noted.nlanes == MAX_NOTED)
		return NULL;
	result = &noted.lanes[noted.nlanes++];
	result->lane = lane;
	result->came.n = result->taken.n = 0;
	return result;
}

/* The lane has got rows in the range, or somebody lets go of some that others passed over. */
static void
note_came(int lane, const LaneRange *range)
{
	NotedLane  *place = noted_lane(lane, true);

	noted.came = true;
	if (place != NULL)
		add_lane_range(&place->came, range);
	else
		noted.scheduler = noted.all_came = true;
}

/* One row. */
void
wake_lane_at_commit(int lane, LaneKey row)
{
	LaneRange	range = lane_range(row, row);

	note_came(lane, &range);
}

/* Any row of the lane. */
void
wake_whole_lane_at_commit(int lane)
{
	note_came(lane, &whole_lane);
}

/* Rows of whichever lanes are taken, which others pass over, or their steps locked: they are free if it is rolled back. */
void
note_all_taken(void)
{
	noted.taken = Max(noted.taken, GetCurrentTransactionNestLevel());
	noted.all_taken = true;
}

/* The same of one lane's rows. */
void
note_rows_taken(int lane, LaneKey first, LaneKey last)
{
	NotedLane  *place = noted_lane(lane, true);
	LaneRange	range = lane_range(first, last);

	if (place == NULL)
	{
		note_all_taken();
		return;
	}
	noted.taken = Max(noted.taken, GetCurrentTransactionNestLevel());
	add_lane_range(&place->taken, &range);
}

/* Where this transaction itself has put rows into the lane. */
void
add_own_lane_ranges(LaneRanges *ranges, int lane)
{
	NotedLane  *place = noted_lane(lane, false);

	if (noted.all_came)
		add_lane_range(ranges, &whole_lane);
	else if (place != NULL)
		add_lane_ranges(ranges, &place->came);
}

void
wake_timer_at_commit(TimestampTz due)
{
	if (noted.due == 0 || due < noted.due)
		noted.due = due;
}

/* Any lane may have got rows, and anything may be due. */
void
wake_all_at_commit(void)
{
	noted.came = noted.scheduler = noted.all_came = true;
	wake_timer_at_commit(DT_NOBEGIN);
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

/* How many executors there are in all, and of the owner in this database. The caller holds the lock. */
int
executors_of(int owner, int *all)
{
	int			n = 0;

	*all = 0;
	for (int i = 0; i < TASKER_MAX_EXECUTORS; i++)
	{
		ExecutorSlot *slot = &shared->executors[i];

		if (slot->state == EXECUTOR_FREE)
			continue;
		(*all)++;
		n += slot->database == MyDatabaseId && slot->owner == owner;
	}
	return n;
}

/*
 * Could the scheduler start one more executor for the lane? Not if it has all
 * that it may have: each looks again when it has done what it is at, and tells
 * the scheduler when it leaves. The caller holds the lock.
 */
static bool
may_have_another_executor(int lane)
{
	int			all;

	return executors_of(-lane, &all) < tasker_max_executors_per_role;
}

/* The lane has more work than its executors have taken. */
void
ask_for_executor(int lane)
{
	bool		possible;

	LWLockAcquire(&shared->lock, LW_SHARED);
	possible = may_have_another_executor(lane);
	LWLockRelease(&shared->lock);
	if (possible)
		wake_scheduler(MyDatabaseId);
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

/* ------------------------------------------------------------------ telling */

/*
 * The transaction, or a part of it at this level, is rolled back: rows that others
 * passed over, since it had taken them, can be taken.
 */
static void
tell_rolled_back(int level)
{
	if (shared == NULL || noted.taken < level)
		return;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < noted.nlanes; i++)
	{
		if (noted.lanes[i].taken.n == 0)
			continue;
		lane_got_rows(noted.lanes[i].lane, &noted.lanes[i].taken);
		wake_waiters(noted.lanes[i].lane);
	}
	if (noted.all_taken)
	{
		forget_lane(0);
		wake_waiters(0);
	}
	LWLockRelease(&shared->lock);
	noted.taken = level - 1;
}

/* Tell everybody concerned. Runs after the commit: it can not fail. */
static void
tell(void)
{
	SchedulerSlot *scheduler;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < noted.nlanes; i++)
	{
		int			lane = noted.lanes[i].lane;
		ExecutorSlot *executor;

		if (noted.lanes[i].came.n == 0)
			continue;
		lane_got_rows(lane, &noted.lanes[i].came);
		if (lane > 0)
		{
			wake_waiters(lane);
			notify_lane(lane);
			continue;
		}
		executor = idle_executor(lane);
		if (executor == NULL)
			noted.scheduler |= may_have_another_executor(lane);
		else if (executor->latch != NULL)
			SetLatch(executor->latch);
	}
	if (noted.all_came)
	{
		wake_waiters(0);
		notify_lane(0);
		forget_lane(0);
	}
	if (noted.ntasks > 0)
		interrupt_executors();
	scheduler = scheduler_slot(MyDatabaseId);
	if (scheduler != NULL && noted.due != 0)
		scheduler->came = Min(scheduler->came, noted.due);
	if (scheduler != NULL && noted.queues)
		scheduler->queues_changed = noted.scheduler = true;
	if (scheduler != NULL && scheduler->latch != NULL && scheduler->pid != MyProcPid &&
		(noted.scheduler || (noted.due != 0 && noted.due < scheduler->next_due)))
		SetLatch(scheduler->latch);
	/* not seen yet: it came from a template, or took no connections */
	if (noted.launcher || (scheduler == NULL && shared->launcher_latch != NULL))
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
	return noted.came || noted.ntasks > 0 || noted.scheduler ||
		noted.launcher || noted.queues || noted.due != 0;
}

static void
forget_noted(void)
{
	if (noted.tasks != NULL)
		pfree(noted.tasks);
	memset(&noted, 0, offsetof(Noted, lanes));
}

static void
xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (anything_noted())
				tell();
			forget_noted();
			break;
		case XACT_EVENT_ABORT:
			tell_rolled_back(1);
			forget_noted();
			break;
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

static void
subxact_callback(SubXactEvent event, SubTransactionId my_subid, SubTransactionId parent_subid, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_ABORT_SUB)
		tell_rolled_back(level);
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		noted.taken = Min(noted.taken, level - 1);
}

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
	RegisterSubXactCallback(subxact_callback, NULL);
	if (!process_shared_preload_libraries_in_progress)
		return;
	tasker_request_shmem(MAXALIGN(sizeof(TaskerShared)));
	previous_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}
