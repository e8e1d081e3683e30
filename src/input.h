/*
 * input.h
 *	  The document that a handler gets.
 */
#ifndef TASKER_INPUT_H
#define TASKER_INPUT_H

#include "definition_cache.h"

/* A task as handlers see it, read once a batch. */
typedef struct TaskInput
{
	int64		task_id;		/* hash key */
	TaskDef    *def;
	const char *correlation_id; /* NULL: none */
	const char *traceparent;	/* what its creator gave, or NULL */
	Jsonb	   *document;
} TaskInput;

extern Jsonb *task_document(int64 task_id, TaskDef *def, int priority, Jsonb *context,
							const char *correlation_id, Jsonb *tags);
extern Jsonb *step_input(TaskInput *task, StepDef *step, int step_id, int attempt,
						 const char *const *parent_names, Jsonb *const *parent_results, int nparents);
extern char *step_traceparent(const TaskInput *task);
extern Jsonb *error_document(ErrorData *error, int attempt, TimestampTz at);

#endif							/* TASKER_INPUT_H */
