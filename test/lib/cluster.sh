#!/bin/bash
# cluster.sh: a private, throwaway PostgreSQL cluster with this checkout's tasker.
#
#   cluster.sh start [--test-build|--release] [--conf k=v]... [--make VAR=VALUE]... [--durable] [--preload LIBRARIES]
#                           install, build, initdb, start; again: rebuild, restart. Prints the env file's name.
#   cluster.sh reinstall    rebuild what changed, install it, restart the server
#   cluster.sh stop | restart
#   cluster.sh psql ...     psql as the caller
#   cluster.sh exec CMD...  any command, as the unprivileged user, in the build directory
#   cluster.sh env          the settings, for eval "$(cluster.sh env)"
#   cluster.sh sync         copy the checkout to the build directory, build nothing
#   cluster.sh log          the name of the server's log
#   cluster.sh destroy      stop the server and remove everything
#
# What it owns: one directory from mktemp -d, which holds a copy of the server's
# programs (pg/), copies of the checkout to build in (build-*/), the data
# directory, the sockets (s/) and the log. <checkout>/.work/$TASKER_CLUSTER
# (by default "cluster") is a symbolic link to it; TASKER_CLUSTER=other gives
# one checkout several clusters. The system's PostgreSQL is only read.
#
# Called by root, everything but the reading of the checkout is done as another
# user (TASKER_USER, else postgres, else nobody): the server refuses to be root.
set -euo pipefail
umask 022

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
NAME=${TASKER_CLUSTER:-cluster}
LINK=$HERE/.work/$NAME

die() { echo "cluster.sh: $*" >&2; exit 1; }

# ---- who does it ------------------------------------------------------------

if [ "$(id -u)" = 0 ]; then
	RUNAS=${TASKER_USER:-$(id -un postgres 2>/dev/null || echo nobody)}
else
	RUNAS=
fi

# as_user CMD...: CMD as the unprivileged user
as_user() {
	if [ -n "$RUNAS" ]; then
		HOME=$W runuser -u "$RUNAS" -- "$@"
	else
		"$@"
	fi
}

# ---- where it is ------------------------------------------------------------

