// An endpoint so cheap that its client is the bottleneck: it counts the rows of a request and answers a constant for each.
//
//   gcc -O2 -o null_endpoint null_endpoint.c && ./null_endpoint PORT [DELAY_US SLOTS]
//
// POST any path, with Content-Length. text/csv and application/jsonlines: a row a line, a number a line back. JSON: as CSV.
// application/x-npy: rows by the array's shape, an array of float64 back. With DELAY_US each request occupies one of SLOTS
// for so long, the others queue. GET /stats: requests, rows, and how long slots were busy from the first to the last request;
// "full" is the same from the first moment that all slots were busy to the arrival of the last request.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST_ROWS = 1 << 20, EVENTS = 512, FIRST_BUFFER = 1 << 16 };
static const char NUMBER[] = "0.4837261950283746\n";
enum { NUMBER_BYTES = sizeof NUMBER - 1 };

struct connection {
    int fd, dead, waiting;
    char *in;
    size_t in_size, in_bytes, head, length;
    char *out;
    size_t out_size, out_bytes, out_sent;
    struct connection *next;  // in the queue of those served or waiting
    int64_t due_ns;
    size_t rows;
    int binary, keep;
};

static char *numbers;
static double *doubles;
static int epoll;
static int64_t delay_ns;
static int slots, serving;
static struct connection *served_first, *served_last, *queue_first, *queue_last;
static uint64_t requests, rows_total;
static int64_t began_ns, ended_ns, busy_ns;
static int64_t full_ns, arrived_ns, changed_ns, area_ns, arrived_area_ns;  // area: slots busy, summed over time since full_ns

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void watch(struct connection *c, uint32_t events) {
    struct epoll_event e = {.events = events, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &e);
}

static void drop(struct connection *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    if (c->waiting) {  // freed once its turn comes
        c->dead = 1;
        return;
    }
    free(c->in);
    free(c->out);
    free(c);
}

static int flush(struct connection *c) {
    while (c->out_sent < c->out_bytes) {
        ssize_t sent = send(c->fd, c->out + c->out_sent, c->out_bytes - c->out_sent, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EAGAIN) watch(c, EPOLLIN | EPOLLOUT);
            return errno == EAGAIN;
        }
        c->out_sent += (size_t)sent;
    }
    if (c->out_bytes) watch(c, EPOLLIN);
    c->out_bytes = c->out_sent = 0;
    return 1;
}

static char *room(struct connection *c, size_t bytes) {
    if (c->out_bytes + bytes > c->out_size) {
        c->out_size = 2 * (c->out_bytes + bytes);
        c->out = realloc(c->out, c->out_size);
    }
    char *at = c->out + c->out_bytes;
    c->out_bytes += bytes;
    return at;
}

static int answer(struct connection *c) {
    size_t rows = c->rows < MOST_ROWS ? c->rows : MOST_ROWS;
    char head[256], npy[128];
    size_t npy_bytes = 0, body = rows * NUMBER_BYTES;
    if (c->binary) {  // npy format 1.0: magic, length, a dictionary padded to 64 bytes in all
        int text = snprintf(npy + 10, sizeof npy - 10, "{'descr': '<f8', 'fortran_order': False, 'shape': (%zu,), }", rows);
        npy_bytes = ((size_t)text + 11 + 63) / 64 * 64;
        memcpy(npy, "\x93NUMPY\x01\x00", 8);
        npy[8] = (char)(npy_bytes - 10), npy[9] = 0;
        memset(npy + 10 + text, ' ', npy_bytes - 10 - (size_t)text);
        npy[npy_bytes - 1] = '\n';
        body = npy_bytes + rows * sizeof(double);
    }
    int bytes = snprintf(head, sizeof head,
        "HTTP/1.1 200 OK\r\nx-amzn-RequestId: 3f2b1c4e-1111-2222-3333-abcdefabcdef\r\n"
        "x-Amzn-Invoked-Production-Variant: AllTraffic\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n",
        c->binary ? "application/x-npy" : "text/csv; charset=utf-8", body);
    memcpy(room(c, (size_t)bytes), head, (size_t)bytes);
    if (c->binary) {
        memcpy(room(c, npy_bytes), npy, npy_bytes);
        memcpy(room(c, rows * sizeof(double)), doubles, rows * sizeof(double));
    } else {
        memcpy(room(c, body), numbers, body);
    }
    requests++, rows_total += rows;
    return flush(c);
}

