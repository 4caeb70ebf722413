// Matrix work for any combination of formats (drive.h does it for one).
#pragma once

#include "drive.h"

namespace dsctl {

void linear(const Matrix& w, Operand x, int64_t M, Operand y, int threads);

// The two halves of `linear` for callers with tasks of their own: M rows made ready (they stay until this thread's next
// call), and their product with the columns of blocks [first, last), by the calling thread alone.
const void* prepare(const Matrix& w, Operand x, int64_t M, int threads);
void multiply(const Matrix& w, const void* prepared, int64_t M, int64_t first, int64_t last, Operand y);

void experts(const Matrix& gate, const Matrix& up, const Matrix& down, const Routing& r);

struct BadFormat {};  // thrown for a combination that does not exist

}  // namespace dsctl
