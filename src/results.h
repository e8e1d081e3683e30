/*
 * results.h
 *	  Where the results of steps are kept.
 */
#ifndef TASKER_RESULTS_H
#define TASKER_RESULTS_H

#include "tasker.h"

extern void check_document_size(Jsonb *document, const char *what);
extern void check_results_size(Jsonb *results);
extern bool results_live_apart(Jsonb *results);
extern void store_results_apart(int64 task_id, int step_id, Jsonb *results);

#endif							/* TASKER_RESULTS_H */
