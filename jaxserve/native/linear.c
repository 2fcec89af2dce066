/* Products with packed weights: y = x @ w in integers, block by block, summed in float32.
 *
 * A weight is [groups, blocks, bytes]: 16 outputs side by side, and parts of 32 inputs behind each other, one or eight
 * in a block. A part holds words of four bytes, the first word of each of the 16 outputs, then the second of each: what
 * one instruction multiplies lies in one register. Behind the words of a part stand its factors, int8, and behind all
 * parts of a block 16 scales in float16 and, in some forms, 16 minima. A code means scale * (code - zero) + minimum,
 * where scale and minimum are multiplied with their factors if there are some. FORMS has the numbers of every form.
 *
 * The words of a part, by the bits of its codes. Word w of 8 bits: inputs 4w .. 4w + 3. Of 4: the same of inputs 0..15
 * low, and of 16..31 high. Of 2: a pair of bits of each of inputs 16w .. 16w + 15, and a byte has every fourth. Those of
 * 5, 6 and 3 bits are the words of 4, 4 and 2, and then the upper bits: a pair of each as with 2, or one bit of each of
 * 32 inputs, and a byte has every fourth.
 *
 * Activations become int8, with a scale for every 32. Sums inside a block are exact and blocks are added in their
 * order, so a row's result depends neither on its neighbours and their number nor on who computes it.
 *
 * Experts are such weights behind each other; rows are sorted by expert, and only experts that have rows are read.
 * Where the processor has tiles, linear_tiles.h computes 16 rows at once, with the same bits.
 */
#include "expert_rows.h"
#include "tiles.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define GROUP 16
#define BLOCK 32
#define QUADS (BLOCK / 4)
#define HALVES (GROUP / LANES)
#define MOST_WEIGHTS 8
#define ITEM_BYTES 32768 /* of weights, for one row: about two microseconds from memory */
#if defined(__AVX512F__) || defined(EMULATE_TILES)
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
  int32_t total; /* of the codes: times zero, what the weights' codes are too large */
  float sum;     /* of the values, for the minima */
  int32_t first; /* the total of the first half */
} Activations;

typedef struct {
  int bits;        /* of a code */
  int zero;        /* the code that means 0 */
  int parts;       /* of 32 inputs in a block */
  int factors;     /* of the scales of a part, and as many of its minima: one for all inputs, or one for each half */
  int has_minimum; /* float16 behind the scales */
  int is_lookup;   /* codes are places in VALUES */
} Form;

/* In the order of layers/block_forms.py, whose kinds have the names of llama.cpp's types but for the first two. */
static const Form FORMS[] = {
    {.bits = 8, .zero = 128, .parts = 1},                      /* int8: Q8_0 */
    {.bits = 4, .parts = 1, .has_minimum = 1},                 /* int4: Q4_1 */
    {.bits = 4, .zero = 8, .parts = 1},                        /* q4_0 */
    {.bits = 5, .zero = 16, .parts = 1},                       /* q5_0 */
    {.bits = 5, .parts = 1, .has_minimum = 1},                 /* q5_1 */
    {.bits = 2, .parts = 8, .factors = 2, .has_minimum = 1},   /* q2_k */
    {.bits = 3, .zero = 4, .parts = 8, .factors = 2},          /* q3_k */
    {.bits = 4, .parts = 8, .factors = 1, .has_minimum = 1},   /* q4_k */
    {.bits = 5, .parts = 8, .factors = 1, .has_minimum = 1},   /* q5_k */
    {.bits = 6, .zero = 32, .parts = 8, .factors = 2},         /* q6_k */
    {.bits = 4, .zero = 128, .parts = 1, .is_lookup = 1},      /* iq4_nl */
    {.bits = 4, .zero = 128, .parts = 8, .factors = 1, .is_lookup = 1}, /* iq4_xs */
};
#define NUM_FORMS (int64_t)(sizeof FORMS / sizeof *FORMS)
/* What codes mean, plus 128, which is `zero`; four times over, as the instruction wants it. */
#define SIXTEEN 1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241
static const uint8_t VALUES[64] __attribute__((aligned(64))) = {SIXTEEN, SIXTEEN, SIXTEEN, SIXTEEN};

