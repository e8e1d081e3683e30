/*
 * edges.c
 *	  The triggers on workflow_step_edges. A task's edges are made with it; what
 *	  somebody adds or takes away later is checked here, and the children's
 *	  pending_parents follow.
 *
 * A statement's edges are handled together: one statement locks the steps that
 * they touch, one counts. Edges may be there before their steps (a dump holds
 * them in that order): an edge whose steps are missing is not looked at. An
 * edge that goes from a smaller to a larger step_id closes no cycle, so only
 * the others are searched for one, for the message with which they are refused.
 *
 * Parents are locked together with children, in the order of all locks on
 * steps: whoever satisfies a parent at the same moment either comes first, and
 * is seen, or comes later, and sees the edge.
 */
#include "graph.h"

#include "catalog/pg_type.h"
#include "changed_rows.h"
#include "commands/trigger.h"
#include "engine.h"
#include "executor/tuptable.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

#define SHOWN_IN_CYCLE	8		/* steps that the message spells out */

/* Columns of workflow_step_edges, in the order of sql/tables.sql. */
enum
{
	EDGES_TASK_ID = 1,
	EDGES_FROM_STEP_ID,
	EDGES_TO_STEP_ID
};

typedef struct Edge
{
	int64		task_id;
	int			from;
	int			to;
} Edge;

/* The edges that a statement inserted or deleted. */
typedef struct Edges
{
	Edge	   *items;
	int			length;
} Edges;

/* A step, as it was when locked. */
typedef struct LockedStep
{
	int64		task_id;
	int			step_id;
	StepState	state;
} LockedStep;

typedef struct LockedSteps
{
	LockedStep *items;			/* by (task_id, step_id) */
	int			length;
} LockedSteps;

/* What is missing is left out. The rows come, and are locked, in the order of the arrays. */
static TaskerQuery lock_steps = {
	.sql = "SELECT s.task_id, s.step_id, s.state::text "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS c (task_id, step_id) "
	"JOIN tasker.workflow_steps s ON s.task_id = c.task_id AND s.step_id = c.step_id "
	"FOR NO KEY UPDATE OF s",
	.args = {INT8ARRAYOID, INT4ARRAYOID},
	.columns = {INT8OID, INT4OID, TEXTOID},
};

/*
 * $3: new edges only make children wait for more. Never lowering the counter
 * then keeps a restore that inserts edges one by one from releasing a step
 * before its last edge is there.
 */
static TaskerQuery recount = {
	.sql = "UPDATE tasker.workflow_steps s SET pending_parents = c.unsatisfied "
	"FROM (SELECT k.task_id, k.step_id, (SELECT pg_catalog.count(*)::int "
	"FROM tasker.workflow_step_edges e LEFT JOIN LATERAL ("
	"SELECT p.state FROM tasker.workflow_steps p "
	"WHERE p.task_id = e.task_id AND p.step_id = e.from_step_id OFFSET 0) AS parent ON true "
	"WHERE e.task_id = k.task_id AND e.to_step_id = k.step_id "
	"AND (parent.state IN ('complete', 'resolved_manually', 'skipped')) IS NOT TRUE) AS unsatisfied "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS k (task_id, step_id) OFFSET 0) AS c "
	"WHERE s.task_id = c.task_id AND s.step_id = c.step_id AND s.state = 'pending' "
	"AND (s.pending_parents < c.unsatisfied OR (s.pending_parents > c.unsatisfied AND NOT $3))",
	.args = {INT8ARRAYOID, INT4ARRAYOID, BOOLOID},
};

static void
check_called_as(FunctionCallInfo fcinfo)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event) ||
		(trigger->tg_oldtable == NULL && trigger->tg_newtable == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("this function is for tasker's own AFTER statement triggers"),
				 errdetail("It needs the transition table."),
				 errhint("Reinstall the extension if its trigger was changed.")));
	check_trigger_table(fcinfo, "workflow_step_edges");
}

static Edges
read_edges(TriggerData *trigger, Tuplestorestate *rows)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(trigger->tg_relation), &TTSOpsMinimalTuple);
	int64		n = tuplestore_tuple_count(rows);
	Edges		edges = {NULL, 0};

	edges.items = MemoryContextAllocHuge(CurrentMemoryContext, Max(n, 1) * sizeof(Edge));
	tuplestore_rescan(rows);
	while (tuplestore_gettupleslot(rows, true, false, slot))
	{
		Edge	   *edge = &edges.items[edges.length++];

		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(slot);
		edge->task_id = DatumGetInt64(slot->tts_values[EDGES_TASK_ID - 1]);
		edge->from = DatumGetInt32(slot->tts_values[EDGES_FROM_STEP_ID - 1]);
		edge->to = DatumGetInt32(slot->tts_values[EDGES_TO_STEP_ID - 1]);
	}
	ExecDropSingleTupleTableSlot(slot);
	return edges;
}

