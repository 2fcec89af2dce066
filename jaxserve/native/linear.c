/* Products with packed weights: y = x @ w in integers, block by block, summed in float32.
 *
 * A weight is [groups, blocks, bytes]: 16 outputs side by side, 32 inputs deep. A block holds codes for four inputs of
 * each of the 16 outputs, then for the next four: what one instruction multiplies lies in one register. Behind them
 * stand 16 scales in float16 and, with four bits, 16 minima. With eight bits a code means scale * (code - 128); with
 * four it means scale * code + minimum, and a byte holds inputs 0..15 of the block low and 16..31 high.
 *
 * Activations become int8, with a scale for every 32. Sums inside a block are exact and blocks are added in their
 * order, so a row's result depends neither on its neighbours and their number nor on who computes it.
 *
 * Experts are such weights behind each other; rows are sorted by expert, and only experts that have rows are read.
 */
#include "expert_rows.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define GROUP 16
#define BLOCK 32
#define QUADS (BLOCK / 4)
#define PARTS (GROUP / LANES)
#define INT8_BYTES (GROUP * (BLOCK + 2))
#define INT4_BYTES (GROUP * (BLOCK / 2 + 4))
#define MOST_WEIGHTS 8
#define ITEM_BYTES 32768 /* of weights, for one row: about two microseconds from memory */
#ifdef __AVX512F__
#define TILE 16 /* rows at a time: 16 sums and the 8 quads of a block in 32 registers */
#else
#define TILE 4
#endif

typedef uint8_t Bytes __attribute__((vector_size(LANES * 4)));
typedef uint8_t BytesU __attribute__((vector_size(LANES * 4), aligned(1)));
typedef uint16_t Shorts __attribute__((vector_size(LANES * 4)));
typedef int8_t Small __attribute__((vector_size(LANES)));

typedef struct { /* 32 activations of a row; those of a tile's rows lie side by side */
  int32_t code[QUADS];
  float scale;
  int32_t shift; /* -128 times the sum of the codes: what the codes' offset adds */
  float sum;     /* of the values, for the minima */
  int32_t unused;
} Activations;

typedef struct {
  const uint8_t* blocks;
  float* out;
  int64_t width, groups, step, items, block_bytes;
} Weight;

typedef struct {
  const float* x;
  Activations* packed;
  const ExpertRows* experts; /* one for all rows where there are no experts */
  int64_t rows, width, blocks, num_experts;
  int count;
  Weight weight[MOST_WEIGHTS];
} Product;

/* sum + the four products of each lane: codes without sign, four activations with. */
INLINE IVec dot(IVec sum, Bytes codes, int32_t four) {
#if defined(__AVX512VNNI__) && LANES == 16
  return (IVec)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)codes, _mm512_set1_epi32(four));
#elif defined(__AVXVNNI__) && LANES == 8
  return (IVec)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)codes, _mm256_set1_epi32(four));
#elif defined(__AVX512BW__) && LANES == 16
  __m512i x = _mm512_set1_epi32(four), w = (__m512i)codes;
  __m512i even = _mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8), odd = _mm512_srai_epi16(x, 8);
  __m512i low = _mm512_madd_epi16(_mm512_and_si512(w, _mm512_set1_epi16(255)), even);
  return sum + (IVec)low + (IVec)_mm512_madd_epi16(_mm512_srli_epi16(w, 8), odd);
#elif defined(__AVX2__) && LANES == 8
  __m256i x = _mm256_set1_epi32(four), w = (__m256i)codes;
  __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), odd = _mm256_srai_epi16(x, 8);
  __m256i low = _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(255)), even);
  return sum + (IVec)low + (IVec)_mm256_madd_epi16(_mm256_srli_epi16(w, 8), odd);
#else
  for (int k = 0; k < 4; k++) sum += ((IVec)codes >> 8 * k & 255) * (int8_t)(four >> 8 * k);
  return sum;
#endif
}

