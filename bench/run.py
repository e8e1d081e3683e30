#!/usr/bin/python3
"""run.py: the benchmark. "make bench" and "make bench-full" are this program.

  --full           everything, and more of it: about an hour
  --only WORDS     only the groups whose keys contain one of the words
  --rounds N       so many rounds
  --budget S       no further round begins that would end after so many seconds
  --no-peers       only tasker and the floor
  --keep           leave the cluster, and use it again (TASKER_CLUSTER=bench test/lib/cluster.sh psql)
  --output DIR     where report.md, chart.svg and results.json go; .work/benchmark
  --publish        puts the report into docs/performance.md as well, as its last run

It starts a throwaway cluster, runs every row of every group of plan.py in turn,
round after round, and writes the report. README.md says how each number is got.
"""
import argparse
import json
import os
import sys
import time
import traceback

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import peers  # noqa: E402
import plan  # noqa: E402
import report  # noqa: E402
from cluster import CHECKOUT, SETTINGS, Cluster  # noqa: E402
from floor import Floor  # noqa: E402
from tasker import Tasker  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument('--full', action='store_true')
    parser.add_argument('--only', nargs='+', default=[])
    parser.add_argument('--rounds', type=int)
    parser.add_argument('--budget', type=float)
    parser.add_argument('--no-peers', action='store_true')
    parser.add_argument('--keep', action='store_true')
    parser.add_argument('--publish', action='store_true')
    parser.add_argument('--output', default=os.path.join(CHECKOUT, '.work', 'benchmark'))
    return parser.parse_args()


def facts(cluster, began):
    def show(sql):
        return str(cluster.admin.execute(sql).fetchone()[0])

    def first(path, start):
        with open(path) as file:
            return next((line.split(':', 1)[1].strip() for line in file if line.startswith(start)), '?')
    return {
        'date': time.strftime('%Y-%m-%d'),
        'server': 'PostgreSQL ' + show('SHOW server_version'),
        'machine': '%d processors, %s, %.0f GB; load when it began %.1f' % (
            os.cpu_count(), first('/proc/cpuinfo', 'model name'),
            int(first('/proc/meminfo', 'MemTotal').split()[0]) / 1e6, began),
        'settings': ', '.join('%s = %s' % item for item in SETTINGS.items()),
    }


def run_rounds(groups, rounds, end):
    samples, errors = {g.key: {name: [] for name, _ in g.rows} for g in groups}, []
    took = 0
    for number in range(rounds):
        round_began = time.time()
        if round_began + took > end:
            break
        for group in groups:
            if number >= (group.rounds or rounds):
                continue
            # Each round begins with another row, so that none always follows the same one.
            turn = number % len(group.rows)
            for name, function in group.rows[turn:] + group.rows[:turn]:
                began = time.time()
                try:
                    sample = function()
                    samples[group.key][name].append(sample)
                    shown = report.number(sample.get(group.columns[0]))
                except Exception as error:      # the others are worth having
                    samples[group.key][name].append({})
                    errors.append(('%s, %s' % (group.key, name), ' '.join(str(error).split())[:300]))
                    shown = 'FAILED: %s' % error
                    traceback.print_exc()
                print('round %d  %-22s %-44s %12s   (%.1f s)' % (number + 1, group.key, name, shown, time.time() - began),
                      flush=True)
        took = time.time() - round_began
    return samples, errors


def main():
    args = arguments()
    began, load = time.time(), os.getloadavg()[0]
    size = plan.FULL if args.full else plan.QUICK
    cluster = Cluster(args.keep).start()
    try:
        tasker, floor = Tasker(cluster), Floor(cluster)
        found, absent = ([], []) if args.no_peers else peers.find(cluster, tasker)
        groups = [g for g in plan.groups(cluster, tasker, floor, found, size)
                  if (any(word in g.key for word in args.only) if args.only else args.full or not g.long)]
        samples, errors = run_rounds(groups, args.rounds or size.rounds,
                                     began + args.budget if args.budget else float('inf'))
        results = report.Results(groups, samples)
        text = report.write(args.output, results, facts(cluster, load), absent, errors)
        with open(os.path.join(args.output, 'results.json'), 'w') as file:
            json.dump(samples, file, indent=1, default=float)
        if args.publish:
            report.publish(args.output, os.path.join(CHECKOUT, 'docs'))
    finally:
        cluster.stop()
    print('\n' + text)
    print('%.0f s; the report is in %s' % (time.time() - began, args.output))
    return 1 if errors else 0


sys.exit(main())