/* Sort keys and drop those that are there more than once. */
static void
distinct_keys(StepRef *keys, int n, DatumList *tasks, DatumList *steps)
{
	datum_list_init(tasks, INT8OID);
	datum_list_init(steps, INT4OID);
	qsort(keys, n, sizeof(StepRef), step_ref_compare);
	for (int i = 0; i < n; i++)
		if (i == 0 || step_ref_compare(&keys[i - 1], &keys[i]) != 0)
		{
			datum_list_add(tasks, Int64GetDatum(keys[i].task_id));
			datum_list_add(steps, Int32GetDatum(keys[i].step_id));
		}
}

static int
locked_compare(const void *a, const void *b)
{
	const LockedStep *x = a;
	const LockedStep *y = b;

	if (x->task_id != y->task_id)
		return x->task_id < y->task_id ? -1 : 1;
	return x->step_id < y->step_id ? -1 : x->step_id > y->step_id;
}

/* Lock those steps at the ends of the edges that exist, in order. */
static LockedSteps
lock_ends(const Edges *edges)
{
	StepRef    *keys = MemoryContextAllocHuge(CurrentMemoryContext, Max(edges->length, 1) * 2 * sizeof(StepRef));
	LockedSteps locked = {NULL, 0};
	DatumList	tasks,
				steps;
	Datum		values[2];

	for (int i = 0; i < edges->length; i++)
	{
		keys[2 * i] = (StepRef)
		{
			edges->items[i].task_id, edges->items[i].from, 0
		};
		keys[2 * i + 1] = (StepRef)
		{
			edges->items[i].task_id, edges->items[i].to, 0
		};
	}
	distinct_keys(keys, 2 * edges->length, &tasks, &steps);
	values[0] = datum_list_array(&tasks);
	values[1] = datum_list_array(&steps);
	locked.length = (int) tasker_run(&lock_steps, values, NULL);
	locked.items = MemoryContextAllocHuge(CurrentMemoryContext, Max(locked.length, 1) * sizeof(LockedStep));
	for (int i = 0; i < locked.length; i++)
		locked.items[i] = (LockedStep)
	{
		DatumGetInt64(tasker_value_notnull(i, 1)),
			DatumGetInt32(tasker_value_notnull(i, 2)),
			step_state_from_text(tasker_value_notnull(i, 3))
	};
	SPI_freetuptable(SPI_tuptable);
	pfree(keys);
	qsort(locked.items, locked.length, sizeof(LockedStep), locked_compare);
	return locked;
}

/* NULL if there is no such step */
static LockedStep *
find_locked(const LockedSteps *locked, int64 task_id, int step_id)
{
	LockedStep	key = {task_id, step_id};

	return bsearch(&key, locked->items, locked->length, sizeof(LockedStep), locked_compare);
}

static const char *
name_of(const TaskGraph *graph, int step)
{
	StepDef    *def = graph->steps[step].def;

	return def != NULL ? def->name : psprintf("step %d", graph->steps[step].step_id);
}

/* "a -> b -> a": the path that was found from the edge's child to its parent, and the edge. */
static char *
cycle_text(const TaskGraph *graph, Distance *found, int nfound, int last, int length)
{
	int		   *path = palloc((length + 1) * sizeof(int));
	StringInfoData buf;

	for (int at = length, step = last; at >= 0; at--)
	{
		path[at] = step;
		for (int i = 0; i < nfound; i++)
			if (found[i].step == step)
			{
				step = found[i].previous;
				break;
			}
	}
	initStringInfo(&buf);
	for (int i = 0; i <= length; i++)
		if (length < SHOWN_IN_CYCLE || i < SHOWN_IN_CYCLE - 1 || i == length)
			appendStringInfo(&buf, "%s -> ", name_of(graph, path[i]));
		else if (i == SHOWN_IN_CYCLE - 1)
			appendStringInfoString(&buf, "... -> ");
	appendStringInfoString(&buf, name_of(graph, path[0]));
	return buf.data;
}

