/* Packed products on tiles: 16 rows at once, with the sums of linear.c bit for bit.
 *
 * What a part of a group holds of codes is a tile as it lies there, if codes have 8 bits; others are unpacked into one.
 * Activations are a tile as they lie, too. A part has 32 inputs, as they share a scale, so tiles are used by half.
 * linear.c includes this file behind what both need.
 */
#if HAS_TILES

#define MOST_TILES 4 /* row tiles that share what is unpacked */

/* 0, 1: sums, and those of second halves; 2, 3: activations of a part, and of a half; 4: codes; 5, 6: of each half.
   The intrinsics want these numbers as they are. */
static const TileSizes SIZES = {
    .palette = 1,
    .bytes = {GROUP * 4, GROUP * 4, BLOCK, BLOCK / 2, GROUP * 4, GROUP * 4, GROUP * 4},
    .rows = {TILE_ROWS, TILE_ROWS, TILE_ROWS, TILE_ROWS, QUADS, QUADS / 2, QUADS / 2},
};
static int tiles_are_used; /* set once, by jaxserve_start_tiles */

/* Integer sums of 16 rows with the codes that lie in the tiles on the right; of each half where it has its own scale. */
USES_TILES INLINE void tile_sums(int has_halves, const Activations* x, int32_t sum[2][TILE_ROWS][GROUP]) {
  tile_zero(0);
  if (!has_halves) {
    tile_load(2, x->code, sizeof *x);
    tile_multiply(0, 2, 4);
  } else {
    tile_load(3, x->code, sizeof *x);
    tile_multiply(0, 3, 5);
    tile_zero(1);
    tile_load(3, x->code + QUADS / 2, sizeof *x);
    tile_multiply(1, 3, 6);
    tile_store(1, sum[1], GROUP * 4);
  }
  tile_store(0, sum[0], GROUP * 4);
}

/* Adds the products of `tiles` times 16 rows with a part of a group to their totals. */
USES_TILES INLINE void tile_part(int tiles, Form f, const uint8_t* words, const uint8_t* factors, const uint8_t* floats,
                                 const Activations* x, int64_t tile_step, Vec total[][TILE_ROWS][HALVES]) {
  Bytes quad[QUADS * HALVES] __attribute__((aligned(64)));
  int32_t sum[2][TILE_ROWS][GROUP] __attribute__((aligned(64)));
  const int has_halves = f.factors == 2;
  Scales scales[HALVES];
  for (int h = 0; h < HALVES; h++) scales[h] = load_scales(f, floats + h * LANES * 2, factors + h * LANES);
  if (f.bits != 8) {
    for (int h = 0; h < HALVES; h++) {
      Bytes half[QUADS];
      unpack(f, words + h * LANES * 4, half);
      for (int q = 0; q < QUADS; q++) quad[q * HALVES + h] = half[q];
    }
    words = (const uint8_t*)quad;
  }
  if (has_halves) {
    tile_load(5, words, GROUP * 4);
    tile_load(6, words + BLOCK / 2 * GROUP, GROUP * 4);
  } else {
    tile_load(4, words, GROUP * 4);
  }
  for (int t = 0; t < tiles; t++) {
    const Activations* row = x + t * tile_step;
    tile_sums(has_halves, row, sum);
    for (int r = 0; r < TILE_ROWS; r++, row++)
      for (int h = 0; h < HALVES; h++) {
        IVec first = *(const IVec*)&sum[0][r][h * LANES] + zeros(f, f.zero, row), rest = {0};
        if (has_halves) rest = *(const IVec*)&sum[1][r][h * LANES] + zeros_of_rest(f.zero, row);
        add_sums(f, first, rest, &scales[h], row, &total[t][r][h]);
      }
  }
}

/* The products of `tiles` times 16 rows with one group, x being their activations of the first block. */
USES_TILES INLINE void tile_group(int tiles, Form f, const Weight* w, const uint8_t* block, const Activations* x,
                                  int64_t tile_step, int64_t row, int64_t first) {
  Vec total[MOST_TILES][TILE_ROWS][HALVES];
  memset(total, 0, sizeof total);
  const uint8_t* end = block + w->group_bytes;
  while (block < end) {
    const uint8_t* floats = block + f.parts * part_bytes(f);
    for (int part = 0; part < f.parts; part++, block += part_bytes(f), x += TILE_ROWS)
      tile_part(tiles, f, block, block + GROUP * BLOCK * f.bits / 8, floats, x, tile_step, total);
    block = floats + GROUP * 2 * (1 + f.has_minimum);
  }
  int64_t width = w->width - first < GROUP ? w->width - first : GROUP;
  for (int r = 0; r < tiles * TILE_ROWS; r++)
    memcpy(w->out + (row + r) * w->width + first, total[r / TILE_ROWS][r % TILE_ROWS], width * sizeof(float));
}

