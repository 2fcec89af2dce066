/* The numbers in pages, and how those that are no float32 become float32: LANES at a time. */
#ifndef JAXSERVE_PAGE_NUMBERS_H
#define JAXSERVE_PAGE_NUMBERS_H

#include "parallel_for.h"

typedef uint8_t Bytes __attribute__((vector_size(LANES), aligned(1)));
typedef int8_t SignedBytes __attribute__((vector_size(LANES), aligned(1)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2), aligned(2)));

/* The bytes of a number of this type; 0 for types that pages do not have. */
static int64_t number_bytes(XLA_FFI_DataType type) {
  switch ((int)type) {
    case XLA_FFI_DataType_F32: return 4;
    case XLA_FFI_DataType_U16: /* the bits of bfloat16 */
    case XLA_FFI_DataType_F16:
    case XLA_FFI_DataType_BF16: return 2;
    case XLA_FFI_DataType_S8:
    case XLA_FFI_DataType_U8: /* the bits of 8-bit floats */
    case XLA_FFI_DataType_F8E4M3FN:
    case XLA_FFI_DataType_F8E5M2: return 1;
    default: return 0;
  }
}

INLINE IVec load_bytes(const char* at) { return __builtin_convertvector(*(const Bytes*)at, IVec); }
INLINE IVec load_halves(const char* at) { return __builtin_convertvector(*(const Halves*)at, IVec); }
INLINE Vec to_floats(IVec integers) { return __builtin_convertvector(integers, Vec); }
INLINE IVec choose_bits(IVec yes, IVec a, IVec b) { return (a & yes) | (b & ~yes); }

/* float16, from its bits. Numbers below the normal ones are made by products: XLA's threads take denormals for zero. */
INLINE Vec widen_half(IVec bits) {
  IVec size = bits & 0x7fff, wide = (size << 13) + (112 << 23);
  wide += (size >= 0x7c00) & (112 << 23); /* infinite, or no number */
  IVec small = (IVec)(to_floats(size) * 0x1p-24f);
  return (Vec)(choose_bits(size < 0x400, small, wide) | ((bits & 0x8000) << 16));
}

INLINE Vec widen_e4m3fn(IVec bits) {
  IVec size = bits & 0x7f, wide = (size << 20) + (120 << 23);
  wide |= (size == 0x7f) & 0x7fc00000; /* no number */
  IVec small = (IVec)(to_floats(size) * 0x1p-9f);
  return (Vec)(choose_bits(size < 8, small, wide) | ((bits & 0x80) << 24));
}

INLINE Vec load_int8(const char* at) {
  return to_floats(__builtin_convertvector(*(const SignedBytes*)at, IVec));
}
INLINE Vec load_bfloat16(const char* at) { return (Vec)(load_halves(at) << 16); }
INLINE Vec load_float16(const char* at) { return widen_half(load_halves(at)); }
INLINE Vec load_e5m2(const char* at) { return widen_half(load_bytes(at) << 8); }
INLINE Vec load_e4m3fn(const char* at) { return widen_e4m3fn(load_bytes(at)); }

#define WIDEN(load_lanes, bytes)                                          \
  for (int64_t row = 0; row < rows; row++, in += stride * bytes)          \
    for (int64_t i = 0; i < width; i += LANES, out += LANES) store(out, load_lanes(in + i * bytes))

/* Rows of `width` numbers, a multiple of LANES, `stride` numbers apart, to float32 without gaps. */
static void widen(XLA_FFI_DataType type, float* out, const char* in, int64_t rows, int64_t width, int64_t stride) {
  switch ((int)type) {
    case XLA_FFI_DataType_S8: WIDEN(load_int8, 1); break;
    case XLA_FFI_DataType_BF16: WIDEN(load_bfloat16, 2); break;
    case XLA_FFI_DataType_F16: WIDEN(load_float16, 2); break;
    case XLA_FFI_DataType_F8E4M3FN: WIDEN(load_e4m3fn, 1); break;
    case XLA_FFI_DataType_F8E5M2: WIDEN(load_e5m2, 1); break;
  }
}

/* One number, where there are not enough for a vector: rare, and slow. */
INLINE float read_number(XLA_FFI_DataType type, const char* numbers, int64_t index) {
  if (type == XLA_FFI_DataType_F32) return ((const float*)numbers)[index];
  int64_t bytes = number_bytes(type);
  char some[LANES * 2] = {0};
  float wide[LANES];
  memcpy(some, numbers + index * bytes, bytes);
  widen(type, wide, some, 1, LANES, LANES);
  return wide[0];
}

#endif
