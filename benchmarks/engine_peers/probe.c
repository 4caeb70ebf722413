/* What this machine gives: wide loads from memory, int8 and bfloat16 products from registers. Prints one line each. */
#define _GNU_SOURCE
#include <immintrin.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct { const char *at; size_t size; long rounds; int kind; volatile int sink; } work;

static pthread_barrier_t gate;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static void read_all(work *w) {
    __m512i sum[8];
    for (int i = 0; i < 8; i++) sum[i] = _mm512_setzero_si512();
    for (size_t at = 0; at + 512 <= w->size; at += 512) {
        _mm_prefetch(w->at + at + 2048, _MM_HINT_T0);
        _mm_prefetch(w->at + at + 2304, _MM_HINT_T0);
        for (int i = 0; i < 8; i++) sum[i] = _mm512_or_si512(sum[i], _mm512_loadu_si512(w->at + at + 64 * i));
    }
    for (int i = 1; i < 8; i++) sum[0] = _mm512_or_si512(sum[0], sum[i]);
    w->sink = _mm512_reduce_or_epi32(sum[0]);
}

static void int8_products(work *w) {
    __m512i sum[12], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
    for (int i = 0; i < 12; i++) sum[i] = _mm512_setzero_si512();
    for (long n = 0; n < w->rounds; n++)
        for (int i = 0; i < 12; i++) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sum[i]) : "v"(a), "v"(b));
    for (int i = 1; i < 12; i++) sum[0] = _mm512_add_epi32(sum[0], sum[i]);
    w->sink = _mm512_reduce_add_epi32(sum[0]);
}

static void bf16_products(work *w) {
    __m512 sum[12];
    __m512i a = _mm512_set1_epi16(0x3f80), b = _mm512_set1_epi16(0x3f00);
    for (int i = 0; i < 12; i++) sum[i] = _mm512_setzero_ps();
    for (long n = 0; n < w->rounds; n++)
        for (int i = 0; i < 12; i++) __asm__ volatile("vdpbf16ps %2, %1, %0" : "+v"(sum[i]) : "v"(a), "v"(b));
    for (int i = 1; i < 12; i++) sum[0] = _mm512_add_ps(sum[0], sum[i]);
    w->sink = (int)_mm512_reduce_add_ps(sum[0]);
}

static void *run(void *argument) {
    work *w = argument;
    pthread_barrier_wait(&gate);
    if (w->kind == 0) read_all(w);
    if (w->kind == 1) int8_products(w);
    if (w->kind == 2) bf16_products(w);
    return NULL;
}

/* Seconds that `threads` threads need for one kind of work; the memory is shared out among them. */
static double seconds(int kind, int threads, char *memory, size_t size, long rounds) {
    pthread_t ids[256];
    work works[256];
    size_t part = size / threads & ~(size_t)511;
    pthread_barrier_init(&gate, NULL, threads + 1);
    for (int i = 0; i < threads; i++) {
        works[i] = (work){memory + part * i, part, rounds, kind, 0};
        pthread_create(&ids[i], NULL, run, &works[i]);
    }
    pthread_barrier_wait(&gate);
    double start = now();
    for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL);
    pthread_barrier_destroy(&gate);
    return now() - start;
}

static double best(int kind, int threads, char *memory, size_t size, long rounds, int tries) {
    double least = 1e9;
    for (int i = 0; i < tries; i++) {
        double took = seconds(kind, threads, memory, size, rounds);
        if (took < least) least = took;
    }
    return least;
}

int main(int count, char **words) {
    int threads = count > 1 ? atoi(words[1]) : 1;
    size_t size = (count > 2 ? strtoull(words[2], NULL, 10) : 1024) << 20;
    if (threads < 1 || threads > 256) return 2;
    char *memory = aligned_alloc(1 << 21, size);
    if (!memory) return 3;
    memset(memory, 1, size);
    long rounds = 5000000;
    printf("read %.6g\n", size / best(0, threads, memory, size, 0, 4));
    printf("int8 %.6g\n", 2.0 * 64 * 12 * rounds * threads / best(1, threads, memory, size, rounds, 2));
    printf("bf16 %.6g\n", 2.0 * 32 * 12 * rounds * threads / best(2, threads, memory, size, rounds, 2));
    return 0;
}
