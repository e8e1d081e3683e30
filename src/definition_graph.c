/*
 * definition_graph.c
 *	  The graph of a definition: names of steps become numbers, and the numbers
 *	  follow a topological order, so that a parent's is always the smaller one.
 *
 * Called by define_task. All of it is linear in steps and edges, but for the
 * heap that keeps the steps that are free in the order of the document.
 */
#include "definition.h"

#include "common/hashfn.h"
#include "lib/binaryheap.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/varlena.h"

#define SHOWN_IN_CYCLE	8		/* names that the message spells out */

typedef struct NameEntry
{
	const char *name;
	int			step;
	char		status;
} NameEntry;

#define SH_PREFIX		names
#define SH_ELEMENT_TYPE	NameEntry
#define SH_KEY_TYPE		const char *
#define SH_KEY			name
#define SH_HASH_KEY(tb, key)	hash_bytes((const unsigned char *) (key), strlen(key))
#define SH_EQUAL(tb, a, b)		(strcmp(a, b) == 0)
#define SH_SCOPE		static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

static JsonPlace steps_place = {.key = "steps"};

static JsonPlace
step_place(const Definition *definition, int step)
{
	return (JsonPlace)
	{
		.parent = &steps_place,.index = step,.step = definition->steps[step].name
	};
}

static names_hash *
hash_names(const Definition *definition)
{
	names_hash *names = names_create(CurrentMemoryContext, definition->nsteps, NULL);

	for (int i = 0; i < definition->nsteps; i++)
	{
		bool		found;
		NameEntry  *entry = names_insert(names, definition->steps[i].name, &found);

		if (found)
			ereport(ERROR,
					(errcode(ERRCODE_TASKER_DUPLICATE_STEP),
					 errmsg("two steps are named \"%s\"", clipped_name(entry->name)),
					 errdetail("They are $.steps[%d] and $.steps[%d].", entry->step, i),
					 errhint("Give every step a name of its own.")));
		entry->step = i;
	}
	return names;
}

/* The step whose name was probably meant, or NULL. */
static const char *
nearest_step(const Definition *definition, const char *name)
{
	int			length = strlen(name);
	int			best = 1 + Min(3, length / 2);
	const char *nearest = NULL;

	if (length > TASKER_MAX_NAME)
		return NULL;
	for (int i = 0; i < definition->nsteps && best > 1; i++)
	{
		const char *candidate = definition->steps[i].name;
		int			distance;

		CHECK_FOR_INTERRUPTS();
		distance = varstr_levenshtein_less_equal(name, length, candidate, strlen(candidate),
												 1, 1, 1, best - 1, true);
		if (distance < best)
		{
			best = distance;
			nearest = candidate;
		}
	}
	return nearest;
}

static void
refuse_parent(const Definition *definition, const JsonPlace *place, int step, const char *name)
{
	const char *nearest = nearest_step(definition, name);

	ereport(ERROR,
			(errcode(ERRCODE_TASKER_UNKNOWN_DEPENDENCY),
			 errmsg("step \"%s\" depends on \"%s\", which is not a step",
					clipped_name(definition->steps[step].name), clipped_name(name)),
			 errdetail("At %s there is a name that none of the %d steps has.",
					   place_text(place), definition->nsteps),
			 nearest != NULL ? errhint("Perhaps you meant \"%s\".", clipped_name(nearest)) :
			 errhint("Add a step of that name, or remove the dependency.")));
}

/*
 * The parents of a step. last[p] is the last step that named p as its parent,
 * which shows a repetition without a search.
 */
static void
resolve_parents(const Definition *definition, names_hash * names, int child, int *last)
{
	StepDefinition *step = &definition->steps[child];
	JsonPlace	place = step_place(definition, child);
	JsonPlace	array = {.parent = &place,.key = "depends_on"};

	step->parents = palloc(Max(step->ndepends, 1) * sizeof(int));
	for (int i = 0; i < step->ndepends; i++)
	{
		JsonPlace	here = {.parent = &array,.index = i};
		char	   *name = json_name(&here, &step->depends[i], "step");
		NameEntry  *entry = names_lookup(names, name);

		if (entry == NULL)
			refuse_parent(definition, &here, child, name);
		if (entry->step == child)
			ereport(ERROR,
					(errcode(ERRCODE_TASKER_SELF_DEPENDENCY),
					 errmsg("step \"%s\" depends on itself", clipped_name(name)),
					 errdetail("At %s there is the step's own name.", place_text(&here)),
					 errhint("Remove it from \"depends_on\".")));
		if (last[entry->step] == child)
			ereport(ERROR,
					(errcode(ERRCODE_TASKER_DUPLICATE_DEPENDENCY),
					 errmsg("step \"%s\" depends on \"%s\" twice",
							clipped_name(step->name), clipped_name(name)),
					 errdetail("At %s there is a name that stands before it already.", place_text(&here)),
					 errhint("Remove one of the two.")));
		last[entry->step] = child;
		step->parents[i] = entry->step;
		pfree(name);
	}
}

/* One of a step's parents that are not numbered: it is on or behind a cycle. */
static int
unnumbered_parent(const StepDefinition *steps, int child)
{
	for (int i = 0; i < steps[child].ndepends; i++)
		if (steps[steps[child].parents[i]].step_no == 0)
			return steps[child].parents[i];
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_INTERNAL),
			 errmsg("a step without a number has no parent without a number"),
			 errdetail("It is $.steps[%d].", child),
			 errhint("Please report this as a bug.")));
}

