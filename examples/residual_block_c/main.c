/* One inverted-residual block of MobileNetV2 in int8, in a C program with threads and memory of its own:
 *
 *   x [H, W, C] --1x1, relu6--> e [H, W, E] --3x3 depthwise, relu6, then 1x1--> p [H, W, C] --+ x--> y
 *
 * Three calls, pc_gemm_s8_run, pc_separable_run (in which the depthwise result is never whole in memory) and
 * pc_add_run, each done in parts by all threads; they wait for each other between the calls, as a call reads what
 * the one before it wrote. Nothing is allocated once the threads run.
 *
 *   residual_block [THREADS]   computes the block and compares every byte with plain loops
 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <pthread.h>
#include <pycompress.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { H = 28, W = 27, C = 24, E = 144, TAPS = 9, PIXELS = H * W, MAX_THREADS = 64 };

/* A tensor of uint8 stands for (q - zero_point) * scale. relu6 gives 0 to 6, so e and d use all 256 values for that. */
typedef struct {
  float scale;
  int32_t zero_point;
} levels;
static const levels x_levels = {0.05f, 122}, e_levels = {6.0f / 255, 0}, d_levels = {6.0f / 255, 0}, p_levels = {0.04f, 131}, y_levels = {0.06f, 125};

/* Weights are int8 with a scale for each output; a network file has them and the biases. */
typedef struct {
  int8_t w[E * C]; /* [outputs, inputs], or [outputs, 3, 3] */
  float scale[E], bias[E];
} weights;
static weights expand, depthwise, project;
static uint8_t x[PIXELS * C], e[PIXELS * E], p[PIXELS * C], y[PIXELS * C];

static void die(const char* what, const char* why) {
  fprintf(stderr, "residual_block: %s: %s\n", what, why);
  exit(EXIT_FAILURE);
}

/* Every status is looked at. The message belongs to the thread that made the call. */
static void check(pc_status status, const char* call) {
  if (status == PC_OK) return;
  fprintf(stderr, "residual_block: %s: %s: %s\n", call, pc_status_name(status), pc_last_error());
  exit(EXIT_FAILURE);
}

static void* aligned(size_t bytes) {
  void* memory;
  if (posix_memalign(&memory, PC_ALIGNMENT, bytes) != 0) die("memory", "there is not enough");
  return memory;
}

static uint32_t seed = 1;
static uint8_t next(void) { return (uint8_t)((seed = seed * 1664525u + 1013904223u) >> 24); }

static void fill(weights* to, int outputs, int inputs) {
  for (int i = 0; i < outputs * inputs; ++i) to->w[i] = (int8_t)(next() - 128);
  for (int i = 0; i < outputs; ++i) {
    to->scale[i] = (float)(64 + next()) / (float)(inputs * 2048);
    to->bias[i] = (float)(next() - 128) / 128;
  }
}

/* ---- the block by the library */

typedef struct {
  void* data;
  size_t bytes;
} buffer;

/* What the threads share. Nothing in it changes while they run; each writes its own parts of the results. */
typedef struct {
  pc_gemm_s8_desc expand;
  pc_separable_desc rest;
  pc_add_desc add;
  buffer expand_w, depthwise_w, project_w;
  buffer workspace; /* of whichever call needs the most */
  pthread_barrier_t done;
  int32_t nth;
} block;

static buffer pack_gemm(const weights* from, int64_t n, int64_t k) {
  buffer b;
  check(pc_gemm_s8_pack_size(n, k, &b.bytes), "pc_gemm_s8_pack_size");
  b.data = aligned(b.bytes);
  check(pc_gemm_s8_pack(from->w, PC_S8, n, k, k, 1, from->scale, b.data, b.bytes), "pc_gemm_s8_pack");
  return b;
}

