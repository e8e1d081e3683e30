/*
 * history_ring.h
 *	  The ring of leaves that the history is written to.
 */
#ifndef TASKER_HISTORY_RING_H
#define TASKER_HISTORY_RING_H

#include "tasker.h"

#include "storage/block.h"
#include "storage/off.h"

#define HISTORY_SLOTS	4		/* leaves of each table, in sql/tables.sql */

typedef enum HistoryKind
{
	HISTORY_OF_TASKS,
	HISTORY_OF_STEPS
} HistoryKind;

#define HISTORY_KINDS	2

/* When to look again at what is locked, or still seen. */
#define RING_RETRY		(1 * USECS_PER_SEC)

/* For who writes history. */
extern void history_ring_init(void);
extern int	history_slot(HistoryKind kind);

/* The row of tasker.history_ring. */
typedef struct HistoryRing
{
	int			slot;			/* where history is written */
	TimestampTz since;			/* when that began */
	int			expiring;		/* the slot that is searched for ends of
								 * tasks, or was the last */
} HistoryRing;

/* Up to where a leaf was walked: the line of that block, and all before it. */
typedef struct HistoryPosition
{
	Oid			filenode;		/* the file that this is a position in */
	BlockNumber block;
	OffsetNumber line;
} HistoryPosition;

/* What walks there are, each with a row in tasker.history_walk. */
typedef enum HistoryWalk
{
	WALK_ENDS,					/* ends of tasks, by retention.c */
	WALK_CARRY_TASKS,			/* rows that still have a task ... */
	WALK_CARRY_STEPS			/* ... one walk a table, HistoryKind on */
} HistoryWalk;

extern bool ring_begin(HistoryRing *ring);
extern bool ring_expire_next(HistoryRing *ring);
extern bool ring_writers_left(int slot);
extern BlockNumber ring_leaf_blocks(HistoryKind kind, int slot, Oid *filenode);
extern void walk_begin(HistoryWalk walk, Oid filenode, HistoryPosition *position);
extern void walk_save(HistoryWalk walk, const HistoryPosition *position);
extern Datum walk_tids(const HistoryPosition *position, BlockNumber blocks);
extern TimestampTz ring_turn(HistoryRing *ring, TimestampTz now, TimestampTz before);

#endif							/* TASKER_HISTORY_RING_H */
