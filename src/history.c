/*
 * history.c
 *	  The history: a row for each change of state, and what an operator wants to
 *	  have said in it.
 *
 * Called by the triggers, inside a section.
 */
#include "engine.h"

#include "catalog/pg_type.h"
#include "history_ring.h"
#include "miscadmin.h"
#include "utils/memutils.h"

/*
 * What an operator's call wants in the history; put there by its updates. It
 * ends with the call's section: one that an error ended says nothing about
 * what its transaction does later.
 */
static Jsonb *note = NULL;
static uint64 note_section = 0;

static TaskerQuery record_steps = {
	.sql = "INSERT INTO tasker.workflow_step_transitions "
	"(slot, executor, task_id, created_at, started_at, step_id, attempt, from_state, to_state, metadata) "
	"SELECT $10, $1, task_id, $2, started_at, step_id, attempt, from_state, to_state, metadata "
	"FROM ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5), "
	"pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9)) "
	"AS c (task_id, started_at, step_id, attempt, from_state, to_state, metadata)",
	.args = {INT4OID, TIMESTAMPTZOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID, INT4ARRAYOID,
	INT4ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, JSONBARRAYOID, INT4OID},
};

static TaskerQuery record_tasks = {
	.sql = "INSERT INTO tasker.task_transitions "
	"(slot, executor, task_id, created_at, from_state, to_state, metadata) "
	"SELECT $7, $1, task_id, $2, from_state, to_state, $6 "
	"FROM ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5)) "
	"AS c (task_id, from_state, to_state)",
	.args = {INT4OID, TIMESTAMPTZOID, INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, JSONBOID, INT4OID},
};

/*
 * Give the history rows written from here to the end of the section a metadata
 * of an operator's. NULL takes it back.
 */
void
history_set_note(Jsonb *new_note)
{
	if (history_note() != NULL)
		pfree(note);
	note = NULL;
	if (new_note != NULL)
	{
		Size		size = VARSIZE(new_note);

		note = MemoryContextAlloc(TopTransactionContext, size);
		memcpy(note, new_note, size);
		note_section = tasker_section_number();
	}
}

/* The note of this section. */
Jsonb *
history_note(void)
{
	if (!tasker_inside() || note_section != tasker_section_number())
		note = NULL;
	return note;
}

/* Begin to collect the changes of steps that a statement makes. */
void
step_history_init(StepHistory *history)
{
	history->context = CurrentMemoryContext;
	datum_list_init(&history->task, INT8OID);
	datum_list_init(&history->started, TIMESTAMPTZOID);
	datum_list_init(&history->step, INT4OID);
	datum_list_init(&history->attempt, INT4OID);
	datum_list_init(&history->from, TEXTOID);
	datum_list_init(&history->to, TEXTOID);
	datum_list_init(&history->metadata, JSONBOID);
}

/* Write what was collected, and begin anew. */
void
record_step_history(StepHistory *history)
{
	DatumList  *columns[] = {&history->task, &history->started, &history->step, &history->attempt,
	&history->from, &history->to, &history->metadata};
	Datum		values[10];

	if (history->task.length == 0)
		return;
	values[0] = Int32GetDatum(MyProcPid);
	values[1] = TimestampTzGetDatum(tasker_now());
	for (int c = 0; c < lengthof(columns); c++)
		values[2 + c] = datum_list_array(columns[c]);
	values[9] = Int32GetDatum(history_slot(HISTORY_OF_STEPS));
	tasker_run(&record_steps, values, NULL);
	for (int c = 0; c < lengthof(columns); c++)
		columns[c]->length = 0;
}

/* Write changes of tasks. */
void
record_task_history(DatumList *tasks, DatumList *from, DatumList *to)
{
	Datum		values[7];

	values[0] = Int32GetDatum(MyProcPid);
	values[1] = TimestampTzGetDatum(tasker_now());
	values[2] = datum_list_array(tasks);
	values[3] = datum_list_array(from);
	values[4] = datum_list_array(to);
	values[5] = JsonbPGetDatum(history_note());
	values[6] = Int32GetDatum(history_slot(HISTORY_OF_TASKS));
	tasker_run(&record_tasks, values, history_note() == NULL ? "     n " : NULL);
}