INLINE int64_t part_bytes(Form f) { return GROUP * (BLOCK * f.bits / 8 + f.factors * (1 + f.has_minimum)); }
INLINE int64_t bytes_of(Form f) { return f.parts * part_bytes(f) + GROUP * 2 * (1 + f.has_minimum); }

typedef struct {
  const uint8_t* blocks;
  float* out;
  int64_t form, width, groups, step, items, group_bytes;
} Weight;

typedef struct {
  const float* x;
  Activations* packed;
  const ExpertRows* experts; /* one for all rows where there are no experts */
  int64_t rows, width, blocks, num_experts;
  int count;
  Weight weight[MOST_WEIGHTS];
} Product;

#include "linear_dot.h"

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

INLINE Bytes shift_right(Bytes value, int bits) { /* across the bytes of a pair: the caller masks what came over */
  return bits >= 0 ? (Bytes)((Shorts)value >> bits) : (Bytes)((Shorts)value << -bits);
}

#if !(defined(__AVX512BW__) && LANES == 16) && !(defined(__AVX2__) && LANES == 8)
static __attribute__((noinline)) void look_up_each(uint8_t* code) {
  for (int i = 0; i < LANES * 4; i++) code[i] = VALUES[code[i]];
}
#endif

INLINE Bytes look_up(Bytes code) {
#if defined(__AVX512BW__) && LANES == 16
  return (Bytes)_mm512_shuffle_epi8(_mm512_load_si512(VALUES), (__m512i)code);
#elif defined(__AVX2__) && LANES == 8
  return (Bytes)_mm256_shuffle_epi8(_mm256_load_si256((const __m256i*)VALUES), (__m256i)code);
#else
  look_up_each((uint8_t*)&code);
  return code;
#endif
}

/* The codes of a part: four inputs of LANES outputs in each of the 8 quads. */
INLINE void unpack(Form f, const uint8_t* at, Bytes quad[QUADS]) {
#define WORD(w) ((Bytes) * (const BytesU*)(at + (w) * GROUP * 4))
  const int low = f.bits == 8 ? 8 : f.bits < 4 ? 2 : 4, high = f.bits - low; /* bits */
#pragma GCC unroll 8
  for (int q = 0; q < QUADS; q++) {
    if (low == 8) quad[q] = WORD(q);
    if (low == 4) quad[q] = shift_right(WORD(q % 4), q / 4 * 4) & 15;
    if (low == 2) quad[q] = shift_right(WORD(q / 4), q % 4 * 2) & 3;
    if (high == 1) quad[q] |= shift_right(WORD(low), q - low) & (uint8_t)(1 << low);
    if (high == 2) quad[q] |= shift_right(WORD(low + q / 4), q % 4 * 2 - low) & (uint8_t)(3 << low);
    if (f.is_lookup) quad[q] = look_up(quad[q]);
  }
#undef WORD
}

/* LANES int8 factors times LANES float16 numbers, exactly. */
INLINE Vec multiply_factors(Vec number, const uint8_t* at) {
#if defined(__AVX512F__)
  return number * (Vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)at)));
#elif defined(__AVX2__)
  return number * (Vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)at)));
#else
  Small small;
  memcpy(&small, at, LANES);
  return number * __builtin_convertvector(__builtin_convertvector(small, IVec), Vec);
#endif
}

/* LANES scales and minima of a part; if it has factors for each half, those of the second, too. */
typedef struct {
  Vec scale, least, scale_2, least_2;
} Scales;

INLINE Scales load_scales(Form f, const uint8_t* floats, const uint8_t* factors) {
  Scales s = {.scale = halves(floats), .least = broadcast(0)};
  if (f.has_minimum) s.least = halves(floats + GROUP * 2);
  s.scale_2 = s.scale, s.least_2 = s.least;
  if (f.factors == 2) s.scale_2 = multiply_factors(s.scale, factors + GROUP);
  if (f.factors == 2 && f.has_minimum) s.least_2 = multiply_factors(s.least, factors + 3 * GROUP);
  if (f.factors) s.scale = multiply_factors(s.scale, factors);
  if (f.factors && f.has_minimum) s.least = multiply_factors(s.least, factors + f.factors * GROUP);
  return s;
}

/* What the sum of a part begins with, or that of its first half where it has its own scale; and of the second. */
INLINE IVec zeros(Form f, int zero, const Activations* x) {
  return (IVec){0} - zero * (f.factors < 2 ? x->total : x->first);
}
INLINE IVec zeros_of_rest(int zero, const Activations* x) { return (IVec){0} - zero * (x->total - x->first); }