USES_TILES INLINE void tile_rows(Form f, const Product* p, const Weight* w, const uint8_t* block, int64_t first_row,
                                 int64_t last_row, int64_t first) {
  const int64_t tile_step = p->blocks * TILE;
  for (int64_t row = first_row; row < last_row; row += MOST_TILES * TILE_ROWS) {
    int64_t tiles = (last_row - row) / TILE_ROWS;
    if (tiles > MOST_TILES) tiles = MOST_TILES;
    tile_group((int)tiles, f, w, block, p->packed + row / TILE * tile_step, tile_step, row, first);
  }
}

/* The products of rows first_row..last_row, whole tiles, with the groups first_group..last_group of one matrix. */
USES_TILES static __attribute__((noinline)) void multiply_tiles(const Product* p, const Weight* w, int64_t expert,
                                                                int64_t first_group, int64_t last_group,
                                                                int64_t first_row, int64_t last_row) {
  tile_configure(&SIZES);
  for (int64_t group = first_group; group < last_group; group++) {
    const uint8_t* block = w->blocks + (expert * w->groups + group) * w->group_bytes;
    switch (w->form) {
#define CASE(i) \
  case i: tile_rows(FORMS[i], p, w, block, first_row, last_row, group * GROUP); break;
      CASE(0) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11)
#undef CASE
    }
  }
  tile_release();
}

/* Random bytes as blocks of a form, with scales and minima that are numbers of about the same size. */
static void fill_with_blocks(Form f, uint8_t* at, const uint8_t* end, uint32_t state) {
  while (at < end) {
    const uint8_t* floats = at + f.parts * part_bytes(f);
    for (; at < floats; at++) *at = (state = state * 1664525 + 1013904223) >> 24;
    for (int i = 0; i < GROUP * (1 + f.has_minimum); i++, at += 2) {
      uint16_t half = 0x2800 | (state = state * 1664525 + 1013904223) >> 22;
      memcpy(at, &half, 2);
    }
  }
}

static void round_row(void* product, int64_t row);
static void multiply(void* product, int64_t index);

/* Returns whether tiles compute what the other products do, bit for bit, with every form. */
static int tiles_agree(void) {
  enum { ROWS = (MOST_TILES + 1) * TILE_ROWS + 3, PARTS = 16, OUTPUTS = 2 * GROUP + 5, GROUPS = 3 };
  static float x[ROWS * PARTS * BLOCK], out[2][ROWS * OUTPUTS];
  static Activations packed[(ROWS + TILE) / TILE * TILE * PARTS];
  static uint8_t blocks[GROUPS * GROUP * (BLOCK + 2) * PARTS];
  for (int i = 0; i < ROWS * PARTS * BLOCK; i++) x[i] = (float)(i * 7919 % 4001 - 2000) / (float)(1 + i % 13);
  ExpertRows all_rows = {0, 0, ROWS};
  Product p = {.x = x, .packed = packed, .experts = &all_rows, .rows = ROWS, .width = PARTS * BLOCK};
  p.blocks = PARTS, p.num_experts = 1, p.count = 1;
  for (int64_t row = 0; row < ROWS; row++) round_row(&p, row);
  int agrees = 1, used = tiles_are_used;
  for (int form = 0; form < NUM_FORMS; form++) {
    Form f = FORMS[form];
    Weight weight = {.blocks = blocks, .form = form, .width = OUTPUTS, .groups = GROUPS, .step = GROUPS, .items = 1};
    weight.group_bytes = PARTS / f.parts * bytes_of(f);
    fill_with_blocks(f, blocks, blocks + GROUPS * weight.group_bytes, form + 1);
    for (tiles_are_used = 0; tiles_are_used < 2; tiles_are_used++) {
      weight.out = out[tiles_are_used];
      p.weight[0] = weight;
      multiply(&p, 0);
    }
    agrees = agrees && !memcmp(out[0], out[1], sizeof out[0]);
  }
  tiles_are_used = used;
  return agrees;
}

#endif
