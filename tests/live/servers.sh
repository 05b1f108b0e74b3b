#!/usr/bin/env bash
# Servers that are not ours, under load: attach, detach, attach again. Every request is answered, and right; and what
# connects, or is forked, later is too.
#   OPTVM_SERVERS="redis nginx memcached postgres"   which; those that are there (redis-server, nginx-light, memcached, postgresql)
#   OPTVM_MEASURE=1   how much faster: windows of optimized and original code by turns in the same process (--metric)
. "$(dirname "$0")/../support/live.sh"
mkdir run
export XDG_RUNTIME_DIR=$dir/run
PATH=$PATH:/usr/sbin
chmod 711 "$dir"
gcc -O2 "$OPTVM_SOURCE/tests/support/load.c" -o load || exit 1
servers=() n_tried=0
trap 'kill "${servers[@]}" 2>/dev/null; wait 2>/dev/null; rm -rf "$dir"' EXIT
state() { "$tool" status --json "$1" 2>/dev/null | sed -n 's/.*"state": "\([^"]*\)".*/\1/p'; }
wait_for() { for _ in $(seq 500); do "$@" && return; sleep 0.02; done; fail "waited for $*"; }
count() { od -An -tu8 -N8 "$1.count"; }
goes_on() { # NAME: answers still come
	local was
	was=$(count "$1")
	moved() { [ "$(count "$1")" -gt "$((was + 50))" ]; }
	wait_for moved "$1"
}
attached() { # NAME PID WORDS...
	local name=$1 pid=$2
	shift 2
	for try in 1 2 3; do
		"$tool" attach --report report.json "$@" "$pid" 2>e && break
		grep -q '"undone": true' report.json && break
		{ [ $try != 3 ] && grep -q "did not stop within\|no thread ran\|could not map" e; } || { fail "$name: attach $*: $(cat e)"; return 1; }
	done
	goes_on "$name"
}
# exercise NAME SOCKET N PID: load it is; PID is attached to
exercise() {
	local name=$1 socket=$2 n=$3 pid=$4 load late
	n_tried=$((n_tried + 1))
	: >"$name.count"
	./load "$socket" "$n" "$name.request" "$name.count" >"$name.out" 2>&1 & load=$!
	counted() { [ -s "$name.count" ]; }
	wait_for counted
	goes_on "$name"
	if [ -n "${OPTVM_MEASURE:-}" ]; then
		attached "$name" "$pid" -v --metric "od -An -tu8 -N8 $dir/$name.count" --sample-ms 1500 && grep "measured\|times as long\|regions" e | sed "s/^/$name: /"
		sed -n '/"measured"/,/}/p' report.json | tr -d '\n '; echo
		"$tool" detach "$pid" || fail "$name: detach after measuring"
	fi
	for round in 1 2; do
		attached "$name" "$pid" --always --sample-ms 200 || break
		[ "$(state "$pid")" = optimized ] || fail "$name: round $round: $(state "$pid")"
		./load "$socket" 1 "$name.request" late.count >late.out 2>&1 & late=$!
		sleep 0.5
		kill $late
		wait $late || fail "$name: who connects later: $(cat late.out)"
		"$tool" detach --revert "$pid" || fail "$name: detach"
		goes_on "$name"
	done
	echo "$name: regions $(number regions), counted $(number regions_counted), others $(number others_optimized), pause $(number pause_ms) ms, $(count "$name") answers"
	kill $load
	wait $load || fail "$name: $(cat "$name.out")"
}
serve() { "$@" >server.log 2>&1 & servers+=($!); }
wants() { case " ${OPTVM_SERVERS:-redis nginx memcached postgres} " in *" $1 "*) command -v "$2" >/dev/null ;; *) return 1 ;; esac; }

if wants redis redis-server; then
	serve redis-server --port 0 --unixsocket "$dir/redis.socket" --save '' --appendonly no --dir "$dir"
	{ for k in $(seq 200); do printf 'SET key%d value%d\r\nRPUSH list item%d\r\nHSET hash f%d v%d\r\nZADD zset %d m%d\r\n' "$k" "$k" "$k" "$k" "$k" "$k" "$k"; done; } >fill
	printf 'GET key7\r\nLRANGE list 0 50\r\nHGET hash f9\r\nZRANGEBYSCORE zset 10 40\r\nMGET key1 key2 key3 key4\r\nINCRBYFLOAT none 0\r\n' >redis.request
	./load "$dir/redis.socket" 1 fill fill.count >/dev/null & filler=$!
	wait_for test -s fill.count
	kill $filler
	wait $filler
	exercise redis "$dir/redis.socket" 4 "${servers[-1]}"
fi
if wants memcached memcached; then
	serve memcached -u "$(id -un)" -s "$dir/memcached.socket" -t 2
	printf 'set a 0 0 5\r\nhello\r\nset b 0 0 4\r\nbyes\r\n' >fill
	printf 'get a b c\r\ngets b a\r\nget a\r\nget b\r\nversion\r\n' >memcached.request
	./load "$dir/memcached.socket" 1 fill fill.count >/dev/null & filler=$!
	wait_for test -s fill.count
	kill $filler
	wait $filler
	exercise memcached "$dir/memcached.socket" 4 "${servers[-1]}"
