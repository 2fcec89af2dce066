/* Products of rows with matrices of experts: rows are sorted by expert, and each reads the matrix of its own.
 *
 * A kernel is [experts, in, out] in float32 or bfloat16; it is read where it lies, and only experts that have rows are
 * read. Sums are float32 in the order of the inputs, so a row's result depends neither on its neighbours and their
 * number nor on the thread that computes it.
 */
#include "expert_rows.h"

#define STRIP 256                                /* outputs of an item: a part of every row of a matrix */
#define DEPTH 32                                 /* inputs at a time: their part of a strip stays in the cache */
#define WIDE (2 * LANES)                         /* outputs at a time */
#define TILE (LANES == 16 ? 8 : 4)               /* rows at a time: their sums stay in registers */
#define MOST_KERNELS 4

typedef struct {
  const void* values;
  float* out;
  int64_t width;
  int is_bfloat16;
} Kernel;

typedef struct {
  const float* x;
  const ExpertRows* experts;
  int64_t width, num_experts;
  int count;
  Kernel kernel[MOST_KERNELS];
} Product;

typedef uint16_t HalfU __attribute__((vector_size(LANES * 2), aligned(2)));
typedef uint32_t UVec __attribute__((vector_size(LANES * 4)));

INLINE Vec load_values(const void* values, int64_t at, int is_bfloat16) {
  if (!is_bfloat16) return load((const float*)values + at);
  return (Vec)(__builtin_convertvector(*(const HalfU*)((const uint16_t*)values + at), UVec) << 16);
}

/* Adds the products of `depth` inputs of `rows` rows to WIDE outputs of each; `is_first`: there is no sum yet. */
INLINE void add_products(int rows, int is_bfloat16, const float* x, int64_t width_in, const void* values, int64_t at,
                        int64_t step, int64_t depth, float* out, int64_t width_out, int is_first) {
  Vec left[TILE], right[TILE];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++) {
    left[r] = is_first ? broadcast(0) : load(out + r * width_out);
    right[r] = is_first ? broadcast(0) : load(out + r * width_out + LANES);
  }
  for (int64_t i = 0; i < depth; i++, at += step) {
    Vec a = load_values(values, at, is_bfloat16), b = load_values(values, at + LANES, is_bfloat16);
    __builtin_prefetch((const char*)values + (at + 2 * WIDE) * (is_bfloat16 ? 2 : 4));
    if (!is_bfloat16) __builtin_prefetch((const char*)values + (at + 2 * WIDE + LANES) * 4);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
      float factor = x[r * width_in + i];
      left[r] += a * factor;
      right[r] += b * factor;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++) {
    store(out + r * width_out, left[r]);
    store(out + r * width_out + LANES, right[r]);
  }
}

INLINE void add_rows(int rows, int is_bfloat16, const float* x, int64_t width_in, const void* values, int64_t at,
                    int64_t step, int64_t depth, float* out, int64_t width_out, int is_first) {
  switch (rows) {
#define CASE(n)                                                                                                  \
  case n:                                                                                                        \
    add_products(n, is_bfloat16, x, width_in, values, at, step, depth, out, width_out, is_first);                \
    break;
#if LANES == 16
    CASE(8) CASE(7) CASE(6) CASE(5)
#endif
    CASE(4) CASE(3) CASE(2) CASE(1)
#undef CASE
  }
}

