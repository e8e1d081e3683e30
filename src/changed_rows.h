/*
 * changed_rows.h
 *	  The rows that a statement changed, old and new side by side, for the AFTER
 *	  UPDATE statement triggers.
 */
#ifndef TASKER_CHANGED_ROWS_H
#define TASKER_CHANGED_ROWS_H

#include "tasker.h"

#include "executor/tuptable.h"
#include "utils/tuplestore.h"

/* The pairs of old and new rows, read in lockstep. */
typedef struct Pairs
{
	Tuplestorestate *old_rows;
	Tuplestorestate *new_rows;
	TupleTableSlot *old_slot;
	TupleTableSlot *new_slot;
} Pairs;

extern void check_trigger_table(FunctionCallInfo fcinfo, const char *name);
extern void pairs_begin(Pairs *pairs, FunctionCallInfo fcinfo, const char *table);
extern bool pairs_next(Pairs *pairs);
extern void pairs_end(Pairs *pairs);
extern void key_changed(const char *what, const char *columns);

/* The value of a column that is NOT NULL. */
static inline Datum
column(TupleTableSlot *slot, int number)
{
	bool		isnull;

	return slot_getattr(slot, number, &isnull);
}

#endif							/* TASKER_CHANGED_ROWS_H */