/* LANES numbers from float16, exactly. */
INLINE Vec halves(const uint8_t* at) {
#if defined(__AVX512F__)
  return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)at));
#elif defined(__F16C__)
  return (Vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)at));
#else
  IVec bits;
  for (int i = 0; i < LANES; i++) {
    uint16_t half;
    memcpy(&half, at + 2 * i, 2);
    bits[i] = half;
  }
  IVec size = bits & 0x7fff, exponent = size >> 10, sign = (bits & 0x8000) << 16;
  Vec small = __builtin_convertvector(size, Vec) * 5.9604644775390625e-8f; /* 2^-24 */
  Vec large = (Vec)((size << 13) + (112 << 23) + ((112 << 23) & (exponent == 31)));
  return (Vec)((IVec)vec_select(exponent == 0, small, large) | sign);
#endif
}

INLINE void unpack(int bits, const uint8_t* block, int part, Bytes quad[QUADS]) {
  const uint8_t* at = block + part * LANES * 4;
  if (bits == 8) {
#pragma GCC unroll 8
    for (int q = 0; q < QUADS; q++) quad[q] = (Bytes) * (const BytesU*)(at + q * GROUP * 4);
    return;
  }
#pragma GCC unroll 4
  for (int q = 0; q < QUADS / 2; q++) {
    Bytes both = (Bytes) * (const BytesU*)(at + q * GROUP * 4);
    quad[q] = both & 15;
    quad[q + QUADS / 2] = (Bytes)((Shorts)both >> 4) & 15;
  }
}

/* The products of `n` rows with one group, x being their activations of the first block. */
INLINE void group_of(int n, int bits, const Weight* w, const uint8_t* block, int64_t blocks, const Activations* x,
                    int64_t row, int64_t first) {
  Vec total[TILE][PARTS];
#pragma GCC unroll 16
  for (int r = 0; r < n; r++)
    for (int p = 0; p < PARTS; p++) total[r][p] = broadcast(0);
  for (int64_t b = 0; b < blocks; b++, block += bits == 8 ? INT8_BYTES : INT4_BYTES, x += TILE) {
    const uint8_t* scales = block + GROUP * BLOCK * bits / 8;
#pragma GCC unroll 2
    for (int p = 0; p < PARTS; p++) {
      Bytes quad[QUADS];
      unpack(bits, block, p, quad);
      Vec scale = halves(scales + p * LANES * 2), least = broadcast(0);
      if (bits == 4) least = halves(scales + GROUP * 2 + p * LANES * 2);
#pragma GCC unroll 16
      for (int r = 0; r < n; r++) {
        IVec sum = (IVec){0} + (bits == 8 ? x[r].shift : 0);
#pragma GCC unroll 8
        for (int q = 0; q < QUADS; q++) sum = dot(sum, quad[q], x[r].code[q]);
        Vec factor = scale * x[r].scale;
        total[r][p] += factor * __builtin_convertvector(sum, Vec);
        if (bits == 4) total[r][p] += least * x[r].sum;
      }
    }
  }
  int64_t left = w->width - first;
#pragma GCC unroll 16
  for (int r = 0; r < n; r++) {
    float* out = w->out + (row + r) * w->width + first;
    if (left >= GROUP) {
      for (int p = 0; p < PARTS; p++) store(out + p * LANES, total[r][p]);
    } else {
      memcpy(out, total[r], left * sizeof(float));
    }
  }
}

INLINE void rows_of(int bits, const Product* p, const Weight* w, const ExpertRows* e, int64_t group) {
  const uint8_t* block = w->blocks + (e->expert * w->groups + group) * p->blocks * w->block_bytes;
  int64_t first = group * GROUP;
  for (int64_t row = e->first; row < e->first + e->rows;) {
    const Activations* x = p->packed + row / TILE * p->blocks * TILE + row % TILE;
    int64_t left = e->first + e->rows - row;
    if (left > TILE - row % TILE) left = TILE - row % TILE; /* rows of a tile lie side by side */
    int n = left >= TILE ? TILE : left >= 8 && TILE > 8 ? 8 : left >= 4 && TILE > 4 ? 4 : left >= 2 ? 2 : 1;
    switch (n) {
#if TILE > 4
      case 16: group_of(16, bits, w, block, p->blocks, x, row, first); break;
      case 8: group_of(8, bits, w, block, p->blocks, x, row, first); break;
#endif
      case 4: group_of(4, bits, w, block, p->blocks, x, row, first); break;
      case 2: group_of(2, bits, w, block, p->blocks, x, row, first); break;
      default: group_of(1, bits, w, block, p->blocks, x, row, first);
    }
    row += n;
  }
}

