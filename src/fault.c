/*
 * fault.c
 *	  Fault points, in test builds only. A test arms a point by name, for every
 *	  process or for the next one that passes, with what is to happen there:
 *	  an error, a wait until it is disarmed, or the death of the process.
 */
#include "tasker.h"

#include "fault.h"

#ifdef TASKER_TEST

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include <signal.h>

#define MAX_POINTS	8

typedef struct FaultPoint
{
	char		name[32];		/* empty: not armed */
	char		action[8];		/* error, pause, kill */
	int			times;			/* how often still */
	int			waiting;		/* processes that pause at it */
} FaultPoint;

typedef struct FaultShared
{
	LWLock		lock;
	FaultPoint	points[MAX_POINTS];
} FaultShared;

static FaultShared *
fault_shared(void)
{
	static FaultShared *shared = NULL;
	bool		found;

	if (shared != NULL)
		return shared;
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("tasker faults", sizeof(FaultShared), &found);
	if (!found)
	{
		memset(shared, 0, sizeof(FaultShared));
		LWLockInitialize(&shared->lock, LWLockNewTrancheId());
	}
	LWLockRelease(AddinShmemInitLock);
	LWLockRegisterTranche(shared->lock.tranche, "tasker faults");
	return shared;
}

static FaultPoint *
find_point(FaultShared *shared, const char *name)
{
	for (int i = 0; i < MAX_POINTS; i++)
		if (strcmp(shared->points[i].name, name) == 0)
			return &shared->points[i];
	return NULL;
}

static void
count_waiting(FaultShared *shared, const char *name, int by)
{
	FaultPoint *point;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	point = find_point(shared, name);
	if (point != NULL)
		point->waiting += by;
	LWLockRelease(&shared->lock);
}

/* Wait until the point is disarmed. */
static void
pause_at(FaultShared *shared, const char *name)
{
	bool		armed = true;

	count_waiting(shared, name, 1);
	while (armed)
	{
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 5, PG_WAIT_EXTENSION);
		LWLockAcquire(&shared->lock, LW_SHARED);
		armed = find_point(shared, name) != NULL;
		LWLockRelease(&shared->lock);
	}
}

void
fault_point(const char *name)
{
	FaultShared *shared = fault_shared();
	FaultPoint *point;
	char		action[8] = "";

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	point = find_point(shared, name);
	if (point != NULL && point->times > 0)
	{
		strlcpy(action, point->action, sizeof(action));
		point->times--;
	}
	LWLockRelease(&shared->lock);

	if (strcmp(action, "error") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_INTERNAL),
				 errmsg("fault point \"%s\"", name),
				 errdetail("A test asked for this error."),
				 errhint("Disarm the point.")));
	else if (strcmp(action, "pause") == 0)
		pause_at(shared, name);
	else if (strcmp(action, "kill") == 0)
		kill(MyProcPid, SIGKILL);
}

PG_FUNCTION_INFO_V1(tasker_fault_arm);
PG_FUNCTION_INFO_V1(tasker_fault_disarm);
PG_FUNCTION_INFO_V1(tasker_fault_waiting);

/* fault_arm(name text, action text, times int) */
Datum
tasker_fault_arm(PG_FUNCTION_ARGS)
{
	FaultShared *shared = fault_shared();
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	FaultPoint *point;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	point = find_point(shared, name);
	if (point == NULL)
		point = find_point(shared, "");
	if (point != NULL)
	{
		strlcpy(point->name, name, sizeof(point->name));
		strlcpy(point->action, text_to_cstring(PG_GETARG_TEXT_PP(1)), sizeof(point->action));
		point->times = PG_GETARG_INT32(2);
		point->waiting = 0;
	}
	LWLockRelease(&shared->lock);
	PG_RETURN_BOOL(point != NULL);
}

/* fault_disarm(name text) */
Datum
tasker_fault_disarm(PG_FUNCTION_ARGS)
{
	FaultShared *shared = fault_shared();
	FaultPoint *point;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	point = find_point(shared, text_to_cstring(PG_GETARG_TEXT_PP(0)));
	if (point != NULL)
		memset(point, 0, sizeof(FaultPoint));
	LWLockRelease(&shared->lock);
	PG_RETURN_BOOL(point != NULL);
}

/* fault_waiting(name text): how many processes pause at the point */
Datum
tasker_fault_waiting(PG_FUNCTION_ARGS)
{
	FaultShared *shared = fault_shared();
	FaultPoint *point;
	int			waiting = 0;

	LWLockAcquire(&shared->lock, LW_SHARED);
	point = find_point(shared, text_to_cstring(PG_GETARG_TEXT_PP(0)));
	if (point != NULL)
		waiting = point->waiting;
	LWLockRelease(&shared->lock);
	PG_RETURN_INT32(waiting);
}

#endif							/* TASKER_TEST */
