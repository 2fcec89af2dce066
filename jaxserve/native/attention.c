/* Paged attention in float32: one item is a tile of queries of one row and one key head.
 *
 * Pages hold several layers: keys [P, L, K, H, Z], values [P, L, K, Z, H]. Numbers that are no float32 become float32 a
 * few at a time, in a buffer of the thread. Scales of keys and values, [P, L, K, Z], are multiplied with scores and
 * weights, which are fewer than the numbers. A tile's scores over all that it sees are
 * made first, LANES positions at a time; then each query's softmax; then the weighted sum of values. Only
 * what a query of the tile sees is read from the values, so dead slots may hold anything.
 */
#include "page_numbers.h"

#ifdef __AVX512F__
#define TILE 12 /* queries at a time: 12 x 2 sums in 32 registers */
#else
#define TILE 6 /* 6 x 2 in 16 */
#endif

#define WIDE_ROWS 32 /* values that become float32 at a time */

typedef struct {
  XLA_FFI_DataType type; /* of the numbers in the pages, and their bytes */
  int64_t bytes;
  const char *keys, *values;
  const float *query, *key_scales, *value_scales; /* no scales: NULL */
  const int32_t *position, *table, *length, *query_start;
  const float* sinks;
  float* out;
  const int64_t* first_item; /* [rows + 1]: the items of row b are first_item[b] .. first_item[b + 1] - 1 */
  int64_t rows, heads, kv_heads, head_dim, page, width;
  int64_t page_step; /* from a page of keys or values to the next: those of the other layers lie between */
  int64_t scale_step; /* the same of scales */
  int64_t window;
  float scale, softcap;
} Attention;

/* exp(x) for x <= 0, within 2 units in the last place: 2^n by the exponent's bits, the rest by a polynomial. */
INLINE Vec exp_nonpositive(Vec x) {
  x = vec_max(x, broadcast(-87.0f));
  Vec magic = broadcast(12582912.0f); /* 1.5 * 2^23: adding it rounds to the nearest integer */
  Vec shifted = x * 1.44269504f + magic;
  Vec n = shifted - magic;
  Vec r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Vec p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  IVec bits = ((IVec)shifted - (IVec)magic + 127) << 23;
  return p * (Vec)bits;
}

INLINE Vec apply_softcap(Vec score, float cap) { /* cap * tanh(score / cap) */
  Vec x = score / cap;
  Vec size = vec_select(x < 0.0f, -x, x);
  Vec fade = exp_nonpositive(-2.0f * size);
  Vec bend = cap * (1.0f - fade) / (1.0f + fade);
  return vec_select(x < 0.0f, -bend, bend);
}

#define PREFETCH_PAGES 2 /* how far ahead of its use a page is asked for */
#define LINE_BYTES 64

INLINE void prefetch_lines(const char* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += LINE_BYTES) __builtin_prefetch(from + i);
}

/* Asks for what a page holds of a head: its keys, or its values. The pages of a head lie far apart in no order, so the
   processor foresees none: decode over 8-bit pages of 16 tokens waited for memory half of its time. */
INLINE void prefetch_page(const Attention* a, const char* numbers, int64_t page, int64_t head) {
  int64_t count = a->page * a->head_dim;
  prefetch_lines(numbers + (page * a->page_step + head * count) * a->bytes, count * a->bytes);
}

INLINE void prefetch_scales(const Attention* a, const float* scales, int64_t page, int64_t head) {
  prefetch_lines((const char*)(scales + page * a->scale_step + head * a->page), a->page * sizeof(float));
}

