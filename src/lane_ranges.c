/*
 * lane_ranges.c
 *	  Where in a lane of ready_queue there may be rows, as a few ranges of its key.
 *
 * One beginning would not do: a step that is retried is older than thousands
 * that have run, and between it and the others there may be nothing but dead rows,
 * which everybody would read again for its sake.
 *
 * Called by lanes.c and shared.c.
 */
#include "postgres.h"

#include "common/int.h"
#include "shared.h"

/* To look for so many tasks that are not there costs less than one more statement. */
#define NEAR_TASKS		64

/* All keys from the first to the last one. */
LaneRange
lane_range(LaneKey first, LaneKey last)
{
	LaneRange	range = {first, lane_key(last.rank, last.task_id, last.step_id + 1)};

	return range;
}

/* Tasks between two ranges, the second of which begins later; PG_INT64_MAX if that is not known. */
static int64
gap_between(const LaneRange *a, const LaneRange *b)
{
	int64		tasks;

	if (lane_key_compare(&b->from, &a->to) <= 0)
		return 0;
	if (a->to.rank != b->from.rank || pg_sub_s64_overflow(b->from.task_id, a->to.task_id, &tasks))
		return PG_INT64_MAX;
	return tasks;
}

/* Make one of the two ranges that are nearest to each other, if they are near or there are too many. */
static bool
join_two(LaneRanges *ranges)
{
	LaneRange  *best = NULL;
	int64		least = PG_INT64_MAX;

	for (LaneRange *r = ranges->range; r + 1 < ranges->range + ranges->n; r++)
	{
		int64		gap = gap_between(r, r + 1);

		if (gap <= least)
		{
			least = gap;
			best = r;
		}
	}
	if (best == NULL || (least > NEAR_TASKS && ranges->n <= TASKER_LANE_RANGES))
		return false;
	if (lane_key_compare(&best->to, &(best + 1)->to) < 0)
		best->to = (best + 1)->to;
	ranges->n--;
	memmove(best + 1, best + 2, (ranges->range + ranges->n - (best + 1)) * sizeof(LaneRange));
	return true;
}

void
add_lane_range(LaneRanges *ranges, const LaneRange *added)
{
	int			i = ranges->n++;

	for (; i > 0 && lane_key_compare(&added->from, &ranges->range[i - 1].from) < 0; i--)
		ranges->range[i] = ranges->range[i - 1];
	ranges->range[i] = *added;
	while (join_two(ranges))
		;
}

void
add_lane_ranges(LaneRanges *ranges, const LaneRanges *added)
{
	for (int i = 0; i < added->n; i++)
		add_lane_range(ranges, &added->range[i]);
}

/* There is nothing before the key. */
void
cut_lane_ranges(LaneRanges *ranges, const LaneKey *key)
{
	int			kept = 0;

	for (int i = 0; i < ranges->n; i++)
	{
		LaneRange	range = ranges->range[i];

		if (lane_key_compare(&range.to, key) <= 0)
			continue;
		if (lane_key_compare(&range.from, key) < 0)
			range.from = *key;
		ranges->range[kept++] = range;
	}
	ranges->n = kept;
}

/* The first key that is in them; lane_end if there is none. */
LaneKey
first_of_lane_ranges(const LaneRanges *ranges)
{
	return ranges->n == 0 ? lane_end : ranges->range[0].from;
}
