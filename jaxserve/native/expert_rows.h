/* Rows of a batch that are sorted by the expert that each of them goes through. */
#ifndef JAXSERVE_EXPERT_ROWS_H
#define JAXSERVE_EXPERT_ROWS_H

#include "parallel_for.h"

typedef struct { /* an expert that has rows, and which */
  int64_t expert, first, rows;
} ExpertRows;

/* Lists the experts that have rows, in their order. Returns their number, or -1 if they are no int32
   or more than there are; `used` becomes the number of rows that are counted. */
static int64_t list_experts(const XLA_FFI_Buffer* count_E, int64_t rows, ExpertRows* listed, int64_t* used) {
  int64_t num_listed = 0;
  *used = 0;
  if (count_E->dtype != XLA_FFI_DataType_S32) return -1;
  for (int64_t expert = 0; expert < count_E->dims[0]; expert++) {
    int64_t count = ((const int32_t*)count_E->data)[expert];
    if (count < 0 || count > rows - *used) return -1;
    if (count) listed[num_listed++] = (ExpertRows){expert, *used, count};
    *used += count;
  }
  return num_listed;
}

#endif
