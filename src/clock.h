/*
 * clock.h
 *	  The time, which only this part reads. In a test build a test may own it.
 */
#ifndef TASKER_CLOCK_H
#define TASKER_CLOCK_H

extern void tasker_clock_init(void);

#endif							/* TASKER_CLOCK_H */
