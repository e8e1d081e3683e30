/*
 * staffing.c
 *	  Which executors there are: each role with steps to run has some, as far as
 *	  the limits and the server allow; steps of a role that can have none are
 *	  refused.
 *
 * If there may be no more of them, a role that has none gets one nevertheless:
 * somebody else's leaves after its batch. Called by the scheduler in each of its
 * turns. An executor leaves by itself.
 */
#include "process.h"

#include "batch.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "unusable.h"
#include "utils/memutils.h"

#define WARN_EVERY_MS		60000
#define RETRY_MS			1000

/* How long a role has an executor, at the least, while others have none. */
#define TURN_MS				500
/* Two are not told to give way within this time: the first one may do. */
#define GIVE_WAY_MS			100

/* What reserve_slot says if the lane waits until another one's executor leaves. */
#define NO_ROOM				(-2)

/*
 * Each lane of steps that run in the database, without reading its rows. Of lanes
 * $1 it is known from where on they may have rows, $2, $3, $4; between them, from $5
 * to $6, there may be others. The known ones come with their first row, if there is one.
 */
static TaskerQuery find_lanes = {
	.sql = "WITH RECURSIVE u AS (SELECT g.before, (SELECT q.lane FROM tasker.ready_queue q "
	"WHERE q.lane > g.after AND q.lane < g.before ORDER BY q.lane LIMIT 1) AS lane "
	"FROM ROWS FROM (pg_catalog.unnest($5), pg_catalog.unnest($6)) AS g (after, before) "
	"UNION ALL SELECT u.before, (SELECT q.lane FROM tasker.ready_queue q "
	"WHERE q.lane > u.lane AND q.lane < u.before ORDER BY q.lane LIMIT 1) FROM u WHERE u.lane IS NOT NULL), "
	"l AS (SELECT k.lane, true AS known, q.rank, q.task_id, q.step_id FROM ROWS FROM (pg_catalog.unnest($1), "
	"pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4)) AS k (lane, rank, task_id, step_id) "
	"LEFT JOIN LATERAL (SELECT q.rank, q.task_id, q.step_id FROM tasker.ready_queue q "
	"WHERE q.lane = k.lane AND (q.rank, q.task_id, q.step_id) >= (k.rank, k.task_id, k.step_id) "
	"ORDER BY q.rank, q.task_id, q.step_id LIMIT 1) AS q ON true "
	"UNION ALL SELECT u.lane, false, 0, 0, 0 FROM u WHERE u.lane IS NOT NULL) "
	"SELECT l.lane, CASE WHEN o.owner_id IS NOT NULL THEN COALESCE(o.role_oid, 0::oid) END, o.role_name, "
	"l.known, l.rank, l.task_id, l.step_id FROM l LEFT JOIN tasker.owners o ON o.owner_id = -l.lane ORDER BY l.lane",
	.args = {INT4ARRAYOID, INT4ARRAYOID, INT8ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID},
	.columns = {INT4OID, OIDOID, NAMEOID, BOOLOID, INT4OID, INT8OID, INT4OID},
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

/* The lane that got an executor last: the next one is the next one's turn. */
static int	last_lane = 0;

/* The executors that this scheduler has had started, by slot. */
static BackgroundWorkerHandle *handles[TASKER_MAX_EXECUTORS];

/* Lanes that get no executor for a while: the last one could not connect, or a step that ends it is locked. */
static struct
{
	TimestampTz at;
	int			lane;
}			left_alone[TASKER_MAX_EXECUTORS];

static void
leave_lane_alone(int lane)
{
	int			oldest = 0;

	for (int i = 0; i < TASKER_MAX_EXECUTORS; i++)
		if (left_alone[i].at < left_alone[oldest].at)
			oldest = i;
	left_alone[oldest].at = GetCurrentTimestamp();
	left_alone[oldest].lane = lane;
}

void
leave_lanes_alone(List *lanes)
{
	ListCell   *cell;

	foreach(cell, lanes)
		leave_lane_alone(lfirst_int(cell));
}

/* Give back the slots of executors that ended without doing it themselves. */
void
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
			leave_lane_alone(-shared->executors[i].owner);
		LWLockRelease(&shared->lock);
	}
}

/* Not at once again: its reason is in the log, and will not be gone yet. */
static bool
left_alone_lately(int lane)
{
	for (int i = 0; i < TASKER_MAX_EXECUTORS; i++)
		if (left_alone[i].lane == lane &&
			!TimestampDifferenceExceeds(left_alone[i].at, GetCurrentTimestamp(), RETRY_MS))
			return true;
	return false;
}

