#!/bin/sh
# build.sh FROM TO PART...: prints the script that updates FROM to TO. Called by
# the Makefile in the checkout.
#
# It goes straight from FROM to TO: first the changes of tables of each version in
# between, one after the other (tasker--A--B.sql here, written by hand), then
# today's functions, views and comments from the parts of the install script.
set -eu
dir=sql/upgrade
from=$1 to=$2
shift 2

printf '%s\n' '\echo Use "ALTER EXTENSION tasker UPDATE" to load this file. \quit'
sed "s/EXTVERSION/$to/" $dir/head.sql
version=$from
while [ "$version" != "$to" ]; do
	next=$(cd $dir && ls "tasker--$version--"*.sql) && [ "$(echo "$next" | wc -l)" = 1 ] || {
		echo "$dir must have one script tasker--$version--….sql" >&2
		exit 1
	}
	cat "$dir/$next"
	version=${next#"tasker--$version--"} version=${version%.sql}
done
awk -f $dir/recreate.awk "$@"
cat $dir/tail.sql
