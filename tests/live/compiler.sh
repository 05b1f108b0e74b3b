#!/usr/bin/env bash
# A really large program: clang compiles C++ while thousands of regions of it and of libLLVM are copied (tables, unwind rows and pauses
# of other sizes than small programs have), with and without counting, and anew as it goes from parsing to generating code.
. "$(dirname "$0")/../support/live.sh"
command -v clang-14 >/dev/null || { echo "skipped: clang-14 is not installed"; exit 77; }

awk -v n=11 'BEGIN {
	print "#include <algorithm>\n#include <functional>\n#include <map>\n#include <string>\n#include <vector>"
	for (i = 0; i < n; i++) {
		printf "namespace n%d { struct s { int a; double b; std::string c; bool operator<(const s &o) const { return a != o.a ? a < o.a : c < o.c; } };\n", i
		printf "int f(std::vector<s> v) { std::sort(v.begin(), v.end(), [](const s &x, const s &y) { return x.b * %d < y.b; }); std::map<s, std::vector<int>> m; for (auto &x : v) m[x].push_back(x.a %% %d); int sum = 0; for (auto &p : m) switch (p.first.a %% 9) { case 0: sum += p.second[0]; break; case 1: sum ^= %d; break; case 2: sum -= p.second.size(); break; case 4: sum *= 3; break; case 5: try { sum += std::stoi(p.first.c); } catch (...) { sum++; } break; case 7: sum /= 7; } std::function<int(int)> g = [&](int k) { return k ? g(k - 1) + sum : %d; }; return g(sum & 15); } }\n", i + 3, i + 2, i * 77, i
	}
}' >big.cc
clang-14 -E -std=c++17 big.cc -o big.ii || exit 1
compile=(clang-14 -cc1 -triple x86_64-pc-linux-gnu -S -O1 -w -fcxx-exceptions -fexceptions -std=c++17 -x c++-cpp-output big.ii -o -)
expected "${compile[@]}"
[ $want_status = 0 ] || fail "clang: $(cat want.err)"
for words in "--counters=auto --sample-ms 500" "--counters=off --sample-ms 1000"; do
	live "$words" "${compile[@]}"
	[ "$(number regions)" -gt 700 ] || fail "$words: only $(number regions) regions: $(grep -A9 optimized report.json)"
done
done_testing