/*
 * Steps that got no number lie on a cycle or behind one. Going from parent to
 * parent must come back to where it has been; written backwards, that is the
 * cycle in the order in which its steps would run.
 */
static void
refuse_cycle(const Definition *definition)
{
	const StepDefinition *steps = definition->steps;
	int		   *met = palloc0(definition->nsteps * sizeof(int));
	int		   *path = palloc(definition->nsteps * sizeof(int));
	int			n = 0;
	int			length;
	int			first;
	int			at = 0;
	StringInfoData buf;

	while (steps[at].step_no != 0)
		at++;
	while (met[at] == 0)
	{
		path[n] = at;
		met[at] = ++n;
		at = unnumbered_parent(steps, at);
	}
	length = n - met[at] + 1;	/* the cycle is the last part of the path */
	path += met[at] - 1;

	/* begin with the step that comes first in the document */
	first = 0;
	for (int i = 1; i < length; i++)
		if (path[i] < path[first])
			first = i;

	initStringInfo(&buf);
	for (int i = 0; i <= length; i++)
	{
		if (length > SHOWN_IN_CYCLE && i == SHOWN_IN_CYCLE / 2)
		{
			appendStringInfo(&buf, "... (%d more) -> ", length - SHOWN_IN_CYCLE);
			i = length - SHOWN_IN_CYCLE / 2;
		}
		appendStringInfo(&buf, "%s%s", clipped_name(steps[path[(first - i + 2 * length) % length]].name),
						 i < length ? " -> " : "");
	}
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_CYCLE),
			 errmsg("the steps form a cycle: %s", buf.data),
			 errdetail("Each of these %d steps depends on the one before it, so none of them could ever run.",
					   length),
			 errhint("Remove one of these dependencies.")));
}

static int
compare_steps(Datum a, Datum b, void *arg)
{
	return DatumGetInt32(a) < DatumGetInt32(b) ? 1 : DatumGetInt32(a) > DatumGetInt32(b) ? -1 : 0;
}

static void
refuse_depth(const StepDefinition *step, int depth)
{
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_TOO_DEEP),
			 errmsg("a definition is too deep"),
			 errdetail("Step \"%s\" comes after %d others, one after the other, and tasker.max_depth is %d.",
					   clipped_name(step->name), depth - 1, tasker_max_depth),
			 errhint("Let more steps run side by side, split the workflow, or have a superuser raise tasker.max_depth.")));
}

/*
 * Number the steps: Kahn's algorithm; of the steps whose parents all have a
 * number, the first one in the document is next. Children are kept as lists
 * through the edges: next_child[e] follows edge e in its parent's list.
 */
static void
number_steps(Definition *definition)
{
	StepDefinition *steps = definition->steps;
	int			nsteps = definition->nsteps;
	int			nedges = definition->nedges;
	int		   *first_child = palloc(nsteps * sizeof(int));
	int		   *next_child = palloc_extended(Max(nedges, 1) * sizeof(int), MCXT_ALLOC_HUGE);
	int		   *child = palloc_extended(Max(nedges, 1) * sizeof(int), MCXT_ALLOC_HUGE);
	int		   *missing = palloc(nsteps * sizeof(int));
	int		   *depth = palloc(nsteps * sizeof(int));
	binaryheap *available = binaryheap_allocate(nsteps, compare_steps, NULL);
	int			edge = 0;
	int			n = 0;

	for (int i = 0; i < nsteps; i++)
	{
		first_child[i] = -1;
		depth[i] = 1;
	}
	for (int i = 0; i < nsteps; i++)
	{
		missing[i] = steps[i].ndepends;
		if (missing[i] == 0)
			binaryheap_add(available, Int32GetDatum(i));
		for (int p = 0; p < steps[i].ndepends; p++, edge++)
		{
			child[edge] = i;
			next_child[edge] = first_child[steps[i].parents[p]];
			first_child[steps[i].parents[p]] = edge;
		}
	}

	definition->order = palloc(nsteps * sizeof(int));
	while (!binaryheap_empty(available))
	{
		int			step = DatumGetInt32(binaryheap_remove_first(available));

		CHECK_FOR_INTERRUPTS();
		definition->order[n++] = step;
		steps[step].step_no = n;
		if (depth[step] > tasker_max_depth)
			refuse_depth(&steps[step], depth[step]);
		for (int e = first_child[step]; e >= 0; e = next_child[e])
		{
			depth[child[e]] = Max(depth[child[e]], depth[step] + 1);
			if (--missing[child[e]] == 0)
				binaryheap_add(available, Int32GetDatum(child[e]));
		}
	}
	if (n < nsteps)
		refuse_cycle(definition);
}

/* Resolve the dependencies and number the steps. */
void
definition_sort(Definition *definition)
{
	names_hash *names = hash_names(definition);
	int		   *last = palloc(definition->nsteps * sizeof(int));

	for (int i = 0; i < definition->nsteps; i++)
		last[i] = -1;
	for (int i = 0; i < definition->nsteps; i++)
	{
		CHECK_FOR_INTERRUPTS();
		resolve_parents(definition, names, i, last);
	}
	number_steps(definition);
}