/*
 * Which executor is the one to give way: one that is idle before one of a role
 * that has several, and that before one that has had its turn; 0 for none of
 * them. Busy ones of other databases would be back before anybody else. The
 * caller holds the lock.
 */
static int
can_give_way(const ExecutorSlot *slot, TimestampTz now)
{
	int			all;

	if (slot->state == EXECUTOR_FREE || slot->state == EXECUTOR_STARTING || slot->give_way || slot->stop)
		return 0;
	if (slot->state == EXECUTOR_IDLE)
		return 3;
	if (slot->database != MyDatabaseId)
		return 0;
	if (executors_of(slot->owner, &all) > 1)
		return 2;
	return TimestampDifferenceExceeds(slot->started, now, TURN_MS) ? 1 : 0;
}

/* Have one executor leave after its batch. The caller holds the lock. */
static void
make_room(void)
{
	static TimestampTz made = 0;
	TimestampTz now = GetCurrentTimestamp();
	ExecutorSlot *chosen = NULL;
	int			best = 0;

	if (!TimestampDifferenceExceeds(made, now, GIVE_WAY_MS))
		return;
	for (int i = 0; i < TASKER_MAX_EXECUTORS; i++)
	{
		ExecutorSlot *slot = &tasker_shared()->executors[i];
		int			rank = can_give_way(slot, now);

		if (rank > best || (rank > 0 && rank == best && slot->started < chosen->started))
		{
			best = rank;
			chosen = slot;
		}
	}
	if (chosen == NULL)
		return;
	made = now;
	chosen->give_way = true;
	if (chosen->latch != NULL)
		SetLatch(chosen->latch);
}

/*
 * Reserve a slot for one more executor of the lane, if it needs one: none is
 * idle or on its way, and the limits allow it. Returns -1 if not, NO_ROOM if
 * the lane has none at all but for the limit on all of them.
 */
static int
reserve_slot(const Lane *lane)
{
	TaskerShared *shared = tasker_shared();
	int			free_slot = -1;
	int			all;
	int			of_role;
	bool		enough = false;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	of_role = executors_of(-lane->lane, &all);
	for (int i = 0; i < TASKER_MAX_EXECUTORS; i++)
	{
		ExecutorSlot *slot = &shared->executors[i];

		if (slot->state == EXECUTOR_FREE)
		{
			if (free_slot < 0 && handles[i] == NULL)
				free_slot = i;
			continue;
		}
		if (slot->database != MyDatabaseId || slot->owner != -lane->lane)
			continue;
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
	if (of_role == 0 && all >= tasker_max_executors)
	{
		make_room();
		free_slot = NO_ROOM;
	}
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
		slot->give_way = false;
		slot->connected = false;
		slot->interrupted = false;
		slot->started = slot->since = GetCurrentTimestamp();
	}
	LWLockRelease(&shared->lock);
	return free_slot;
}

