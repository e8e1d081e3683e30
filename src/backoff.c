/*
 * backoff.c
 *	  How long a failed step waits for its next attempt.
 *
 * After attempt n (n = 1, 2, …):
 *
 *	exponential	min(cap, base * factor ^ n)
 *	linear		min(cap, base * n)
 *	fixed		base
 *	list		the n-th delay, beyond the end the last
 *
 * each times (1 ± jitter). With the defaults the first retry comes after about
 * two seconds, as in the Taskers before this one.
 */
#include "engine.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "utils/array.h"

/* What a step's delays are at most, 3650 days, with all the jitter there is. */
#define MAX_DELAY		(2.0 * 3650 * SECS_PER_DAY)

static const char *const kinds[] = {
	[BACKOFF_EXPONENTIAL] = "exponential",
	[BACKOFF_LINEAR] = "linear",
	[BACKOFF_FIXED] = "fixed",
	[BACKOFF_LIST] = "list",
};

BackoffKind
backoff_kind_from_text(Datum kind)
{
	char	   *name = TextDatumGetCString(kind);

	for (int i = 0; i < lengthof(kinds); i++)
		if (strcmp(kinds[i], name) == 0)
			return (BackoffKind) i;
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
			 errmsg("\"%s\" is not a kind of backoff", name),
			 errdetail("The kinds are exponential, linear, fixed and list."),
			 errhint("Leave it out for exponential.")));
}

/* A month is taken as 30 days, as in extract(epoch from ...). */
double
interval_seconds(const Interval *interval)
{
	return (double) interval->time / USECS_PER_SEC +
		(double) interval->day * SECS_PER_DAY +
		(double) interval->month * DAYS_PER_MONTH * SECS_PER_DAY;
}

/* The delay after the given number of attempts; random is in [0, 1). */
double
backoff_seconds(const Backoff *backoff, int attempts, double random)
{
	int			n = Max(attempts, 1);
	double		delay = backoff->base;

	switch (backoff->kind)
	{
		case BACKOFF_EXPONENTIAL:
			delay = Min(backoff->cap, backoff->base * pow(backoff->factor, n));
			break;
		case BACKOFF_LINEAR:
			delay = Min(backoff->cap, backoff->base * n);
			break;
		case BACKOFF_FIXED:
			break;
		case BACKOFF_LIST:
			delay = backoff->ndelays == 0 ? backoff->base :
				backoff->delays[Min(n, backoff->ndelays) - 1];
			break;
	}
	return delay * (1.0 + backoff->jitter * (2.0 * random - 1.0));
}

PG_FUNCTION_INFO_V1(tasker_backoff_delay);

/*
 * backoff_delay(attempts int, kind text, base interval, factor float8,
 *				 cap interval, jitter float8, delays interval[], random float8)
 */
Datum
tasker_backoff_delay(PG_FUNCTION_ARGS)
{
	Backoff		backoff;
	Interval   *result = palloc0(sizeof(Interval));
	double		seconds;

	for (int i = 0; i < 8; i++)
		if (PG_ARGISNULL(i) && i != 6)
			PG_RETURN_NULL();
	backoff.kind = backoff_kind_from_text(PG_GETARG_DATUM(1));
	backoff.base = interval_seconds(PG_GETARG_INTERVAL_P(2));
	backoff.factor = PG_GETARG_FLOAT8(3);
	backoff.cap = interval_seconds(PG_GETARG_INTERVAL_P(4));
	backoff.jitter = PG_GETARG_FLOAT8(5);
	backoff.ndelays = 0;
	if (!PG_ARGISNULL(6))
	{
		Datum	   *elements;
		bool	   *nulls;

		deconstruct_array(PG_GETARG_ARRAYTYPE_P(6), INTERVALOID, sizeof(Interval), false,
						  TYPALIGN_DOUBLE, &elements, &nulls, &backoff.ndelays);
		backoff.delays = palloc(sizeof(double) * Max(backoff.ndelays, 1));
		for (int i = 0; i < backoff.ndelays; i++)
			backoff.delays[i] = nulls[i] ? 0 : interval_seconds(DatumGetIntervalP(elements[i]));
	}
	seconds = backoff_seconds(&backoff, PG_GETARG_INT32(0), PG_GETARG_FLOAT8(7));
	/* so written that it catches what is not a number */
	if (!(fabs(seconds) <= MAX_DELAY))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("the delay is out of range"),
				 errdetail("It would be %g seconds.", seconds),
				 errhint("No step waits for more than 3650 days.")));
	result->time = (TimeOffset) rint(seconds * USECS_PER_SEC);
	PG_RETURN_INTERVAL_P(result);
}
