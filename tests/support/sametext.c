/* sametext PID: is all code mapped from files as in the files, but for at most 5 bytes of the C
 * library (the unwinder's hook)? Prints where it is not; status 1 then. */
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	char name[64], line[4096];
	long bad = 0, seen = 0;
	snprintf(name, sizeof name, "/proc/%s/mem", argv[1]);
	int mem = open(name, O_RDONLY);
	snprintf(name, sizeof name, "/proc/%s/maps", argv[1]);
	FILE *maps = fopen(name, "r");
	while (argc == 2 && maps && fgets(line, sizeof line, maps)) {
		unsigned long lo, hi, off;
		char prot[8], path[2048] = "";
		if (sscanf(line, "%lx-%lx %7s %lx %*s %*s %2047s", &lo, &hi, prot, &off, path) <
			4 ||
		    path[0] != '/' || prot[2] != 'x')
			continue;
		int fd = open(path, O_RDONLY);
		Elf64_Ehdr eh;
		Elf64_Phdr ph;
		if (fd < 0 || pread(fd, &eh, sizeof eh, 0) != sizeof eh)
			continue;
		for (int i = 0; i < eh.e_phnum; i++) {
			if (pread(fd, &ph, sizeof ph, eh.e_phoff + i * sizeof ph) != sizeof ph ||
			    ph.p_type != PT_LOAD || !(ph.p_flags & PF_X) || ph.p_offset < off ||
			    ph.p_offset >= off + (hi - lo))
				continue;
			char *a = malloc(ph.p_filesz), *b = malloc(ph.p_filesz);
			if (pread(fd, a, ph.p_filesz, ph.p_offset) != (ssize_t)ph.p_filesz ||
			    pread(mem, b, ph.p_filesz, lo + (ph.p_offset - off)) !=
				(ssize_t)ph.p_filesz) {
				puts("unreadable");
				return 2;
			}
			long differ = 0;
			for (unsigned long k = 0; k < ph.p_filesz; k++)
				differ += a[k] != b[k];
			seen++;
			if (differ && !(strstr(path, "libc.so") && differ <= 5)) {
				printf("%s: %ld bytes\n", path, differ);
				bad++;
			}
			free(a);
			free(b);
		}
		close(fd);
	}
	return !seen || bad > 0;
}
