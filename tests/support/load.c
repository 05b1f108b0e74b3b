/* Load for a server, without a tool of its own: asks the same thing again and again over some
 * connections, and checks what comes back.
 *
 *   load SOCKET N REQUEST COUNT   until SIGTERM; prints how many were answered, status 1: one was
 * not
 *
 * SOCKET: a path, or a port of 127.0.0.1. REQUEST: a file. COUNT: a file whose first 8 bytes are
 * the number of answers so far (`od -An -tu8 -N8 COUNT`), to measure by. The first answer, which is
 * waited for until nothing more comes, tells how long all others are; they must have the same last
 * bytes too (the first ones of HTTP have a date).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 64, MAX_ANSWER = 1 << 20, QUIET_MS = 300, STUCK_MS = 20000, LAST = 32 };

static volatile sig_atomic_t over;
static char request[65536], last[LAST], answer[MAX_CONNECTIONS][MAX_ANSWER];
static size_t request_len, answer_len;

static void on_term(int sig)
{
	(void)sig;
	over = 1;
}

static int dial(const char *where)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(where))};
	int is_path = strchr(where, '/') != NULL;
	int fd = socket(is_path ? AF_UNIX : AF_INET, SOCK_STREAM, 0);
	strncpy(at.sun_path, where, sizeof(at.sun_path) - 1);
	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	for (int i = 0; i < 500; i++) {
		if (connect(fd, is_path ? (struct sockaddr *)&at : (struct sockaddr *)&in,
			    is_path ? sizeof(at) : sizeof(in)) == 0)
			return fd;
		usleep(10000);
	}
	return -1;
}

static int failed(const char *what, int connection, long n)
{
	printf("FAIL %s (%s), connection %d, answer %ld\n", what, strerror(errno), connection, n);
	return 1;
}

static size_t read_file(const char *name, char *to, size_t size)
{
	int fd = open(name, O_RDONLY);
	ssize_t n = fd < 0 ? -1 : read(fd, to, size);
	return n < 0 ? 0 : (size_t)n;
}

/* How long is an answer? */
static int learn(int fd)
{
	struct pollfd one = {.fd = fd, .events = POLLIN};
	if (write(fd, request, request_len) != (ssize_t)request_len)
		return 0;
	for (int ms = STUCK_MS; poll(&one, 1, ms) > 0; ms = QUIET_MS) {
		ssize_t n = read(fd, answer[0] + answer_len, MAX_ANSWER - answer_len);
		if (n <= 0)
			return 0;
		answer_len += (size_t)n;
	}
	memcpy(last, answer[0] + (answer_len > LAST ? answer_len - LAST : 0), LAST);
	return answer_len > 0;
}

int main(int argc, char **argv)
{
	struct pollfd fds[MAX_CONNECTIONS];
	size_t got[MAX_CONNECTIONS] = {0};
	int n = argc == 5 ? atoi(argv[2]) : 0;
	long answers = 0;
	request_len = argc == 5 ? read_file(argv[3], request, sizeof(request)) : 0;
	int count_fd = argc == 5 ? open(argv[4], O_RDWR | O_CREAT, 0600) : -1;
	if (n < 1 || n > MAX_CONNECTIONS || !request_len || count_fd < 0 || ftruncate(count_fd, 8))
		return 2;
	volatile uint64_t *count = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, count_fd, 0);
	signal(SIGTERM, on_term);
	for (int i = 0; i < n; i++) {
		fds[i] = (struct pollfd){.fd = dial(argv[1]), .events = POLLIN};
		if (fds[i].fd < 0 || (i == 0 && !learn(fds[0].fd)) ||
		    write(fds[i].fd, request, request_len) != (ssize_t)request_len)
			return failed("connection", i, 0);
	}
	while (!over) {
		int ready = poll(fds, (nfds_t)n, STUCK_MS);
		if (ready <= 0 && !over && errno != EINTR)
			return failed("no answer", -1, answers);
		for (int i = 0; i < n && ready > 0; i++) {
			if (!fds[i].revents)
				continue;
			ssize_t len = read(fds[i].fd, answer[i] + got[i], answer_len - got[i]);
			if (len <= 0)
				return failed("read", i, answers);
			got[i] += (size_t)len;
			if (got[i] < answer_len)
				continue;
			if (memcmp(answer[i] + (answer_len > LAST ? answer_len - LAST : 0), last,
				   LAST) != 0)
				return failed("another answer", i, answers);
			got[i] = 0;
			*count = (uint64_t)++answers;
			if (write(fds[i].fd, request, request_len) != (ssize_t)request_len)
				return failed("write", i, answers);
		}
	}
	printf("%ld\n", answers);
	return 0;
}
