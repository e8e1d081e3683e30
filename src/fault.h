/*
 * fault.h
 *	  Named points at which a test can make tasker pause, fail or die. They
 *	  exist in test builds only.
 */
#ifndef TASKER_FAULT_H
#define TASKER_FAULT_H

#ifdef TASKER_TEST
extern void fault_point(const char *name);
#else
#define fault_point(name) ((void) 0)
#endif

#endif							/* TASKER_FAULT_H */