# find_pg_config: $PG_CONFIG if it works, else the newest server that can build
find_pg_config() {
	local c
	if [ -n "${PG_CONFIG:-}" ] && command -v "$PG_CONFIG" >/dev/null; then
		command -v "$PG_CONFIG"
		return
	fi
	for c in $(ls -d /usr/lib/postgresql/*/bin/pg_config 2>/dev/null | sort -t/ -k5,5nr) \
		"$(command -v pg_config || true)"; do
		if [ -x "$c" ] && [ -x "$("$c" --bindir)/postgres" ] && [ -f "$("$c" --pgxs)" ]; then
			echo "$c"
			return
		fi
	done
	die "no PostgreSQL server with its development files found; set PG_CONFIG"
}

# open_dir: sets W to this cluster's directory, or fails
open_dir() {
	[ -d "$LINK/" ] || die "no cluster $NAME here; use: $0 start"
	W=$(readlink "$LINK")
	BIN=$(cat "$W/bindir")
	MODE=$(cat "$W/mode" 2>/dev/null || echo release)
	BUILD=$W/build-$MODE
	cd "$W"
	# Nothing of the caller's may lead a program to another server.
	unset PGSERVICE PGSERVICEFILE PGHOSTADDR PGOPTIONS PGPASSWORD PGPASSFILE PGSSLMODE PGDATABASE
	while read -r line; do export "${line?}"; done < <(env_lines)
}

# env_lines: the environment of everything that talks to the cluster
env_lines() {
	echo "TASKER_DIR=$W"
	echo "TASKER_SRC=$BUILD"
	echo "PG_CONFIG=$BIN/pg_config"
	echo "PGDATA=$W/data"
	echo "PGHOST=$W/s"
	echo "PGPORT=5432"
	echo "PGUSER=postgres"
	echo "PGDATABASE=postgres"
	echo "PGXS_TEST=$(dirname "$("$BIN/pg_config" --pgxs)")/../test"
	echo "PG_REGRESS=$(dirname "$("$BIN/pg_config" --pgxs)")/../test/regress/pg_regress"
	echo "LC_ALL=C.UTF-8"
	case ":$PATH:" in
		*":$BIN:"*) echo "PATH=$PATH" ;;
		*) echo "PATH=$BIN:$PATH" ;;
	esac
}

# make_dir: a new directory with a private copy of the server
make_dir() {
	local pgc bindir pkglib share d prefix
	pgc=$(find_pg_config)
	bindir=$("$pgc" --bindir) pkglib=$("$pgc" --pkglibdir) share=$("$pgc" --sharedir)

	# The programs find their files relative to themselves, so the copy keeps
	# the layout below the directories' common prefix (/usr on Debian).
	prefix=$bindir
	for d in "$pkglib" "$share"; do
		while [[ $d/ != "$prefix"/* ]]; do prefix=${prefix%/*}; done
	done

	mkdir -p "$HERE/.work"
	W=$(mktemp -d /tmp/tk.XXXXXX)
	chmod 755 "$W"
	[ -z "$RUNAS" ] || chown "$RUNAS" "$W"
	[ -z "${SUDO_UID:-}" ] || [ "$(id -u)" != 0 ] || chown "$SUDO_UID" "$HERE/.work"
	ln -sfn "$W" "$LINK"
	as_user mkdir "$W/s" "$W/pg"
	for d in "$bindir" "$pkglib" "$share"; do
		as_user mkdir -p "$W/pg${d#"$prefix"}"
		# The server's bitcode is large and of no use here.
		(cd "$d" && tar -c --exclude=./bitcode --exclude=./man .) |
			as_user tar -x -C "$W/pg${d#"$prefix"}"
	done
	for d in "$("$pgc" --pkgincludedir)" "$("$pgc" --libdir)"; do
		d=$W/pg${d#"$prefix"}
		[ -e "$d" ] && continue
		as_user mkdir -p "${d%/*}"
		as_user ln -s "$prefix${d#"$W/pg"}" "$d"
	done
	BIN=$W/pg${bindir#"$prefix"}
	echo "$BIN" | as_user tee "$W/bindir" >/dev/null
	# Debian's of PostgreSQL 13 says where it was built to be, wherever it is.
	if [ "$("$BIN/pg_config" --bindir)" != "$BIN" ]; then
		as_user mv "$BIN/pg_config" "$BIN/pg_config.built"
		printf '%s\n' '#!/bin/sh' "\"\$0.built\" \"\$@\" | sed 's,^$prefix/,$W/pg/,; s, = $prefix/, = $W/pg/,'" |
			as_user tee "$BIN/pg_config" >/dev/null
		as_user chmod +x "$BIN/pg_config"
	fi
	for d in --bindir --pkglibdir --sharedir --pgxs; do
		[[ $("$BIN/pg_config" "$d") == "$W"/* ]] || die "$pgc does not relocate ($d)"
	done
}

# ---- build ------------------------------------------------------------------

# list_files: the checkout's own files, NUL-terminated: what git would add, or,
# where there is no git, everything that is not a build product
list_files() {
	local files=("$HERE"/.git)
	if [ -e "${files[0]}" ] && command -v git >/dev/null &&
		git -c safe.directory='*' -C "$HERE" ls-files -z -co --exclude-standard 2>/dev/null; then
		return
	fi
	(cd "$HERE" && find . \( -name .git -o -name .work \) -prune -o \
		\( -type f -o -type l \) ! -name '*.o' ! -name '*.so' ! -name '*.bc' \
		! -path './tasker--*.sql' -print0)
}

# sync_source: make the build directory's sources equal to the checkout's. Only
# files that differ are touched, so that make rebuilds what it must.
sync_source() {
	local f list=()
	while IFS= read -r -d '' f; do
		[ -e "$HERE/$f" ] || [ -L "$HERE/$f" ] || continue
		list+=("${f#./}")
	done < <(list_files)
	printf '%s\0' "${list[@]}" | tar -C "$HERE" --null -T - --owner=0 --group=0 -c |
		as_user bash -c '
			set -e
			rm -rf "$1.new"; mkdir -p "$1" "$1.new"
			tar -x -m --no-same-owner -C "$1.new"
			cd "$1.new"
			find . \( -type f -o -type l \) -printf "%P\n" | LC_ALL=C sort > "$1.list.new"
			if [ -f "$1.list" ]; then
				LC_ALL=C comm -23 "$1.list" "$1.list.new" | while IFS= read -r f; do rm -f "$1/$f"; done
			fi
			while IFS= read -r f; do
				if [ -L "$f" ]; then
					[ "$(readlink "$f")" = "$(readlink "$1/$f" || true)" ] && continue
				else
					[ ! -L "$1/$f" ] && [ -x "$f" -o ! -x "$1/$f" ] && [ ! -x "$f" -o -x "$1/$f" ] &&
						cmp -s "$f" "$1/$f" && continue
				fi
				mkdir -p "$(dirname "$1/$f")"
				rm -rf "${1:?}/$f"
				mv "$f" "$1/$f"
			done < "$1.list.new"
			mv "$1.list.new" "$1.list"
			cd /; rm -rf "$1.new"' sync "$BUILD"
}

# build: sync, make, make install into the private server
build() {
	local args
	sync_source
	mapfile -t args < "$W/make-$MODE"
	# Other flags than last time: build everything again.
	if ! cmp -s "$W/make-$MODE" "$BUILD/.make-flags"; then
		as_user make -s -C "$BUILD" PG_CONFIG="$BIN/pg_config" with_llvm=no clean >/dev/null
		as_user cp "$W/make-$MODE" "$BUILD/.make-flags"
	fi
	as_user make -s -j"$(nproc)" -C "$BUILD" PG_CONFIG="$BIN/pg_config" with_llvm=no "${args[@]}" all </dev/null >&2
	as_user make -s -C "$BUILD" PG_CONFIG="$BIN/pg_config" with_llvm=no "${args[@]}" install </dev/null >&2
}

# preload_server LIBRARIES: every server that is started from here on has them
# first; what ends in .c is a source of the checkout, to be made one
preload_server() {
	local postgres=$BIN/postgres library list=
	if [ -x "$postgres.plain" ]; then
		as_user mv "$postgres.plain" "$postgres"
	fi
	[ -n "$1" ] || return 0
	for library in $1; do
		if [ "${library%.c}" != "$library" ]; then
			as_user gcc -shared -fPIC -o "$W/preloaded.so" "$BUILD/$library"
			library=$W/preloaded.so
		fi
		list+="$library "
	done
	as_user mv "$postgres" "$postgres.plain"
	printf '%s\n' '#!/bin/bash' "LD_PRELOAD='$list' exec -a \"\$0\" \"\$0.plain\" \"\$@\"" | as_user tee "$postgres" >/dev/null
	as_user chmod +x "$postgres"
}

# ---- the server -------------------------------------------------------------

init_data() {
	as_user "$BIN/initdb" -D "$W/data" -U postgres -A trust -N \
		--locale=C.UTF-8 -E UTF8 >"$W/initdb.log" 2>&1 </dev/null || { cat "$W/initdb.log" >&2; exit 1; }
	as_user tee -a "$W/data/postgresql.conf" >/dev/null <<-CONF
		listen_addresses = ''
		unix_socket_directories = '$W/s'
		port = 5432
		shared_preload_libraries = 'tasker'
		max_worker_processes = 32
		max_connections = 100
		log_line_prefix = '%m [%p] %b %u@%d '
		include_if_exists = '$W/extra.conf'
	CONF
}

running() { as_user "$BIN/pg_ctl" -D "$W/data" status >/dev/null 2>&1; }

start_server() {
	(
		ulimit -c unlimited 2>/dev/null || true
		as_user "$BIN/pg_ctl" -D "$W/data" -l "$W/server.log" -w -t 60 start >"$W/pg_ctl.log" 2>&1 </dev/null
	) || { cat "$W/pg_ctl.log" >&2; tail -20 "$W/server.log" >&2; die "the server did not start"; }
}

stop_server() {
	if running; then
		as_user "$BIN/pg_ctl" -D "$W/data" -m fast -w -t 60 stop >"$W/pg_ctl.log" 2>&1 ||
			as_user "$BIN/pg_ctl" -D "$W/data" -m immediate -w -t 60 stop >"$W/pg_ctl.log" 2>&1 ||
			{ cat "$W/pg_ctl.log" >&2; die "the server did not stop"; }
	fi
}

# ---- verbs ------------------------------------------------------------------

cmd_start() {
	local mode= conf=() make=() durable=off preload=
	while [ $# -gt 0 ]; do
		case $1 in
			--test-build) mode=test ;;
			--release) mode=release ;;
			--durable) durable=on ;;
			--conf) conf+=("$2"); shift ;;
			--make) make+=("$2"); shift ;;
			--preload) preload=$2; shift ;;
			*) die "start: unknown option $1" ;;
		esac
		shift
	done

	# What an interrupted start left is of no use.
	[ -f "$LINK/bindir" ] || cmd_destroy
	[ -d "$LINK/" ] || make_dir
	W=$(readlink "$LINK")
	[ -z "$mode" ] || echo "$mode" | as_user tee "$W/mode" >/dev/null
	open_dir

	# pg_ctl's and initdb's output is opened by the caller, then used by the user.
	touch "$W/pg_ctl.log" "$W/initdb.log"
	[ -z "$RUNAS" ] || chown "$RUNAS" "$W/pg_ctl.log" "$W/initdb.log"

	[ "$MODE" != test ] || make+=(TASKER_TEST=1)
	printf '%s\n' WERROR=1 "${make[@]}" | as_user tee "$W/make-$MODE" >/dev/null
	build
	preload_server "$preload"
	[ -d "$W/data" ] || init_data
	{
		if [ "$durable" = off ]; then
			printf '%s\n' 'fsync = off' 'synchronous_commit = on' 'full_page_writes = off'
		fi
		# "k=v": quoted here, whatever v is
		local c v
		for c in "${conf[@]}"; do
			v=${c#*=} v=${v#\'} v=${v%\'}
			printf "%s = '%s'\n" "${c%%=*}" "${v//\'/\'\'}"
		done
	} | as_user tee "$W/extra.conf" >/dev/null
	stop_server
	start_server
	env_lines | sed "s/=\(.*\)/='\1'/; s/^/export /" | as_user tee "$W/env" >/dev/null
	echo "$W/env"
}

cmd_destroy() {
	[ -L "$LINK" ] || return 0
	if [ ! -d "$LINK/" ]; then
		rm -f "$LINK"
		return 0
	fi
	W=$(readlink "$LINK")
	case $W in /tmp/tk.??????) ;; *) die "$LINK does not lead to a cluster" ;; esac
	if [ -f "$W/bindir" ]; then
		BIN=$(cat "$W/bindir")
		cd "$W"
		[ ! -d "$W/data" ] || stop_server
	fi
	cd /
	# Should somebody still write to it: show what, and remove that too.
	rm -rf "$W" || { find "$W" -ls >&2; rm -rf "$W"; }
	rm -f "$LINK"
}

main() {
	local verb=${1:-}
	[ $# -eq 0 ] || shift
	case $verb in
		start) cmd_start "$@" ;;
		destroy) cmd_destroy ;;
		reinstall) open_dir; build; stop_server; start_server ;;
		sync) open_dir; sync_source ;;
		restart) open_dir; stop_server; start_server ;;
		stop) open_dir; stop_server ;;
		psql) local dir=$PWD; open_dir; cd "$dir"; exec "$BIN/psql" -X "$@" ;;
		exec) open_dir; cd "$BUILD"; as_user "$@" ;;
		env) open_dir; env_lines | sed "s/=\(.*\)/='\1'/; s/^/export /" ;;
		log) open_dir; echo "$W/server.log" ;;
		*) sed -n '/^#   cluster/,/^#$/s/^# \{0,3\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
	esac
}

main "$@"
