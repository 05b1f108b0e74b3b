#!/usr/bin/env bash
# attach to a backend of a database server under load, and detach again: no query fails, none is slower than a pause, and the
# queries go on all the time.
. "$(dirname "$0")/../support/live.sh"
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -1)
[ -n "$bin" ] && [ -x "$bin/pgbench" ] || { echo "skipped: no postgresql with pgbench"; exit 77; }
mkdir run db
export XDG_RUNTIME_DIR=$dir/run
user=()
if [ "$(id -u)" = 0 ]; then
	id postgres >/dev/null 2>&1 || { echo "skipped: no user postgres"; exit 77; }
	user=(runuser -u postgres --)
	chmod 711 "$dir"
	chown postgres db
fi
pg() { "${user[@]}" env PGHOST="$dir/db" "$@"; }
pg "$bin/initdb" -D "$dir/db/data" -A trust -N >initdb.log 2>&1 || { cat initdb.log; exit 77; }
pg "$bin/pg_ctl" -D "$dir/db/data" -w -o "-k $dir/db -h '' -c fsync=off" -l "$dir/db/log" start >ctl.log 2>&1 || { cat ctl.log; exit 77; }
trap 'pg "$bin/pg_ctl" -D "$dir/db/data" -m immediate stop >/dev/null 2>&1; rm -rf "$dir"' EXIT
pg "$bin/pgbench" -i -s 5 -q postgres >init.log 2>&1 || { cat init.log; exit 1; }

# as long as it takes: in the background, its end is told to the whole of its process group
setsid "${user[@]}" env PGHOST="$dir/db" "$bin/pgbench" -S -M prepared -c 2 -T 1000 -P 1 postgres >bench.log 2>&1 & bench=$!
sleep 2
backend=$(pg "$bin/psql" -Atc "select pid from pg_stat_activity where application_name = 'pgbench' limit 1" postgres)
[ -n "$backend" ] || fail "no backend"
for i in 1 2 3; do
	always=--always
	[ $i = 1 ] && always=-v # measured, which may show that it does not pay here
	"$tool" attach $always --report report.json "$backend" 2>e || { [ $i = 1 ] && grep -q '"undone": true' report.json; } || fail "attach $i: $(cat e)"
	[ $i = 1 ] && grep 'measured\|undone' e
	grep -q '"undone": true' report.json && continue
	echo "regions $(number regions), counted $(number regions_counted), patches $(number patches), pause $(number pause_ms) ms, after $(number patched_after_s) s"
	"$tool" status "$backend" | grep -q 'state *optimized' || fail "status: $("$tool" status)"
	sleep 2
	[ $i = 3 ] || "$tool" detach "$backend" || fail "detach $i"
done
kill -0 -- -$bench || fail "pgbench ended by itself: $(cat bench.log)"
kill -TERM -- -$bench
wait $bench
[ "$(grep -c '^progress: .*, 0 failed$' bench.log)" -gt 5 ] || fail "no progress: $(cat bench.log)"
grep '^progress' bench.log | grep -vq ', 0 failed$' && fail "failed transactions: $(cat bench.log)"
grep -q "ERROR\|FATAL\|aborted" bench.log && fail "errors: $(cat bench.log)"
grep "progress" bench.log | grep -q " 0.0 tps" && fail "no queries for a second: $(cat bench.log)"
grep progress bench.log | awk '{ print $4 }' | tr '\n' ' '
grep "PANIC\|terminated by signal" db/log && fail "the server: $(cat db/log)"
done_testing
