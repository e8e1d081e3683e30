/*
 * recorder.c
 *	  Which steps each process has in hand, in a file that is mapped into memory
 *	  and so outlives the server: after a crash it tells in which step the
 *	  process died that took the server along.
 *
 * Whoever runs batches (executor.c, run.c) has a record. It names the steps of
 * the batch under way and costs a few stores a step. A process that leaves in
 * an orderly way, or because the postmaster tells it to after another one's
 * crash, clears its record; what a record says when the next server starts
 * was cut off by the death of its process. cut_off.c makes something of it.
 *
 * The file need not be synced: if the operating system crashes, it was no step.
 * It lies where backups leave it out. Without it nothing is recorded.
 */
#include "recorder.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/parallel.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "shared.h"
#include "storage/fd.h"
#include "storage/pmsignal.h"
#include "utils/pidfile.h"

#define RECORDER_FILE	PG_STAT_TMP_DIR "/tasker.running"
#define RECORDER_MAGIC	0x544b5231	/* changes with the structs below */
#define MAX_RECORDS		(TASKER_MAX_EXECUTORS + 32) /* and sessions in run() */
#define MAX_STEPS		512		/* later ones of a batch share the last place */

typedef enum RecordFate
{
	RECORD_ALIVE,
	RECORD_ENDED,				/* left in the middle of a batch: terminated */
	RECORD_DIED					/* ... or without a word */
} RecordFate;

typedef struct RecordedStep
{
	int64		task_id;
	int32		step_id;
} RecordedStep;

typedef struct Record
{
	int			pid;			/* 0: free */
	RecordFate	fate;
	Oid			database;
	int			nsteps;			/* of the batch under way */
	bool		running;		/* the last of them runs now */
	TimestampTz since;			/* when that one began */
	RecordedStep steps[MAX_STEPS];
} Record;

typedef struct Recorder
{
	uint32		magic;
	uint32		size;
	bool		any_left;		/* a record may be there to be collected */
	Record		records[MAX_RECORDS];
} Recorder;

static Recorder *recorder = NULL;

/* Of a process that has none, nothing is ever collected. */
static Record no_record;
static volatile Record *my_record = &no_record;

/* -------------------------------------------------------------- the file */

/* Write all of the file: a store into a hole of it might find the disk full. */
static bool
fill_file(int fd)
{
	char		zeros[8192] = {0};

	for (size_t done = 0; done < sizeof(Recorder);)
	{
		ssize_t		n;

		errno = 0;
		n = write(fd, zeros, Min(sizeof(zeros), sizeof(Recorder) - done));
		if (n <= 0)
		{
			if (errno == 0)
				errno = ENOSPC;
			return false;
		}
		done += n;
	}
	return true;
}

/* Open the file, made anew if it is not as large as it must be; -1 if it can not be. */
static int
open_file(void)
{
	int			fd = BasicOpenFile(RECORDER_FILE, O_RDWR | PG_BINARY);
	struct stat status;

	if (fd >= 0 && fstat(fd, &status) == 0 && status.st_size == sizeof(Recorder))
		return fd;
	if (fd >= 0)
	{
		close(fd);
		/* that of another version may be mapped still: it is not touched */
		unlink(RECORDER_FILE);
	}
	fd = BasicOpenFile(RECORDER_FILE, O_RDWR | O_CREAT | O_EXCL | PG_BINARY);
	if (fd >= 0 && !fill_file(fd))
	{
		int			save_errno = errno;

		close(fd);
		unlink(RECORDER_FILE);
		errno = save_errno;
		return -1;
	}
	return fd;
}

static Recorder *
map_file(void)
{
	int			fd = open_file();
	void	   *mapped = MAP_FAILED;

	if (fd >= 0)
		mapped = mmap(NULL, sizeof(Recorder), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (mapped == MAP_FAILED)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("tasker could not map file \"%s\": %m", RECORDER_FILE),
				 errdetail("Without it a step that crashes the server is not recognized, and is repeated."),
				 errhint("See that the directory exists, belongs to the server, and has %zu bytes left.",
						 sizeof(Recorder))));
	if (fd >= 0)
		close(fd);
	return mapped == MAP_FAILED ? NULL : mapped;
}

/*
 * Map the file, once in the life of a process or, if preloaded, of the
 * postmaster. The first one after the start of the server finds what that of
 * before left: who was terminated then has no fault, that server was stopped.
 * The caller holds AddinShmemInitLock.
 */
void
recorder_attach(bool first)
{
	if (recorder == NULL)
		recorder = map_file();
	if (recorder == NULL || !first)
		return;
	if (recorder->magic != RECORDER_MAGIC || recorder->size != sizeof(Recorder))
	{
		memset(recorder, 0, sizeof(Recorder));
		recorder->magic = RECORDER_MAGIC;
		recorder->size = sizeof(Recorder);
	}
	for (int i = 0; i < MAX_RECORDS; i++)
	{
		Record	   *record = &recorder->records[i];

		if (record->nsteps <= 0 || record->nsteps > MAX_STEPS || record->fate == RECORD_ENDED)
			record->pid = 0;
		else
			record->fate = RECORD_DIED;
	}
	recorder->any_left = true;
}

/* ------------------------------------------------------------ the record */

