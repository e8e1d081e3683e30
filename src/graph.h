/*
 * graph.h
 *	  The steps and edges of one task, read afresh from its rows.
 *
 * Nothing here writes, so that it works on a standby; nothing here is kept
 * between calls but the definitions, which never change.
 */
#ifndef TASKER_GRAPH_H
#define TASKER_GRAPH_H

#include "definition_cache.h"

typedef struct GraphStep
{
	int			step_id;
	int			step_no;
	StepState	state;
	int			attempts;
	int			priority;
	int			lane;
	int			pending_parents;	/* as its row says */
	TimestampTz next_attempt_at;	/* GRAPH_NEVER: null; so are the others */
	TimestampTz lease_expires_at;
	TimestampTz last_attempted_at;
	StepDef    *def;			/* NULL: its definition has no such step */

	/* what the edges say */
	int			parents;
	int			satisfied;		/* parents that are */
	bool		reached;		/* there is a path to it from a root */
} GraphStep;

#define GRAPH_NEVER	DT_NOBEGIN

typedef struct GraphEdge
{
	int			from_step_id;
	int			to_step_id;
	int			from;			/* indexes into steps; -1: no such step */
	int			to;
} GraphEdge;

typedef struct TaskGraph
{
	int64		task_id;
	TaskState	state;
	int			named_task_id;
	int			nsteps;
	GraphStep  *steps;			/* in the order of step_id */
	int			nedges;
	GraphEdge  *edges;
} TaskGraph;

/* The edges of each step: next[first[i]] to next[first[i + 1] - 1] */
typedef struct Adjacency
{
	int		   *first;
	int		   *next;
} Adjacency;

/* How far a step is from where a search began. */
typedef struct Distance
{
	int			step;			/* index into steps */
	int			distance;
	int			previous;		/* the step from which it was found */
} Distance;

extern TaskGraph *graph_load(int64 task_id);
extern TaskGraph *graph_begin_call(TaskerSection *section, FunctionCallInfo fcinfo);
extern int	graph_find(const TaskGraph *graph, int step_id);
extern Adjacency graph_adjacency(const TaskGraph *graph, bool towards_parents);
extern void graph_walk(TaskGraph *graph);
extern int *graph_levels(const TaskGraph *graph);
extern Distance *graph_search(const TaskGraph *graph, int step, bool towards_parents, int *found);

extern bool graph_step_retryable(const GraphStep *step);
extern bool graph_step_ready(const TaskGraph *graph, const GraphStep *step, TimestampTz now);

#endif							/* TASKER_GRAPH_H */
