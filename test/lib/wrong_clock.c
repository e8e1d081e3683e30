/*
 * wrong_clock.c
 *	  Loaded into a program (LD_PRELOAD) it makes its time of day wrong by
 *	  WRONG_CLOCK seconds. The monotonic clock stays as it is, as on a machine
 *	  whose clock was set wrongly. Built and used by conformance.py.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t
wrong_by(void)
{
	const char *seconds = getenv("WRONG_CLOCK");

	return seconds ? atol(seconds) : 0;
}

int
clock_gettime(clockid_t clock, struct timespec *now)
{
	long		status = syscall(SYS_clock_gettime, clock, now);

	if (status == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += wrong_by();
	return (int) status;
}

int
gettimeofday(struct timeval *now, void *zone)
{
	struct timespec exact;

	clock_gettime(CLOCK_REALTIME, &exact);
	now->tv_sec = exact.tv_sec;
	now->tv_usec = exact.tv_nsec / 1000;
	return 0;
}

time_t
time(time_t *now)
{
	struct timespec exact;

	clock_gettime(CLOCK_REALTIME, &exact);
	if (now)
		*now = exact.tv_sec;
	return exact.tv_sec;
}

/* The one wait until a time of day that a language's locks may be made of. */
int
sem_timedwait(sem_t *sem, const struct timespec *until)
{
	static int	(*real) (sem_t *, const struct timespec *);
	struct timespec right = *until;

	if (!real)
		real = (int (*) (sem_t *, const struct timespec *)) dlsym(RTLD_NEXT, "sem_timedwait");
	right.tv_sec -= wrong_by();
	return real(sem, &right);
}
