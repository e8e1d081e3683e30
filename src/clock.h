/*
 * clock.h
 *	  The time, which only this part reads. In a test build a test may own it.
 */
#ifndef TASKER_CLOCK_H
#define TASKER_CLOCK_H

#include "fmgr.h"

extern void tasker_clock_init(void);
extern double time_limit_argument(FunctionCallInfo fcinfo, int arg);

#endif							/* TASKER_CLOCK_H */
