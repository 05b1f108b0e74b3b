/* Programs to harm: each computes the same thing over and over in its own way and at the end says
 * whether it was always the same. They run until a file "stop" is there, at most 40 s.
 *
 *   targets single|threads|signals|forks|prefork|phases|throw   prints and leaves in "result": ok
 * MODE targets server                                 answers on the socket "socket" targets client
 * asks it, checks, and prints "ok client"
 */
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <poll.h>
#include <stdexcept>
#include <string>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <thread>
#include <time.h>
#include <unistd.h>
#include <vector>

enum { STEPS = 20000, STATUS = 3, MAX_S = 40, N_THREADS = 4 };

static std::atomic<long> n_wrong;

static bool is_over()
{
	static const time_t begin = time(nullptr);
	return access("stop", F_OK) == 0 || time(nullptr) > begin + MAX_S;
}

__attribute__((noipa)) static unsigned mix(unsigned x, unsigned k)
{
	switch ((x >> 3) % 7) {
	case 0:
		return x * 3 + k;
	case 1:
		return x ^ 0x5a5a;
	case 2:
		return x / 3 + 1;
	case 3:
		return x * 1103515245u + 12345;
	case 4:
		return x + k * 7;
	case 5:
		return x << 5 | x >> 27;
	default:
		return ~x;
	}
}

__attribute__((noipa)) static unsigned run(unsigned seed)
{
	unsigned x = seed, sum = 0;
	for (unsigned i = 0; i < STEPS; i++)
		sum += x = mix(x, i);
	return sum;
}

__attribute__((noipa)) static unsigned risky(unsigned x)
{
	if (x % 509 == 0)
		throw std::runtime_error("odd");
	return mix(x, 3);
}

__attribute__((noipa)) static unsigned run_throwing(unsigned seed)
{
	unsigned x = seed, sum = 0;
	for (unsigned i = 0; i < STEPS; i++)
		try {
			sum += x = risky(x + i);
		} catch (const std::exception &e) {
			x += (unsigned)e.what()[0] + i;
		}
	return sum;
}

static void repeat(unsigned (*work)(unsigned), unsigned seed)
{
	const unsigned want = work(seed);
	while (!is_over())
		for (int i = 0; i < 8; i++)
			n_wrong += work(seed) != want;
}

static void in_threads(int n, unsigned (*work)(unsigned))
{
	std::vector<std::thread> threads;
	for (int i = 0; i < n; i++)
		threads.emplace_back(repeat, work, 5u + (unsigned)i);
	for (auto &thread : threads)
		thread.join();
}

/* Handlers compute too, and come thousands of times a second. */
static unsigned want_in_handler;
static std::atomic<long> n_signals;
static void on_signal(int)
{
	unsigned x = 77;
	for (unsigned i = 0; i < 50; i++)
		x = mix(x, i);
	n_wrong += x != want_in_handler;
	n_signals++;
}

static void signals()
{
	unsigned x = 77;
	for (unsigned i = 0; i < 50; i++)
		x = mix(x, i);
	want_in_handler = x;
	struct sigaction act = {};
	act.sa_handler = on_signal;
	act.sa_flags = SA_RESTART;
	sigaction(SIGALRM, &act, nullptr);
	sigaction(SIGUSR1, &act, nullptr);
	itimerval it = {{0, 500}, {0, 500}};
	setitimer(ITIMER_REAL, &it, nullptr);
	const unsigned want = run(9);
	while (!is_over()) {
		n_wrong += run(9) != want;
		long before = n_signals;
		raise(SIGUSR1); /* delivered before it returns, exactly once */
		n_wrong += n_signals <= before;
	}
}

static void forks()
{
	const unsigned want = run(11);
	while (!is_over()) {
		pid_t pid = fork();
		if (pid == 0) {
			long bad = 0;
			for (int i = 0; i < 60; i++)
				bad += run(11) != want;
			_exit(bad ? 1 : 42);
		}
		int status = 0;
		for (int i = 0; i < 60; i++)
			n_wrong += run(11) != want;
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
		n_wrong += pid < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 42;
	}
}

