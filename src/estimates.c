/*
 * estimates.c
 *	  What the planner is told of tasker's tables while it plans tasker's own
 *	  statements: that each is large, and nothing of what is in it.
 *
 * A plan is kept for as long as the session lives. One that was made when a table
 * was empty, or analyzed when it was, would read all of it for each id in hand, and
 * the plans of two sessions would differ. So none depends on the day: ids drive the
 * joins, and each table is probed by them.
 */
#include "tasker.h"

#include "catalog/namespace.h"
#include "optimizer/plancat.h"
#include "utils/lsyscache.h"
#include "utils/selfuncs.h"

#define ROWS		1000000
#define PAGES		20000
#define INDEX_PAGES	4000
#define INDEX_HEIGHT	2

static get_relation_info_hook_type previous_relation_info_hook = NULL;
static get_relation_stats_hook_type previous_relation_stats_hook = NULL;

static bool
is_ours(Oid relation)
{
	return tasker_inside() && get_rel_namespace(relation) == get_namespace_oid("tasker", true);
}

static void
relation_info(PlannerInfo *root, Oid relation, bool inhparent, RelOptInfo *rel)
{
	ListCell   *cell;

	if (previous_relation_info_hook)
		previous_relation_info_hook(root, relation, inhparent, rel);
	if (!is_ours(relation))
		return;
	rel->pages = PAGES;
	rel->tuples = ROWS;
	rel->allvisfrac = 0;
	foreach(cell, rel->indexlist)
	{
		IndexOptInfo *index = lfirst(cell);

		index->pages = INDEX_PAGES;
		index->tuples = ROWS;
		index->tree_height = INDEX_HEIGHT;
	}
}

/*
 * Taking control without giving a tuple stands for a column that was never
 * analyzed. Not every caller has set it to none.
 */
static bool
relation_stats(PlannerInfo *root, RangeTblEntry *rte, AttrNumber column, VariableStatData *variable)
{
	if (rte->rtekind == RTE_RELATION && is_ours(rte->relid))
	{
		variable->statsTuple = NULL;
		variable->freefunc = NULL;
		return true;
	}
	return previous_relation_stats_hook && previous_relation_stats_hook(root, rte, column, variable);
}

void
estimates_init(void)
{
	previous_relation_info_hook = get_relation_info_hook;
	get_relation_info_hook = relation_info;
	previous_relation_stats_hook = get_relation_stats_hook;
	get_relation_stats_hook = relation_stats;
}