static void multiply(void* context, int64_t index) {
  const Product* p = context;
  const Weight* w = p->weight;
  for (; index >= p->num_experts * w->items; w++) index -= p->num_experts * w->items;
  const ExpertRows* e = p->experts + index / w->items;
  index %= w->items;
  int64_t end = (index + 1) * w->step < w->groups ? (index + 1) * w->step : w->groups;
  for (int64_t group = index * w->step; group < end; group++) {
    if (w->block_bytes == INT8_BYTES) rows_of(8, p, w, e, group);
    else rows_of(4, p, w, e, group);
  }
}

INLINE Vec whole(Vec value) { /* to the nearest, halves to the even one */
#if defined(__AVX512F__)
  return (Vec)_mm512_roundscale_ps((__m512)value, 0);
#elif defined(__AVX__)
  return (Vec)_mm256_round_ps((__m256)value, 0);
#else
  for (int i = 0; i < LANES; i++) value[i] = __builtin_rintf(value[i]);
  return value;
#endif
}

INLINE int32_t largest_of(IVec value) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_epi32((__m512i)value);
#else
  int32_t lanes[LANES];
  memcpy(lanes, &value, sizeof lanes);
  for (int step = LANES / 2; step; step /= 2)
    for (int i = 0; i < step; i++) lanes[i] = lanes[i] > lanes[i + step] ? lanes[i] : lanes[i + step];
  return lanes[0];
#endif
}

INLINE int32_t total_of(IVec value) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_epi32((__m512i)value);
#else
  int32_t lanes[LANES], total = 0;
  memcpy(lanes, &value, sizeof lanes);
  for (int i = 0; i < LANES; i++) total += lanes[i];
  return total;
#endif
}

/* A row becomes int8. As integers NaN is larger than infinity and that than numbers: it becomes the scale, and so the
   row's result. */
static void round_row(void* context, int64_t row) {
  const Product* p = context;
  Activations* to = p->packed + row / TILE * p->blocks * TILE + row % TILE;
  for (int64_t b = 0; b < p->blocks; b++, to += TILE) {
    const float* x = p->x + row * p->width + b * BLOCK;
    float last[BLOCK] = {0};
    if ((b + 1) * BLOCK > p->width) x = memcpy(last, x, (p->width - b * BLOCK) * sizeof(float));
    IVec top = {0}, sum = {0};
    for (int i = 0; i < BLOCK; i += LANES) {
      IVec size = (IVec)load(x + i) & 0x7fffffff;
      top = (IVec)vec_select(size > top, (Vec)size, (Vec)top);
    }
    union {
      int32_t bits;
      float value;
    } most = {.bits = largest_of(top)};
    float inverse = most.value > 1e-30f ? 127.0f / most.value : 0.0f;
    for (int i = 0; i < BLOCK; i += LANES) {
      IVec code = __builtin_convertvector(whole(load(x + i) * inverse), IVec);
      Small small = __builtin_convertvector(code, Small);
      memcpy((int8_t*)to->code + i, &small, LANES);
      sum += code;
    }
    int32_t total = total_of(sum);
    to->scale = most.value / 127.0f;
    to->shift = -128 * total;
    to->sum = to->scale * (float)total;
  }
}

