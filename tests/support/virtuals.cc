/* The same with virtual functions that throw. */
#include <cstdio>
#include <cstdlib>
#include <execinfo.h>
#include <stdexcept>
#include <string>
#define PLAIN __attribute__((noinline))
static int depth_of[2];
PLAIN static int depth() { void *f[64]; return backtrace(f, 64); }
struct Guard { long &n; Guard(long &n) : n(n) {} ~Guard() { n++; } };
struct Base { virtual ~Base() {} virtual long f(int x) = 0; virtual void g(int x) = 0; };
struct A : Base {
	PLAIN long f(int x) override { if (x % 97 == 13) throw x; if (x == 5) depth_of[0] = depth(); return x * 2; }
	PLAIN void g(int x) override { if (x % 89 == 11) throw std::runtime_error("a" + std::to_string(x)); }
};
struct B : Base {
	PLAIN long f(int x) override { if (x % 7 == 3) throw std::string("b"); if (x == 23) depth_of[1] = depth(); return x + 1; }
	PLAIN void g(int x) override { if (x % 5 == 3) throw x; }
};
PLAIN static long middle(Base *b, int x, long &cleanups)
{
	Guard guard(cleanups);
	long r = b->f(x);
	try { b->g(x); r++; }
	catch (const std::exception &e) { r += e.what()[1]; }
	return r;
}
PLAIN static long outer(Base *b, int x, long &cleanups)
{
	try { return middle(b, x, cleanups); }
	catch (int y) { return -y; }
	catch (const std::string &s) { return (long)s.size(); }
}
int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 1;
	long sum = 0, cleanups = 0;
	A a;
	B b;
	for (int r = 0; r < rounds; r++)
		for (int i = 0; i < 500; i++)
			sum = sum * 3 + outer(i % 25 == 23 ? (Base *)&b : &a, i, cleanups);
	std::printf("%ld %ld %d %d\n", sum, cleanups, depth_of[0], depth_of[1]);
}