/* Scores of `n` queries against two groups of LANES positions; keys lie `stride` apart from one h to the next. */
INLINE void score_two(int n, const float** query, const float* a, const float* b, int64_t stride, int64_t depth,
                     float** at_a, float** at_b) {
  Vec sum[TILE][2];
#pragma GCC unroll 12
  for (int r = 0; r < n; r++) sum[r][0] = sum[r][1] = broadcast(0);
  for (int64_t h = 0; h < depth; h++) {
    Vec key_a = load(a + h * stride), key_b = load(b + h * stride);
#pragma GCC unroll 12
    for (int r = 0; r < n; r++) {
      Vec q = broadcast(query[r][h]);
      sum[r][0] += q * key_a;
      sum[r][1] += q * key_b;
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < n; r++) {
    store(at_a[r], sum[r][0]);
    store(at_b[r], sum[r][1]);
  }
}

/* Weighted sums of values for `n` queries and `wide` groups of LANES of the head, positions low .. high - 1. */
INLINE void sum_values(int n, int wide, const Attention* a, const int32_t* table, int64_t head, const float** weight,
                       int64_t low, int64_t high, int64_t from, float** out, float* buffer) {
  const int is_float = a->type == XLA_FFI_DataType_F32;
  Vec sum[TILE][2];
#pragma GCC unroll 12
  for (int r = 0; r < n; r++) sum[r][0] = sum[r][1] = broadcast(0);
  for (int64_t s = low; s < high;) {
    int64_t offset = s % a->page, count = a->page - offset;
    if (count > high - s) count = high - s;
    if (from == 0 && offset == 0 && s + PREFETCH_PAGES * a->page < high)
      prefetch_page(a, a->values, table[s / a->page + PREFETCH_PAGES], head);
    const char* numbers =
        a->values + (table[s / a->page] * a->page_step + (head * a->page + offset) * a->head_dim + from) * a->bytes;
    const float* value = (const float*)numbers;
    int64_t stride = a->head_dim;
    if (!is_float) {
      if (count > WIDE_ROWS) count = WIDE_ROWS;
      value = buffer, stride = wide * LANES;
      widen(a->type, buffer, numbers, count, stride, a->head_dim);
    }
    for (int64_t z = 0; z < count; z++, value += stride) {
      Vec first = load(value), second = wide > 1 ? load(value + LANES) : broadcast(0);
#pragma GCC unroll 12
      for (int r = 0; r < n; r++) {
        Vec w = broadcast(weight[r][s + z]);
        sum[r][0] += w * first;
        if (wide > 1) sum[r][1] += w * second;
      }
    }
    s += count;
  }
#pragma GCC unroll 12
  for (int r = 0; r < n; r++) {
    store(out[r] + from, sum[r][0]);
    if (wide > 1) store(out[r] + from + LANES, sum[r][1]);
  }
}

/* Turns scores low .. high - 1 into weights that, with the sink's, add up to one, and the rest of first .. last - 1
   into zeros. */
static void softmax_scores(const Attention* a, float* score, float sink, int64_t low, int64_t high, int64_t first,
                   int64_t last) {
  int64_t start = low / LANES * LANES, end = (high + LANES - 1) / LANES * LANES;
  for (int64_t s = first; s < low; s++) score[s] = -1e30f;
  for (int64_t s = high; s < end; s++) score[s] = -1e30f;
  Vec top = broadcast(-1e30f), total = broadcast(0);
  for (int64_t s = start; s < end; s += LANES) {
    Vec x = load(score + s) * a->scale;
    if (a->softcap > 0) x = apply_softcap(x, a->softcap);
    store(score + s, x);
  }
  for (int64_t s = start; s < low; s++) score[s] = -1e30f;
  for (int64_t s = high; s < end; s++) score[s] = -1e30f;
  for (int64_t s = start; s < end; s += LANES) top = vec_max(top, load(score + s));
  float lanes[LANES], best = sink > -1e30f ? sink : -1e30f;
  store(lanes, top);
  for (int i = 0; i < LANES; i++) best = lanes[i] > best ? lanes[i] : best;
  for (int64_t s = start; s < end; s += LANES) {
    Vec w = exp_nonpositive(load(score + s) - best);
    total += w;
    store(score + s, w);
  }
  store(lanes, exp_nonpositive(broadcast(sink > -1e30f ? sink - best : -1e30f)));
  Vec share = broadcast(1.0f / (sum_lanes(total) + lanes[0]));
  for (int64_t s = start; s < end; s += LANES) store(score + s, load(score + s) * share);
  for (int64_t s = first; s < low; s++) score[s] = 0;
  for (int64_t s = high; s < last; s++) score[s] = 0;
}

/* Multiplies what each query has at positions low .. high - 1 by their scales. */
static void apply_scales(const Attention* a, const float* scales, const int32_t* table, int64_t head, int n,
                         float** rows, int64_t low, int64_t high) {
  for (int64_t s = low; s < high;) {
    int64_t offset = s % a->page, count = a->page - offset;
    if (count > high - s) count = high - s;
    const float* restrict scale = scales + table[s / a->page] * a->scale_step + head * a->page + offset;
    for (int r = 0; r < n; r++) {
      float* restrict row = rows[r] + s;
      for (int64_t z = 0; z < count; z++) row[z] *= scale[z];
    }
    s += count;
  }
}

typedef struct { /* one tile: its queries, what each sees, and where the answers go */
  const float* query[TILE];
  float *out[TILE], *score[TILE];
  int64_t low[TILE], high[TILE];
  float sink[TILE];
  float* buffer; /* room for two vectors of every number of a head, and for WIDE_ROWS of two vectors */
} Tile;

/* The keys of LANES positions from s on, `*stride` floats apart from one number of the head to the next. */
INLINE const float* find_keys(const Attention* a, const char* keys, const int32_t* table, int64_t s, float* buffer) {
  const char* numbers = keys + (table[s / a->page] * a->page_step + s % a->page) * a->bytes;
  if (a->type == XLA_FFI_DataType_F32) return (const float*)numbers;
  widen(a->type, buffer, numbers, a->head_dim, LANES, a->page);
  return buffer;
}

/* Asks for the keys, and all scales, of the pages that follow those which begin among the next two groups. */
INLINE void prefetch_keys(const Attention* a, const int32_t* table, int64_t head, int64_t s, int64_t high) {
  for (int64_t begin = (s + a->page - 1) / a->page * a->page; begin < s + 2 * LANES; begin += a->page) {
    int64_t ahead = begin / a->page + PREFETCH_PAGES;
    if (ahead * a->page >= high) return;
    prefetch_page(a, a->keys, table[ahead], head);
    if (a->key_scales) prefetch_scales(a, a->key_scales, table[ahead], head);
    if (a->value_scales) prefetch_scales(a, a->value_scales, table[ahead], head);
  }
}

INLINE void score_tile(int n, const Attention* a, const int32_t* table, int64_t head, Tile* t, int64_t low,
                        int64_t high) {
  const char* keys = a->keys + head * a->head_dim * a->page * a->bytes;
  if (a->page % LANES) { /* pages shorter than a vector: rare, and slow */
    for (int r = 0; r < n; r++)
      for (int64_t s = low; s < high; s++) {
        int64_t key = table[s / a->page] * a->page_step + s % a->page;
        float sum = 0;
        for (int64_t h = 0; h < a->head_dim; h++)
          sum += t->query[r][h] * read_number(a->type, keys, key + h * a->page);
        t->score[r][s] = sum;
      }
    return;
  }
  float *at_a[TILE], *at_b[TILE];
  int64_t stride = a->type == XLA_FFI_DataType_F32 ? a->page : LANES;
  for (int64_t s = low / LANES * LANES; s < high; s += 2 * LANES) {
    int64_t next = s + LANES < high ? s + LANES : s; /* an odd last group is made twice */
    prefetch_keys(a, table, head, s, high);
    for (int r = 0; r < n; r++) at_a[r] = t->score[r] + s, at_b[r] = t->score[r] + next;
    const float* first = find_keys(a, keys, table, s, t->buffer);
    const float* second = next == s ? first : find_keys(a, keys, table, next, t->buffer + a->head_dim * LANES);
    score_two(n, t->query, first, second, stride, a->head_dim, at_a, at_b);
  }
}

INLINE void attend_tile(int n, const Attention* a, const int32_t* table, int64_t head, Tile* t) {
  int64_t low = INT64_MAX, high = 0;
  for (int r = 0; r < n; r++) {
    if (t->high[r] <= t->low[r]) continue;
    if (t->low[r] < low) low = t->low[r];
    if (t->high[r] > high) high = t->high[r];
  }
  if (high == 0) {
    for (int r = 0; r < n; r++) memset(t->out[r], 0, a->head_dim * sizeof(float));
    return;
  }
  int64_t room = (high + 2 * LANES) / LANES * LANES;
  int64_t wide_rows = a->head_dim > WIDE_ROWS ? a->head_dim : WIDE_ROWS;
  t->buffer = scratch(2 * LANES * wide_rows + n * room);
  for (int r = 0; r < n; r++) t->score[r] = t->buffer + 2 * LANES * wide_rows + r * room;
  score_tile(n, a, table, head, t, low, high);
  if (a->key_scales) apply_scales(a, a->key_scales, table, head, n, t->score, low, high);
  for (int r = 0; r < n; r++) {
    if (t->high[r] > t->low[r]) softmax_scores(a, t->score[r], t->sink[r], t->low[r], t->high[r], low, high);
    else memset(t->score[r] + low, 0, (high - low) * sizeof(float));
  }
  if (a->value_scales) apply_scales(a, a->value_scales, table, head, n, t->score, low, high);
  const float* weight[TILE];
  for (int r = 0; r < n; r++) weight[r] = t->score[r];
  int64_t from = 0;
  for (; from + 2 * LANES <= a->head_dim; from += 2 * LANES)
    sum_values(n, 2, a, table, head, weight, low, high, from, t->out, t->buffer);
  for (; from + LANES <= a->head_dim; from += LANES)
    sum_values(n, 1, a, table, head, weight, low, high, from, t->out, t->buffer);
  for (; from < a->head_dim; from++)
    for (int r = 0; r < n; r++) {
      float sum = 0;
      for (int64_t s = low; s < high; s++)
        sum += weight[r][s] * read_number(a->type, a->values, table[s / a->page] * a->page_step +
                                                                  (head * a->page + s % a->page) * a->head_dim + from);
      t->out[r][from] = sum;
    }
}

/* The row that has item `index`: the last one that begins at or before it. */
static int64_t find_row(const Attention* a, int64_t index) {
  int64_t row = 0, end = a->rows;
  while (end - row > 1) {
    int64_t middle = (row + end) / 2;
    if (a->first_item[middle] <= index) row = middle;
    else end = middle;
  }
  return row;
}

static void attend_item(void* context, int64_t index) {
  const Attention* a = context;
  int64_t group = a->heads / a->kv_heads, row = find_row(a, index);
  int64_t tiles = (a->first_item[row + 1] - a->first_item[row]) / a->kv_heads;
  int64_t head = (index - a->first_item[row]) / tiles, tile = (index - a->first_item[row]) % tiles;
  int64_t begin = a->query_start[row], length = a->length[row];
  int64_t first = tile * TILE, left = group * (a->query_start[row + 1] - begin) - first;
  int n = left < TILE ? (int)left : TILE;
  Tile t;
  for (int r = 0; r < n; r++) {
    int64_t query = begin + (first + r) / group;
    int64_t at = (query * a->heads + head * group + (first + r) % group) * a->head_dim;
    int64_t position = a->position[query];
    t.query[r] = a->query + at;
    t.out[r] = a->out + at;
    t.sink[r] = a->sinks[head * group + (first + r) % group];
    t.high[r] = position + 1 < length ? position + 1 : length;
    t.low[r] = a->window > 0 && position - a->window + 1 > 0 ? position - a->window + 1 : 0;
  }
  const int32_t* table = a->table + row * a->width;
  switch (n) {
    case 1: attend_tile(1, a, table, head, &t); break;
    case 2: attend_tile(2, a, table, head, &t); break;
    case 3: attend_tile(3, a, table, head, &t); break;
    case 4: attend_tile(4, a, table, head, &t); break;
    case 5: attend_tile(5, a, table, head, &t); break;
    case 6: attend_tile(6, a, table, head, &t); break;
#if TILE > 6
    case 7: attend_tile(7, a, table, head, &t); break;
    case 8: attend_tile(8, a, table, head, &t); break;
    case 9: attend_tile(9, a, table, head, &t); break;
    case 10: attend_tile(10, a, table, head, &t); break;
    case 11: attend_tile(11, a, table, head, &t); break;
    case 12: attend_tile(12, a, table, head, &t); break;
#endif
  }
}

/* The pages of one layer among several: [P, L, K, ...] from an argument on, with L and the layer's index. */
typedef struct {
  int64_t kv_heads, offset, step; /* the numbers before the layer's first page, and from one of its pages to the next */
  int64_t scale_offset, scale_step; /* the same of scales */
} Layer;

/* The layer that an argument, int32 of one number, chooses from pages; a step of 0 if there is none like that. */
static Layer find_layer(const XLA_FFI_Buffer* pages, const XLA_FFI_Buffer* index) {
  int64_t layer = *(const int32_t*)index->data, layers = pages->dims[1], heads = pages->dims[2];
  int64_t scales = heads * pages->dims[4], size = scales * pages->dims[3];
  if (layer < 0 || layer >= layers) return (Layer){0};
  return (Layer){.kv_heads = heads, .offset = layer * size, .step = layers * size,
                 .scale_offset = layer * scales, .scale_step = layers * scales};
}

/* (query_TNH, keys_PLKHZ, values_PLKZH, layer, position_T, page_table_BW, length_B, query_start_B1, sinks_N, and for
   pages with scales key_scales_PLKZ, value_scales_PLKZ; number_type, scale, softcap, window) -> out_TNH. The numbers in
   the pages have the XLA_FFI_DataType number_type, whatever the type of the arrays. A head without a sink has -inf
   there. Padding, the tokens behind the last row's, gets zeros. */
XLA_FFI_Error* jaxserve_attend(XLA_FFI_CallFrame* frame) {
  if (answer_metadata_request(frame)) return NULL;
  const XLA_FFI_Buffer *query = argument(frame, 0), *keys = argument(frame, 1), *table = argument(frame, 5);
  if (query->dtype != XLA_FFI_DataType_F32) return make_error(frame, "jaxserve_attend computes in float32 only");
  XLA_FFI_DataType type = (XLA_FFI_DataType)attribute(frame, 0);
  if (!number_bytes(type) || number_bytes(type) != number_bytes(keys->dtype))
    return make_error(frame, "jaxserve_attend does not know the type of its pages");
  Layer layer = find_layer(keys, argument(frame, 3));
  if (!layer.step) return make_error(frame, "jaxserve_attend wants a layer that its pages have");
  int64_t rows = table->dims[0], tokens = query->dims[0];
  int64_t* first_item = malloc((rows + 1) * sizeof *first_item);
  if (!first_item) return make_error(frame, "jaxserve_attend is out of memory");
  Attention a = {
      .query = query->data, .type = type, .bytes = number_bytes(type),
      .page_step = layer.step, .scale_step = layer.scale_step,
      .position = argument(frame, 4)->data, .table = table->data, .length = argument(frame, 6)->data,
      .query_start = argument(frame, 7)->data, .sinks = argument(frame, 8)->data,
      .out = result(frame, 0)->data, .first_item = first_item,
      .rows = rows, .width = table->dims[1],
      .heads = query->dims[1], .head_dim = query->dims[2],
      .kv_heads = layer.kv_heads, .page = keys->dims[4],
      .scale = (float)attribute(frame, 1), .softcap = (float)attribute(frame, 2), .window = (int64_t)attribute(frame, 3),
  };
  a.keys = (const char*)keys->data + layer.offset * a.bytes;
  a.values = (const char*)argument(frame, 2)->data + layer.offset * a.bytes;
  if (frame->args.size > 9) {
    a.key_scales = (const float*)argument(frame, 9)->data + layer.scale_offset;
    a.value_scales = (const float*)argument(frame, 10)->data + layer.scale_offset;
  }
  first_item[0] = 0;
  for (int64_t row = 0; row < rows; row++) {
    int64_t pairs = a.heads / a.kv_heads * (a.query_start[row + 1] - a.query_start[row]);
    first_item[row + 1] = first_item[row] + a.kv_heads * ((pairs + TILE - 1) / TILE);
  }
  int64_t used = a.query_start[rows] * a.heads * a.head_dim;
  memset(a.out + used, 0, (tokens * a.heads * a.head_dim - used) * sizeof(float));
  parallel_for(frame, first_item[rows], attend_item, &a);
  free(first_item);
  return NULL;
}

/* Copies `count` numbers of so many bytes to places `stride` numbers apart. */
INLINE void write_column(char* out, const char* in, int64_t count, int64_t stride, int64_t bytes) {
  for (int64_t i = 0; i < count; i++) memcpy(out + i * stride * bytes, in + i * bytes, bytes);
}

/* (keys_PLKHZ, values_PLKZH, layer, key_TKH, value_TKH, slot_T, and for pages with scales key_scales_PLKZ,
   value_scales_PLKZ, key_scale_TK, value_scale_TK) -> the same pages and scales, in place, with the tokens in them.
   Tokens have the type of the pages. */
XLA_FFI_Error* jaxserve_write(XLA_FFI_CallFrame* frame) {
  if (answer_metadata_request(frame)) return NULL;
  const XLA_FFI_Buffer* pages = argument(frame, 0);
  Layer layer = find_layer(pages, argument(frame, 2));
  int64_t heads = layer.kv_heads, depth = pages->dims[3], page = pages->dims[4], bytes = number_bytes(pages->dtype);
  int64_t tokens = argument(frame, 3)->dims[0], has_scales = frame->rets.size > 2;
  const char *key = argument(frame, 3)->data, *value = argument(frame, 4)->data;
  const int32_t* slot = argument(frame, 5)->data;
  if (!layer.step) return make_error(frame, "jaxserve_write wants a layer that its pages have");
  if (!bytes || argument(frame, 3)->dtype != pages->dtype)
    return make_error(frame, "jaxserve_write wants tokens in the type of its pages, which it must know");
  for (int i = 0; i < frame->rets.size; i++)
    if (result(frame, i)->data != argument(frame, i < 2 ? i : i + 4)->data)
      return make_error(frame, "jaxserve_write wants its pages donated");
  char *keys = result(frame, 0)->data, *values = result(frame, 1)->data;
  for (int64_t t = 0; t < tokens; t++) {
    int64_t start = slot[t] / page * layer.step + layer.offset, offset = slot[t] % page;
    for (int64_t k = 0; k < heads; k++, key += depth * bytes, value += depth * bytes) {
      char* column = keys + (start + k * depth * page + offset) * bytes;
      if (bytes == 4) write_column(column, key, depth, page, 4);
      else if (bytes == 2) write_column(column, key, depth, page, 2);
      else write_column(column, key, depth, page, 1);
      memcpy(values + (start + (k * page + offset) * depth) * bytes, value, depth * bytes);
    }
  }
  for (int64_t i = 0; has_scales && i < 2; i++) {
    float* scales = result(frame, 2 + i)->data;
    const float* scale = argument(frame, 8 + i)->data;
    for (int64_t t = 0; t < tokens; t++) {
      int64_t start = slot[t] / page * layer.scale_step + layer.scale_offset + slot[t] % page;
      for (int64_t k = 0; k < heads; k++) scales[start + k * page] = *scale++;
    }
  }
  return NULL;
}
