/*
 * definition_cache.h
 *	  Definitions as executors use them: read once a session, since a stored
 *	  definition never changes.
 */
#ifndef TASKER_DEFINITION_CACHE_H
#define TASKER_DEFINITION_CACHE_H

#include "definition.h"

/* A function or a statement; steps that have the same one share it. */
typedef struct Handler
{
	uint32		hash;			/* of kind and text: hash key */
	HandlerKind kind;
	const char *text;			/* named_steps.handler */

	/* what handler.c keeps */
	uint64		checked;		/* the catalogs' generation when it was looked
								 * up */
	Oid			checked_for;	/* the role that may execute it */
	FmgrInfo	function;
	Oid			owner;			/* of the function */
	bool		returns_void;
	SPIPlanPtr	plan;

	double		mean_ms;		/* how long it takes of late; below 0: not run
								 * yet */
} Handler;

typedef struct StepDef
{
	const char *name;
	Handler    *handler;
	Oid			owner;			/* of the function, when the step was defined */
	const char *owner_name;		/* NULL: was not recorded */
	bool		retryable;
	int			max_attempts;
	int			parents;
	int			timeout_ms;		/* 0: none */
	double		lease;			/* seconds */
	Backoff		backoff;
} StepDef;

typedef struct TaskDef
{
	int			named_task_id;	/* hash key */
	const char *name;
	const char *namespace;
	const char *version;
	int			nsteps;
	StepDef    *steps;			/* step_no - 1 */
} TaskDef;

extern TaskDef *task_def(int named_task_id);
extern StepDef *step_def(TaskDef *task, int step_no);
extern bool definition_cache_check(void);
extern MemoryContext definition_cache_context(void);

#endif							/* TASKER_DEFINITION_CACHE_H */
