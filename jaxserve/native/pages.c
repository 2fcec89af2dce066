/* Zeroed memory that costs nothing until it is used. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <unistd.h>

#include "page_numbers.h"

/* Makes `bytes` bytes zero. XLA's buffers are private anonymous memory: given back to Linux, they read as zeros and
   take room again page by page, when written. The ends, shared with neighbours, and all of it where the system will
   not have it back, are written. */
static void clear(char* start, int64_t bytes) {
#ifdef __linux__
  int64_t page = sysconf(_SC_PAGESIZE);
  char* first = (char*)(((intptr_t)start + page - 1) / page * page);
  char* last = (char*)((intptr_t)(start + bytes) / page * page);
  if (last > first && madvise(first, last - first, MADV_DONTNEED) == 0) {
    memset(start, 0, first - start);
    memset(last, 0, start + bytes - last);
    return;
  }
#endif
  memset(start, 0, bytes);
}

/* () -> any number of arrays of the types of pages, all zeros */
XLA_FFI_Error* jaxserve_zeros(XLA_FFI_CallFrame* frame) {
  if (answer_metadata_request(frame)) return NULL;
  for (int64_t i = 0; i < frame->rets.size; i++) {
    const XLA_FFI_Buffer* made = result(frame, i);
    int64_t bytes = number_bytes(made->dtype);
    if (!bytes) return make_error(frame, "jaxserve_zeros does not know this type");
    for (int64_t axis = 0; axis < made->rank; axis++) bytes *= made->dims[axis];
    clear(made->data, bytes);
  }
  return NULL;
}
