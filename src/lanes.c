/*
 * lanes.c
 *	  What shared memory knows of the lanes of ready_queue: where there may be
 *	  rows to take, who asked for steps and when, and whose listeners are to be
 *	  told.
 *
 * The first keeps claims fast while somebody holds an old snapshot: rows that
 * were taken stay in the index until vacuum may remove them, all of them before
 * those that are left. Whoever has looked at a lane notes up to where there is
 * nothing any more, and the next one begins there; a worker that may have one
 * owner's steps only, for that owner. A commit that adds rows notes where, and so
 * does a rollback that gives back what was taken, which others passed over. What
 * nobody tells of, like the end of somebody's lock on a task, or of a prepared
 * transaction if tasker is not preloaded, is found all the same: a look is good
 * for a second, or for longer if it takes long itself.
 *
 * Called by those who take rows (batch_read.c, dequeue.c) or look whether there are
 * some (staffing.c), by shared.c when a transaction ends, and for queues by claims.c
 * and queues.c.
 */
#include "tasker.h"

#include "miscadmin.h"
#include "shared.h"

/*
 * How long a look is trusted; as long again, while somebody looks anew. It is at
 * least so many times as long as that takes.
 */
#define TRUSTED_FOR		(USECS_PER_SEC / 2)
#define TIMES_ITS_COST	10

const LaneKey lane_end = {PG_INT32_MAX, PG_INT32_MAX, PG_INT64_MAX};
const LaneRange whole_lane = {
	{PG_INT32_MIN, PG_INT32_MIN, PG_INT64_MIN},
	{PG_INT32_MAX, PG_INT32_MAX, PG_INT64_MAX}
};

LaneKey
lane_key(int rank, int64 task_id, int step_id)
{
	LaneKey		key = {rank, step_id, task_id};

	return key;
}

/* In the order of the table's key. */
int
lane_key_compare(const LaneKey *a, const LaneKey *b)
{
	if (a->rank != b->rank)
		return a->rank < b->rank ? -1 : 1;
	if (a->task_id != b->task_id)
		return a->task_id < b->task_id ? -1 : 1;
	return a->step_id < b->step_id ? -1 : a->step_id > b->step_id;
}

/* The lane's slot, or NULL. The caller holds the lock. */
static LaneSlot *
lane_slot(int lane, int owner)
{
	TaskerShared *shared = tasker_shared();

	for (int i = 0; i < shared->nlanes; i++)
	{
		LaneSlot   *slot = &shared->lanes[i];

		if (slot->lane == lane && slot->owner == owner && slot->database == MyDatabaseId)
			return slot;
	}
	return NULL;
}

/* Nothing is known of the lane any more, whoever is looking at it now. */
static void
forget_slot(LaneSlot *slot)
{
	slot->looked_at = 0;
	slot->came_since = ++slot->version;
	slot->rows.n = slot->came.n = 0;
}

/* The slot, in use, that nobody has looked at for longest; NULL if all are watched. */
static LaneSlot *
forgotten_lane_slot(void)
{
	LaneSlot   *lanes = tasker_shared()->lanes;
	LaneSlot   *slot = NULL;

	for (int i = 0; i < TASKER_MAX_LANES; i++)
		if (!lanes[i].watched && (slot == NULL || lanes[i].looked_at < slot->looked_at))
			slot = &lanes[i];
	return slot;
}

/*
 * The same, made if there is none: of a free one, else of the one that nobody
 * has looked at for longest. The caller holds the lock exclusively.
 */
static LaneSlot *
make_lane_slot(int lane, int owner)
{
	TaskerShared *shared = tasker_shared();
	LaneSlot   *slot = lane_slot(lane, owner);

	if (slot != NULL)
		return slot;
	if (shared->nlanes < TASKER_MAX_LANES)
		slot = &shared->lanes[shared->nlanes++];
	else
		slot = forgotten_lane_slot();
	if (slot == NULL)
		return NULL;
	slot->database = MyDatabaseId;
	slot->lane = lane;
	slot->owner = owner;
	slot->watched = slot->pending = false;
	slot->took = 0;
	forget_slot(slot);
	pg_atomic_write_u64(&slot->served_at, 0);
	return slot;
}

/* ----------------------------------------------------------- where there are rows */

