/* Calls through pointers that are nearly always the same, of e2e/promote.sh and live/promote.sh. */
#include <execinfo.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define PLAIN __attribute__((noinline))
struct ops {
	int (*get)(int), (*put)(int, int);
	void (*leave)(int);
};
static jmp_buf out;
static int depth_of[8], n_frames;
PLAIN static int depth(void)
{
	void *f[64];
	return backtrace(f, 64);
}
PLAIN static int get0(int x)
{
	if (x == 77)
		depth_of[n_frames++ & 7] = depth();
	return x * 3;
}
PLAIN static int get1(int x)
{
	if (x == 63)
		depth_of[n_frames++ & 7] = depth();
	return x - 1;
}
PLAIN static int put0(int x, int y)
{
	return x ^ y;
}
PLAIN static int put1(int x, int y)
{
	return x + y;
}
PLAIN static void leave0(int x)
{
	if (x % 50 == 0)
		longjmp(out, x + 1);
}
PLAIN static void leave1(int x)
{
	if (x % 49 == 0)
		longjmp(out, x + 2);
}
static struct ops ops[2] = {{get0, put0, leave0}, {get1, put1, leave1}};
PLAIN static int use(struct ops *o, int x)
{
	int r = o->get(x);
	r = o->put(r, x);
	o->leave(x);
	return r + 1;
}
PLAIN static unsigned hash(unsigned (*step)(unsigned, int), const char *s)
{
	unsigned h = 7;
	while (*s)
		h = step(h, *s++);
	return h;
}
PLAIN static unsigned step0(unsigned h, int c)
{
	return h * 31 + c;
}
PLAIN static unsigned step1(unsigned h, int c)
{
	return (h << 5) ^ c;
}
PLAIN static int up(const void *a, const void *b)
{
	int x = *(int *)a, y = *(int *)b;
	return (x > y) - (x < y);
}
PLAIN static void sort(int *v, int n, int (*less)(const void *, const void *))
{
	for (int i = 1; i < n; i++)
		for (int k = i; k && less(&v[k], &v[k - 1]) < 0; k--) {
			int t = v[k];
			v[k] = v[k - 1];
			v[k - 1] = t;
		}
}
int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 1;
	volatile long sum = 0;
	for (volatile int r = 0; r < rounds; r++)
		for (volatile int i = 1; i < 200; i++) {
			int x = setjmp(out);
			sum += x ? x : use(&ops[i % 40 == 23], i);
			sum += hash(i % 30 ? step0 : step1, "some words to hash");
		}
	int v[40];
	for (int i = 0; i < 40; i++)
		v[i] = i * 7919 % 101;
	sort(v, 40, up);
	for (int i = 0; i < 40; i++)
		sum = sum * 3 + v[i];
	printf("%ld %d %d\n", sum, depth_of[0], depth_of[1]);
	return 5;
}
