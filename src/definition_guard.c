/*
 * definition_guard.c
 *	  Stored definitions stay as they are: triggers on named_tasks, named_steps
 *	  and named_step_edges, which fire for everybody.
 *
 * Tasker's own statements may delete (drop_named_task); nobody may update
 * more than the columns that the trigger's arguments name.
 */
#include "definition.h"

#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(tasker_guard_definition);

static void
refuse_change(TriggerData *trigger, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_IMMUTABLE),
			 errmsg("a stored definition does not change"),
			 errdetail("%s of table tasker.%s.", detail,
					   RelationGetRelationName(trigger->tg_relation)),
			 errhint("Define another version with tasker.define_task, choose one with tasker.set_default_version, or remove an unused one with tasker.drop_named_task.")));
}

static bool
may_change(const Trigger *trigger, const char *column)
{
	for (int i = 0; i < trigger->tgnargs; i++)
		if (strcmp(trigger->tgargs[i], column) == 0)
			return true;
	return false;
}

static void
compare_rows(TriggerData *trigger, TupleTableSlot *old, TupleTableSlot *new)
{
	TupleDesc	desc = RelationGetDescr(trigger->tg_relation);

	slot_getallattrs(old);
	slot_getallattrs(new);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped || may_change(trigger->tg_trigger, NameStr(att->attname)))
			continue;
		if (old->tts_isnull[i] != new->tts_isnull[i] ||
			(!old->tts_isnull[i] &&
			 !datum_image_eq(old->tts_values[i], new->tts_values[i], att->attbyval, att->attlen)))
			refuse_change(trigger, psprintf("The statement changes column \"%s\"", NameStr(att->attname)));
	}
}

/* Both stores hold the changed rows in the same order. */
static void
check_update(TriggerData *trigger)
{
	TupleDesc	desc = RelationGetDescr(trigger->tg_relation);
	TupleTableSlot *old = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	TupleTableSlot *new = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);

	tuplestore_rescan(trigger->tg_oldtable);
	tuplestore_rescan(trigger->tg_newtable);
	while (tuplestore_gettupleslot(trigger->tg_oldtable, true, false, old) &&
		   tuplestore_gettupleslot(trigger->tg_newtable, true, false, new))
	{
		CHECK_FOR_INTERRUPTS();
		compare_rows(trigger, old, new);
	}
	ExecDropSingleTupleTableSlot(old);
	ExecDropSingleTupleTableSlot(new);
}

/* guard_definition(columns that may change) */
Datum
tasker_guard_definition(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("guard_definition is not called as a trigger"),
				 errdetail("It guards the tables of definitions."),
				 errhint("Do not call it.")));
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		check_update(trigger);
	else if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
		refuse_change(trigger, "The statement empties the whole");
	else if (tuplestore_tuple_count(trigger->tg_oldtable) > 0 && !tasker_inside())
		refuse_change(trigger, "The statement deletes rows");
	PG_RETURN_POINTER(NULL);
}