/* Takes from the slot, if it has a look that can be trusted, where there may be rows. */
static bool
use_last_look(const LaneSlot *slot, LaneLook *look)
{
	look->version = slot->version;
	look->anew = long_ago(slot->looked_at, look->looked_at, Max(TRUSTED_FOR, TIMES_ITS_COST * slot->took));
	if (look->anew)
		return false;
	look->rows = slot->rows;
	add_own_lane_ranges(&look->rows, look->lane);
	look->looked_at = slot->looked_at;
	return true;
}

/* A look that trusts the last one, if there is one that can be trusted. */
static bool
trusting_look(LaneLook *look)
{
	TaskerShared *shared = tasker_shared();
	LaneSlot   *slot;
	bool		trusted;

	LWLockAcquire(&shared->lock, LW_SHARED);
	slot = lane_slot(look->lane, look->owner);
	trusted = slot != NULL && use_last_look(slot, look);
	LWLockRelease(&shared->lock);
	return trusted;
}

static LaneLook
new_look(int lane, int owner)
{
	LaneLook	look = {.lane = lane,.owner = owner,.anew = true,.rows = {1, {whole_lane}},
	.looked_at = GetCurrentTimestamp()};

	return look;
}

/*
 * Where there may be rows to take. To be asked before the snapshot is
 * taken that they are read with. If the last look is too old, whoever asks first
 * looks anew, and all others trust the old one for as long again.
 */
LaneLook
look_at_lane(int lane, int owner)
{
	TaskerShared *shared = tasker_shared();
	LaneLook	look = new_look(lane, owner);
	LaneSlot   *slot;

	if (trusting_look(&look))
		return look;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = make_lane_slot(lane, owner);
	if (slot != NULL && !use_last_look(slot, &look) && slot->looked_at != 0)
		slot->looked_at = look.looked_at;
	LWLockRelease(&shared->lock);
	return look;
}

/* May there be rows before the key? It can be asked without looking. */
bool
lane_may_begin_before(int lane, int owner, LaneKey key)
{
	LaneLook	look = new_look(lane, owner);
	LaneKey		first;

	if (!trusting_look(&look))
		return true;
	first = first_of_lane_ranges(&look.rows);
	return lane_key_compare(&first, &key) < 0;
}

static int
compare_looks(const void *a, const void *b)
{
	int			x = ((const LaneLook *) a)->lane;
	int			y = ((const LaneLook *) b)->lane;

	return x < y ? -1 : x > y;
}

/* The same for each of the lanes of this database's owners that are known, in order. */
LaneLook *
look_at_lanes_of_owners(int *n)
{
	TaskerShared *shared = tasker_shared();
	int			known = shared->nlanes; /* there will never be fewer */
	LaneLook   *looks = palloc(Max(known, 1) * sizeof(LaneLook));

	*n = 0;
	LWLockAcquire(&shared->lock, LW_SHARED);
	for (int i = 0; i < known; i++)
		if (shared->lanes[i].database == MyDatabaseId && shared->lanes[i].lane < 0)
			looks[(*n)++].lane = shared->lanes[i].lane;
	LWLockRelease(&shared->lock);
	for (int i = 0; i < *n; i++)
		looks[i] = look_at_lane(looks[i].lane, 0);
	qsort(looks, *n, sizeof(LaneLook), compare_looks);
	return looks;
}

/*
 * Before the key, every row that could be was taken; but for those that came since
 * the look began, which others may know of that began later. One that trusts no
 * other one may find rows that nobody told of, and knows nothing of what comes
 * after the key: neither do those then that trust the old one.
 */
void
lane_looked_at(const LaneLook *look, LaneKey key)
{
	TaskerShared *shared = tasker_shared();
	LaneRange	rest = {key, lane_end};
	LaneSlot   *slot;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = lane_slot(look->lane, look->owner);
	if (slot != NULL)
	{
		bool		current = (int32) (look->version - slot->came_since) >= 0;
		bool		found = look->anew && (current || slot->looked_at != 0);

		if (look->anew)
			slot->took = GetCurrentTimestamp() - look->looked_at;
		if (found)
		{
			add_lane_range(&slot->rows, &rest);
			slot->looked_at = look->looked_at;
			slot->version++;
		}
		if (current)
		{
			cut_lane_ranges(&slot->rows, &key);
			add_lane_ranges(&slot->rows, &slot->came);
		}
		if (found || current)
		{
			slot->came_since = slot->version;
			slot->came.n = 0;
		}
	}
	LWLockRelease(&shared->lock);
}