static void open_block(block* b, int32_t nth) {
  memset(b, 0, sizeof *b); /* zero means "not used" in a descriptor */
  b->nth = nth;
  if (pthread_barrier_init(&b->done, NULL, (unsigned)nth) != 0) die("pthread_barrier_init", "failed");

  b->expand_w = pack_gemm(&expand, E, C);
  b->project_w = pack_gemm(&project, C, E);
  check(pc_depthwise_pack_size(PC_S8, E, 3, 3, &b->depthwise_w.bytes), "pc_depthwise_pack_size");
  b->depthwise_w.data = aligned(b->depthwise_w.bytes);
  check(pc_depthwise_pack(depthwise.w, PC_S8, E, 3, 3, depthwise.scale, b->depthwise_w.data, b->depthwise_w.bytes), "pc_depthwise_pack");

  /* A 1x1 convolution is the product of the image, pixel by pixel, with the weight. */
  pc_gemm_s8_desc* g = &b->expand;
  g->size = sizeof *g;
  g->m = PIXELS;
  g->n = E;
  g->k = C;
  g->x_type = g->y_type = PC_U8;
  g->x_scale = x_levels.scale;
  g->x_zero_point = x_levels.zero_point;
  g->y_scale = e_levels.scale;
  g->y_zero_point = e_levels.zero_point;
  g->bias = expand.bias;
  g->activation = PC_ACTIVATION_CLAMP;
  g->high = 6;

  pc_separable_desc* s = &b->rest;
  s->size = sizeof *s;
  s->outputs = C;
  s->y_type = PC_U8;
  s->y_scale = p_levels.scale;
  s->y_zero_point = p_levels.zero_point;
  s->bias = project.bias; /* and no activation: the block's end is linear */
  pc_conv_desc* d = &s->depthwise;
  d->size = sizeof *d;
  d->batch = 1;
  d->height = H;
  d->width = W;
  d->channels = d->outputs = E;
  d->kernel_height = d->kernel_width = 3;
  d->pad_top = d->pad_left = d->pad_bottom = d->pad_right = 1;
  d->x_type = d->y_type = PC_U8;
  d->x_scale = e_levels.scale;
  d->x_zero_point = e_levels.zero_point;
  d->y_scale = d_levels.scale;
  d->y_zero_point = d_levels.zero_point;
  d->bias = depthwise.bias;
  d->activation = PC_ACTIVATION_CLAMP;
  d->high = 6;

  pc_add_desc* a = &b->add;
  a->size = sizeof *a;
  a->count = PIXELS * C;
  a->type = a->y_type = PC_U8;
  a->a_scale = x_levels.scale;
  a->a_zero_point = x_levels.zero_point;
  a->b_scale = p_levels.scale;
  a->b_zero_point = p_levels.zero_point;
  a->y_scale = y_levels.scale;
  a->y_zero_point = y_levels.zero_point;

  size_t first, second;
  check(pc_gemm_s8_workspace_size(g, b->expand_w.data, b->expand_w.bytes, nth, &first), "pc_gemm_s8_workspace_size");
  check(pc_separable_workspace_size(s, b->depthwise_w.data, b->depthwise_w.bytes, b->project_w.data, b->project_w.bytes, nth, &second),
        "pc_separable_workspace_size");
  b->workspace.bytes = first > second ? first : second;
  b->workspace.data = aligned(b->workspace.bytes);
}

typedef struct {
  block* job;
  int32_t ith;
  pthread_t thread;
} part;

static void* run_part(void* argument) {
  const part* t = argument;
  block* b = t->job;
  check(pc_gemm_s8_run(&b->expand, b->expand_w.data, b->expand_w.bytes, x, e, b->workspace.data, b->workspace.bytes, t->ith, b->nth),
        "pc_gemm_s8_run");
  pthread_barrier_wait(&b->done);
  check(pc_separable_run(&b->rest, b->depthwise_w.data, b->depthwise_w.bytes, b->project_w.data, b->project_w.bytes, e, p, b->workspace.data,
                         b->workspace.bytes, t->ith, b->nth),
        "pc_separable_run");
  pthread_barrier_wait(&b->done);
  check(pc_add_run(&b->add, x, p, y, t->ith, b->nth), "pc_add_run");
  return NULL;
}

/* ---- the same by plain loops: each float32 operation is one of the library's definition */

static uint8_t clip(float value, int32_t zero_point, int32_t low, int32_t high) {
  const float shifted = nearbyintf(value) + (float)zero_point;
  return (uint8_t)(shifted<(float)low ? low : shifted>(float) high ? high : (int32_t)shifted);
}

