/*
 * changed_rows.c
 *	  Reading the transition tables of an AFTER UPDATE statement trigger in
 *	  lockstep: both are in the same order, whatever made the change.
 */
#include "changed_rows.h"

#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "utils/rel.h"

/*
 * The trigger must be on tasker's own table: on anybody else's it would take
 * whatever rows that one has for tasker's, and act on them as the owner of the
 * extension.
 */
void
check_trigger_table(FunctionCallInfo fcinfo, const char *name)
{
	Relation	relation = ((TriggerData *) fcinfo->context)->tg_relation;

	if (RelationGetNamespace(relation) == get_namespace_oid("tasker", true) &&
		strcmp(RelationGetRelationName(relation), name) == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
			 errmsg("this function is for the trigger on tasker.%s", name),
			 errdetail("It was called by a trigger on \"%s\".", RelationGetRelationName(relation)),
			 errhint("Drop that trigger.")));
}

static void
check_called_as(FunctionCallInfo fcinfo)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ||
		trigger->tg_oldtable == NULL || trigger->tg_newtable == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("this function is for tasker's own AFTER UPDATE statement triggers"),
				 errdetail("It needs both transition tables."),
				 errhint("Reinstall the extension if its trigger was changed.")));
}

/* Begin to read the pairs of the statement on the table that fired the trigger. */
void
pairs_begin(Pairs *pairs, FunctionCallInfo fcinfo, const char *table)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc	desc;

	check_called_as(fcinfo);
	check_trigger_table(fcinfo, table);
	desc = RelationGetDescr(trigger->tg_relation);
	pairs->old_rows = trigger->tg_oldtable;
	pairs->new_rows = trigger->tg_newtable;
	tuplestore_rescan(pairs->old_rows);
	tuplestore_rescan(pairs->new_rows);
	pairs->old_slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	pairs->new_slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
}

/* The next pair, in the slots; false if there is none. */
bool
pairs_next(Pairs *pairs)
{
	CHECK_FOR_INTERRUPTS();
	return tuplestore_gettupleslot(pairs->old_rows, true, false, pairs->old_slot) &&
		tuplestore_gettupleslot(pairs->new_rows, true, false, pairs->new_slot);
}

void
pairs_end(Pairs *pairs)
{
	ExecDropSingleTupleTableSlot(pairs->old_slot);
	ExecDropSingleTupleTableSlot(pairs->new_slot);
}

/* Refuse a change of what identifies a row. */
void
key_changed(const char *what, const char *columns)
{
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_KEY_CHANGED),
			 errmsg("what identifies a %s can not be changed", what),
			 errdetail("One of the columns %s would change.", columns),
			 errhint("Change its state; create a new task for anything else.")));
}
