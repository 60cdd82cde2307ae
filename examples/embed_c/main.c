/* A layer with int8 weights in a C program, by the whole of the C interface's way: pack once, store the packed bytes,
 * map them again read-only, and run the layer on threads of the program's own.
 *
 *   embed_c --write FILE [THREADS]   packs the weights, writes them to FILE, then runs as below
 *   embed_c FILE [THREADS]           maps FILE, computes y = (x - 128) * w^T and compares with a plain loop
 */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <pthread.h>
#include <pycompress.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { M = 61, N = 200, K = 387, X_ZERO_POINT = 128, MAX_THREADS = 64 };

static int8_t w[N * K];  /* [N, K], outputs by inputs */
static uint8_t x[M * K]; /* [M, K] */
static int32_t y[M * N]; /* [M, N] */

static void die(const char* what, const char* why) {
  fprintf(stderr, "embed_c: %s: %s\n", what, why);
  exit(EXIT_FAILURE);
}

/* Every status is looked at. The message belongs to the thread that made the call. */
static void check(pc_status status, const char* call) {
  if (status == PC_OK) return;
  fprintf(stderr, "embed_c: %s: %s: %s\n", call, pc_status_name(status), pc_last_error());
  exit(EXIT_FAILURE);
}

static void* aligned(size_t bytes) {
  void* memory;
  if (posix_memalign(&memory, PC_ALIGNMENT, bytes) != 0) die("memory", "there is not enough");
  return memory;
}

static void fill(void* bytes, size_t count, uint32_t seed) {
  for (size_t i = 0; i < count; ++i) ((uint8_t*)bytes)[i] = (uint8_t)((seed = seed * 1664525u + 1013904223u) >> 24);
}

/* Packed bytes are what the kernels of this kind of CPU read. The file appears whole or not at all. */
static void write_packed(const char* path) {
  size_t bytes;
  check(pc_gemm_s8_pack_size(N, K, &bytes), "pc_gemm_s8_pack_size");
  void* packed = aligned(bytes);
  check(pc_gemm_s8_pack(w, PC_S8, N, K, K, 1, NULL, packed, bytes), "pc_gemm_s8_pack");

  char beside[4096];
  if (snprintf(beside, sizeof beside, "%s.new", path) >= (int)sizeof beside) die(path, "the name is too long");
  FILE* file = fopen(beside, "wb");
  if (!file) die(beside, "can't be opened for writing");
  const int written = fwrite(packed, 1, bytes, file) == bytes && fflush(file) == 0 && fsync(fileno(file)) == 0;
  if (fclose(file) != 0 || !written) die(beside, "can't be written");
  if (rename(beside, path) != 0) die(path, "can't be put in place");
  free(packed);
}

/* A mapping begins at a page, so it is aligned. */
static const void* map_packed(const char* path, size_t* bytes) {
  const int file = open(path, O_RDONLY);
  struct stat status;
  if (file < 0 || fstat(file, &status) != 0) die(path, "can't be opened; --write makes it");
  *bytes = (size_t)status.st_size;
  const void* packed = *bytes ? mmap(NULL, *bytes, PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
  if (packed == MAP_FAILED) die(path, "can't be mapped");
  close(file);
  return packed;
}

/* What the threads share. Nothing in it changes while they run; each writes its own part of y and of the workspace. */
typedef struct {
  pc_gemm_s8_desc desc;
  const void* packed;
  size_t bytes;
  void* workspace;
  size_t workspace_bytes;
  int32_t nth;
} layer;

typedef struct {
  const layer* job;
  int32_t ith;
  pthread_t thread;
} part;

static void* run_part(void* argument) {
  const part* p = argument;
  const layer* l = p->job;
  check(pc_gemm_s8_run(&l->desc, l->packed, l->bytes, x, y, l->workspace, l->workspace_bytes, p->ith, l->nth), "pc_gemm_s8_run");
  return NULL;
}

static long count_wrong(void) {
  long wrong = 0;
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < N; ++n) {
      int64_t sum = 0;
      for (int k = 0; k < K; ++k) sum += ((int64_t)x[m * K + k] - X_ZERO_POINT) * w[n * K + k];
      wrong += sum != y[m * N + n];
    }
  return wrong;
}

int main(int argc, char** argv) {
  const int writing = argc > 1 && strcmp(argv[1], "--write") == 0;
  if (argc < 2 + writing || argc > 3 + writing) die("usage", "embed_c [--write] FILE [THREADS]");
  const char* path = argv[1 + writing];
  const long threads = argc > 2 + writing ? strtol(argv[2 + writing], NULL, 10) : 2;
  if (threads < 1 || threads > MAX_THREADS) die("THREADS", "wanted 1 to 64");

  fill(w, sizeof w, 1);
  fill(x, sizeof x, 2);
  if (writing) write_packed(path);

  layer job = {0}; /* zero means "not used" in a descriptor */
  job.packed = map_packed(path, &job.bytes);
  job.nth = (int32_t)threads;
  job.desc.size = sizeof job.desc;
  job.desc.m = M;
  const char* kernel;
  check(pc_gemm_s8_packed_info(job.packed, job.bytes, &job.desc.n, &job.desc.k, &kernel), "pc_gemm_s8_packed_info");
  if (job.desc.n != N || job.desc.k != K) die(path, "holds another weight; --write makes this one");
  job.desc.x_type = PC_U8;
  job.desc.y_type = PC_S32;
  job.desc.x_zero_point = X_ZERO_POINT;
  check(pc_gemm_s8_workspace_size(&job.desc, job.packed, job.bytes, job.nth, &job.workspace_bytes), "pc_gemm_s8_workspace_size");
  job.workspace = aligned(job.workspace_bytes);

  part parts[MAX_THREADS];
  for (int32_t i = 0; i < job.nth; ++i) {
    parts[i].job = &job;
    parts[i].ith = i;
    if (pthread_create(&parts[i].thread, NULL, run_part, &parts[i]) != 0) die("pthread_create", "no more threads");
  }
  for (int32_t i = 0; i < job.nth; ++i) pthread_join(parts[i].thread, NULL);

  const long wrong = count_wrong();
  printf("%dx%dx%d %s, %zu mapped bytes, threads: %ld, wrong: %ld\n", M, N, K, kernel, job.bytes, threads, wrong);
  munmap((void*)job.packed, job.bytes);
  free(job.workspace);
  return wrong == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
