/*
 * history_ring.c
 *	  The history is a ring: each of its two tables has HISTORY_SLOTS leaves, of
 *	  which one is written to. When its turn is over the next leaf, by then the
 *	  oldest, is emptied by TRUNCATE and has its turn. So history goes at no cost
 *	  that grows with it, without a lock that anybody waits for.
 *
 * history.c asks where to write. retention.c, which removes the tasks, has the
 * ring turned (ring_turn). Three things make that safe:
 *
 * Every row of a task that still exists stays. Before a leaf is truncated it is
 * walked, some blocks at a time, and such rows are moved to the leaf that is
 * written to. They are few: a leaf's turn comes when what ended in it has been
 * removed already.
 *
 * Nobody writes to a leaf that is being walked. A writer locks its leaf first,
 * as any INSERT does, and then looks again whether it is the one; whoever turned
 * the ring before it had the lock has told it so by then. So once no writer holds
 * a lock on a leaf whose turn is over (ring_writers_left), none ever will.
 *
 * Nobody sees a row missing. TRUNCATE is for all snapshots, so it waits until
 * none is left that could still see the rows moved where they were, as VACUUM
 * does. A dump, or anybody who reads the leaf, has its rows until it is done.
 *
 * None of this waits: what is locked is tried again later, and as long the
 * turn of the leaf that is written to lasts. One session at a time does it.
 */
#include "history_ring.h"

#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "storage/bufmgr.h"
#include "storage/itemptr.h"
#include "storage/lmgr.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* Blocks of a leaf in which rows are moved at a time. */
#define CARRY_BLOCKS	32
#define SHORTEST_TURN	(1 * USECS_PER_SEC)

static const char *const tables[HISTORY_KINDS] = {
	[HISTORY_OF_TASKS] = "task_transitions",
	[HISTORY_OF_STEPS] = "workflow_step_transitions",
};

static TaskerQuery read_ring = {
	.sql = "SELECT slot::int, since, expiring::int FROM tasker.history_ring",
	.columns = {INT4OID, TIMESTAMPTZOID, INT4OID},
	.latest = true,
};

static TaskerQuery set_ring = {
	.sql = "INSERT INTO tasker.history_ring (slot, since, expiring) VALUES ($1, $2, $3) "
	"ON CONFLICT (one) DO UPDATE SET slot = EXCLUDED.slot, since = EXCLUDED.since, expiring = EXCLUDED.expiring",
	.args = {INT4OID, TIMESTAMPTZOID, INT4OID},
};

static TaskerQuery read_walk = {
	.sql = "SELECT block, line FROM tasker.history_walk WHERE walk = $1 AND filenode = $2",
	.args = {INT4OID, OIDOID},
	.columns = {INT8OID, INT4OID},
};

static TaskerQuery save_walk = {
	.sql = "INSERT INTO tasker.history_walk (walk, filenode, block, line) VALUES ($1, $2, $3, $4) "
	"ON CONFLICT (walk) DO UPDATE SET filenode = EXCLUDED.filenode, block = EXCLUDED.block, line = EXCLUDED.line",
	.args = {INT4OID, OIDOID, INT8OID, INT4OID},
};

/* Who wrote that the walk is at its end. */
static TaskerQuery walk_ended_by = {
	.sql = "SELECT xmin FROM tasker.history_walk WHERE walk = $1",
	.args = {INT4OID},
	.columns = {XIDOID},
};

#define CARRY(table) \
	"UPDATE tasker." table " h SET slot = $2 WHERE h.slot = $1 AND h.ctid = ANY ($3) " \
	"AND EXISTS (SELECT FROM tasker.tasks t WHERE t.task_id = h.task_id)"

static TaskerQuery carry[HISTORY_KINDS] = {
	[HISTORY_OF_TASKS] = {.sql = CARRY("task_transitions"),.args = {INT4OID, INT4OID, TIDARRAYOID}},
	[HISTORY_OF_STEPS] = {.sql = CARRY("workflow_step_transitions"),.args = {INT4OID, INT4OID, TIDARRAYOID}},
};

#define EMPTY(slot) \
	{.sql = "TRUNCATE tasker.task_transitions_" slot ", tasker.workflow_step_transitions_" slot}

static TaskerQuery empty[HISTORY_SLOTS] = {EMPTY("0"), EMPTY("1"), EMPTY("2"), EMPTY("3")};

/* ------------------------------------------------------------ for writers */

/* What this session knows of the ring, as long as nobody says otherwise. */
static struct
{
	uint64		seen;			/* changes, when it was read; 0: never */
	int			slot;
	Oid			ring;
	Oid			leaves[HISTORY_KINDS][HISTORY_SLOTS];
}			known;

