// LD_PRELOADed into redis-server: its wall clock, which is gettimeofday and time, becomes the one that the test sets
// in a shared file. clock_gettime stays real, and with it the monotonic clock.
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

// As clockPage in clock.go. word is µs<<1|1: the clock stands at µs; µs<<1: it runs µs ahead of the real one.
struct page {
	int64_t word, loaded;
};

static struct page real; // until the file is mapped
static struct page *page = &real;

__attribute__((constructor)) static void load(void) {
	const char *file = getenv("REDISTEST_CLOCK");
	int fd = file ? open(file, O_RDWR) : -1;
	page = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		abort();
	close(fd);
	__atomic_store_n(&page->loaded, 1, __ATOMIC_SEQ_CST);
}

static int64_t now_us(void) {
	int64_t word = __atomic_load_n(&page->word, __ATOMIC_SEQ_CST);
	if (word & 1)
		return word >> 1;
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * 1000000LL + now.tv_nsec / 1000 + (word >> 1);
}

int gettimeofday(struct timeval *restrict tv, void *restrict tz) {
	(void)tz;
	int64_t us = now_us();
	tv->tv_sec = us / 1000000;
	tv->tv_usec = us % 1000000;
	return 0;
}

time_t time(time_t *t) {
	time_t now = now_us() / 1000000;
	if (t)
		*t = now;
	return now;
}