/* Returns false if the lane waits for a worker of the server's, or for another lane's executor. */
static bool
start_executor(const Lane *lane)
{
	static TimestampTz warned = 0;
	MemoryContext old_context;
	int			slot;

	if (left_alone_lately(lane->lane))
		return false;
	slot = reserve_slot(lane);
	if (slot < 0)
		return slot != NO_ROOM;
	old_context = MemoryContextSwitchTo(TopMemoryContext);
	handles[slot] = register_executor(slot);
	MemoryContextSwitchTo(old_context);
	if (handles[slot] != NULL)
	{
		last_lane = lane->lane;
		return true;
	}

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

/*
 * Why the lane's owner can have no session, as an error to record with its
 * steps, or NULL. One that was renamed gets its new name.
 */
static ErrorData *
check_owner(Lane *lane)
{
	char	   *name = lane->no_owner ? NULL : NameStr(lane->role_name);
	const Unusable *why = owner_unusable(lane->role, name);
	char	   *current = GetUserNameFromId(lane->role, true);
	Datum		values[2];
	TaskerSection section;

	if (why != NULL)
		return unusable_error(why, lane->role, name);
	if (strcmp(current, name) == 0)
		return NULL;
	/* ALTER ROLE … RENAME */
	values[0] = Int32GetDatum(-lane->lane);
	values[1] = DirectFunctionCall1(namein, CStringGetDatum(current));
	tasker_enter(&section);
	tasker_run(&rename_owner, values, NULL);
	tasker_leave(&section);
	return NULL;
}

/* The arguments of find_lanes, for lanes that are known. */
static void
known_lanes(const LaneLook *looks, int n, Datum *values)
{
	static const Oid types[6] = {INT4OID, INT4OID, INT8OID, INT4OID, INT4OID, INT4OID};
	DatumList	columns[6];
	int			after = PG_INT32_MIN;

	for (int c = 0; c < 6; c++)
		datum_list_init(&columns[c], types[c]);
	for (int i = 0; i <= n; i++)
	{
		int			before = i < n ? looks[i].lane : 0;
		LaneKey		from;

		datum_list_add(&columns[4], Int32GetDatum(after));
		datum_list_add(&columns[5], Int32GetDatum(before));
		after = before;
		if (i == n)
			break;
		datum_list_add(&columns[0], Int32GetDatum(looks[i].lane));
		from = first_of_lane_ranges(&looks[i].rows);
		datum_list_add(&columns[1], Int32GetDatum(from.rank));
		datum_list_add(&columns[2], Int64GetDatum(from.task_id));
		datum_list_add(&columns[3], Int32GetDatum(from.step_id));
	}
	for (int c = 0; c < 6; c++)
		values[c] = datum_list_array(&columns[c]);
}

/* A row of find_lanes for a lane that is known: its look has ended. Has it got rows? */
static bool
known_lane_has_rows(const LaneLook *look, uint64 row)
{
	LaneKey		first = lane_end;
	bool		none;
	Datum		rank = tasker_value(row, 5, &none);

	if (!none)
		first = lane_key(DatumGetInt32(rank), DatumGetInt64(tasker_value_notnull(row, 6)),
						 DatumGetInt32(tasker_value_notnull(row, 7)));
	lane_looked_at(look, first);
	return !none;
}

/* The lanes with work in order, in the caller's memory context. */
static Lane *
lanes_with_work(int *n)
{
	TaskerSection section;
	MemoryContext context = CurrentMemoryContext;
	int			nlooks;
	LaneLook   *look = look_at_lanes_of_owners(&nlooks);
	Datum		values[6];
	uint64		rows;
	Lane	   *lanes;

	tasker_enter(&section);
	known_lanes(look, nlooks, values);
	rows = tasker_run(&find_lanes, values, NULL);
	lanes = MemoryContextAllocZero(context, Max(rows, 1) * sizeof(Lane));
	*n = 0;
	for (uint64 row = 0; row < rows; row++)
	{
		Lane	   *lane = &lanes[*n];
		Datum		role = tasker_value(row, 2, &lane->no_owner);

		lane->lane = DatumGetInt32(tasker_value_notnull(row, 1));
		if (DatumGetBool(tasker_value_notnull(row, 4)) && !known_lane_has_rows(look++, row))
			continue;
		(*n)++;
		if (lane->no_owner)
			continue;
		lane->role = DatumGetObjectId(role);
		lane->role_name = *DatumGetName(tasker_value_notnull(row, 3));
	}
	tasker_leave(&section);
	return lanes;
}

/* Returns false if the lane waits for a worker, or for a lock. */
static bool
serve_lane(Lane *lane, int *refusals)
{
	ErrorData  *error = check_owner(lane);
	int			refused_now;

	if (error == NULL)
		return start_executor(lane);
	refused_now = refuse_steps(lane->lane, 0, 0, error);
	*refusals += refused_now;
	if (refused_now > 0)
		return true;
	/* somebody has them locked, and will not tell when it lets them go */
	LWLockAcquire(&tasker_shared()->lock, LW_EXCLUSIVE);
	forget_lane(lane->lane);
	LWLockRelease(&tasker_shared()->lock);
	return false;
}

/*
 * Returns false if some lane waits for a worker, or for a lock; counts the steps that were
 * refused, of which there may be more. Lanes take turns.
 */
bool
serve_lanes(int *refusals)
{
	bool		served = true;
	int			n;
	int			first = 0;
	Lane	   *lanes = lanes_with_work(&n);

	while (first < n && lanes[first].lane <= last_lane)
		first++;
	for (int i = 0; i < n; i++)
		served &= serve_lane(&lanes[(first + i) % n], refusals);
	return served;
}

/* Have those of this database leave after the batch they are at. */
void
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
