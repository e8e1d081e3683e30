/*
 * retention_pace.c
 *	  When tasks that ended long ago are removed, by whom, and how many at once:
 *	  by the scheduler, at a pace that leaves the server to others, by CALL run()
 *	  and tick() a piece at a time, by expire() as many as it is told.
 *
 * What a piece is, and does, is retention.c's.
 */
#include "retention.h"

#include "access/xact.h"
#include "engine.h"
#include "miscadmin.h"
#include "process.h"

/* While there is work the scheduler rests so many times as long as it works. */
#define GENTLE			4
/* The longest that it waits between two looks. */
#define LONGEST_PAUSE	(1 * USECS_PER_MINUTE)

/* What ended until then is to go. */
static TimestampTz
too_old(TimestampTz now)
{
	return now - tasker_retention * USECS_PER_SEC;
}

/* A part of tasker.retention, but from a second to a minute. */
static int64
pause_of(int part)
{
	return Min(Max(tasker_retention / part, 1) * USECS_PER_SEC, LONGEST_PAUSE);
}

/* One piece, if tasker.retention is set. Returns whether there is more to do at once. */
bool
expire_due(TimestampTz now)
{
	if (tasker_retention < 0 || IsolationUsesXactSnapshot())
		return false;
	return expire_some(now, too_old(now), INT_MAX).due <= now;
}

/*
 * The scheduler's part: one piece in a transaction of its own, if it is time.
 * Returns when it will be time again.
 *
 * The pace follows that of the tasks' ends: it is gentle as long as each piece
 * comes closer to the present, and brisker with each that falls back. When all
 * is done it looks for the next end when that is due, but not for each by
 * itself, and otherwise once a minute at most.
 */
TimestampTz
retention_turn(void)
{
	static int	retention = -1;
	static TimestampTz due = 0;
	static int64 behind = 0;
	static int	rest = GENTLE;
	TimestampTz now = tasker_now();
	TimestampTz begun = GetCurrentTimestamp();
	Expired		expired;

	if (tasker_retention != retention)
		due = now;
	retention = tasker_retention;
	if (retention < 0)
		return DT_NOEND;
	if (now < due)
		return due;
	due = now + LONGEST_PAUSE;	/* should this fail */
	process_begin_transaction();
	expired = expire_some(now, too_old(now), INT_MAX);
	process_commit();

	if (expired.due <= now)
	{
		if (expired.reached != 0)
		{
			int64		was_behind = behind;

			behind = too_old(now) - expired.reached;
			rest = behind > was_behind ? rest / 2 : Min(rest + 1, GENTLE);
		}
		due = now + (GetCurrentTimestamp() - begun) * (1 + rest);
	}
	else
	{
		behind = 0;
		rest = GENTLE;
		due = Max(Min(expired.due, now + pause_of(10)), now + pause_of(100));
	}
	return due;
}

PG_FUNCTION_INFO_V1(tasker_expire);

/* expire(older_than interval, max_tasks int): how many tasks went */
Datum
tasker_expire(PG_FUNCTION_ARGS)
{
	int			max_tasks = PG_ARGISNULL(1) ? 1000 : PG_GETARG_INT32(1);
	TimestampTz now = tasker_now();
	TimestampTz before = too_old(now);
	int			removed = 0;

	if (access_level(GetUserId()) < ACCESS_ADMIN)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_ACCESS),
				 errmsg("permission denied to remove tasks"),
				 errdetail("Role \"%s\" does not have level admin.", GetUserNameFromId(GetUserId(), false)),
				 errhint("The scheduler does it by itself if tasker.retention is set.")));
	if (!PG_ARGISNULL(0))
		before = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_mi_interval, TimestampTzGetDatum(now),
														 PG_GETARG_DATUM(0)));
	else if (tasker_retention < 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("it is not known how old a task must be to be removed"),
				 errdetail("tasker.retention is off, and older_than is null."),
				 errhint("Give the age: tasker.expire('30 days').")));
	if (before > now)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("older_than must not be negative"),
				 errdetail("No task has ended yet at %s.", timestamptz_to_str(before)),
				 errhint("Use '0' for every task that has ended.")));
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("tasks are removed in isolation level READ COMMITTED"),
				 errdetail("This transaction would not see everything that belongs to them."),
				 errhint("Call it in a transaction of its own.")));
	while (removed < max_tasks)
	{
		Expired		expired = expire_some(now, before, max_tasks - removed);

		removed += expired.tasks;
		if (expired.due > now)
			break;
	}
	PG_RETURN_INT32(removed);
}
