#!/bin/bash
# bench.sh [options of run.py]: installs what the benchmark needs, and runs it.
#
# Debian's Python with psycopg drives; PgQ is a package of Debian, npm brings the
# other peers (peers.py). Without them it runs tasker and the floor alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
packages=test/lib/packages.sh

$packages demo
$packages client "/usr/bin/python3 -c 'import psycopg'" python3-psycopg
major=$(basename "$(dirname "$(dirname "$(ls -d /usr/lib/postgresql/*/bin/postgres | sort -t/ -k5,5nr | head -1)")")")
$packages client "ls /usr/share/postgresql/$major/extension/pgq.control" "postgresql-$major-pgq3" ||
	echo "bench: no PgQ here" >&2
$packages client "node --version && npm --version" "nodejs npm" || echo "bench: no npm here" >&2
exec bench/run.py "$@"
