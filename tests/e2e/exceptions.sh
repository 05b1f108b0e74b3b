#!/usr/bin/env bash
# C++ exceptions, backtraces and forced unwinding through copied frames of a new ELF: same output as the original.
set -u
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat >"$dir/e.cc" <<'EOF'
#include <cstdio>
#include <execinfo.h>
#include <pthread.h>
#include <stdexcept>
#include <string>
#include <vector>
struct Guard { const char *n; explicit Guard(const char *n) : n(n) {} ~Guard() { std::printf("~%s\n", n); } };
struct Base { virtual ~Base() {} };
struct Derived : Base { int v; explicit Derived(int v) : v(v) {} };
__attribute__((noinline)) int leaf(int i)
{
	switch (i % 9) {
	case 0: return i;
	case 1: throw i;
	case 2: throw std::runtime_error("r" + std::to_string(i));
	case 3: throw Derived(i);
	case 4: throw std::string("s");
	case 5: return -i;
	case 6: throw 1.5;
	case 7: throw std::vector<int>(i);
	default: return i * 3;
	}
}
__attribute__((noinline)) int middle(int i)
{
	Guard g("middle");
	try {
		Guard h("inner");
		return leaf(i) + 1;
	} catch (int x) {
		std::printf("int %d\n", x);
		if (x > 30) throw;
		return x;
	} catch (const std::exception &e) {
		std::printf("exception %s\n", e.what());
		throw;
	}
}
__attribute__((noinline)) int outer(int i)
{
	try {
		return middle(i);
	} catch (Derived &d) {
		std::printf("derived %d\n", d.v);
		return d.v;
	} catch (const std::runtime_error &) {
		std::puts("runtime_error again");
		return 1;
	} catch (int x) {
		std::printf("rethrown %d\n", x);
		return 2;
	} catch (...) {
		std::puts("other");
		return 3;
	}
}
static void *worker(void *)
{
	Guard g("cancelled");
	for (;;)
		pthread_testcancel();
}
__attribute__((noinline)) static int depth()
{
	void *f[64];
	return backtrace(f, 64);
}
__attribute__((noinline)) int deep(int n) { int r = n ? deep(n - 1) : depth(); asm volatile("" ::: "memory"); return r; }
int main()
{
	long sum = 0;
	for (int i = 0; i < 64; i++)
		sum += outer(i);
	std::printf("%ld\n", sum);
	std::printf("backtrace grows by %d\n", deep(20) - deep(10));
	pthread_t t;
	pthread_create(&t, nullptr, worker, nullptr);
	pthread_cancel(t);
	void *r;
	pthread_join(t, &r);
	std::printf("%d\n", r == PTHREAD_CANCELED);
	try { [] { throw Derived(7); }(); } catch (const Base &) { std::puts("base"); }
	try { try { throw 1; } catch (int) { throw std::string("nested"); } } catch (const std::string &s) { std::puts(s.c_str()); }
}
EOF
bad=0
for cxx in g++ clang++-14; do
	command -v $cxx >/dev/null || { echo "without $cxx: not installed"; continue; }
	for opt in -O0 -O2 -Os; do for link in "-fPIE -pie" "-fno-pie -no-pie" "-static" "-static-pie -fPIE"; do
		# shellcheck disable=SC2086
		$cxx $opt $link -w -pthread "$dir/e.cc" -o "$dir/e" 2>/dev/null || continue
		for strip in no yes; do
			[ $strip = yes ] && strip "$dir/e"
			"$dir/e" >"$dir/want" 2>&1
			status=$?
			"$OPTVM" rewrite -q "$dir/e" --uniform -f -o "$dir/f" || { echo "FAIL rewrite $cxx $opt $link"; bad=1; continue; }
			"$dir/f" >"$dir/got" 2>&1
			if [ $? != $status ] || ! cmp -s "$dir/want" "$dir/got"; then
				echo "FAIL $cxx $opt $link stripped=$strip"
				diff "$dir/want" "$dir/got" | head -5
				bad=1
			fi
		done
	done; done
done
exit $bad
