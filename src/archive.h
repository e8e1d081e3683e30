/*
 * archive.h
 *	  A task's document, and the function that gets it before the task goes.
 */
#ifndef TASKER_ARCHIVE_H
#define TASKER_ARCHIVE_H

#include "tasker.h"

extern Oid	archive_function(void);
extern ErrorData *archive_task(Oid function, int64 task_id);

#endif							/* TASKER_ARCHIVE_H */