/* Computes the product of all rows. The weights begin at argument `skipped`, with an axis of experts if it is 2. */
static const char* compute(XLA_FFI_CallFrame* frame, Product* p, int skipped) {
  const XLA_FFI_Buffer* x = argument(frame, 0);
  const int of_experts = skipped - 1;
  p->x = x->data, p->rows = x->dims[0], p->width = x->dims[1], p->blocks = (x->dims[1] + BLOCK - 1) / BLOCK;
  p->count = (int)frame->rets.size;
  if (p->count > MOST_WEIGHTS || frame->args.size != p->count + skipped)
    return "jaxserve_linear wants one result for each of at most 8 weights";
  int64_t items = 0, at_once = p->num_experts ? p->rows / p->num_experts / 4 : 1;
  if (at_once < 2) at_once = 1;
  for (int i = 0; i < p->count; i++) {
    const XLA_FFI_Buffer *w = argument(frame, i + skipped), *y = result(frame, i);
    const int64_t* dims = w->dims + of_experts;
    Weight weight = {.blocks = w->data, .out = y->data, .width = y->dims[1], .groups = dims[0], .block_bytes = dims[2]};
    int known = weight.block_bytes == INT8_BYTES || weight.block_bytes == INT4_BYTES;
    if (!known || dims[1] != p->blocks || dims[0] != (weight.width + GROUP - 1) / GROUP)
      return "jaxserve_linear: a weight does not fit its input and output";
    weight.step = ITEM_BYTES / (p->blocks * weight.block_bytes * at_once);
    if (weight.step < 1) weight.step = 1;
    weight.items = (weight.groups + weight.step - 1) / weight.step;
    items += p->num_experts * weight.items;
    p->weight[i] = weight;
  }
  int64_t tiles = (p->rows + TILE - 1) / TILE;
  p->packed = (Activations*)scratch(tiles * TILE * p->blocks * sizeof(Activations) / sizeof(float));
  if (p->rows * p->width < 32768) {
    for (int64_t row = 0; row < p->rows; row++) round_row(p, row);
  } else {
    parallel_for(frame, p->rows, round_row, p);
  }
  parallel_for(frame, items, multiply, p);
  return NULL;
}

/* (x_TI float32, weights uint8 [groups, blocks, bytes] ...) -> y_TO float32 of each weight */
XLA_FFI_Error* jaxserve_linear(XLA_FFI_CallFrame* frame) {
  if (answer_metadata_request(frame)) return NULL;
  ExpertRows all_rows = {0, 0, argument(frame, 0)->dims[0]};
  Product p = {.experts = &all_rows, .num_experts = 1};
  const char* fault = compute(frame, &p, 1);
  return fault ? make_error(frame, fault) : NULL;
}

/* (x_SI float32 sorted by expert, count_E int32, weights uint8 [experts, groups, blocks, bytes] ...) -> y_SO float32 of
   each weight. Rows behind the last one that count_E counts become zeros. */
XLA_FFI_Error* jaxserve_packed_experts(XLA_FFI_CallFrame* frame) {
  if (answer_metadata_request(frame)) return NULL;
  const int64_t rows = argument(frame, 0)->dims[0], experts = argument(frame, 1)->dims[0];
  ExpertRows* listed = malloc((experts + 1) * sizeof *listed);
  int64_t used, num_listed = listed ? list_experts(argument(frame, 1), rows, listed, &used) : -1;
  const char* fault = num_listed < 0 ? "jaxserve_packed_experts: more rows are counted than there are" : NULL;
  for (int i = 0; i < frame->rets.size && !fault; i++) {
    const XLA_FFI_Buffer *w = argument(frame, i + 2), *y = result(frame, i);
    if (w->dims[0] != experts) fault = "jaxserve_packed_experts: a weight has another number of experts";
    memset((float*)y->data + used * y->dims[1], 0, (rows - used) * y->dims[1] * sizeof(float));
  }
  Product p = {.experts = listed, .num_experts = num_listed};
  if (!fault) fault = compute(frame, &p, 2);
  free(listed);
  return fault ? make_error(frame, fault) : NULL;
}
