/* Tiles of a matrix unit, as Intel's AMX has them: a thin layer over its instructions, or the same in plain C.
 *
 * There are eight tiles of up to 16 rows of 64 bytes; a configuration gives each its size. With EMULATE_TILES defined
 * every operation is computed in C, which shows on any machine that the loops around them are right; 2 computes one
 * number wrongly, so that the check at the start can be tested. GCC's intrinsics do not say that they read memory, hence
 * the barriers. AMX has not been run by us: there was no machine at hand.
 */
#ifndef JAXSERVE_TILES_H
#define JAXSERVE_TILES_H

#include <stdint.h>
#include <string.h>

#if defined(EMULATE_TILES)
#define HAS_TILES 1
#define USES_TILES
#elif defined(__x86_64__) && defined(__linux__) && defined(__AVX512F__) && (defined(__clang__) || __GNUC__ >= 11)
#define HAS_TILES 1
#define USES_TILES __attribute__((target("amx-tile,amx-int8")))
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#define HAS_TILES 0
#endif

#if HAS_TILES

#define TILE_ROWS 16
#define TILE_BYTES 64 /* of a row */

typedef struct { /* as LDTILECFG reads it */
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes[16]; /* of a row of each tile */
  uint8_t rows[16];
} TileSizes;

#if defined(EMULATE_TILES)

static _Thread_local TileSizes sizes_of;
static _Thread_local uint8_t tile_of[8][TILE_ROWS][TILE_BYTES];

static void tile_configure(const TileSizes* sizes) { sizes_of = *sizes; }
static void tile_release(void) { sizes_of.palette = 0; }
static void tile_zero(int t) { memset(tile_of[t], 0, sizeof tile_of[t]); }
static void tile_load(int t, const void* at, int64_t stride) {
  if (!sizes_of.palette) abort();
  for (int r = 0; r < sizes_of.rows[t]; r++)
    memcpy(tile_of[t][r], (const uint8_t*)at + r * stride, sizes_of.bytes[t]);
}
static void tile_store(int t, void* at, int64_t stride) {
  for (int r = 0; r < sizes_of.rows[t]; r++) memcpy((uint8_t*)at + r * stride, tile_of[t][r], sizes_of.bytes[t]);
}
/* sum[m][n] += the products of four numbers with sign and four without, for every four of a row of `left`. */
static void tile_multiply(int sum, int left, int right) {
  if (sizes_of.bytes[left] != 4 * sizes_of.rows[right] || sizes_of.bytes[sum] != sizes_of.bytes[right]) abort();
  for (int m = 0; m < sizes_of.rows[sum]; m++)
    for (int k = 0; k < sizes_of.bytes[left] / 4; k++)
      for (int n = 0; n < sizes_of.bytes[sum] / 4; n++) {
        int32_t total;
        memcpy(&total, &tile_of[sum][m][4 * n], 4);
        for (int i = 0; i < 4; i++) total += (int8_t)tile_of[left][m][4 * k + i] * tile_of[right][k][4 * n + i];
        total += EMULATE_TILES == 2 && m == 7 && k == 3 && n == 5;
        memcpy(&tile_of[sum][m][4 * n], &total, 4);
      }
}
static int request_tiles(void) { return 1; }

#else

#define MEMORY_IS_READ __asm__ volatile("" ::: "memory")
#define tile_configure(sizes) do { MEMORY_IS_READ; _tile_loadconfig(sizes); } while (0)
#define tile_release() _tile_release()
#define tile_zero(t) _tile_zero(t)
#define tile_load(t, at, stride) do { MEMORY_IS_READ; _tile_loadd(t, at, stride); } while (0)
#define tile_store(t, at, stride) _tile_stored(t, at, stride)
#define tile_multiply(sum, left, right) _tile_dpbsud(sum, left, right)
#define AMX_TILE (1 << 24)
#define AMX_INT8 (1 << 25)
#define REQUEST_PERMISSION 0x1023 /* ARCH_REQ_XCOMP_PERM: of the process, for all of its threads */
#define TILE_DATA 18

/* Asks the processor whether it has tiles, and Linux whether it keeps them for us. 0: it has none, -1: refused. */
static int request_tiles(void) {
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || ~edx & (AMX_TILE | AMX_INT8)) return 0;
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) ? -1 : 1;
}

#endif
#endif
#endif