/* Adds a part's sums of codes times activations to the total of a row. */
INLINE void add_sums(Form f, IVec sum, IVec rest, const Scales* s, const Activations* x, Vec* total) {
  if (f.factors < 2) {
    Vec factor = s->scale * x->scale;
    *total += factor * __builtin_convertvector(sum, Vec);
    if (f.has_minimum) *total += s->least * x->sum;
  } else {
    Vec value = s->scale * __builtin_convertvector(sum, Vec) + s->scale_2 * __builtin_convertvector(rest, Vec);
    if (f.has_minimum) value += s->least * (float)x->first + s->least_2 * (float)(x->total - x->first);
    *total += value * x->scale;
  }
}

/* Adds the products of `n` rows with a part of a group, LANES outputs of it, to their totals. */
INLINE void part_of(int n, Form f, const uint8_t* words, const uint8_t* factors, const uint8_t* floats,
                    const Activations* x, Vec* total) {
  Bytes quad[QUADS];
  unpack(f, words, quad);
  const Scales scales = load_scales(f, floats, factors);
  const int half = f.factors < 2 ? QUADS : QUADS / 2; /* so many quads have the first scale */
  const int zero = zero_of(f);
#pragma GCC unroll 16
  for (int r = 0; r < n; r++) {
    IVec sum = dot(f, zeros(f, zero, x + r), half, quad, x[r].code);
    IVec rest = dot(f, zeros_of_rest(zero, x + r), QUADS - half, quad + half, x[r].code + half);
    add_sums(f, sum, rest, &scales, x + r, total + r);
  }
}

/* The products of `n` rows with one group, x being their activations of the first block. */
INLINE void group_of(int n, Form f, const Weight* w, const uint8_t* block, const Activations* x, int64_t row,
                     int64_t first) {
  Vec total[HALVES][TILE];
#pragma GCC unroll 16
  for (int r = 0; r < n; r++)
    for (int h = 0; h < HALVES; h++) total[h][r] = broadcast(0);
  const uint8_t* end = block + w->group_bytes;
  while (block < end) {
    const uint8_t* floats = block + f.parts * part_bytes(f);
    if (f.parts > 1) __builtin_prefetch(floats + bytes_of(f)); /* it is read before what lies before it */
#pragma GCC unroll 1
    for (int part = 0; part < f.parts; part++, block += part_bytes(f), x += TILE) {
#pragma GCC unroll 2
      for (int h = 0; h < HALVES; h++) {
        const uint8_t* factors = block + GROUP * BLOCK * f.bits / 8 + h * LANES;
        part_of(n, f, block + h * LANES * 4, factors, floats + h * LANES * 2, x, total[h]);
      }
    }
    block = floats + GROUP * 2 * (1 + f.has_minimum);
  }
  int64_t left = w->width - first;
#pragma GCC unroll 16
  for (int r = 0; r < n; r++) {
    float* out = w->out + (row + r) * w->width + first;
    float last[GROUP], *to = left >= GROUP ? out : last;
    for (int h = 0; h < HALVES; h++) store(to + h * LANES, total[h][r]);
    if (left < GROUP) memcpy(out, last, left * sizeof(float));
  }
}

/* The products of rows first_row..last_row with one group. */
INLINE void rows_of(int most, Form f, const Product* p, const Weight* w, const uint8_t* block, int64_t first_row,
                    int64_t last_row, int64_t first) {
  for (int64_t row = first_row; row < last_row;) {
    const Activations* x = p->packed + row / TILE * p->blocks * TILE + row % TILE;
    int64_t left = last_row - row;
    if (left > TILE - row % TILE) left = TILE - row % TILE; /* rows of a tile lie side by side */
    if (left > most) left = most;
    int n = left >= TILE ? TILE : left >= 8 && TILE > 8 ? 8 : left >= 4 && TILE > 4 ? 4 : left >= 2 ? 2 : 1;
    switch (n) {
#if TILE > 4
      case 16: group_of(16, f, w, block, x, row, first); break;
      case 8: group_of(8, f, w, block, x, row, first); break;
#endif
      case 4: group_of(4, f, w, block, x, row, first); break;
      case 2: group_of(2, f, w, block, x, row, first); break;
      default: group_of(1, f, w, block, x, row, first);
    }
    row += n;
  }
}