static int statistics(struct connection *c) {
    char body[512], head[128];
    int bytes = snprintf(body, sizeof body,
        "{\"requests\": %llu, \"rows\": %llu, \"wall_s\": %.6f, \"busy_s\": %.6f, \"slots\": %d,"
        " \"full_wall_s\": %.6f, \"full_busy_s\": %.6f}\n",
        (unsigned long long)requests, (unsigned long long)rows_total, (double)(ended_ns - began_ns) / 1e9, (double)busy_ns / 1e9, slots,
        full_ns ? (double)(arrived_ns - full_ns) / 1e9 : 0.0, (double)arrived_area_ns / 1e9);
    int head_bytes = snprintf(head, sizeof head,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", bytes);
    memcpy(room(c, (size_t)head_bytes), head, (size_t)head_bytes);
    memcpy(room(c, (size_t)bytes), body, (size_t)bytes);
    requests = rows_total = 0, began_ns = ended_ns = busy_ns = 0;
    full_ns = arrived_ns = changed_ns = area_ns = arrived_area_ns = 0;
    return flush(c);
}

static int unknown(struct connection *c) {  // another AWS operation than InvokeEndpoint
    static const char reply[] = "HTTP/1.1 400 Bad Request\r\nx-amzn-ErrorType: UnknownOperationException\r\nContent-Length: 2\r\n\r\n{}";
    memcpy(room(c, sizeof reply - 1), reply, sizeof reply - 1);
    return flush(c);
}

static void append(struct connection **first, struct connection **last, struct connection *c) {
    c->next = NULL;
    if (*first) (*last)->next = c;
    else *first = c;
    *last = c;
}

static void change(int by, int64_t at_ns) {
    if (full_ns) area_ns += serving * (at_ns - changed_ns);
    changed_ns = at_ns;
    serving += by;
    if (!full_ns && serving == slots) full_ns = at_ns;
}

static void serve(struct connection *c, int64_t at_ns) {
    change(1, at_ns);
    c->due_ns = at_ns + delay_ns;
    append(&served_first, &served_last, c);
}

static int take(struct connection *c) {  // one whole request is in c->in
    if (!strncmp(c->in, "GET ", 4)) return statistics(c);
    if (!strncmp(c->in, "POST / ", 7)) return unknown(c);
    char *body = c->in + c->head, *end = body + c->length;
    c->rows = 0;
    c->binary = c->length > 10 && !memcmp(body, "\x93NUMPY", 6);
    if (c->binary) {
        char *shape = memmem(body, 200 < c->length ? 200 : c->length, "'shape': (", 10);
        c->rows = shape ? strtoul(shape + 10, NULL, 10) : 0;
    } else {
        for (char *at = body; at < end; c->rows++) {
            char *line = memchr(at, '\n', (size_t)(end - at));
            at = line ? line + 1 : end;
        }
    }
    if (!delay_ns) return answer(c);
    int64_t at_ns = now_ns();
    if (!began_ns) began_ns = at_ns;
    c->waiting = 1;
    if (serving < slots) serve(c, at_ns);
    else append(&queue_first, &queue_last, c);
    change(0, at_ns);
    arrived_ns = at_ns, arrived_area_ns = area_ns;
    return 1;
}

static int process(struct connection *c) {
    while (!c->waiting) {
        if (!c->head) {
            char *end = memmem(c->in, c->in_bytes, "\r\n\r\n", 4);
            if (!end) return 1;
            c->head = (size_t)(end - c->in) + 4;
            *end = 0;
            char *length = strcasestr(c->in, "\r\ncontent-length:");
            c->length = length ? strtoul(length + 17, NULL, 10) : 0;
            *end = '\r';
        }
        if (c->in_bytes < c->head + c->length) return 1;
        int good = take(c);
        size_t used = c->head + c->length;
        memmove(c->in, c->in + used, c->in_bytes - used);
        c->in_bytes -= used;
        c->head = 0;
        if (!good) return 0;
        if (!c->in_bytes) return 1;
    }
    return 1;
}

static int64_t finish_due(void) {  // gives the wait until the next, in ms
    int64_t at_ns = now_ns();
    while (served_first && served_first->due_ns <= at_ns) {
        struct connection *c = served_first;
        served_first = c->next;
        change(-1, at_ns);
        if (full_ns) area_ns -= at_ns - (c->due_ns > full_ns ? c->due_ns : full_ns);  // it was free since then
        busy_ns += delay_ns;
        ended_ns = c->due_ns;
        c->waiting = 0;
        if (c->dead) drop(c);
        else if (!answer(c) || !process(c)) drop(c);
        if (queue_first && serving < slots) {
            struct connection *next = queue_first;
            queue_first = next->next;
            serve(next, at_ns);
        }
        at_ns = now_ns();
    }
    return served_first ? served_first->due_ns - at_ns : -1;
}

static void read_from(struct connection *c) {
    size_t wanted = c->head ? c->head + c->length : c->in_bytes + FIRST_BUFFER / 2;
    if (c->in_size < wanted + 4096) {
        c->in_size = 2 * wanted + 4096;
        c->in = realloc(c->in, c->in_size + 1);
    }
    ssize_t got = recv(c->fd, c->in + c->in_bytes, c->in_size - c->in_bytes, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) drop(c);
        return;
    }
    c->in_bytes += (size_t)got;
    c->in[c->in_bytes] = 0;
    if (!process(c)) drop(c);
}

int main(int count, char **arguments) {
    if (count < 2) return 2;
    delay_ns = count > 2 ? atoll(arguments[2]) * 1000 : 0;
    slots = count > 3 ? atoi(arguments[3]) : 1;
    numbers = malloc((size_t)NUMBER_BYTES * MOST_ROWS);
    doubles = malloc(sizeof(double) * MOST_ROWS);
    for (size_t i = 0; i < MOST_ROWS; i++) {
        memcpy(numbers + i * NUMBER_BYTES, NUMBER, NUMBER_BYTES);
        doubles[i] = 0.4837261950283746;
    }
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(arguments[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&address, sizeof address)) return perror("bind"), 1;
    listen(listener, 4096);
    epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int64_t wait_ns = delay_ns ? finish_due() : -1;
        struct timespec wait = {.tv_sec = wait_ns / 1000000000, .tv_nsec = wait_ns % 1000000000};
        int ready = epoll_pwait2(epoll, events, EVENTS, wait_ns < 0 ? NULL : &wait, NULL);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) {
                int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (fd < 0) continue;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                c = calloc(1, sizeof *c);
                c->fd = fd;
                c->in = malloc(FIRST_BUFFER + 1);
                c->in_size = FIRST_BUFFER;
                struct epoll_event added = {.events = EPOLLIN, .data.ptr = c};
                epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &added);
                continue;
            }
            if (events[i].events & EPOLLOUT && !flush(c)) {
                drop(c);
                continue;
            }
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) read_from(c);
        }
    }
}