/*
 * The postmaster has all processes quit, since one of them crashed: not this
 * one, unless it was one of its parallel workers. SIGQUIT from anybody else is
 * a death like any other.
 */
static void
quit(int signo, siginfo_t * info, void *context)
{
	if (info->si_pid == PostmasterPid && MyProcPid == (int) getpid() && !ParallelContextActive())
		my_record->nsteps = 0;
	_exit(2);
}

/* Has its process gone without clearing it? */
static bool
is_left(const Record *record)
{
	return record->pid != 0 && record->fate != RECORD_ALIVE;
}

/* A free record, or else one whose database does not ask for it. */
static Record *
find_record(void)
{
	Record	   *found = NULL;

	for (int i = 0; i < MAX_RECORDS; i++)
	{
		Record	   *record = &recorder->records[i];

		if (record->pid == 0)
			return record;
		if (is_left(record))
			found = record;
	}
	return found;
}

/*
 * From now on this process, which has a database, records what it runs. It has
 * recorder_close called before it exits.
 */
void
recorder_open(void)
{
	TaskerShared *shared = tasker_shared();
	Record	   *record;

	if (recorder == NULL || my_record != &no_record)
		return;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	record = find_record();
	if (record != NULL)
	{
		record->pid = MyProcPid;
		record->fate = RECORD_ALIVE;
		record->database = MyDatabaseId;
		record->nsteps = 0;
		record->running = false;
		my_record = record;
	}
	LWLockRelease(&shared->lock);

	/* in a client's session the signal is the server's own affair */
	if (MyBgworkerEntry != NULL)
	{
		struct sigaction action = {0};

		action.sa_sigaction = quit;
		action.sa_flags = SA_SIGINFO;
		sigaction(SIGQUIT, &action, NULL);
	}
}

/* Is this the end of all processes, which the postmaster has written down? */
static bool
server_stops(void)
{
	char		content[1024];
	char	   *line = content;
	int			fd = BasicOpenFile("postmaster.pid", O_RDONLY | PG_BINARY);
	ssize_t		length = fd < 0 ? 0 : read(fd, content, sizeof(content) - 1);

	if (fd >= 0)
		close(fd);
	content[Max(length, 0)] = '\0';
	for (int i = 1; i < LOCK_FILE_LINE_PM_STATUS && line != NULL; i++)
	{
		line = strchr(line, '\n');
		if (line != NULL)
			line++;
	}
	return !PostmasterIsAlive() ||
		(line != NULL && strncmp(line, PM_STATUS_STOPPING, strlen(PM_STATUS_STOPPING)) == 0);
}

/*
 * The process leaves. If it has steps in hand it was terminated, for which they
 * may be excused.
 */
void
recorder_close(bool excused)
{
	TaskerShared *shared = tasker_shared();

	if (my_record == &no_record)
		return;
	excused = excused || my_record->nsteps == 0 || server_stops();
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	if (excused)
		my_record->pid = 0;
	else
	{
		my_record->fate = RECORD_ENDED;
		recorder->any_left = true;
	}
	LWLockRelease(&shared->lock);
	my_record = &no_record;
}

/* A step begins. */
void
recorder_step(int64 task_id, int step_id, TimestampTz now)
{
	int			n = Min(my_record->nsteps, MAX_STEPS - 1);

	my_record->steps[n].task_id = task_id;
	my_record->steps[n].step_id = step_id;
	my_record->since = now;
	my_record->running = true;
	my_record->nsteps = n + 1;
}

/* Its handler is done; what there is to do for the batch comes next. */
void
recorder_step_ended(void)
{
	my_record->running = false;
}

/* The batch is over, one way or the other. */
void
recorder_clear(void)
{
	my_record->nsteps = 0;
}

/* Take a record that a process of the database left; false if there is none. */
static bool
take_record(Oid database, Record *copy)
{
	TaskerShared *shared = tasker_shared();
	bool		found = false;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	recorder->any_left = false;
	for (int i = 0; i < MAX_RECORDS; i++)
	{
		Record	   *record = &recorder->records[i];

		if (!is_left(record))
			continue;
		if (!found && record->database == database)
		{
			*copy = *record;
			record->pid = 0;
			found = true;
		}
		else
			recorder->any_left = true;
	}
	LWLockRelease(&shared->lock);
	return found;
}

/*
 * Take the steps of the database that were cut off: the one in which its
 * process was, or the whole batch if it was at its end. They are told once.
 */
CutOff *
recorder_collect(Oid database, int *n)
{
	CutOff	   *result = NULL;
	Record		record;

	*n = 0;
	while (recorder != NULL && recorder->any_left && take_record(database, &record))
	{
		int			first = record.running ? record.nsteps - 1 : 0;
		Size		size = (*n + record.nsteps - first) * sizeof(CutOff);

		result = result == NULL ? palloc(size) : repalloc(result, size);
		for (int i = first; i < record.nsteps; i++)
		{
			CutOff	   *cut = &result[(*n)++];

			cut->task_id = record.steps[i].task_id;
			cut->step_id = record.steps[i].step_id;
			cut->pid = record.pid;
			cut->died = record.fate == RECORD_DIED;
			cut->running = record.running;
			cut->since = record.since;
		}
	}
	return result;
}
