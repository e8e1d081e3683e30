/*
 * guard_marker.c
 *	  What the data directory tells about itself: is it the one in which the
 *	  database was armed, or a copy of its files?
 *
 * A marker is a small file in pg_stat_tmp that holds its own inode number. A
 * restart, a crash and ALTER DATABASE … RENAME leave it; a base backup skips
 * the contents of that directory, as do the tools that follow PostgreSQL's list
 * of what to skip, and in a copy of the files the inode is another one.
 *
 * Each armed database has one, named by its oid, so that adopting a database of
 * a copied directory says nothing about the others in it. A standby has one
 * for all, written when it first hears from its primary: should it be promoted
 * it is the primary's successor, even if it was restarted before.
 *
 * Called by guard.c, and by the launcher on a standby.
 */
#include "guard.h"

#include "access/xlog.h"
#include "common/file_perm.h"
#include "miscadmin.h"
#include "replication/walreceiver.h"
#include "storage/fd.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define MARKER_DIRECTORY	"pg_stat_tmp"
#define MARKER_LENGTH		128

/* What stands in the place of a token in the marker of a standby. */
#define STANDBY				"standby"

/* The contents of a marker that is the file of this inode. */
static void
marker_contents(char *contents, ino_t inode, const char *token)
{
	snprintf(contents, MARKER_LENGTH, UINT64_FORMAT " " UINT64_FORMAT " %s\n",
			 GetSystemIdentifier(), (uint64) inode, token);
}

static void
marker_path(char *path, const char *token)
{
	if (strcmp(token, STANDBY) == 0)
		strlcpy(path, MARKER_DIRECTORY "/tasker.standby", MAXPGPATH);
	else
		snprintf(path, MAXPGPATH, MARKER_DIRECTORY "/tasker.%u", MyDatabaseId);
}

/* Is the marker there, and is it the file that was written? */
bool
marker_is_there(const char *token)
{
	char		path[MAXPGPATH];
	char		wanted[MARKER_LENGTH];
	char		found[MARKER_LENGTH] = {0};
	struct stat file;
	int			fd;
	bool		result;

	marker_path(path, token);
	fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	if (fd < 0)
	{
		if (errno != ENOENT)
			ereport(LOG,
					(errcode_for_file_access(),
					 errmsg("could not open file \"%s\": %m", path)));
		return false;
	}
	result = fstat(fd, &file) == 0 && read(fd, found, MARKER_LENGTH - 1) > 0;
	CloseTransientFile(fd);
	if (!result)
		return false;
	marker_contents(wanted, file.st_ino, token);
	return strcmp(found, wanted) == 0;
}

static void
cannot_write(const char *path)
{
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not write file \"%s\": %m", path),
			 errdetail("It tells this data directory from a copy of it."),
			 errhint("See that the server may write there and that the disk is not full.")));
}

/* Write the marker, durably: the file is renamed into its place. */
void
marker_write(const char *token)
{
	char		path[MAXPGPATH];
	char		temporary[MAXPGPATH + 16];
	char		contents[MARKER_LENGTH];
	struct stat file;
	int			fd;

	/* some backup tools leave the directory out, and not only what is in it */
	if (MakePGDirectory(MARKER_DIRECTORY) < 0 && errno != EEXIST)
		cannot_write(MARKER_DIRECTORY);
	marker_path(path, token);
	snprintf(temporary, sizeof(temporary), "%s.%d", path, MyProcPid);
	fd = OpenTransientFile(temporary, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY);
	if (fd < 0 || fstat(fd, &file) != 0)
		cannot_write(temporary);
	marker_contents(contents, file.st_ino, token);
	errno = 0;
	if (write(fd, contents, strlen(contents)) != strlen(contents))
	{
		if (errno == 0)
			errno = ENOSPC;
		cannot_write(temporary);
	}
	if (pg_fsync(fd) != 0 || CloseTransientFile(fd) != 0)
		cannot_write(temporary);
	durable_rename(temporary, path, ERROR);
}

/*
 * Has this server, since it was started, heard from a primary? The end of the
 * primary's WAL stays in shared memory when the stream ends; the other times
 * and positions there are set before there is a connection.
 */
bool
standby_has_streamed(void)
{
	XLogRecPtr	end;

	SpinLockAcquire(&WalRcv->mutex);
	end = WalRcv->latestWalEnd;
	SpinLockRelease(&WalRcv->mutex);
	return !XLogRecPtrIsInvalid(end);
}

/* Did it hear from one before that, in this same directory? */
bool
standby_is_marked(void)
{
	return marker_is_there(STANDBY);
}

void
standby_mark(void)
{
	marker_write(STANDBY);
}
