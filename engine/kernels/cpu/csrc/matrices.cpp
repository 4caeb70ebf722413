// Chooses the code for a weight format.
#include "matrices.h"

#include "dense.h"
#include "integer.h"

namespace dsctl {

void linear(const Matrix& w, Operand x, int64_t M, Operand y, int threads) {
    switch (w.kind) {
        case F32: return linear<Dense<float>>(w, x, M, y, threads);
        case BF16: return linear<Dense<bf16>>(w, x, M, y, threads);
        case INT8: return linear<Int8>(w, x, M, y, threads);
        case INT4: return linear<Int4>(w, x, M, y, threads);
    }
    throw BadFormat{};
}

void experts(const Matrix& gate, const Matrix& up, const Matrix& down, const Routing& r) {
    if (gate.kind == up.kind) switch (gate.kind * 4 + down.kind) {
            case F32 * 4 + F32: return experts<Dense<float>, Dense<float>>(gate, up, down, r);
            case BF16 * 4 + BF16: return experts<Dense<bf16>, Dense<bf16>>(gate, up, down, r);
            case INT8 * 4 + INT8: return experts<Int8, Int8>(gate, up, down, r);
            case INT4 * 4 + INT4: return experts<Int4, Int4>(gate, up, down, r);
            case INT4 * 4 + INT8: return experts<Int4, Int8>(gate, up, down, r);
        }
    throw BadFormat{};
}

}  // namespace dsctl
