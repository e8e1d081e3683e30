/*
 * recorder.h
 *	  Which steps each process has in hand, in memory that outlives the server.
 */
#ifndef TASKER_RECORDER_H
#define TASKER_RECORDER_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* A step that its process did not bring to an end. */
typedef struct CutOff
{
	int64		task_id;
	int32		step_id;
	int			pid;
	bool		died;			/* the process died; else it was terminated */
	bool		running;		/* in the step; else at the end of its batch */
	TimestampTz since;			/* when the process began its last step */
} CutOff;

extern void recorder_attach(bool first);
extern void recorder_open(void);
extern void recorder_close(bool excused);
extern void recorder_step(int64 task_id, int step_id, TimestampTz now);
extern void recorder_step_ended(void);
extern void recorder_clear(void);
extern CutOff *recorder_collect(Oid database, int *n);

#endif							/* TASKER_RECORDER_H */
