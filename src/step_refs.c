/*
 * step_refs.c
 *	  Lists of steps, in the order in which their rows are locked.
 *
 * Used by whoever locks or counts several steps: release.c, dequeue.c, leases.c,
 * completion.c.
 */
#include "engine.h"

#include "catalog/pg_type.h"

int
step_ref_compare(const void *a, const void *b)
{
	const StepRef *x = a;
	const StepRef *y = b;

	if (x->task_id != y->task_id)
		return x->task_id < y->task_id ? -1 : 1;
	return x->step_id < y->step_id ? -1 : x->step_id > y->step_id;
}

void
step_refs_add_counted(StepRefs *refs, int64 task_id, int step_id, int count)
{
	if (refs->items == NULL)
	{
		refs->space = 16;
		refs->items = palloc(refs->space * sizeof(StepRef));
	}
	else if (refs->length == refs->space)
	{
		refs->space *= 2;
		refs->items = repalloc_huge(refs->items, refs->space * sizeof(StepRef));
	}
	refs->items[refs->length++] = (StepRef)
	{
		task_id, step_id, count
	};
}

void
step_refs_add(StepRefs *refs, int64 task_id, int step_id)
{
	step_refs_add_counted(refs, task_id, step_id, 1);
}

/* In the order of their locks, each step once, the counts added up. */
void
merge_step_refs(StepRefs *refs)
{
	int			n = 0;

	if (refs->length == 0)
		return;
	qsort(refs->items, refs->length, sizeof(StepRef), step_ref_compare);
	for (int i = 1; i < refs->length; i++)
	{
		if (step_ref_compare(&refs->items[n], &refs->items[i]) == 0)
			refs->items[n].count += refs->items[i].count;
		else
			refs->items[++n] = refs->items[i];
	}
	refs->length = n + 1;
}

/* Ids and counts as three arrays, for a query. */
void
step_refs_arrays(const StepRefs *refs, Datum *values)
{
	DatumList	tasks,
				steps,
				counts;

	datum_list_init(&tasks, INT8OID);
	datum_list_init(&steps, INT4OID);
	datum_list_init(&counts, INT4OID);
	for (int i = 0; i < refs->length; i++)
	{
		datum_list_add(&tasks, Int64GetDatum(refs->items[i].task_id));
		datum_list_add(&steps, Int32GetDatum(refs->items[i].step_id));
		datum_list_add(&counts, Int32GetDatum(refs->items[i].count));
	}
	values[0] = datum_list_array(&tasks);
	values[1] = datum_list_array(&steps);
	values[2] = datum_list_array(&counts);
}