/* The outputs first..last of all rows of a group. */
INLINE void run_strip(int is_bfloat16, const Product* p, const Kernel* kernel, const ExpertRows* group, int64_t first,
                     int64_t last) {
  const int64_t width = kernel->width, start = group->expert * p->width * width;
  float part[DEPTH * WIDE], sums[TILE * WIDE];
  for (int64_t i = 0; i < p->width; i += DEPTH) {
    int64_t depth = p->width - i < DEPTH ? p->width - i : DEPTH;
    for (int64_t row = 0; row < group->rows; row += TILE) {
      int rows = group->rows - row < TILE ? (int)(group->rows - row) : TILE;
      const float* x = p->x + (group->first + row) * p->width + i;
      float* out = kernel->out + (group->first + row) * width;
      int64_t o = first;
      for (; o + WIDE <= last; o += WIDE)
        add_rows(rows, is_bfloat16, x, p->width, kernel->values, start + i * width + o, width, depth, out + o, width,
                 i == 0);
      if (o == last) continue;
      /* fewer outputs than a pair of vectors holds: the same on a copy with zeros behind them */
      memset(part, 0, sizeof part);
      for (int64_t k = 0; k < depth; k++)
        for (int64_t c = 0; c < last - o; c++) {
          int64_t at = start + (i + k) * width + o + c;
          uint32_t bits;
          if (is_bfloat16) bits = (uint32_t)((const uint16_t*)kernel->values)[at] << 16;
          else bits = ((const uint32_t*)kernel->values)[at];
          memcpy(&part[k * WIDE + c], &bits, 4);
        }
      for (int r = 0; r < rows; r++) memcpy(sums + r * WIDE, out + r * width + o, (last - o) * sizeof(float));
      add_rows(rows, 0, x, p->width, part, 0, WIDE, depth, sums, WIDE, i == 0);
      for (int r = 0; r < rows; r++) memcpy(out + r * width + o, sums + r * WIDE, (last - o) * sizeof(float));
    }
  }
}

static int64_t num_strips(const Kernel* kernel) { return (kernel->width + STRIP - 1) / STRIP; }

static void multiply(void* context, int64_t index) {
  const Product* p = context;
  const Kernel* kernel = p->kernel;
  for (; index >= p->num_experts * num_strips(kernel); kernel++) index -= p->num_experts * num_strips(kernel);
  const ExpertRows* group = p->experts + index / num_strips(kernel);
  int64_t first = index % num_strips(kernel) * STRIP;
  int64_t last = first + STRIP < kernel->width ? first + STRIP : kernel->width;
  if (kernel->is_bfloat16) run_strip(1, p, kernel, group, first, last);
  else run_strip(0, p, kernel, group, first, last);
}

/* (x_SI float32 sorted by expert, count_E int32, kernels [E, I, O] ...) -> y_SO float32 of each kernel.
   Rows behind the last one that count_E counts become zeros. */
XLA_FFI_Error* jaxserve_experts(XLA_FFI_CallFrame* frame) {
  if (answer_metadata_request(frame)) return NULL;
  const XLA_FFI_Buffer *x = argument(frame, 0), *counts = argument(frame, 1);
  const int64_t rows = x->dims[0], experts = counts->dims[0];
  Product p = {.x = x->data, .width = x->dims[1], .count = (int)frame->rets.size};
  if (p.count > MOST_KERNELS || frame->args.size != p.count + 2)
    return make_error(frame, "jaxserve_experts wants one result for each of at most 4 kernels");
  ExpertRows* listed = malloc((experts + 1) * sizeof *listed);
  int64_t used, num_listed = listed ? list_experts(counts, rows, listed, &used) : -1;
  p.experts = listed, p.num_experts = num_listed;
  const char* fault = num_listed < 0 ? "jaxserve_experts: more rows are counted than there are" : NULL;
  int64_t items = 0;
  for (int i = 0; i < p.count && !fault; i++) {
    const XLA_FFI_Buffer *w = argument(frame, i + 2), *y = result(frame, i);
    int is_bfloat16 = w->dtype == XLA_FFI_DataType_BF16;
    if ((!is_bfloat16 && w->dtype != XLA_FFI_DataType_F32) || w->dims[0] != experts || w->dims[1] != p.width ||
        w->dims[2] != y->dims[1] || y->dims[0] != rows)
      fault = "jaxserve_experts: a kernel does not fit its input and output";
    p.kernel[i] = (Kernel){w->data, y->data, y->dims[1], is_bfloat16};
    items += num_listed * num_strips(&p.kernel[i]);
    if (!fault) memset((float*)y->data + used * y->dims[1], 0, (rows - used) * y->dims[1] * sizeof(float));
  }
  if (!fault) parallel_for(frame, items, multiply, &p);
  free(listed);
  return fault ? make_error(frame, fault) : NULL;
}
