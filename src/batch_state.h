/*
 * batch_state.h
 *	  A batch under way, for the parts of it: batch.c and batch_read.c.
 */
#ifndef TASKER_BATCH_STATE_H
#define TASKER_BATCH_STATE_H

#include "attempt.h"
#include "batch.h"
#include "utils/hsearch.h"

/* A batch under way. All of it lives in one memory context. */
typedef struct Batch
{
	BatchRunner *runner;
	MemoryContext context;
	HTAB	   *tasks;			/* TaskInput by task_id */
	HTAB	   *steps;			/* BatchStep by task_id, step_id */
	BatchStep **wave;			/* what can run now */
	int			nwave;
	BatchStep **ended;
	int			nended;
	int			space;
	TimestampTz begun;
	BatchResult result;
} Batch;

extern Batch *batch_begin(BatchRunner *runner);
extern BatchStep *batch_step(Batch *batch, int64 task_id, int step_id, bool *found);
extern void load_inputs(Batch *batch);
extern void begin_statements(Batch *batch, TaskerSection *section);
extern void end_statements(TaskerSection *section);
extern void step_arrays(BatchStep **steps, int n, Datum *values);
extern void take_steps(Batch *batch, int limit, bool lock);
extern void refuse_steps_of_wave(Batch *batch);
extern void next_wave(Batch *batch, BatchStep **last, int nlast);

#endif							/* TASKER_BATCH_STATE_H */