/* Refuse an edge that does not go from a smaller step_id to a larger. */
static void
refuse_backward_edge(const Edge *edge)
{
	TaskGraph  *graph = graph_load(edge->task_id);
	int			from = graph == NULL ? -1 : graph_find(graph, edge->from);
	int			to = graph == NULL ? -1 : graph_find(graph, edge->to);
	Distance   *found;
	int			nfound;

	if (from < 0 || to < 0)
		return;
	found = graph_search(graph, to, false, &nfound);
	for (int i = 0; i < nfound; i++)
		if (found[i].step == from)
			ereport(ERROR,
					(errcode(ERRCODE_TASKER_EDGE_CYCLE),
					 errmsg("the edge from \"%s\" to \"%s\" closes a cycle: %s",
							name_of(graph, from), name_of(graph, to),
							cycle_text(graph, found, nfound, from, found[i].distance)),
					 errdetail("None of these steps of task " INT64_FORMAT " could ever run.", edge->task_id),
					 errhint("Delete another edge of the cycle first, or leave this one out.")));
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_EDGE_CYCLE),
			 errmsg("the edge from \"%s\" to \"%s\" of task " INT64_FORMAT " goes backward",
					name_of(graph, from), name_of(graph, to), edge->task_id),
			 errdetail("It goes from step %d to step %d; step ids run from parents to children, so that no cycle can be made.",
					   edge->from, edge->to),
			 errhint("Insert edges whose from_step_id is the smaller one.")));
}

/* Refuse a parent that comes too late. A child that has ended without it does not mind. */
static void
check_new_edge(const Edge *edge, const LockedSteps *locked)
{
	LockedStep *from = find_locked(locked, edge->task_id, edge->from);
	LockedStep *to = find_locked(locked, edge->task_id, edge->to);

	if (from == NULL || to == NULL)
		return;
	if (edge->from >= edge->to)
		refuse_backward_edge(edge);
	if (step_state_satisfies(from->state) || to->state == STEP_PENDING ||
		to->state == STEP_SKIPPED || to->state == STEP_CANCELLED || to->state == STEP_RESOLVED_MANUALLY)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_EDGE_LATE),
			 errmsg("step %d of task " INT64_FORMAT " can not be made to wait for step %d any more",
					edge->to, edge->task_id, edge->from),
			 errdetail("It is in state %s, and step %d in state %s.", step_state_name(to->state),
					   edge->from, step_state_name(from->state)),
			 errhint("Only a pending step can get a parent that is not satisfied yet.")));
}

/* Count the unsatisfied parents of the pending steps that the edges lead to. */
static void
recount_children(const Edges *edges, const LockedSteps *locked, bool inserted)
{
	StepRef    *keys = MemoryContextAllocHuge(CurrentMemoryContext, Max(edges->length, 1) * sizeof(StepRef));
	DatumList	tasks,
				steps;
	Datum		values[3];
	int			n = 0;

	for (int i = 0; i < edges->length; i++)
	{
		LockedStep *to = find_locked(locked, edges->items[i].task_id, edges->items[i].to);

		if (to != NULL && to->state == STEP_PENDING)
			keys[n++] = (StepRef)
		{
			to->task_id, to->step_id, 0
		};
	}
	if (n == 0)
		return;
	distinct_keys(keys, n, &tasks, &steps);
	values[0] = datum_list_array(&tasks);
	values[1] = datum_list_array(&steps);
	values[2] = BoolGetDatum(inserted);
	tasker_run(&recount, values, NULL);
}

PG_FUNCTION_INFO_V1(tasker_edges_changed);

/* edges_changed(): the triggers on workflow_step_edges */
Datum
tasker_edges_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	bool		inserted;
	TaskerSection section;
	Edges		edges;
	LockedSteps locked;

	check_called_as(fcinfo);
	inserted = TRIGGER_FIRED_BY_INSERT(trigger->tg_event);
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
	{
		if (tuplestore_tuple_count(trigger->tg_newtable) > 0)
			ereport(ERROR,
					(errcode(ERRCODE_TASKER_KEY_CHANGED),
					 errmsg("an edge can not be changed"),
					 errdetail("All columns of tasker.workflow_step_edges identify the edge."),
					 errhint("Delete it and insert another one.")));
		return PointerGetDatum(NULL);
	}

	/*
	 * the engine makes edges together with the counters, and deletes whole
	 * tasks
	 */
	if (tasker_inside())
		return PointerGetDatum(NULL);
	edges = read_edges(trigger, inserted ? trigger->tg_newtable : trigger->tg_oldtable);
	if (edges.length == 0)
		return PointerGetDatum(NULL);

	tasker_enter(&section);
	locked = lock_ends(&edges);
	if (inserted)
		for (int i = 0; i < edges.length; i++)
			check_new_edge(&edges.items[i], &locked);
	recount_children(&edges, &locked, inserted);
	tasker_leave(&section);
	return PointerGetDatum(NULL);
}