/* The lane has got rows there. The caller holds the lock. */
void
lane_got_rows(int lane, const LaneRanges *rows)
{
	TaskerShared *shared = tasker_shared();

	for (int i = 0; i < shared->nlanes; i++)
	{
		LaneSlot   *slot = &shared->lanes[i];

		if (slot->database != MyDatabaseId || slot->lane != lane)
			continue;
		slot->version++;
		add_lane_ranges(&slot->rows, rows);
		add_lane_ranges(&slot->came, rows);
	}
}

/* Nothing is known of the lane any more, 0 for all. The caller holds the lock. */
void
forget_lane(int lane)
{
	TaskerShared *shared = tasker_shared();

	for (int i = 0; i < shared->nlanes; i++)
	{
		LaneSlot   *slot = &shared->lanes[i];

		if (slot->database != MyDatabaseId || (lane != 0 && slot->lane != lane))
			continue;
		forget_slot(slot);
	}
}

/* ------------------------------------------------------------- who asks a queue */

/* Somebody asks the queue for steps. */
void
queue_served(int queue_id)
{
	TaskerShared *shared = tasker_shared();
	uint64		now = (uint64) tasker_now();
	LaneSlot   *slot;

	LWLockAcquire(&shared->lock, LW_SHARED);
	slot = lane_slot(queue_id, 0);
	if (slot != NULL)
		pg_atomic_write_u64(&slot->served_at, now);
	LWLockRelease(&shared->lock);
	if (slot != NULL)
		return;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = make_lane_slot(queue_id, 0);
	if (slot != NULL)
		pg_atomic_write_u64(&slot->served_at, now);
	LWLockRelease(&shared->lock);
}

/* When somebody last did; 0 if it is not known that anybody ever did. */
TimestampTz
queue_served_at(int queue_id)
{
	TaskerShared *shared = tasker_shared();
	LaneSlot   *slot;
	TimestampTz result;

	LWLockAcquire(&shared->lock, LW_SHARED);
	slot = lane_slot(queue_id, 0);
	result = slot == NULL ? 0 : (TimestampTz) pg_atomic_read_u64(&slot->served_at);
	LWLockRelease(&shared->lock);
	return result;
}

/* ------------------------------------------------------------ who listens to one */

/* The queues of this database whose listeners the scheduler tells. */
void
set_watched_queues(const Datum *queue_ids, int n)
{
	TaskerShared *shared = tasker_shared();
	SchedulerSlot *scheduler;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared->nlanes; i++)
		if (shared->lanes[i].database == MyDatabaseId)
			shared->lanes[i].watched = false;
	for (int i = 0; i < n; i++)
	{
		LaneSlot   *slot = make_lane_slot(DatumGetInt32(queue_ids[i]), 0);

		if (slot != NULL)
			slot->watched = true;
	}
	scheduler = scheduler_slot(MyDatabaseId);
	if (scheduler != NULL)
		scheduler->notifies = n > 0;
	LWLockRelease(&shared->lock);
}

/*
 * The lane has got steps, 0 for any: if it is a queue with listeners, they are
 * to be told. The caller holds the lock.
 */
void
notify_lane(int lane)
{
	TaskerShared *shared = tasker_shared();
	SchedulerSlot *scheduler = scheduler_slot(MyDatabaseId);

	if (scheduler == NULL || !scheduler->notifies)
		return;
	for (int i = 0; i < shared->nlanes; i++)
	{
		LaneSlot   *slot = &shared->lanes[i];

		if (slot->database != MyDatabaseId || !slot->watched || (lane != 0 && slot->lane != lane))
			continue;
		slot->pending = true;
		if (scheduler->latch != NULL)
			SetLatch(scheduler->latch);
	}
}

/* A queue of this database whose listeners are to be told now; 0 if none is. */
int
next_queue_to_notify(void)
{
	TaskerShared *shared = tasker_shared();
	int			queue_id = 0;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared->nlanes && queue_id == 0; i++)
	{
		LaneSlot   *slot = &shared->lanes[i];

		if (slot->database == MyDatabaseId && slot->pending)
		{
			slot->pending = false;
			queue_id = slot->lane;
		}
	}
	LWLockRelease(&shared->lock);
	return queue_id;
}