/* Something else after a while, so that another round is due. */
static void phases()
{
	const unsigned want = run(5);
	while (!is_over() && clock() < CLOCKS_PER_SEC)
		n_wrong += run(5) != want;
	repeat(run_throwing, 6);
}

/* Workers are there before anybody comes; the parent waits for them. */
static void prefork()
{
	pid_t workers[2];
	const unsigned want = run(13);
	for (pid_t &worker : workers) {
		worker = fork();
		if (worker == 0) {
			repeat(run, 13);
			_exit(n_wrong ? 1 : 42);
		}
	}
	while (!is_over()) {
		n_wrong += run(13) != want;
		usleep(1000);
	}
	for (pid_t worker : workers) {
		int status = 0;
		while (waitpid(worker, &status, 0) < 0 && errno == EINTR)
			;
		n_wrong += worker < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 42;
	}
}

/* --- a server and its client: requests are seeds, answers are sums --- */

static sockaddr_un address()
{
	sockaddr_un at = {};
	at.sun_family = AF_UNIX;
	strcpy(at.sun_path, "socket");
	return at;
}

static void serve(int fd)
{
	unsigned seed, sum;
	while (read(fd, &seed, sizeof(seed)) == sizeof(seed)) {
		sum = run(seed);
		if (write(fd, &sum, sizeof(sum)) != sizeof(sum))
			break;
	}
	close(fd);
}

static void server()
{
	sockaddr_un at = address();
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (bind(fd, (sockaddr *)&at, sizeof(at)) || listen(fd, 8))
		exit(9);
	std::vector<std::thread> threads;
	while (!is_over()) {
		pollfd watch = {fd, POLLIN, 0};
		if (poll(&watch, 1, 20) > 0)
			threads.emplace_back(serve, accept(fd, nullptr, nullptr));
	}
	for (auto &thread : threads)
		thread.join();
}

static void client()
{
	sockaddr_un at = address();
	long n = 0;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	while (connect(fd, (sockaddr *)&at, sizeof(at)) && !is_over())
		usleep(2000);
	while (!is_over()) {
		unsigned seed = (unsigned)(n % 16), sum = 0;
		static unsigned want[16];
		if (n < 16)
			want[n] = run(seed);
		if (write(fd, &seed, sizeof(seed)) != sizeof(seed) ||
		    read(fd, &sum, sizeof(sum)) != sizeof(sum) || sum != want[seed]) {
			n_wrong++;
			break;
		}
		n++;
	}
	n_wrong += n < 16;
	close(fd);
}

int main(int argc, char **argv)
{
	std::string mode = argc > 1 ? argv[1] : "";
	if (mode == "client") {
		client();
		puts(n_wrong ? "wrong client" : "ok client");
		return n_wrong ? 1 : 0;
	}
	FILE *pid = fopen("pid.tmp", "w");
	fprintf(pid, "%d\n", getpid());
	fclose(pid);
	rename("pid.tmp", "pid");
	if (mode == "single")
		repeat(run, 5);
	else if (mode == "threads")
		in_threads(N_THREADS, run);
	else if (mode == "signals")
		signals();
	else if (mode == "forks")
		forks();
	else if (mode == "phases")
		phases();
	else if (mode == "prefork")
		prefork();
	else if (mode == "throw")
		in_threads(2, run_throwing);
	else if (mode == "server")
		server();
	else
		return 2;
	printf("%s %s\n", n_wrong ? "wrong" : "ok", mode.c_str());
	FILE *out = fopen("result.tmp", "w");
	fprintf(out, "%s %s\n", n_wrong ? "wrong" : "ok", mode.c_str());
	fclose(out);
	fflush(stdout);
	rename("result.tmp", "result");
	return STATUS;
}
