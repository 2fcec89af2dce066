/* What every kernel needs: vectors as wide as the processor has them, XLA's call frame, and XLA's own threads.
 *
 * Work is shared with the thread pool that XLA itself computes on, so two pools never fight for the same cores.
 * Vectors are the extension that GCC and Clang share; a processor without such registers gets them in pieces.
 */
#ifndef JAXSERVE_PARALLEL_FOR_H
#define JAXSERVE_PARALLEL_FOR_H

#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "xla/ffi/api/c_api.h"

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define INLINE static inline __attribute__((always_inline))

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef float VecU __attribute__((vector_size(LANES * 4), aligned(4))); /* the same, wherever it lies */
typedef int32_t IVec __attribute__((vector_size(LANES * 4)));

INLINE Vec load(const float* at) { return (Vec) * (const VecU*)at; }
INLINE void store(float* at, Vec value) { *(VecU*)at = (VecU)value; }
INLINE Vec broadcast(float value) { return (Vec){0} + value; }
INLINE Vec vec_select(IVec yes, Vec a, Vec b) { return (Vec)(((IVec)a & yes) | ((IVec)b & ~yes)); }
INLINE Vec vec_max(Vec a, Vec b) { return vec_select(a > b, a, b); }

INLINE float sum_lanes(Vec value) {
  float lanes[LANES], sum = 0;
  store(lanes, value);
  for (int step = LANES / 2; step; step /= 2)
    for (int i = 0; i < step; i++) lanes[i] += lanes[i + step];
  sum = lanes[0];
  return sum;
}

/* One call's work: items are taken one by one by whoever is free. A helper that comes late finds nothing left. */
typedef void (*Item)(void* context, int64_t index);
typedef struct {
  atomic_int_fast64_t next, done;
  atomic_int holders;
  int64_t count;
  Item item;
  void* context;
} WorkQueue;

static void run_items(WorkQueue* queue) {
  int64_t index;
  while ((index = atomic_fetch_add(&queue->next, 1)) < queue->count) {
    queue->item(queue->context, index);
    atomic_fetch_add(&queue->done, 1);
  }
}

static void release_queue(WorkQueue* queue) {
  if (atomic_fetch_sub(&queue->holders, 1) == 1) free(queue);
}

static void run_worker(void* queue) {
  run_items(queue);
  release_queue(queue);
}

static int64_t num_threads(XLA_FFI_CallFrame* frame) {
  int64_t threads = 1;
  XLA_FFI_ThreadPool_NumThreads_Args args = {.struct_size = sizeof args, .ctx = frame->ctx, .num_threads = &threads};
  XLA_FFI_Error* error = frame->api->XLA_FFI_ThreadPool_NumThreads(&args);
  if (error) {
    XLA_FFI_Error_Destroy_Args destroy = {.struct_size = sizeof destroy, .error = error};
    frame->api->XLA_FFI_Error_Destroy(&destroy);
    return 1;
  }
  return threads;
}

/* item(context, 0 .. count - 1), on this thread and on XLA's. Returns when all are done. */
static void parallel_for(XLA_FFI_CallFrame* frame, int64_t count, Item item, void* context) {
  int64_t num_workers = count > 1 ? num_threads(frame) - 1 : 0;
  if (num_workers > count - 1) num_workers = count - 1;
  WorkQueue* queue = num_workers > 0 ? malloc(sizeof *queue) : NULL;
  if (!queue) {
    for (int64_t index = 0; index < count; index++) item(context, index);
    return;
  }
  atomic_init(&queue->next, 0);
  atomic_init(&queue->done, 0);
  atomic_init(&queue->holders, (int)num_workers + 1);
  queue->count = count, queue->item = item, queue->context = context;
  for (int64_t i = 0; i < num_workers; i++) {
    XLA_FFI_ThreadPool_Schedule_Args args = {
        .struct_size = sizeof args, .ctx = frame->ctx, .task = run_worker, .data = queue};
    XLA_FFI_Error* error = frame->api->XLA_FFI_ThreadPool_Schedule(&args);
    if (error) {
      XLA_FFI_Error_Destroy_Args destroy = {.struct_size = sizeof destroy, .error = error};
      frame->api->XLA_FFI_Error_Destroy(&destroy);
      release_queue(queue);
    }
  }
  run_items(queue);
  for (int spins = 0; atomic_load(&queue->done) < count; spins++) {
    if (spins > 20000) sched_yield();
#if defined(__x86_64__)
    else __builtin_ia32_pause();
#endif
  }
  release_queue(queue);
}

/* XLA first asks a handler which version of the interface it speaks. True if this call was that question. */
static int answer_metadata_request(XLA_FFI_CallFrame* frame) {
  if (frame->extension_start && frame->extension_start->type == XLA_FFI_Extension_Metadata) {
    XLA_FFI_Metadata* metadata = ((XLA_FFI_Metadata_Extension*)frame->extension_start)->metadata;
    metadata->api_version.major_version = XLA_FFI_API_MAJOR;
    metadata->api_version.minor_version = XLA_FFI_API_MINOR;
    return 1;
  }
  return 0;
}

static XLA_FFI_Error* make_error(XLA_FFI_CallFrame* frame, const char* message) {
  XLA_FFI_Error_Create_Args args = {
      .struct_size = sizeof args, .message = message, .errc = XLA_FFI_Error_Code_INVALID_ARGUMENT};
  return frame->api->XLA_FFI_Error_Create(&args);
}

INLINE const XLA_FFI_Buffer* argument(XLA_FFI_CallFrame* frame, int i) { return frame->args.args[i]; }
INLINE const XLA_FFI_Buffer* result(XLA_FFI_CallFrame* frame, int i) { return frame->rets.rets[i]; }
INLINE double attribute(XLA_FFI_CallFrame* frame, int i) { /* attributes are float64 and come sorted by name */
  return *(const double*)((const XLA_FFI_Scalar*)frame->attrs.attrs[i])->value;
}

/* Scratch of a thread, kept for its next call. */
static float* scratch(int64_t floats) {
  static _Thread_local float* buffer;
  static _Thread_local int64_t size;
  if (floats > size) {
    free(buffer);
    size = (floats + 4095) & ~(int64_t)4095;
    buffer = aligned_alloc(64, size * sizeof(float));
    if (!buffer) abort();
  }
  return buffer;
}

#endif
