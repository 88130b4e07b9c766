// A link between two network namespaces with a round trip, a rate and a queue.
//
//   link NAMESPACE-A NAMESPACE-B ROUND-TRIP-MS RATE-MBIT
//
// Joins a TUN device `link0` in each namespace; the caller gives them addresses. A rate of 0 is no
// limit. Kernels without netem have no other way to delay real TCP; packets keep their segmentation
// offload (IFF_VNET_HDR), so that an unlimited link carries more than a gigabit on two cores.
// The queue before the bottleneck holds one round trip of it, at least 20 ms, and drops what is too much.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define MTU 1500
#define LARGEST (65536 + 64) // a segmentation-offload packet and its virtio_net header
#define SLOTS 32768
#define BUFFER_WITHOUT_RATE (256u << 20)

struct packet {
    int64_t due; // nanoseconds
    int length;
    char *bytes;
};

// One direction: a reader that stamps packets and a writer that lets them out when they are due.
struct direction {
    int from, to;
    int64_t delay;      // one way, nanoseconds
    double per_byte;    // nanoseconds; 0 for no limit
    int64_t queue;      // bytes that may wait
    int64_t waiting;
    int64_t free_at;    // when the bottleneck has sent all before
    struct packet ring[SLOTS];
    unsigned head, tail;
    pthread_mutex_t lock;
    pthread_cond_t more;
};

static void fail(const char *what) {
    fprintf(stderr, "link: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int open_device(const char *namespace) {
    char path[256];
    snprintf(path, sizeof path, "/var/run/netns/%s", namespace);
    int netns = open(path, O_RDONLY | O_CLOEXEC);
    if (netns < 0 || setns(netns, CLONE_NEWNET) < 0) fail(path);
    close(netns);
    int device = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (device < 0) fail("/dev/net/tun");
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
    strcpy(request.ifr_name, "link0");
    if (ioctl(device, TUNSETIFF, &request) < 0) fail("TUNSETIFF");
    if (ioctl(device, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) < 0) fail("TUNSETOFFLOAD");
    return device;
}

static void *reader(void *argument) {
    struct direction *way = argument;
    for (;;) {
        char *bytes = malloc(LARGEST);
        if (!bytes) fail("malloc");
        ssize_t length = read(way->from, bytes, LARGEST);
        if (length < 0) {
            if (errno == EINTR || errno == EAGAIN || errno == EIO) {
                free(bytes);
                continue;
            }
            fail("read");
        }
        bytes = realloc(bytes, length);
        pthread_mutex_lock(&way->lock);
        int64_t time = now();
        if (way->waiting + length > way->queue || way->head - way->tail == SLOTS) {
            free(bytes);
        } else {
            if (way->free_at < time) way->free_at = time;
            way->free_at += (int64_t)(length * way->per_byte);
            way->waiting += length;
            way->ring[way->head++ % SLOTS] = (struct packet){way->free_at + way->delay, (int)length, bytes};
            pthread_cond_signal(&way->more);
        }
        pthread_mutex_unlock(&way->lock);
    }
    return NULL;
}

static void *writer(void *argument) {
    struct direction *way = argument;
    for (;;) {
        pthread_mutex_lock(&way->lock);
        while (way->head == way->tail) pthread_cond_wait(&way->more, &way->lock);
        struct packet packet = way->ring[way->tail % SLOTS];
        pthread_mutex_unlock(&way->lock);
        struct timespec due = {packet.due / 1000000000LL, packet.due % 1000000000LL};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) == EINTR) {}
        if (write(way->to, packet.bytes, packet.length) < 0 && errno != EIO && errno != EINVAL) fail("write");
        free(packet.bytes);
        pthread_mutex_lock(&way->lock);
        way->waiting -= packet.length;
        way->tail++;
        pthread_mutex_unlock(&way->lock);
    }
    return NULL;
}

static void start(struct direction *way, int from, int to, double round_trip_ms, double mbit) {
    way->from = from;
    way->to = to;
    way->delay = (int64_t)(round_trip_ms / 2 * 1e6);
    way->per_byte = mbit > 0 ? 8000.0 / mbit : 0;
    double queue_ms = round_trip_ms > 20 ? round_trip_ms : 20;
    // What is under way counts as waiting here: one way of it beside the queue proper.
    double bytes_per_ms = mbit * 125;
    way->queue = mbit > 0 ? (int64_t)(bytes_per_ms * (queue_ms + round_trip_ms / 2)) + 4 * MTU : BUFFER_WITHOUT_RATE;
    pthread_mutex_init(&way->lock, NULL);
    pthread_cond_init(&way->more, NULL);
    pthread_t thread;
    if (pthread_create(&thread, NULL, reader, way) || pthread_create(&thread, NULL, writer, way)) fail("thread");
}

int main(int count, char **words) {
    if (count != 5) {
        fprintf(stderr, "usage: link NAMESPACE-A NAMESPACE-B ROUND-TRIP-MS RATE-MBIT\n");
        return 2;
    }
    int a = open_device(words[1]), b = open_device(words[2]);
    static struct direction there, back;
    start(&there, a, b, atof(words[3]), atof(words[4]));
    start(&back, b, a, atof(words[3]), atof(words[4]));
    pause();
    return 0;
}