static void multiply_rows(const Product* p, const Weight* w, int64_t expert, int64_t first_group, int64_t last_group,
                          int64_t first_row, int64_t last_row) {
  for (int64_t group = first_group; group < last_group; group++) {
    const uint8_t* block = w->blocks + (expert * w->groups + group) * w->group_bytes;
    switch (w->form) {
#define CASE(i) \
  case i: rows_of(TILE, FORMS[i], p, w, block, first_row, last_row, group * GROUP); break;
      CASE(0) CASE(1)
#if defined(__AVX2__)
      CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11)
#else /* with vectors in pieces, each would take the compiler seconds */
      default: rows_of(1, FORMS[w->form], p, w, block, first_row, last_row, group * GROUP);
#endif
#undef CASE
    }
  }
}

#include "linear_tiles.h"

static void multiply(void* context, int64_t index) {
  const Product* p = context;
  const Weight* w = p->weight;
  for (; index >= p->num_experts * w->items; w++) index -= p->num_experts * w->items;
  const ExpertRows* e = p->experts + index / w->items;
  int64_t group = index % w->items * w->step, end = group + w->step < w->groups ? group + w->step : w->groups;
  int64_t row = e->first, last = e->first + e->rows;
#if HAS_TILES
  int64_t first_tile = (row + TILE - 1) / TILE * TILE, last_tile = last / TILE * TILE;
  if (tiles_are_used && first_tile < last_tile) {
    multiply_tiles(p, w, e->expert, group, end, first_tile, last_tile);
    multiply_rows(p, w, e->expert, group, end, row, first_tile);
    row = last_tile;
  }
#endif
  multiply_rows(p, w, e->expert, group, end, row, last);
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
    IVec top = {0}, sum = {0}, first = {0};
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
      if (i + LANES == BLOCK / 2) first = sum;
    }
    to->first = total_of(first), to->total = total_of(sum);
    to->scale = most.value / 127.0f;
    to->sum = to->scale * (float)to->total;
  }
}

/* Computes the product of all rows. The weights begin at argument `skipped`, with an axis of experts if it is 2. */
static const char* compute(XLA_FFI_CallFrame* frame, Product* p, int skipped) {
  const XLA_FFI_Buffer* x = argument(frame, 0);
  const int of_experts = skipped - 1;
  p->x = x->data, p->rows = x->dims[0], p->width = x->dims[1], p->blocks = (x->dims[1] + BLOCK - 1) / BLOCK;
  p->count = (int)frame->rets.size;
  if (p->count > MOST_WEIGHTS || frame->args.size != p->count + skipped || frame->attrs.size != 1)
    return "jaxserve_linear wants one result for each of at most 8 weights, and their forms";
  int64_t forms = (int64_t)attribute(frame, 0); /* of each weight four bits, those of the first lowest */
  int64_t items = 0, at_once = p->num_experts ? p->rows / p->num_experts / 4 : 1;
  if (at_once < 2) at_once = 1;
  for (int i = 0; i < p->count; i++) {
    const XLA_FFI_Buffer *w = argument(frame, i + skipped), *y = result(frame, i);
    const int64_t* dims = w->dims + of_experts;
    Weight weight = {.blocks = w->data, .out = y->data, .width = y->dims[1], .groups = dims[0]};
    weight.form = forms >> 4 * i & 15, weight.group_bytes = dims[1] * dims[2];
    Form f = FORMS[weight.form < NUM_FORMS ? weight.form : 0];
    int known = weight.form < NUM_FORMS && dims[2] == bytes_of(f);
    if (!known || dims[1] * f.parts != p->blocks || dims[0] != (weight.width + GROUP - 1) / GROUP)
      return "jaxserve_linear: a weight does not fit its input and output";
    weight.step = ITEM_BYTES / (weight.group_bytes * at_once + 1);
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

/* Uses tiles from now on if there are some, the system keeps them for us, and they compute what other products do.
   Returns 1, or why not: 0: there are none; -1: the system refuses; -2: they compute something else. */
int jaxserve_start_tiles(void) {
#if HAS_TILES
  int state = request_tiles();
  if (state != 1) return state;
  tiles_are_used = tiles_agree();
  return tiles_are_used ? 1 : -2;
#else
  return 0;
#endif
}