fi
if wants nginx nginx; then
	mkdir html
	seq 1 400 >html/index.html
	cat >nginx.conf <<-EOC
		daemon off; worker_processes 2; error_log $dir/nginx.log; pid $dir/nginx.pid;
		events { worker_connections 64; }
		http { access_log off; keepalive_requests 1000000000; root $dir/html;
			client_body_temp_path $dir/t1; proxy_temp_path $dir/t2; fastcgi_temp_path $dir/t3; uwsgi_temp_path $dir/t4; scgi_temp_path $dir/t5;
			server { listen unix:$dir/nginx.socket; } }
	EOC
	[ "$(id -u)" != 0 ] || sed -i '1s/^/user root; /' nginx.conf
	printf 'GET /index.html HTTP/1.1\r\nHost: localhost\r\nUser-Agent: load\r\nAccept: */*\r\nAccept-Encoding: identity\r\n\r\n' >nginx.request
	serve nginx -p "$dir" -c "$dir/nginx.conf"
	exercise nginx "$dir/nginx.socket" 4 "${servers[-1]}"
fi
# A postmaster that only forks: its backends are optimized, it is too, and those that it forks later have it from the start.
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -1)
postgres() {
	local user=() master bench new one own i
	if [ "$(id -u)" = 0 ]; then
		id postgres >/dev/null 2>&1 || return
		user=(runuser -u postgres --)
	fi
	mkdir db
	[ "$(id -u)" != 0 ] || chown postgres db
	pg() { "${user[@]}" env PGHOST="$dir/db" "$@"; }
	pg "$bin/initdb" -D "$dir/db/data" -A trust -N >initdb.log 2>&1 || return
	trap 'pg "$bin/pg_ctl" -D "$dir/db/data" -m immediate stop >/dev/null 2>&1; kill "${servers[@]}" 2>/dev/null; rm -rf "$dir"' EXIT
	pg "$bin/pg_ctl" -D "$dir/db/data" -w -o "-k $dir/db -h '' -c fsync=off" -l "$dir/db/log" start >ctl.log 2>&1 || return
	pg "$bin/pgbench" -i -s 5 -q postgres >init.log 2>&1 || { fail "pgbench: $(cat init.log)"; return; }
	n_tried=$((n_tried + 1))
	master=$(head -1 "$dir/db/data/postmaster.pid")
	setsid "${user[@]}" env PGHOST="$dir/db" "$bin/pgbench" -S -M prepared -c 2 -j 2 -T 1000 -P 1 --log --log-prefix="$dir/db/bench" postgres >bench.log 2>&1 & bench=$!
	written() { cat "$dir"/db/bench.* | wc -c; }
	count() { written; }
	counted() { [ "$(written 2>/dev/null)" -gt 10000 ]; }
	wait_for counted
	backends() { pg "$bin/psql" -Atc "select pid from pg_stat_activity where application_name = 'pgbench'" postgres; }
	if [ -n "${OPTVM_MEASURE:-}" ]; then
		one=$(backends | head -1)
		kill -STOP "$one" # whose log is whose?
		sleep 0.2
		for i in "$dir"/db/bench.*; do stat -c %s "$i" >"$i.size"; done
		sleep 0.4
		for i in "$dir"/db/bench.*[0-9]; do [ "$(stat -c %s "$i")" != "$(cat "$i.size")" ] || own=$i; done
		kill -CONT "$one"
		rm "$dir"/db/*.size
		attached postgres "$one" -v --metric "stat -c %s $own" --sample-ms 1500 && grep "measured\|times as long\|regions" e | sed "s/^/postgres: /"
		sed -n '/"measured"/,/}/p' report.json | tr -d '\n '; echo
		for i in $(backends); do "$tool" detach "$i" || [ $? = 1 ] || fail "postgres: detach after measuring"; done
	fi
	for i in 1 2; do
		attached postgres "$master" --always --sample-ms 300 || return
		for i in $master $(backends); do [ "$(state "$i")" = optimized ] || fail "postgres: process $i: $(state "$i") $(grep "process $i" e)"; done
		new=$(pg "$bin/psql" -Atc "select pg_backend_pid(), pg_sleep(0)" -c "select pg_read_file('/proc/self/maps')" postgres | grep -c "r-xp 00000000 00:00 0 *$")
		[ "$new" -gt 0 ] || fail "postgres: a new backend has no copies"
		pg "$bin/pgbench" -S -M prepared -c 2 -t 200 postgres >late.log 2>&1 || fail "postgres: who connects later: $(cat late.log)"
		for i in $master $(backends); do "$tool" detach "$i" || fail "postgres: detach $i"; done
		goes_on postgres
	done
	echo "postgres: regions $(number regions), counted $(number regions_counted), others $(number others_optimized), pause $(number pause_ms) ms, $(cat "$dir"/db/bench.* | wc -l) transactions"
	kill -0 -- -$bench || fail "pgbench ended by itself: $(cat bench.log)"
	kill -TERM -- -$bench
	wait $bench
	grep -q "ERROR\|FATAL\|aborted" bench.log && fail "postgres: $(cat bench.log)"
	grep '^progress' bench.log | grep -vq ', 0 failed$' && fail "postgres: failed transactions: $(cat bench.log)"
	grep "PANIC\|terminated by signal" db/log && fail "postgres: $(cat db/log)"
	return 0
}
if [ -n "$bin" ] && [ -x "$bin/pgbench" ] && wants postgres bash; then postgres; fi
[ $n_tried -gt 0 ] || { echo "skipped: neither redis-server nor memcached nor nginx"; exit 77; }
done_testing
