#!/bin/bash
# demo.sh: "make demo". A throwaway cluster (see test/lib/cluster.sh; nothing
# of the system's PostgreSQL is touched) with the extension, in which
# examples/order_fulfilment.sql runs. The cluster stays, to look around in,
# until "make demo-stop"; the next "make demo" begins afresh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
export TASKER_CLUSTER=demo

cluster=test/lib/cluster.sh
$cluster destroy
if [ "${1:-}" = stop ]; then
	echo "The demo's cluster is gone."
	exit
fi

test/lib/packages.sh demo
echo "Building tasker and starting a throwaway cluster ..."
$cluster start --release --durable >/dev/null
$cluster psql -q -c 'CREATE DATABASE demo'
if ! $cluster psql -d demo -f examples/order_fulfilment.sql; then
	echo "The demo failed. The end of the server's log, $($cluster log):" >&2
	tail -n 20 "$($cluster log)" >&2
	exit 1
fi

settings=$($cluster env)
eval "$settings"
cat <<END
Look around:      psql -h $PGHOST -U postgres demo        (or -U shop)
The server's log: $($cluster log)
When done:        make demo-stop
END