static uint8_t requantize(int32_t sum, const weights* from, int output, levels in, levels out, int is_relu6) {
  const float both = in.scale * from->scale[output], mult = both / out.scale;
  const int32_t bias = (int32_t)nearbyintf(from->bias[output] / both);
  const int32_t high = is_relu6 ? (int32_t)nearbyintf(6 / out.scale) + out.zero_point : 255;
  return clip((float)(sum + bias) * mult, out.zero_point, is_relu6 ? out.zero_point : 0, high < 255 ? high : 255);
}

static void pointwise(const uint8_t* in, const weights* from, int n, int k, levels in_levels, levels out_levels, int is_relu6, uint8_t* out) {
  for (int pixel = 0; pixel < PIXELS; ++pixel)
    for (int o = 0; o < n; ++o) {
      int32_t sum = 0;
      for (int i = 0; i < k; ++i) sum += (in[pixel * k + i] - in_levels.zero_point) * from->w[o * k + i];
      out[pixel * n + o] = requantize(sum, from, o, in_levels, out_levels, is_relu6);
    }
}

static void depthwise_3x3(const uint8_t* in, uint8_t* out) {
  for (int row = 0; row < H; ++row)
    for (int column = 0; column < W; ++column)
      for (int c = 0; c < E; ++c) {
        int32_t sum = 0;
        for (int tap = 0; tap < TAPS; ++tap) {
          const int iy = row + tap / 3 - 1, ix = column + tap % 3 - 1;
          if (iy >= 0 && iy < H && ix >= 0 && ix < W) sum += (in[(iy * W + ix) * E + c] - e_levels.zero_point) * depthwise.w[c * TAPS + tap];
        }
        out[(row * W + column) * E + c] = requantize(sum, &depthwise, c, e_levels, d_levels, 1);
      }
}

static long count_wrong(void) {
  static uint8_t want_e[PIXELS * E], want_d[PIXELS * E], want_p[PIXELS * C];
  pointwise(x, &expand, E, C, x_levels, e_levels, 1, want_e);
  depthwise_3x3(want_e, want_d);
  pointwise(want_d, &project, C, E, d_levels, p_levels, 0, want_p);
  const float of_x = x_levels.scale / y_levels.scale, of_p = p_levels.scale / y_levels.scale;
  long wrong = 0;
  for (int i = 0; i < PIXELS * C; ++i) {
    const float left = (float)(x[i] - x_levels.zero_point) * of_x, right = (float)(want_p[i] - p_levels.zero_point) * of_p;
    wrong += y[i] != clip(left + right, y_levels.zero_point, 0, 255);
  }
  return wrong;
}

int main(int argc, char** argv) {
  if (argc > 2) die("usage", "residual_block [THREADS]");
  const long threads = argc > 1 ? strtol(argv[1], NULL, 10) : 2;
  if (threads < 1 || threads > MAX_THREADS) die("THREADS", "wanted 1 to 64");

  fill(&expand, E, C);
  fill(&depthwise, E, TAPS);
  fill(&project, C, E);
  for (int i = 0; i < PIXELS * C; ++i) x[i] = next();

  block job;
  open_block(&job, (int32_t)threads);
  part parts[MAX_THREADS];
  for (int32_t i = 0; i < job.nth; ++i) {
    parts[i].job = &job;
    parts[i].ith = i;
    if (pthread_create(&parts[i].thread, NULL, run_part, &parts[i]) != 0) die("pthread_create", "no more threads");
  }
  for (int32_t i = 0; i < job.nth; ++i) pthread_join(parts[i].thread, NULL);

  const long wrong = count_wrong();
  long distinct = 0; /* a block whose results are all clipped would show nothing */
  char seen[256] = {0};
  for (int i = 0; i < PIXELS * C; ++i) distinct += !seen[y[i]] ? (seen[y[i]] = 1) : 0;
  const char* kernel;
  check(pc_depthwise_packed_info(job.depthwise_w.data, job.depthwise_w.bytes, NULL, NULL, NULL, NULL, &kernel), "pc_depthwise_packed_info");
  printf("%dx%dx%d > %d > %d %s, %ld distinct results, threads: %ld, wrong: %ld\n", H, W, C, E, C, kernel, distinct, threads, wrong);
  pthread_barrier_destroy(&job.done);
  free(job.expand_w.data);
  free(job.depthwise_w.data);
  free(job.project_w.data);
  free(job.workspace.data);
  return wrong == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
