/*
 * attempt.h
 *	  One attempt at one step.
 */
#ifndef TASKER_ATTEMPT_H
#define TASKER_ATTEMPT_H

#include "batch.h"
#include "input.h"

/* A handler that takes this long is not to hide what ended before it. */
#define SLOW_MS		5.0

typedef struct BatchStepKey
{
	int64		task_id;
	int32		step_id;
	int32		padding;		/* 0: keys are compared as bytes */
} BatchStepKey;

/* A step that a batch runs, or one whose parents it runs. */
typedef struct BatchStep
{
	BatchStepKey key;
	TaskInput  *task;
	StepDef    *def;
	int			step_no;
	int			attempts;		/* with this one, once it ended */
	StepState	from;			/* as its row says */
	int			pending;		/* pending_parents, as its row says */
	int			seen;			/* parents that ended in this batch */

	Size		input_size;		/* of the context and the parents' results */
	int			nparents;
	int			parents_space;
	const char **parent_names;
	Jsonb	  **parent_results;

	/* what came of it */
	bool		ended;
	bool		superseded;		/* its own handler ended it */
	StepState	to;
	TimestampTz started_at;
	TimestampTz ended_at;
	TimestampTz next_attempt_at;
	Jsonb	   *results;
	Jsonb	   *error;
} BatchStep;

extern bool input_too_large(const BatchStep *step);
extern ErrorData *input_error(const BatchStep *step);
extern void attempt_add_parent(BatchStep *step, const char *name, Jsonb *results);
extern void run_attempt(BatchStep *step, BatchRunner *runner, MemoryContext context);
extern StepState after_failure(const StepDef *def, int attempts, bool permanent, double delay,
							   TimestampTz at, TimestampTz *next);
extern void attempt_failed(BatchStep *step, ErrorData *error);

#endif							/* TASKER_ATTEMPT_H */
