/*
 * queues.h
 *	  Queues of external workers, for those who serve or watch them.
 */
#ifndef TASKER_QUEUES_H
#define TASKER_QUEUES_H

#include "claims.h"

extern void watch_queues(void);
extern void notify_queues(void);

#endif							/* TASKER_QUEUES_H */
