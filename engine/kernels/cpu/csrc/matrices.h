// Matrix work for any combination of formats (drive.h does it for one).
#pragma once

#include "drive.h"

namespace dsctl {

void linear(const Matrix& w, Operand x, int64_t M, Operand y, int threads);
void experts(const Matrix& gate, const Matrix& up, const Matrix& down, const Routing& r);

struct BadFormat {};  // thrown for a combination that does not exist

}  // namespace dsctl