/* Counts what this session was told of changes of the ring. */
static uint64 changes = 1;

static void
relation_changed(Datum arg, Oid relation)
{
	if (relation == InvalidOid || relation == known.ring)
		changes++;
}

void
history_ring_init(void)
{
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
}

static void
look_up_ring(void)
{
	Oid			schema = get_namespace_oid("tasker", false);

	known.ring = get_relname_relid("history_ring", schema);
	for (int kind = 0; kind < HISTORY_KINDS; kind++)
		for (int slot = 0; slot < HISTORY_SLOTS; slot++)
			known.leaves[kind][slot] = get_relname_relid(psprintf("%s_%d", tables[kind], slot), schema);
}

/*
 * The slot that history is to be written to now, its leaf locked for writing.
 * Inside a section.
 */
int
history_slot(HistoryKind kind)
{
	for (;;)
	{
		if (known.seen != changes)
		{
			uint64		seen;

			look_up_ring();
			seen = changes;
			known.slot = tasker_run(&read_ring, NULL, NULL) == 0 ? 0 :
				DatumGetInt32(tasker_value_notnull(0, 1));
			known.seen = seen;
		}
		/* which makes heard what happened before it was granted */
		LockRelationOid(known.leaves[kind][known.slot], RowExclusiveLock);
		if (known.seen == changes)
			return known.slot;
	}
}

/* ------------------------------------------------------------ the ring */

/*
 * Read the ring. Without a row it has not been turned yet. Returns false if another session works on
 * it, else none does until the transaction is over and everybody has heard
 * of what it changed. Inside a section.
 */
bool
ring_begin(HistoryRing *ring)
{
	look_up_ring();
	if (!ConditionalLockRelationOid(known.ring, ShareUpdateExclusiveLock))
		return false;
	ring->slot = 0;
	ring->since = DT_NOBEGIN;
	ring->expiring = 0;
	if (tasker_run(&read_ring, NULL, NULL) == 0)
		return true;
	ring->slot = DatumGetInt32(tasker_value_notnull(0, 1));
	ring->since = DatumGetTimestampTz(tasker_value_notnull(0, 2));
	ring->expiring = DatumGetInt32(tasker_value_notnull(0, 3));
	return true;
}

static int
next_slot(int slot)
{
	return (slot + 1) % HISTORY_SLOTS;
}

static void
save_ring(HistoryRing *ring)
{
	Datum		values[3] = {Int32GetDatum(ring->slot), TimestampTzGetDatum(ring->since),
	Int32GetDatum(ring->expiring)};

	tasker_run(&set_ring, values, NULL);
}

/* Go on to the next slot with the search for ends of tasks, unless that is written to. */
bool
ring_expire_next(HistoryRing *ring)
{
	if (next_slot(ring->expiring) == ring->slot)
		return false;
	ring->expiring = next_slot(ring->expiring);
	save_ring(ring);
	return true;
}

/* Has everybody left who wrote to the slot, whose turn is over? Then it stays so. */
bool
ring_writers_left(int slot)
{
	for (int kind = 0; kind < HISTORY_KINDS; kind++)
	{
		if (!ConditionalLockRelationOid(known.leaves[kind][slot], ShareLock))
			return false;
		UnlockRelationOid(known.leaves[kind][slot], ShareLock);
	}
	return true;
}

/* The size of a leaf, and which file it is now. */
BlockNumber
ring_leaf_blocks(HistoryKind kind, int slot, Oid *filenode)
{
	Relation	leaf = table_open(known.leaves[kind][slot], AccessShareLock);
	BlockNumber blocks = RelationGetNumberOfBlocks(leaf);

	*filenode = leaf->rd_rel->relfilenode;
	table_close(leaf, AccessShareLock);
	return blocks;
}

/* ------------------------------------------------------------ walking a leaf */

/* Up to where the file was walked: its beginning, if the walk was in another one. */
void
walk_begin(HistoryWalk walk, Oid filenode, HistoryPosition *position)
{
	Datum		values[2] = {Int32GetDatum(walk), ObjectIdGetDatum(filenode)};

	position->filenode = filenode;
	position->block = 0;
	position->line = 0;
	if (tasker_run(&read_walk, values, NULL) == 0)
		return;
	position->block = (BlockNumber) DatumGetInt64(tasker_value_notnull(0, 1));
	position->line = (OffsetNumber) DatumGetInt32(tasker_value_notnull(0, 2));
}

