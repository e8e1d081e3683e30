/*
 * handler.h
 *	  Calling the handler of a step.
 */
#ifndef TASKER_HANDLER_H
#define TASKER_HANDLER_H

#include "definition_cache.h"

extern void handler_init(void);
extern Jsonb *call_handler(StepDef *step, Jsonb *input, MemoryContext result_context);
extern bool handler_is_guest(void);
extern void handler_confine(void);
extern void handler_release(void);
extern int	handler_timeout(const StepDef *step);
extern void handler_limit(int ms);
extern void begin_timeout(int ms);
extern void end_timeout(int ms);
extern bool handler_timed_out(void);

#endif							/* TASKER_HANDLER_H */