void
walk_save(HistoryWalk walk, const HistoryPosition *position)
{
	Datum		values[4] = {Int32GetDatum(walk), ObjectIdGetDatum(position->filenode),
	Int64GetDatum((int64) position->block), Int32GetDatum(position->line)};

	tasker_run(&save_walk, values, NULL);
}

/* Every place that a row can have in so many blocks from the position on. */
Datum
walk_tids(const HistoryPosition *position, BlockNumber blocks)
{
	DatumList	list;

	datum_list_init(&list, TIDOID);
	for (BlockNumber block = position->block; block < position->block + blocks; block++)
		for (OffsetNumber line = block == position->block ? position->line + 1 : 1;
			 line <= MaxHeapTuplesPerPage; line++)
		{
			ItemPointer tid = palloc(sizeof(ItemPointerData));

			ItemPointerSet(tid, block, line);
			datum_list_add(&list, PointerGetDatum(tid));
		}
	return datum_list_array(&list);
}

/* ------------------------------------------------------------ turning it */

static bool
is_empty(int slot)
{
	Oid			filenode;

	return ring_leaf_blocks(HISTORY_OF_TASKS, slot, &filenode) == 0 &&
		ring_leaf_blocks(HISTORY_OF_STEPS, slot, &filenode) == 0;
}

/*
 * Move the rows of tasks that still exist from some blocks of the leaf. Returns
 * false if there are more blocks.
 */
static bool
carry_some(HistoryKind kind, int from, int to)
{
	HistoryWalk walk = WALK_CARRY_TASKS + kind;
	HistoryPosition position;
	Oid			filenode;
	BlockNumber blocks = ring_leaf_blocks(kind, from, &filenode);
	Datum		values[3] = {Int32GetDatum(from), Int32GetDatum(to), (Datum) 0};
	BlockNumber some;

	walk_begin(walk, filenode, &position);
	if (position.block >= blocks)
		return true;
	some = Min(CARRY_BLOCKS, blocks - position.block);
	values[2] = walk_tids(&position, some);
	tasker_run(&carry[kind], values, NULL);
	position.block += some;
	walk_save(walk, &position);
	return position.block >= blocks;
}

/* Can no snapshot see any more what the walk, which is at its end, has moved where it was? */
static bool
moved_for_all(HistoryKind kind, int slot)
{
	Datum		values[1] = {Int32GetDatum(WALK_CARRY_TASKS + kind)};
	Oid			filenode;
	Relation	leaf;
	TransactionId ended_by;
	TransactionId horizon;

	if (ring_leaf_blocks(kind, slot, &filenode) == 0)
		return true;
	tasker_run(&walk_ended_by, values, NULL);
	ended_by = DatumGetTransactionId(tasker_value_notnull(0, 1));
	leaf = table_open(known.leaves[kind][slot], AccessShareLock);
	horizon = tasker_oldest_xmin(leaf);
	table_close(leaf, AccessShareLock);
	return TransactionIdPrecedes(ended_by, horizon);
}

/* Returns false if somebody reads one of the leaves. */
static bool
empty_leaves(int slot)
{
	for (int kind = 0; kind < HISTORY_KINDS; kind++)
		if (!ConditionalLockRelationOid(known.leaves[kind][slot], AccessExclusiveLock))
			return false;
	tasker_run(&empty[slot], NULL, NULL);
	return true;
}

/*
 * Give the next slot its turn if that of the present one is over, or come some
 * blocks closer to it. A turn is such that a row is as old as the age at which
 * tasks are removed when its leaf is truncated, and at most half as old again.
 * Returns when it is worthwhile to go on, now if that is at once.
 */
TimestampTz
ring_turn(HistoryRing *ring, TimestampTz now, TimestampTz before)
{
	TimestampTz over = ring->since + Max((now - before) * 3 / (2 * HISTORY_SLOTS), SHORTEST_TURN);
	int			next = next_slot(ring->slot);

	if (is_empty(ring->slot) || next == ring->expiring)
		return DT_NOEND;
	if (over > now)
		return over;
	if (!is_empty(next))
	{
		bool		walked = true;

		if (!ring_writers_left(next))
			return now + RING_RETRY;
		for (int kind = 0; kind < HISTORY_KINDS; kind++)
			walked &= carry_some(kind, next, history_slot(kind));
		if (!walked)
			return now;
		for (int kind = 0; kind < HISTORY_KINDS; kind++)
			if (!moved_for_all(kind, next))
				return now + RING_RETRY;
		if (!empty_leaves(next))
			return now + RING_RETRY;
	}
	ring->slot = next;
	ring->since = now;
	save_ring(ring);
	/* which everybody hears of when this transaction commits */
	CacheInvalidateRelcacheByRelid(known.ring);
	return now;
}
